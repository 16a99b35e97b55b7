"""From a batch of clean latents to per-sample errors: the part that SFT and preference tuning share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from trainers.latent_diffusion import Conditioning, LatentDiffusion
from trainers.losses import latent_sft, latent_zt, pixel_sft, renoised

Objective = Literal["latent", "pixel", "both", "control"]
Kind = Literal["latent", "pixel", "latent_zt"]

KINDS: dict[Objective, tuple[Kind, ...]] = {
    "latent": ("latent",),
    "pixel": ("pixel",),
    "both": ("latent", "pixel"),
    "control": ("latent", "latent_zt"),
}
"""Errors that an objective is made of; the second is weighted by lambda (3) or mu (7)."""

PAPER_WEIGHT = {"dit": 8.0, "unet": 2.0}
"""lambda and mu of the paper: 8 for its DiT, 2 for Emu, a U-Net."""


@dataclass(frozen=True)
class Noised:
    """Clean latents with noise added, everything a denoiser is asked about; N rows."""

    z_t: Tensor
    t: Tensor
    s: Tensor
    eps: Tensor
    conditioning: Conditioning
    decoded: Tensor | None
    """D(z_t), when a pixel error is wanted: made once, without gradient, for model and reference alike."""


def add_noise(
    model: LatentDiffusion, z: Tensor, eps: Tensor, t: Tensor, conditioning: Conditioning, kinds: tuple[Kind, ...]
) -> Noised:
    """Noise the latents, and decode the result when ``kinds`` asks for it."""
    z_t = model.add_noise(z, eps, t)
    decoded = None
    if "pixel" in kinds:
        with torch.no_grad():
            decoded = model.decode(z_t)
    return Noised(z_t, t, model.coefficients(t)[1], eps, conditioning, decoded)


def errors(model: LatentDiffusion, denoiser: nn.Module, noised: Noised, kinds: tuple[Kind, ...]) -> dict[Kind, Tensor]:
    """Errors of ``denoiser`` by kind, each (N,); one pass of the denoiser, at most one of the decoder."""
    eps_hat = model.denoise(noised.z_t, noised.t, noised.conditioning, denoiser).eps
    measure: dict[Kind, Callable[[], Tensor]] = {
        "latent": lambda: latent_sft(eps_hat, noised.eps),
        "pixel": lambda: _pixel(model, noised, eps_hat),
        "latent_zt": lambda: latent_zt(noised.s, eps_hat, noised.eps),
    }
    return {kind: measure[kind]() for kind in kinds}


def _pixel(model: LatentDiffusion, noised: Noised, eps_hat: Tensor) -> Tensor:
    assert noised.decoded is not None
    return pixel_sft(model.decode(renoised(noised.z_t, noised.s, eps_hat, noised.eps)), noised.decoded)
