"""How two sets of features overlap, each set taken as the union of balls around its points; float64 inside.

A ball reaches to the k-th nearest neighbour within the same set. All need two sets of about equal size to compare.
"""

import torch
from torch import Tensor

from pixeval.metrics.distribution import SetDistance

NEAREST = 64
"""Neighbours looked at when a bootstrap draw leaves some out; the k-th drawn one lies beyond only by a miracle."""


class Precision(SetDistance):
    """Share of judged images that lie in a ball of the reference set (Kynkaanniemi et al. 2019). In [0, 1], higher is
    better: few images unlike anything in the reference."""

    fingerprint = "precision/1"
    k = 3

    def resampled(self, features: Tensor, reference: Tensor, counts: Tensor) -> Tensor:
        x, y, w = _prepared(features, reference, counts)
        inside = torch.cdist(x, y) <= _radii(y, self.k)
        return w @ inside.any(1).double() / w.sum(1)


class Recall(SetDistance):
    """Share of reference images that lie in a ball of the judged set (Kynkaanniemi et al. 2019). In [0, 1], higher is
    better: few kinds of image missing."""

    fingerprint = "recall/1"
    k = 3

    def resampled(self, features: Tensor, reference: Tensor, counts: Tensor) -> Tensor:
        x, y, w = _prepared(features, reference, counts)
        across = torch.cdist(y, x)
        near, who = torch.cdist(x, x).topk(min(len(x), NEAREST), largest=False)
        return torch.stack([self._covered(across, near, who, draw) for draw in w])

    def _covered(self, across: Tensor, near: Tensor, who: Tensor, draw: Tensor) -> Tensor:
        # the point itself is the first of its own neighbours; copies of it count as neighbours at distance 0
        reached = draw[who].cumsum(1) >= self.k + 1
        place = torch.where(reached.any(1), reached.double().argmax(1), near.shape[1] - 1)
        radii = near.gather(1, place[:, None])[:, 0]
        radii = torch.where(draw > 0, radii, -torch.ones_like(radii))
        return (across <= radii).any(1).double().mean()


class Density(SetDistance):
    """How many reference balls hold a judged image, over k, mean over the judged (Naeem et al. 2020).

    From 0, higher is better; about 1 for equal distributions, more where the judged keep to the thick of the reference.
    """

    fingerprint = "density/1"
    k = 5

    def resampled(self, features: Tensor, reference: Tensor, counts: Tensor) -> Tensor:
        x, y, w = _prepared(features, reference, counts)
        inside = torch.cdist(x, y) <= _radii(y, self.k)
        return w @ inside.double().sum(1) / (self.k * w.sum(1))


class Coverage(SetDistance):
    """Share of reference balls that hold a judged image (Naeem et al. 2020). In [0, 1], higher is better."""

    fingerprint = "coverage/1"
    k = 5

    def resampled(self, features: Tensor, reference: Tensor, counts: Tensor) -> Tensor:
        x, y, w = _prepared(features, reference, counts)
        inside = torch.cdist(x, y) <= _radii(y, self.k)
        return (w @ inside.double() > 0).double().mean(1)


def _prepared(features: Tensor, reference: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return features.double().cpu(), reference.double().cpu(), counts.double().cpu()


def _radii(points: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th nearest other one."""
    return torch.cdist(points, points).kthvalue(k + 1, dim=1).values
