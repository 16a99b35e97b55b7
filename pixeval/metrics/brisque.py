"""BRISQUE: a support vector regression on natural-scene statistics."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import luma
from pixeval.metrics.natural_scenes import fit, mean_of, normalised, precise, scale
from pixeval.weight_files import read_weights
from pixeval.zoo import QUALITY


class Brisque:
    """Blind/referenceless image spatial quality evaluator (Mittal, Moorthy and Bovik 2012).

    About 0 to 100, also beyond; lower is better. Features and regressor are those of the Python package brisque 0.2.0,
    not the authors' model trained on LIVE: the two differ by tens of points. Not a number for flat images.
    """

    fingerprint = "brisque/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return regress(features(images)).to(images)


def features(images: Tensor) -> Tensor:
    """N x 36: at each of two scales shape and variance of the values, then four of each product with a neighbour."""
    planes = precise(luma(images))
    # the regressor was trained on features of this resizing: Keys' cubic with -0.75, not antialiased
    halved = F.interpolate(planes, scale_factor=0.5, mode="bicubic", align_corners=False)
    return torch.cat([_scale_features(planes), _scale_features(halved)], 1)


def _scale_features(planes: Tensor) -> Tensor:
    values = normalised(planes, 1 / 255, "constant")[0][:, 0]
    own = fit(values.flatten(1), continuous=True, zero_is_positive=True)
    found = [own.shape, (own.left.square() + own.right.square()) / 2]
    products = (
        values[:, :, :-1] * values[:, :, 1:],
        values[:, :-1] * values[:, 1:],
        values[:, :-1, :-1] * values[:, 1:, 1:],
        values[:, 1:, :-1] * values[:, :-1, 1:],
    )
    for product in products:
        shape, left, right = fit(product.flatten(1), continuous=True, zero_is_positive=True)
        mean = mean_of(shape, scale(shape) * left, scale(shape) * right)
        found += [shape, mean, left.square(), right.square()]
    return torch.stack(found, 1)


def regress(rows: Tensor) -> Tensor:
    """The support vector regression on N x 36 features -> (N,)."""
    model = {name: tensor.to(rows) for name, tensor in _model().items()}
    low, high = model["feature_min"], model["feature_max"]
    scaled = 2 * (rows - low) / (high - low) - 1
    squared = (scaled[:, None] - model["support_vectors"]).square().sum(2)
    return (-model["gamma"] * squared).exp() @ model["coefficients"] + model["offset"]


@cache
def _model() -> dict[str, Tensor]:
    return read_weights(QUALITY / "brisque.safetensors", "brisque")
