"""From features to rewards: an ensemble of heads, one for each question and one for all, computed at once."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLAMP = 6.0
"""Standardised features are cut off here: what is further out was never seen, and nothing is known about it."""
NEVER_RAISING = ("flaws",)
"""Views whose features must not raise a reward: more of a flaw is never better, whatever the votes' noise says."""


class Heads(nn.Module):
    """K members x Q questions: N x D features to N x K x Q rewards.

    A member is linear, or has one hidden layer in addition. Views (groups of columns) are divided by the root of their
    width, so that the penalty on weights treats a view of a thousand columns and one of a single column alike. Columns
    of the views ``NEVER_RAISING`` make one score, the same for all questions, by weights that cannot be positive, and
    each question takes its share of it, which cannot be negative; that restrains them enough, and they are not divided.

    Args:
        widths: columns of each view, in their order.
        members: K.
        questions: Q.
        hidden: width of the hidden layer; 0 for linear heads.
        seed: of the first weights of hidden layers, and so of what tells members apart besides their data.
    """

    mean: Tensor
    deviation: Tensor
    offset: Tensor
    falling: Tensor
    scale: Tensor

    def __init__(self, widths: Mapping[str, int], members: int, questions: int, hidden: int = 0, seed: int = 0) -> None:
        super().__init__()
        size = sum(widths.values())
        self.widths, self.hidden = dict(widths), hidden
        falling = torch.cat([torch.full((w,), view in NEVER_RAISING) for view, w in widths.items()])
        shares = {view: 1.0 if view in NEVER_RAISING else 1 / math.sqrt(width) for view, width in widths.items()}
        scale = torch.cat([torch.full((width,), shares[view]) for view, width in widths.items()])
        self.register_buffer("falling", falling, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))
        self.register_buffer("offset", torch.zeros(members, questions))
        self.linear = nn.Parameter(torch.zeros(members, questions, size))
        # not zero, or neither would have a slope
        self.score = nn.Parameter(-0.01 * falling.float().expand(members, 1, size).clone())
        self.share = nn.Parameter(torch.ones(members, questions, 1))
        self.log_nu = nn.Parameter(torch.full((questions,), -1.0))
        if hidden:
            generator = torch.Generator().manual_seed(seed)
            first = torch.randn(members, questions, size, hidden, generator=generator)
            self.first = nn.Parameter(first * (~falling).float()[:, None])
            self.bias = nn.Parameter(torch.zeros(members, questions, hidden))
            self.second = nn.Parameter(torch.zeros(members, questions, hidden))

    @property
    def members(self) -> int:
        """K."""
        return len(self.linear)

    def standardise(self, features: Tensor) -> None:
        """Take mean and deviation of the columns from the features of the training images, N x D."""
        self.mean.copy_(features.mean(0))
        self.deviation.copy_(features.std(0).clamp_min(1e-4))

    def centre(self, features: Tensor) -> None:
        """Let the mean reward over N x D features be 0 for every member, so that they differ by opinion only."""
        with torch.no_grad():
            self.offset.zero_()
            self.offset.copy_(self(features).mean(0))

    def forward(self, features: Tensor) -> Tensor:
        """N x D -> N x K x Q."""
        inputs = ((features - self.mean) / self.deviation).clamp(-CLAMP, CLAMP) * self.scale
        found = torch.einsum("nd,kqd->nkq", inputs, torch.where(self.falling, self.score * self.share, self.linear))
        if self.hidden:
            inner = torch.einsum("nd,kqdh->nkqh", torch.where(self.falling, 0, inputs), self.first)
            found = found + (F.silu(inner + self.bias) * self.second).sum(-1)
        return found - self.offset

    def constrain(self) -> None:
        """Let ``NEVER_RAISING`` views raise nothing; to be called after every optimiser step."""
        with torch.no_grad():
            self.score.clamp_(max=0)
            self.share.clamp_(min=0)

    def penalty(self) -> Tensor:
        """Sum of squared weights of all members, those of the common score once for each question; a scalar."""
        total = self.linear.square().sum() + self.linear.shape[1] * self.score.square().sum()
        if self.hidden:
            total = total + self.first.square().mean() * self.hidden + self.second.square().sum()
        return total
