"""Distances between two sets of features; float64 inside, whole sets, no random subsets.

The features are an encoder's (by default the bundled CLIP's), so the numbers compare with each other but not with
published ones that rest on Inception.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class SetDistance(ABC):
    """A :class:`pixeval.protocols.SetMetric` that can also be bootstrapped without starting over."""

    fingerprint: ClassVar[str]
    least: ClassVar[int] = 10
    """How many images each set must hold for the number to mean anything."""

    def smallest(self, dimensions: int) -> int:
        """``least``, unless it depends on the dimensions of the features."""
        return self.least

    def __call__(self, features: Tensor, reference: Tensor) -> float:
        return float(self.resampled(features, reference, torch.ones(1, len(features)))[0])

    @abstractmethod
    def resampled(self, features: Tensor, reference: Tensor, counts: Tensor) -> Tensor:
        """The distance for each row of ``counts`` (B x N): how often each judged image was drawn. (B,)."""


class FrechetDistance(SetDistance):
    """Frechet distance between Gaussians fitted to both sets (Heusel et al. 2017). At least 0, lower is better.

    Biased upwards for small sets: compare only equal n.
    """

    fingerprint = "frechet_distance/1"

    def smallest(self, dimensions: int) -> int:
        """More images than dimensions, or the covariance is singular."""
        return dimensions + 1

    def resampled(self, features: Tensor, reference: Tensor, counts: Tensor) -> Tensor:
        features = features.double().cpu()
        mean, covariance = _gaussian(reference.double().cpu(), torch.ones(len(reference), dtype=torch.float64))
        root = _square_root(covariance)
        return torch.stack([_frechet(*_gaussian(features, c.double()), mean, covariance, root) for c in counts])


def _gaussian(features: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    n = counts.sum()
    mean = (counts[:, None] * features).sum(0) / n
    centred = features - mean
    return mean, (centred * counts[:, None]).T @ centred / (n - 1)


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root


def _frechet(mean: Tensor, covariance: Tensor, mean_r: Tensor, covariance_r: Tensor, root_r: Tensor) -> Tensor:
    # tr sqrt(S R) by the symmetric matrix sqrt(R) S sqrt(R), which has the same eigenvalues and stays real
    shared: Tensor = torch.linalg.eigvalsh(root_r @ covariance @ root_r).clamp_min(0).sqrt().sum()
    return (mean - mean_r).square().sum() + covariance.trace() + covariance_r.trace() - 2 * shared


class KernelDistance(SetDistance):
    """Unbiased squared MMD with the kernel (x'y / D + 1)^3 (Binkowski et al. 2018). About 0 for equal distributions.

    May be negative; lower is better. Over whole sets: without subset sampling there is no randomness.
    """

    fingerprint = "kernel_distance/1"

    def resampled(self, features: Tensor, reference: Tensor, counts: Tensor) -> Tensor:
        x, y, w = features.double().cpu(), reference.double().cpu(), counts.double()
        within, own = _cubic(x, x), _cubic(y, y)
        n, m = w.sum(1), len(y)
        # pairs of an image with itself are left out, copies drawn by the bootstrap included
        same = w.square()
        first = ((w @ within * w).sum(1) - same @ within.diagonal()) / (n * n - same.sum(1))
        second = (own.sum() - own.trace()) / (m * (m - 1))
        return first + second - 2 * (w @ _cubic(x, y)).sum(1) / (n * m)


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


class Cmmd(SetDistance):
    """Biased squared MMD with a Gaussian kernel of sigma 10 on unit CLIP features, times 1000 (2401.09603).

    At least 0, lower is better.
    """

    fingerprint = "cmmd/1"
    sigma = 10.0

    def resampled(self, features: Tensor, reference: Tensor, counts: Tensor) -> Tensor:
        x, y = features.double().cpu(), reference.double().cpu()
        w = counts.double() / counts.double().sum(1, keepdim=True)
        within, across, own = self._kernel(x, x), self._kernel(x, y), self._kernel(y, y)
        return 1000 * ((w @ within * w).sum(1) + own.mean() - 2 * (w @ across).mean(1))

    def _kernel(self, x: Tensor, y: Tensor) -> Tensor:
        squared = (x.square().sum(1)[:, None] + y.square().sum(1)[None, :] - 2 * x @ y.T).clamp_min(0)
        return torch.exp(-squared / (2 * self.sigma**2))
