"""How far a cheaper decoder in the place of the model's own agrees with it, on the run's own latents."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from pixeval.errors import InputError
from trainers.data_order import seeded
from trainers.decoder_window import Window
from trainers.errors import PixelTerm, add_noise, ask, decoder_argument
from trainers.latent_diffusion import Conditioning, LatentDiffusion

Decoder = Callable[[Tensor], Tensor]
"""Latents as the denoiser sees them, N x C x h x w -> images in model range, float32."""
NOISE_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
LEAST_LOSS_CORRELATION = 0.9
LEAST_GRADIENT_COSINE = 0.5
"""Below either, a decoder is refused. At a cosine of one half, a step along its gradient lowers the loss of the
model's own decoder by half of what a step of that length could."""


class Agreement(NamedTuple):
    """How far two decoders agree on the pixel error of the model's own predictions."""

    loss_correlation: float
    """Of the logarithms of the pixel errors over samples and noise levels (Pearson), -1 to 1."""
    gradient_cosine: float
    """Mean cosine of the gradients with respect to what is decoded, -1 to 1."""

    @property
    def enough(self) -> bool:
        """Whether the decoder may be used."""
        return self.loss_correlation >= LEAST_LOSS_CORRELATION and self.gradient_cosine >= LEAST_GRADIENT_COSINE

    def text(self) -> str:
        """Both figures."""
        return (
            f"correlation of the pixel losses {self.loss_correlation:.3f} (at least {LEAST_LOSS_CORRELATION}), "
            f"cosine of their gradients {self.gradient_cosine:.3f} (at least {LEAST_GRADIENT_COSINE})"
        )


def agreement(
    model: LatentDiffusion,
    decoder: Decoder,
    z: Tensor,
    conditioning: Conditioning,
    pixel: PixelTerm,
    window: Window | None = None,
    seed: int = 0,
) -> Agreement:
    """Compare the pixel errors of the model's predictions under both decoders, over noise levels.

    One latent after the other: who needs a cheaper decoder may have no memory for a batch under the model's own.

    Args:
        model: what will be trained, with its own decoder.
        decoder: the other decoder.
        z: real latents, N x C x h x w, on the model's device.
        conditioning: of their N prompts.
        pixel: what is compared, and how.
        window: the part of each latent that is decoded; None for the whole.
        seed: of the noise.
    """
    losses: list[list[Tensor]] = [[], []]
    cosines: list[Tensor] = []
    for level in NOISE_LEVELS:
        t = model.schedule.at(level, len(z)).to(z.device)
        eps = torch.randn(z.shape, generator=seeded(seed, "agreement", level)).to(z.device)
        with torch.no_grad():
            noised = replace(add_noise(model, z, eps, t, conditioning, ()), window=window)
            answer = ask(model, model.denoiser, noised)
            target = noised.cut(noised.z_t if pixel.argument == "noisy" else z.float())
            argument = noised.cut(decoder_argument(answer, noised, pixel.argument))
        for found, wanted in zip(argument.unsqueeze(1), target.unsqueeze(1), strict=True):
            gradients: list[Tensor] = []
            for kept, used in zip(losses, (None, decoder), strict=True):
                error, gradient = _error(model, PixelTerm(pixel.argument, pixel.distance, decode=used), found, wanted)
                kept.append(error)
                gradients.append(gradient)
            cosines.append(torch.cosine_similarity(gradients[0].flatten(1), gradients[1].flatten(1)))
    logarithms = torch.stack([torch.cat(found).double().clamp_min(1e-20).log() for found in losses])
    correlation = float(torch.corrcoef(logarithms)[0, 1])
    return Agreement(0.0 if math.isnan(correlation) else correlation, float(torch.cat(cosines).mean()))


def _error(model: LatentDiffusion, term: PixelTerm, found: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The pixel error of ``found`` against ``wanted``, both decoded, and its gradient with respect to ``found``."""
    argument = found.detach().requires_grad_()
    with torch.no_grad():
        target = term.view(model, wanted)
    error = term.compare(term.view(model, argument), target, None)
    (gradient,) = torch.autograd.grad(error.sum(), argument)
    return error.detach(), gradient


def agreeing(
    name: str,
    decoder: Decoder,
    model: LatentDiffusion,
    pixel: PixelTerm,
    z: Tensor,
    conditioning: Conditioning,
    window: Window | None = None,
) -> tuple[PixelTerm, Agreement]:
    """The pixel term with ``decoder``, which is told how far it agrees with the model's own.

    Args:
        name: of the decoder, for people.
        decoder: in the place of the model's own.
        model: what will be trained.
        pixel: the term with the model's own decoder.
        z: real latents, N x C x h x w, on the model's device.
        conditioning: of their N prompts.
        window: the part of each latent that is decoded; None for the whole.

    Raises:
        InputError: it agrees too little, with the figures.
    """
    found = agreement(model, decoder, z, conditioning, pixel, window)
    if not found.enough:
        raise InputError(
            f"the {name} does not agree with the model's own decoder: {found.text()}. "
            "Leave it out, or use a tiny decoder that was distilled from this VAE"
        )
    print(f"{name}: {found.text()}", file=sys.stderr)
    return replace(pixel, decode=decoder), found
