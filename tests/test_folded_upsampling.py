"""A decoder whose upsampling layers are folded gives the numbers of the stock one, with fewer multiplications."""

import copy

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.upsampling import Upsample2D
from tiny_models import tiny_vae
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainers.folded_upsampling import fold_upsampling


def decoded(vae: AutoencoderKL, z: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The image of ``z`` and the gradient of its weighted sum."""
    z = z.clone().requires_grad_()
    image = vae.decode(z, return_dict=False)[0]
    (gradient,) = torch.autograd.grad((image * weight).sum(), z)
    return image.detach(), gradient


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_images_and_gradients_are_those_of_the_stock_decoder(memory_format: torch.memory_format) -> None:
    """In float64, where rounding does not hide a wrong weight; latents that are not square."""
    stock = tiny_vae().double().requires_grad_(False)
    folded = copy.deepcopy(stock)
    fold_upsampling(folded.decoder)
    folded.to(memory_format=memory_format)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 4, 5, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(2, 3, 10, 16, generator=generator, dtype=torch.float64)
    (image, gradient), (ours, our_gradient) = decoded(stock, z, weight), decoded(folded, z, weight)
    torch.testing.assert_close(ours, image, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(our_gradient, gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_one_layer_needs_four_ninths_of_the_multiplications(bias: bool) -> None:
    stock = Upsample2D(8, use_conv=True, bias=bias).requires_grad_(False)
    folded = nn.Sequential(copy.deepcopy(stock))
    fold_upsampling(folded)
    x = torch.randn(1, 8, 63, 63)
    counts = []
    for layer in (stock, folded[0]):
        with FlopCounterMode(display=False) as counter:
            layer(x)
        counts.append(counter.get_total_flops())
    assert counts[1] / counts[0] == pytest.approx(4 / 9 * (64 / 63) ** 2)
    torch.testing.assert_close(folded[0](x), stock(x), rtol=1e-4, atol=1e-5)
    assert folded[0](x, (100, 90)).shape[-2:] == (100, 90), "another size is interpolated as before"


def test_what_is_saved_stays_the_same_and_copies_are_their_own() -> None:
    stock = tiny_vae().requires_grad_(False)
    folded = copy.deepcopy(stock)
    fold_upsampling(folded.decoder)
    assert folded.state_dict().keys() == stock.state_dict().keys()
    copied = copy.deepcopy(folded).bfloat16()
    z = torch.randn(1, 4, 4, 4)
    image = folded.decode(z, return_dict=False)[0]
    assert image.dtype == torch.float32
    assert copied.decode(z.bfloat16(), return_dict=False)[0].dtype == torch.bfloat16
    torch.testing.assert_close(folded.decode(z, return_dict=False)[0], image, rtol=0, atol=0)
    with torch.no_grad():
        for layer in copied.decoder.modules():
            if isinstance(layer, Upsample2D):
                layer.folded_kernel.zero_()
    torch.testing.assert_close(folded.decode(z, return_dict=False)[0], image, rtol=0, atol=0)


def test_other_upsampling_is_left_alone() -> None:
    layers = nn.Sequential(
        Upsample2D(8),
        Upsample2D(8, use_conv_transpose=True),
        Upsample2D(8, use_conv=True, kernel_size=5, padding=2),
        Upsample2D(8, use_conv=True, norm_type="ln_norm", eps=1e-5, elementwise_affine=True),
        Upsample2D(8, use_conv=True, interpolate=False),
    )
    x = torch.randn(1, 8, 4, 4)
    before = [layer(x) for layer in layers]
    fold_upsampling(layers)
    for layer, wanted in zip(layers, before, strict=True):
        assert not hasattr(layer, "folded_kernel")
        torch.testing.assert_close(layer(x), wanted, rtol=0, atol=0)
