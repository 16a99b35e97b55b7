"""The losses of pixel-space post-training (Zhang et al., arXiv 2409.17565), as pure functions of tensors.

Numbers in parentheses are the paper's equations. Every function returns float32 values per sample, of shape (N,);
the caller averages over the batch.

**Reduction.** The paper writes a squared norm and does not say whether it is summed. Here it is the mean over the
elements of a sample, so that latent and pixel errors, and images of different sizes, have comparable magnitudes.
A beta for summed norms over D elements corresponds to ``beta * D`` here; one for the convention of Diffusion-DPO
(arXiv 2311.12908), whose code has a factor of one half in the exponent, corresponds to ``beta / 2``.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Preference(NamedTuple):
    """A preference loss and what it saw; both of shape (N,)."""

    loss: Tensor
    logit: Tensor
    """Argument of the log-sigmoid: positive when the model agrees with the preference."""


def latent_sft(eps_hat: Tensor, eps: Tensor) -> Tensor:
    """(1): squared error of the predicted noise, N x C x H x W -> (N,)."""
    return _mean_square(eps_hat - eps)


def renoised(z_t: Tensor, s: Tensor, eps_hat: Tensor, eps: Tensor) -> Tensor:
    """The second argument of D in (2): ``a z + s eps_hat``, for every parametrisation, in float32.

    It is the *noisy* latent with the true noise replaced by the predicted one, not the predicted clean latent.
    ``z_t = a z + s eps`` itself is the first argument.

    Args:
        z_t: noisy latent, N x C x H x W.
        s: noise coefficient, N x 1 x 1 x 1.
        eps_hat: predicted noise.
        eps: true noise.
    """
    return z_t.float() + s.float() * (eps_hat.float() - eps.float())


def pixel_sft(decoded: Tensor, decoded_target: Tensor) -> Tensor:
    """(2): squared error between ``D(renoised(...))`` and ``D(z_t)``, images N x 3 x H x W in model range -> (N,)."""
    return _mean_square(decoded - decoded_target)


def latent_zt(s: Tensor, eps_hat: Tensor, eps: Tensor) -> Tensor:
    """The matched control of (2): the same difference of noisy latents, without the decoder.

    (2) weighs noise levels by s^2 relative to (1). What this control gains is due to the weights, not to pixels.
    """
    return _mean_square(s.float() * (eps_hat.float() - eps.float()))


def weighted_sum(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """(3), with lambda as ``weight``; and (7), with mu: two losses (two separate log-sigmoids in (7)), added."""
    return first + weight * second


def dpo(
    winner_error: Tensor,
    loser_error: Tensor,
    reference_winner_error: Tensor,
    reference_loser_error: Tensor,
    beta: float,
    soft_label: Tensor | None = None,
) -> Preference:
    """(4): DPO on errors of either kind; ln 2 with logit 0 where the model equals the reference.

    Args:
        winner_error: (1) or (2) of the preferred image, (N,); the winner's and loser's noise and time are the same.
        loser_error: of the other image.
        reference_winner_error: of the frozen reference model, same noise and time.
        reference_loser_error: likewise.
        beta: strength of the pull towards the reference (see the module on conventions).
        soft_label: probability that the preference is right, (N,); None is 1, the paper. Below 1 it gives
            conservative DPO (Mitchell 2023).
    """
    winner = winner_error - reference_winner_error
    loser = loser_error - reference_loser_error
    return _log_sigmoid(-beta * (winner - loser), soft_label)


def simpo(winner_error: Tensor, loser_error: Tensor, beta: float, soft_label: Tensor | None = None) -> Preference:
    """(5) on latent errors and (6) on pixel errors: no reference model and no margin.

    Args:
        winner_error: (1) or (2) of the preferred image, (N,).
        loser_error: of the other image, same noise and time.
        beta: inverse temperature of the difference.
        soft_label: as in :func:`dpo`.
    """
    return _log_sigmoid(-beta * (winner_error - loser_error), soft_label)


def agreement(logit: Tensor) -> Tensor:
    """1 where the model agrees with the preference, 0 where not, one half where it does not tell them apart."""
    return (logit > 0).float() + 0.5 * (logit == 0).float()


def _log_sigmoid(logit: Tensor, soft_label: Tensor | None) -> Preference:
    if soft_label is None:
        return Preference(-F.logsigmoid(logit), logit)
    return Preference(-(soft_label * F.logsigmoid(logit) + (1 - soft_label) * F.logsigmoid(-logit)), logit)


def _mean_square(difference: Tensor) -> Tensor:
    return difference.float().square().flatten(1).mean(1)
