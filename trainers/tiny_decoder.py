"""A small decoder in the place of the model's own for the pixel term, and how far the two agree.

TAESD and its like (``AutoencoderTiny`` of diffusers) take latents as the denoiser sees them and cost a fraction of the
decoder they were distilled from. Whether their gradients point the same way is checked on the run's own latents.
"""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from pixeval.errors import InputError
from trainers.data_order import seeded
from trainers.errors import PixelTerm, add_noise, ask, decoder_argument
from trainers.latent_diffusion import Conditioning, LatentDiffusion
from trainers.latents import Normalisation, decode, normalisation_of

NOISE_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
LEAST_LOSS_CORRELATION = 0.9
LEAST_GRADIENT_COSINE = 0.5
"""Below either, a tiny decoder is refused. At a cosine of one half, a step along its gradient lowers the loss of the
model's own decoder by half of what a step of that length could."""


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


class Agreement(NamedTuple):
    """How far two decoders agree on the pixel error of the model's own predictions."""

    loss_correlation: float
    """Of the logarithms of the pixel errors over samples and noise levels (Pearson), -1 to 1."""
    gradient_cosine: float
    """Mean cosine of the gradients with respect to what is decoded, -1 to 1."""

    @property
    def enough(self) -> bool:
        """Whether the tiny decoder may be used."""
        return self.loss_correlation >= LEAST_LOSS_CORRELATION and self.gradient_cosine >= LEAST_GRADIENT_COSINE

    def text(self) -> str:
        """Both figures."""
        return (
            f"correlation of the pixel losses {self.loss_correlation:.3f} (at least {LEAST_LOSS_CORRELATION}), "
            f"cosine of their gradients {self.gradient_cosine:.3f} (at least {LEAST_GRADIENT_COSINE})"
        )


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


def agreement(
    model: LatentDiffusion, tiny: TinyDecoder, z: Tensor, conditioning: Conditioning, pixel: PixelTerm, seed: int = 0
) -> Agreement:
    """Compare the pixel errors of the model's predictions under both decoders, over noise levels.

    Args:
        model: what will be trained, with the full decoder.
        tiny: the other decoder.
        z: real latents, N x C x h x w, on the model's device.
        conditioning: of their N prompts.
        pixel: what is compared, and how.
        seed: of the noise.
    """
    losses: list[list[Tensor]] = [[], []]
    cosines: list[Tensor] = []
    for level in NOISE_LEVELS:
        t = model.schedule.at(level, len(z)).to(z.device)
        eps = torch.randn(z.shape, generator=seeded(seed, "agreement", level)).to(z.device)
        with torch.no_grad():
            noised = add_noise(model, z, eps, t, conditioning, ())
            answer = ask(model, model.denoiser, noised)
        target = noised.z_t if pixel.argument == "noisy" else z
        gradients: list[Tensor] = []
        for found, decoder in zip(losses, (None, tiny), strict=True):
            term = PixelTerm(pixel.argument, pixel.distance, decode=decoder)
            argument = decoder_argument(answer, noised, pixel.argument).detach().requires_grad_()
            with torch.no_grad():
                wanted = term.view(model, target.float())
            error = term.compare(term.view(model, argument), wanted, None)
            (gradient,) = torch.autograd.grad(error.sum(), argument)
            found.append(error.detach())
            gradients.append(gradient)
        cosines.append(torch.cosine_similarity(gradients[0].flatten(1), gradients[1].flatten(1)))
    logarithms = torch.stack([torch.cat(found).double().clamp_min(1e-20).log() for found in losses])
    correlation = float(torch.corrcoef(logarithms)[0, 1])
    return Agreement(0.0 if math.isnan(correlation) else correlation, float(torch.cat(cosines).mean()))


def with_tiny_decoder(
    folder: Path, model: LatentDiffusion, pixel: PixelTerm, z: Tensor, conditioning: Conditioning
) -> tuple[PixelTerm, Agreement]:
    """The pixel term with the decoder in ``folder``, which is told how far it agrees with the model's own.

    Args:
        folder: of an ``AutoencoderTiny``.
        model: what will be trained.
        pixel: the term with the model's own decoder.
        z: real latents, N x C x h x w, on the model's device.
        conditioning: of their N prompts.

    Raises:
        InputError: it cannot be loaded, is for other latents, or agrees too little, with the figures.
    """
    tiny = load_tiny_decoder(folder, model)
    found = agreement(model, tiny, z, conditioning, pixel)
    if not found.enough:
        raise InputError(
            f"the tiny decoder {folder} does not agree with the model's own: {found.text()}. "
            "Use one that was distilled from this VAE, or leave tiny_decoder out"
        )
    print(f"tiny decoder: {found.text()}", file=sys.stderr)
    return replace(pixel, decode=tiny), found
