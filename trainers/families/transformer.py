"""What the flow-matching transformers share: SD3, FLUX.1, Sana, Lumina2, Z-Image and Qwen-Image."""

from typing import Any

from torch import Tensor

from pixeval.errors import InputError
from trainers.latent_diffusion import LatentDiffusion

JOINT_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Projections of an attention over image and text together, where both have their own."""


class FlowTransformer(LatentDiffusion):
    """A DiT trained by flow matching, whatever the order of its tokens or the sign of its output."""

    backbone = "dit"
    denoiser_name = "transformer"

    def __init__(self, pipeline: Any) -> None:
        takes, gives = self._channels(pipeline)
        if takes != gives:
            raise InputError(
                f"the transformer takes {takes} channels and the VAE gives {gives}: "
                "inpainting and image-conditioned models are not supported"
            )
        super().__init__(pipeline)
        if self.prediction != "flow_prediction":
            raise InputError(
                f"scheduler {type(pipeline.scheduler).__name__} is one for {self.prediction}, but a "
                f"{type(pipeline).__name__} predicts a flow; use FlowMatchEulerDiscreteScheduler"
            )

    def _channels(self, pipeline: Any) -> tuple[int, int]:
        """Channels that the transformer takes and that its latents have."""
        return int(pipeline.transformer.config.in_channels), int(pipeline.vae.config.latent_channels)


def pack(z: Tensor) -> Tensor:
    """Latents N x C x h x w -> tokens of 2 x 2 pixels, N x (h/2 * w/2) x 4C, as FLUX.1 and Qwen-Image take them."""
    n, c, h, w = z.shape
    return z.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, 4 * c)


def unpack(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`pack` for latents of ``size`` (h, w)."""
    n, _, width = tokens.shape
    h, w = size
    return tokens.reshape(n, h // 2, w // 2, width // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(n, width // 4, h, w)
