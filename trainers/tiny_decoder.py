"""A small decoder in the place of the model's own for the pixel term.

TAESD and its like (``AutoencoderTiny`` of diffusers) take latents as the denoiser sees them and cost a fraction of the
decoder they were distilled from. Whether their gradients point the same way is another question
(:mod:`trainers.decoder_agreement`).
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from pixeval.errors import InputError
from trainers.latent_diffusion import LatentDiffusion
from trainers.latents import Normalisation, decode, normalisation_of


class TinyDecoder(nn.Module):
    """``AutoencoderTiny`` as a function of the denoiser's latents; frozen.

    Args:
        autoencoder: of diffusers.
    """

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.normalisation: Normalisation = normalisation_of(autoencoder.config)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents N x C x h x w -> images in model range, float32."""
        return decode(self.autoencoder, self.normalisation, latents)


def load_tiny_decoder(folder: Path, model: LatentDiffusion) -> TinyDecoder:
    """The decoder in ``folder``, on the model's device, checked against the shape of the model's own.

    Raises:
        InputError: it cannot be loaded, or is for other latents.
    """
    if not folder.is_dir():
        raise InputError(f"tiny_decoder {folder} is not a folder; give one of a diffusers AutoencoderTiny")
    try:
        autoencoder = AutoencoderTiny.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"tiny_decoder {folder} cannot be loaded: {reason[0]}") from error
    tiny = TinyDecoder(autoencoder.float()).to(model.device)
    vae: Any = model.vae
    own, factor = int(autoencoder.config.latent_channels), int(model.pipeline.vae_scale_factor)
    channels = 0 if model.video_vae else int(vae.config.latent_channels)
    if own != channels:
        raise InputError(
            f"tiny_decoder {folder} is for latents of {own} channels, the model's have {channels or 'frames'}"
        )
    with torch.no_grad():
        made = tiny(torch.zeros(1, channels, 4, 4, device=model.device)).shape[-1]
    if made != 4 * factor:
        raise InputError(f"tiny_decoder {folder} enlarges {made // 4} times, the model's own decoder {factor} times")
    return tiny
