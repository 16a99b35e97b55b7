"""Checks on a model before it is trained."""

import torch
from torch import Tensor

from pixeval.errors import InputError
from trainers.data import seeded
from trainers.latent_diffusion import Conditioning, LatentDiffusion
from trainers.losses import latent_sft
from trainers.schedules import target

FRACTIONS = (0.3, 0.5, 0.7, 0.9)
"""Noise levels probed; near the clean end even a good model predicts noise hardly better than zero."""


@torch.no_grad()
def sign_errors(model: LatentDiffusion, z: Tensor, conditioning: Conditioning, seed: int = 0) -> tuple[float, float]:
    """Mean squared error of the model's output against its target, as it is and with its sign flipped.

    Args:
        z: real latents, N x C x h x w, on the model's device.
        conditioning: of their N captions.
        seed: of the noise.
    """
    plain, flipped = [], []
    for fraction in FRACTIONS:
        t = model.schedule.at(fraction, len(z)).to(z.device)
        eps = torch.randn(z.shape, generator=seeded(seed, "probe", fraction)).to(z.device)
        output = model.predict(model.add_noise(z, eps, t), t, conditioning, model.denoiser).float()
        wanted = target(model.prediction, z, eps, *model.coefficients(t))
        plain.append(latent_sft(output, wanted).mean())
        flipped.append(latent_sft(-output, wanted).mean())
    return float(torch.stack(plain).mean()), float(torch.stack(flipped).mean())


def check_sign(model: LatentDiffusion, z: Tensor, conditioning: Conditioning) -> None:
    """Refuse a model whose prediction is nearer to its target with the opposite sign.

    That happens when the scheduler's configuration does not say what the model was trained to predict. Only a trained
    model can be told by it: skip the check for random weights.

    Raises:
        InputError: with both errors.
    """
    plain, flipped = sign_errors(model, z, conditioning)
    if not plain < flipped:
        raise InputError(
            f"the model's error on this data is {plain:.3f}, but {flipped:.3f} with the prediction's sign flipped: "
            f"it was probably not trained with prediction_type {model.prediction!r}, as scheduler_config.json says. "
            "Correct that, or pass self_test=False (--no-self-test) for an untrained model."
        )
