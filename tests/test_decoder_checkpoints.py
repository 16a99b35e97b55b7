"""Decoders whose blocks leave out what others have."""

import torch
from diffusers import AutoencoderKL

from trainers.decoder_checkpoints import checkpoint_decoder


def test_a_decoder_without_attention_is_checkpointed() -> None:
    """``mid_block_add_attention=False`` leaves None in the list of the middle block's attentions."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False,
    ).requires_grad_(False).eval()  # fmt: skip
    z, gradients = torch.randn(1, 4, 8, 8), []
    for checkpointed in (False, True):
        if checkpointed:
            checkpoint_decoder(vae)
        given = z.clone().requires_grad_()
        vae.decode(given).sample.square().mean().backward()
        gradients.append(given.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-8)
