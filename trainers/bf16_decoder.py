"""The model's own decoder in bfloat16 for the pixel term: half of its activations, and faster where hardware has it.

The pixel error is a difference of two almost equal images, both of which are rounded. How far its gradient stays the
same is checked on the run's own latents (:mod:`trainers.decoder_agreement`).
"""

import copy
from typing import Any

from torch import Tensor, nn

from trainers.latent_diffusion import LatentDiffusion
from trainers.latents import decode


class Bf16Decoder(nn.Module):
    """A frozen copy of the VAE in bfloat16, without its encoder, as a function of the denoiser's latents.

    Args:
        model: whose VAE is copied as it is, with its checkpoints.
    """

    def __init__(self, model: LatentDiffusion) -> None:
        super().__init__()
        vae: Any = model.vae
        # Decoders of videos look at their encoder when they are called.
        left_out = {} if model.video_vae else {id(vae.encoder): None}
        self.vae: nn.Module = copy.deepcopy(vae, left_out).bfloat16().requires_grad_(False).eval()
        self.normalisation, self.video = model.normalisation, model.video_vae

    def forward(self, latents: Tensor) -> Tensor:
        """Latents N x C x h x w -> images in model range, float32."""
        return decode(self.vae, self.normalisation, latents, self.video)
