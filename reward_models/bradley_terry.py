"""Bradley and Terry's model of paired comparisons (1952), with Davidson's ties (1970); pure functions.

A reward difference d = r1 - r2 gives the odds e^d that the first wins a decided comparison. With ties of weight nu:
P(first) = e^(d/2) / Z, P(tie) = nu / Z, P(second) = e^(-d/2) / Z, Z = e^(d/2) + nu + e^(-d/2)
(Davidson, doi:10.1080/01621459.1970.10481082, with worths e^r and their geometric mean for the tie).
"""

import torch
from torch import Tensor

FIRST, TIE, SECOND = 0, 1, 2
"""Columns of outcomes and of their probabilities."""


def log_probabilities(difference: Tensor, log_nu: Tensor) -> Tensor:
    """Logarithms of P(first), P(tie), P(second).

    Args:
        difference: reward of the first less that of the second, any shape.
        log_nu: logarithm of the weight of ties, of a shape that broadcasts; -inf for no ties at all.

    Returns:
        The shape of ``difference`` with one more dimension of 3; never positive.
    """
    half = difference / 2
    logits = torch.stack((half, log_nu.expand_as(half), -half), -1)
    return logits.log_softmax(-1)


def negative_log_likelihood(difference: Tensor, log_nu: Tensor, outcomes: Tensor) -> Tensor:
    """Cross-entropy of soft outcomes, one value per comparison; at least 0, lower is better.

    Args:
        difference: as in :func:`log_probabilities`.
        log_nu: as there.
        outcomes: shares of votes for first, tie and second in the last dimension, adding up to 1.
    """
    logs = log_probabilities(difference, log_nu)
    # 0 times the logarithm of an impossible tie is 0
    return -torch.where(outcomes > 0, outcomes * logs, torch.zeros_like(logs)).sum(-1)
