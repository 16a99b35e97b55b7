"""Preference losses on errors of either kind, latent or pixel, as pure functions of values per pair, of shape (N,).

Numbers in parentheses are equations of arXiv 2409.17565. All losses are functions of the logit
``beta * ((e_l - e_l,ref) - (e_w - e_w,ref)) - margin`` (without the reference where there is none), which is positive
when the model agrees with the preference. A soft label p weighs both orders of the pair: p f(order) + (1 - p)
f(opposite order), conservative DPO (Mitchell 2023) for any f.

**Conventions of beta.** An exponent may be written with the mean or the sum of the squares, and with a factor one half
or without: :class:`Convention` declares it, :func:`convert_beta` converts. Here: mean, no factor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MAPO_SNR = 0.5
MAPO_STEPS = 1000.0


class Preference(NamedTuple):
    """A preference loss and what it saw; both of shape (N,)."""

    loss: Tensor
    logit: Tensor
    """Positive when the model agrees with the preference."""


@dataclass(frozen=True)
class Convention:
    """How the exponent of a preference loss is written: ``factor * beta * (mean or sum of squares)``."""

    reduction: Literal["mean", "sum"]
    """Over the elements of a sample."""
    factor: float


CONVENTIONS: dict[str, Convention] = {
    "mean": Convention("mean", 1.0),
    "half_mean": Convention("mean", 0.5),
    "sum": Convention("sum", 1.0),
}
"""``mean`` is ours, and that of the diffusers script for SD; ``half_mean`` that of Diffusion-DPO's code
(arXiv 2311.12908: 2000 for SD1.5, 5000 for SDXL) and of the diffusers script for SDXL; ``sum`` is a squared norm."""


def convert_beta(beta: float, source: Convention, target: Convention, elements: int) -> float:
    """The beta that in ``target`` gives the exponent that ``beta`` gives in ``source``.

    Args:
        beta: in ``source``.
        source: where it comes from.
        target: where it goes.
        elements: of one sample: C h w of a latent, 3 H W of an image.
    """

    def exponent(convention: Convention) -> float:
        return convention.factor * (elements if convention.reduction == "sum" else 1)

    return beta * exponent(source) / exponent(target)


def dpo(
    winner_error: Tensor,
    loser_error: Tensor,
    reference_winner_error: Tensor,
    reference_loser_error: Tensor,
    beta: float,
    soft_label: Tensor | None = None,
    margin: float = 0.0,
) -> Preference:
    """(4): DPO on errors of either kind; ln 2 with logit 0 where the model equals the reference.

    Args:
        winner_error: error of the preferred image, (N,); the winner's and loser's noise and time are the same.
        loser_error: of the other image.
        reference_winner_error: of the frozen reference model, same noise and time.
        reference_loser_error: likewise.
        beta: strength of the pull towards the reference (see the module on conventions).
        soft_label: probability that the preference is right, (N,); None is 1, the paper.
        margin: what the logit must exceed to count as 0; 0 in the paper.
    """
    winner = winner_error - reference_winner_error
    loser = loser_error - reference_loser_error
    return _both_orders(_log_sigmoid, beta * (loser - winner), soft_label, margin)


def simpo(
    winner_error: Tensor, loser_error: Tensor, beta: float, soft_label: Tensor | None = None, margin: float = 0.0
) -> Preference:
    """(5) on latent errors and (6) on pixel errors: no reference model; the margin of SimPO (2405.14734) is 0 there.

    Args:
        winner_error: error of the preferred image, (N,).
        loser_error: of the other image, same noise and time.
        beta: inverse temperature of the difference.
        soft_label: as in :func:`dpo`.
        margin: as in :func:`dpo`.
    """
    return _both_orders(_log_sigmoid, beta * (loser_error - winner_error), soft_label, margin)


def ipo(
    winner_error: Tensor,
    loser_error: Tensor,
    reference_winner_error: Tensor,
    reference_loser_error: Tensor,
    beta: float,
    soft_label: Tensor | None = None,
    margin: float = 0.0,
) -> Preference:
    """Identity preference optimisation (Azar et al., arXiv 2310.12036) on denoising errors: ``(logit - 1/2)^2``.

    That is beta^2 times the usual ``(h - 1 / (2 beta))^2`` with ``h = logit / beta``, so that beta means what it means
    in DPO. At the start the loss is 1/4 with slope -1 (DPO: ln 2 and -1/2); it stops pulling at a logit of one half.

    Args:
        winner_error: arguments as in :func:`dpo`.
    """
    winner = winner_error - reference_winner_error
    loser = loser_error - reference_loser_error
    return _both_orders(lambda logit: (logit - 0.5).square(), beta * (loser - winner), soft_label, margin)


def mapo(
    winner_error: Tensor, loser_error: Tensor, beta: float, soft_label: Tensor | None = None, margin: float = 0.0
) -> Preference:
    """Margin-aware preference optimisation (Hong et al., arXiv 2406.06424): ``e_w - beta log sigmoid(logit)``.

    ``logit = 1000 (phi(e_w) - phi(e_l))`` with ``phi(e) = k e / (exp(k e) - 1)``, k = 0.5, as in the authors' code.
    phi is bounded by 1, so that a loser cannot be pushed away for ever, and the error of the winner anchors the model.

    Args:
        winner_error: error of the preferred image, (N,).
        loser_error: of the other image, same noise and time.
        beta: weight of the preference beside the winner's error; 0.1 in the authors' code. Not an inverse temperature.
        soft_label: as in :func:`dpo`.
        margin: as in :func:`dpo`.
    """
    logit = MAPO_STEPS * (mapo_odds(winner_error) - mapo_odds(loser_error))
    found = _both_orders(_log_sigmoid, logit, soft_label, margin)
    return Preference(winner_error + beta * found.loss, found.logit)


def mapo_odds(error: Tensor) -> Tensor:
    """phi of :func:`mapo`, (N,): 1 at no error, falling with it."""
    # In float64 and by its series near 0, where the derivative of the quotient would be noise.
    x = MAPO_SNR * error.double()
    small = x < 1e-4
    safe = torch.where(small, torch.ones_like(x), x)
    return torch.where(small, 1 - x / 2 + x.square() / 12, safe / torch.expm1(safe)).float()


def safe_loser_scale(winner_gradient: Tensor, loser_gradient: Tensor, safety: float) -> Tensor:
    """Factor in [0, 1] for the loser's gradient under which the winner's error does not rise to first order -> (N,).

    Diffusion-SDPO (Fu et al., arXiv 2511.03317): a step against ``g_w - f g_l`` changes the winner's error by
    ``-<g_w, g_w - f g_l>``, which is at most ``-safety |g_w|^2`` for ``f <= (1 - safety) |g_w|^2 / <g_w, g_l>`` where
    that product is positive; otherwise f = 1. As there, gradients are those with respect to the model's output, which
    takes the model to move both outputs alike. The authors' code uses one factor per batch; here each pair has its own.

    Args:
        winner_gradient: of the winner's error, N x ...
        loser_gradient: of the loser's error, N x ...
        safety: mu of the paper in [0, 1]; its scripts have 0.9 (SD1.5) and 0.6 (SDXL).
    """
    winner, loser = winner_gradient.detach().float().flatten(1), loser_gradient.detach().float().flatten(1)
    product = (winner * loser).sum(1)
    limit = (1 - safety) * winner.square().sum(1) / torch.where(product > 0, product, 1)
    return torch.where(product > 0, limit.clamp(0, 1), 1)


def scale_gradient(value: Tensor, factor: Tensor) -> Tensor:
    """``value``, with its gradient multiplied by ``factor``."""
    return value.detach() + factor * (value - value.detach())


def agreement(logit: Tensor) -> Tensor:
    """1 where the model agrees with the preference, 0 where not, one half where it does not tell them apart."""
    return (logit > 0).float() + 0.5 * (logit == 0).float()


def _log_sigmoid(logit: Tensor) -> Tensor:
    return -F.logsigmoid(logit)


def _both_orders(
    loss: Callable[[Tensor], Tensor], logit: Tensor, soft_label: Tensor | None, margin: float
) -> Preference:
    if soft_label is None:
        return Preference(loss(logit - margin), logit)
    mixed = soft_label * loss(logit - margin) + (1 - soft_label) * loss(-logit - margin)
    return Preference(mixed, logit)
