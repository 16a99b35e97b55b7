"""The self-test before the first step: does a model predict what its scheduler's configuration says, on real data?"""

from typing import NamedTuple

import torch
from torch import Tensor

from pixeval.errors import InputError
from trainers.data_order import seeded
from trainers.latent_diffusion import Conditioning, LatentDiffusion
from trainers.losses import latent_sft
from trainers.schedules import target

FRACTIONS = (0.3, 0.5, 0.7, 0.9)
"""Noise levels probed; near the clean end even a good model predicts noise hardly better than zero."""


TIME_MARGIN = 0.02
"""Share by which reversed times must fit better to be believed: a model may hardly look at the time."""


class Fit(NamedTuple):
    """Mean squared errors of a model's output against its target, under three readings of its conventions."""

    plain: float
    """As the family and the scheduler's configuration say."""
    sign_flipped: float
    """With the sign of the output flipped."""
    time_flipped: float
    """With the time counted from the other end: 1 - sigma for sigma, T - 1 - t for t."""


@torch.no_grad()
def convention_errors(model: LatentDiffusion, z: Tensor, conditioning: Conditioning, seed: int = 0) -> Fit:
    """How well the model's output fits its target as it is, with its sign flipped, and with its time reversed.

    Args:
        z: real latents, N x C x h x w, on the model's device.
        conditioning: of their N captions.
        seed: of the noise.
    """
    rows: list[Tensor] = []
    for fraction in FRACTIONS:
        t = model.schedule.at(fraction, len(z)).to(z.device)
        eps = torch.randn(z.shape, generator=seeded(seed, "probe", fraction)).to(z.device)
        z_t = model.add_noise(z, eps, t)
        wanted = target(model.prediction, z, eps, *model.coefficients(t, z.dim()))
        output = model.predict(z_t, t, conditioning, model.denoiser).float()
        reversed_output = model.predict(z_t, model.schedule.reversed(t), conditioning, model.denoiser).float()
        rows.append(torch.stack([latent_sft(o, wanted).mean() for o in (output, -output, reversed_output)]))
    return Fit(*torch.stack(rows).mean(0).tolist())


def check_conventions(model: LatentDiffusion, z: Tensor, conditioning: Conditioning) -> None:
    """Refuse a model whose prediction is nearer to its target with the opposite sign, or with time reversed.

    That happens when the scheduler's configuration does not say what the model was trained to predict. Only a trained
    model can be told by it: skip the check for random weights.

    Raises:
        InputError: with both errors.
    """
    fit = convention_errors(model, z, conditioning)
    found, how = (fit.sign_flipped, "the prediction's sign flipped")
    if fit.time_flipped < found:
        found, how = fit.time_flipped, "time reversed"
    if fit.sign_flipped <= fit.plain or fit.time_flipped < (1 - TIME_MARGIN) * fit.plain:
        raise InputError(
            f"the model's error on this data is {fit.plain:.3f}, but {found:.3f} with {how}: "
            f"it was probably not trained with prediction_type {model.prediction!r}, as scheduler_config.json says. "
            "Correct that, or pass self_test=False (--self-test False) for an untrained model."
        )
