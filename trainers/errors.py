"""From a batch of clean latents to per-sample errors: the part that SFT and preference tuning share."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from trainers.decoder_features import decoder_features
from trainers.decoder_window import Window
from trainers.latent_diffusion import Conditioning, LatentDiffusion
from trainers.losses import latent_sft, latent_zt, renoised
from trainers.pixel_losses import feature_distance, pixel_sft
from trainers.schedules import to_denoised

Objective = Literal["latent", "pixel", "both", "control"]
Kind = Literal["latent", "pixel", "latent_zt"]
Argument = Literal["noisy", "x0"]
Band = tuple[float, float]
"""Noise levels from low to high, as shares of the way from clean (0) to noise (1), both included."""
View = Tensor | list[Tensor]
"""What is compared of a decoded latent: the image, N x 3 x H x W, or features of the decoder, each N x C x H x W."""
ImageDistance = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(decoded, decoded target, weights N x 1 x H x W or None) -> (N,)."""

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
class PixelTerm:
    """How decoded latents are compared; as it is made without arguments, (2) of arXiv 2409.17565."""

    argument: Argument = "noisy"
    """noisy: ``D(renoised)`` against ``D(z_t)``, (2); x0: ``D(x0_hat)`` against ``D(z)``, (8), which the paper rejects
    because the error of x0_hat grows with the noise."""
    distance: ImageDistance | None = field(default=pixel_sft)
    """Of images; None compares features of the decoder (LPL, arXiv 2411.04873)."""
    band: Band = (0.0, 1.0)
    """Noise levels at which there is a pixel error; elsewhere it is 0, and nothing is decoded."""
    decode: Callable[[Tensor], Tensor] | None = None
    """A cheaper decoder of latents to images; None for the model's own."""

    def view(self, model: LatentDiffusion, latents: Tensor) -> View:
        """What is compared of ``latents``."""
        if self.distance is None:
            return decoder_features(model, latents)
        return model.decode(latents) if self.decode is None else self.decode(latents)

    def compare(self, found: View, wanted: View, weight: Tensor | None) -> Tensor:
        """The error per sample, (N,)."""
        if isinstance(found, Tensor) and isinstance(wanted, Tensor) and self.distance is not None:
            return self.distance(found, wanted, weight)
        assert isinstance(found, list)
        assert isinstance(wanted, list)
        return feature_distance(found, wanted, weight)


@dataclass(frozen=True)
class Noised:
    """Clean latents with noise added, everything a denoiser is asked about; N rows."""

    z_t: Tensor
    t: Tensor
    s: Tensor
    eps: Tensor
    conditioning: Conditioning
    decoded: View | None
    """The pixel error's target, D(z_t) or D(z), when one is wanted: made once, without gradient, for model and
    reference alike; of ``rows`` only."""
    rows: Tensor | None = None
    """Rows within the pixel term's band; None for all."""
    weight: Tensor | None = None
    """Where pixel errors count, N x 1 x H x W with a mean of 1 over each image; None for everywhere alike."""
    window: Window | None = None
    """The part of each latent that is decoded, the same for both arguments; None for the whole."""

    def cut(self, latents: Tensor) -> Tensor:
        """What is decoded of N latents: those within the band, cut to their windows."""
        kept = latents if self.rows is None else latents[self.rows]
        return kept if self.window is None else self.window.rows(self.rows).cut(kept)

    def pixel_weight(self, factor: int) -> Tensor | None:
        """Weights of the pixels that are decoded; their mean is 1 over each whole image, not over its window.

        Args:
            factor: pixels per latent pixel.
        """
        weight = self.weight if self.weight is None or self.rows is None else self.weight[self.rows]
        if self.window is None:
            return weight
        window = self.window.rows(self.rows)
        inner = window.weight(factor)
        if weight is not None:
            weight = window.cut(weight, factor)
        if inner is None:
            return weight
        inner = inner.to(self.z_t.device)
        return inner if weight is None else weight * inner


class Answer(NamedTuple):
    """What a denoiser says about noisy latents; all float32 of the latents' shape."""

    output: Tensor
    """In its own parametrisation; every error is a function of it."""
    eps: Tensor
    """Predicted noise."""
    x0: Tensor
    """Predicted clean latent."""


