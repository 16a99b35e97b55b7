"""Decoders whose upsampling layers do not multiply each pixel by the same weights several times.

The decoder of an ``AutoencoderKL`` doubles an image by repeating its pixels and then convolves the large image, 3 x 3.
Of the nine pixels under the kernel only four differ, and which ones depends on whether row and column are even or odd.
So the same numbers, up to rounding, come from one 2 x 2 convolution of the small image with four times the channels:
one kernel for each of the four parities, whose weights are sums of the nine. It needs 4/9 of the multiplications and
never makes the large image that was convolved. (Shi et al., arXiv 1609.07009, show the same equality.)
"""

from functools import partial
from typing import Any

import torch
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d


def fold_upsampling(decoder: nn.Module) -> None:
    """Let every upsampling layer of a frozen decoder compute what it did with 4/9 of its multiplications.

    Args:
        decoder: changed in place; what is saved of it stays the same. Its weights must not change afterwards.
    """
    for layer in decoder.modules():
        if isinstance(layer, Upsample2D) and _foldable(layer):
            kernel, bias = _folded_kernel(layer.conv.weight.detach()), layer.conv.bias
            layer.register_buffer("folded_kernel", kernel, persistent=False)
            layer.register_buffer("folded_bias", None if bias is None else bias.detach().repeat(4), persistent=False)
            layer.forward = partial(_upsample, layer)


def _foldable(layer: Upsample2D) -> bool:
    """Nearest neighbours, then 3 x 3 with a border of zeros, and nothing else."""
    conv = getattr(layer, "conv", None)
    return (
        isinstance(conv, nn.Conv2d)
        and layer.interpolate
        and layer.norm is None
        and conv.kernel_size == (3, 3)
        and conv.padding == (1, 1)
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
    )


def _folded_kernel(weight: Tensor) -> Tensor:
    """O x I x 3 x 3 -> 4 O x I x 2 x 2: the kernels of even and odd rows, in each those of even and odd columns."""
    both = [half for rows in _halves(weight, 2) for half in _halves(rows, 3)]
    return torch.cat(both).contiguous(memory_format=torch.channels_last)


def _halves(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Above an even row lies the pixel before, at and below it twice its own pixel; an odd row is its mirror image."""
    first, middle, last = weight.unbind(axis)
    return torch.stack((first, middle + last), axis), torch.stack((first + middle, last), axis)


def _upsample(layer: Any, x: Tensor, output_size: Any = None) -> Tensor:
    if output_size is not None:
        found: Tensor = Upsample2D.forward(layer, x, output_size)
        return found
    interleaved: Tensor = _Interleave.apply(conv2d(x, layer.folded_kernel, layer.folded_bias, padding=1))
    return interleaved


class _Interleave(torch.autograd.Function):
    """N x 4 C x (H + 1) x (W + 1) -> N x C x 2 H x 2 W: the parities side by side, each from its own corner.

    A function of its own because indexed copies are many times as fast with the channels last, and because autograd
    would copy the whole gradient for each of them.
    """

    @staticmethod
    def forward(ctx: Any, parities: Tensor) -> Tensor:
        source = parities.permute(0, 2, 3, 1)
        n, height, width, channels = source.shape
        height, width, channels = height - 1, width - 1, channels // 4
        made = source.new_empty(n, height, 2, width, 2, channels)
        for row in (0, 1):
            for column in (0, 1):
                made[:, :, row, :, column] = _parity(source, row, column)
        return made.view(n, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        given = gradient.permute(0, 2, 3, 1)
        n, height, width, channels = given.shape
        made = given.new_zeros(n, height // 2 + 1, width // 2 + 1, 4 * channels)
        for row in (0, 1):
            for column in (0, 1):
                _parity(made, row, column).copy_(given[:, row::2, column::2])
        return made.permute(0, 3, 1, 2)


def _parity(source: Tensor, row: int, column: int) -> Tensor:
    """The part of N x (H + 1) x (W + 1) x 4 C that is the pixels of one parity, N x H x W x C."""
    height, width, channels = source.shape[1] - 1, source.shape[2] - 1, source.shape[3] // 4
    first = (2 * row + column) * channels
    return source[:, row : row + height, column : column + width, first : first + channels]