def add_noise(
    model: LatentDiffusion,
    z: Tensor,
    eps: Tensor,
    t: Tensor,
    conditioning: Conditioning,
    kinds: tuple[Kind, ...],
    pixel: PixelTerm | None = None,
    weight: Tensor | None = None,
    window: Window | None = None,
) -> Noised:
    """Noise the latents, and decode the pixel error's target when ``kinds`` asks for it.

    Args:
        z: clean latents, N x C x h x w.
        eps: noise of the same shape.
        t: times, (N,).
        conditioning: of N prompts.
        kinds: the errors that will be measured.
        pixel: None for the paper's.
        weight: see :class:`Noised`.
        window: likewise.
    """
    pixel = pixel or PixelTerm()
    z_t = model.add_noise(z, eps, t)
    s = model.coefficients(t, z.dim())[1]
    if "pixel" not in kinds:
        return Noised(z_t, t, s, eps, conditioning, None)
    noised = Noised(z_t, t, s, eps, conditioning, None, rows_within(model, t, pixel.band), weight, window)
    if noised.rows is not None and not len(noised.rows):
        return noised
    with torch.no_grad():
        target = noised.cut(z_t if pixel.argument == "noisy" else z.float())
        return replace(noised, decoded=pixel.view(model, target))


def errors(
    model: LatentDiffusion,
    denoiser: nn.Module,
    noised: Noised,
    kinds: tuple[Kind, ...],
    pixel: PixelTerm | None = None,
) -> dict[Kind, Tensor]:
    """Errors of ``denoiser`` by kind, each (N,); one pass of the denoiser, at most one of the decoder."""
    return measure(model, ask(model, denoiser, noised), noised, kinds, pixel)


def ask(model: LatentDiffusion, denoiser: nn.Module, noised: Noised) -> Answer:
    """One pass of ``denoiser``, ours, its wrapped form or a frozen copy."""
    return answer_of(model, model.predict(noised.z_t, noised.t, noised.conditioning, denoiser).float(), noised)


def answer_of(model: LatentDiffusion, output: Tensor, noised: Noised) -> Answer:
    """What an output says of the latents that were asked about, whatever the model predicts; all float32."""
    a, s = model.coefficients(noised.t, output.dim())
    return Answer(output, *to_denoised(model.prediction, output, noised.z_t.float(), a, s))


def measure(
    model: LatentDiffusion,
    answer: Answer,
    noised: Noised,
    kinds: tuple[Kind, ...],
    pixel: PixelTerm | None = None,
) -> dict[Kind, Tensor]:
    """Errors of an answer by kind, each (N,)."""
    functions: dict[Kind, Callable[[], Tensor]] = {
        "latent": lambda: latent_sft(answer.eps, noised.eps),
        "pixel": lambda: _pixel(model, answer, noised, pixel or PixelTerm()),
        "latent_zt": lambda: latent_zt(noised.s, answer.eps, noised.eps),
    }
    return {kind: functions[kind]() for kind in kinds}


def decoder_argument(answer: Answer, noised: Noised, argument: Argument) -> Tensor:
    """The latent to decode: the re-noised one of (2), or the predicted clean one; N x C x h x w, float32."""
    return renoised(noised.z_t, noised.s, answer.eps, noised.eps) if argument == "noisy" else answer.x0


def rows_within(model: LatentDiffusion, t: Tensor, band: Band) -> Tensor | None:
    """Indices of the times within ``band``; None where the band is everything."""
    if band == (0.0, 1.0):
        return None
    share = t.float() / model.schedule.at(1.0, 1).float().to(t.device)
    return ((share >= band[0]) & (share <= band[1])).nonzero().flatten()


def spread_rows(values: Tensor, rows: Tensor | None, n: int) -> Tensor:
    """Values of ``rows`` -> (n,), 0 elsewhere."""
    return values if rows is None else values.new_zeros(n).index_put((rows,), values)


def _pixel(model: LatentDiffusion, answer: Answer, noised: Noised, pixel: PixelTerm) -> Tensor:
    n = len(noised.t)
    if noised.decoded is None:  # no time of this batch is within the band
        return no_error(answer, n)
    argument = noised.cut(decoder_argument(answer, noised, pixel.argument))
    weight = noised.pixel_weight(model.pipeline.vae_scale_factor)
    return spread_rows(pixel.compare(pixel.view(model, argument), noised.decoded, weight), noised.rows, n)


def no_error(answer: Answer, n: int) -> Tensor:
    """Zeros for ``n`` rows, (n,), that still are a function of the answer, so that backward finds a graph."""
    return 0 * answer.output[:n].flatten(1).sum(1)
