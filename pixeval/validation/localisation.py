"""How well a heat map marks the right places: six published figures, each a pure function of one map and its truth.

Maps are float arrays H x W; a truth is a mask of 0 and 1. CC, KLD, SIM and NSS follow Bylinskii et al., "What do
different evaluation metrics tell us about saliency models?" (TPAMI 2019, arXiv 1604.03605), with the mask as the
density of the truth and its pixels as the fixations. A map without any heat marks nothing: it has CC and NSS 0, SIM and
KLD of a uniform map, AUC one half.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pixeval.errors import InputError

Array = NDArray[np.float64]

EPSILON = float(np.finfo(np.float64).eps)


def correlation(heat: Array, mask: Array) -> float:
    """CC: Pearson correlation of heat and mask. In [-1, 1], higher is better; 0 where the heat is constant."""
    heat, mask = _checked(heat, mask)
    if np.ptp(heat) == 0:
        return 0.0
    return float(np.corrcoef(heat.ravel(), mask.ravel())[0, 1])


def divergence(heat: Array, mask: Array) -> float:
    """KLD: sum of q log(eps + q / (eps + p)), q the truth, p the heat, both of sum 1. At least 0, lower is better."""
    p, q = _densities(heat, mask)
    return float((q * np.log(EPSILON + q / (EPSILON + p))).sum())


def similarity(heat: Array, mask: Array) -> float:
    """SIM: intersection of the two densities. In [0, 1], higher is better."""
    p, q = _densities(heat, mask)
    return float(np.minimum(p, q).sum())


def normalised_scanpath_saliency(heat: Array, mask: Array) -> float:
    """NSS: mean of the standardised heat over the mask. Chance 0, higher is better (Peters et al. 2005)."""
    heat, mask = _checked(heat, mask)
    deviation = heat.std()
    return 0.0 if deviation == 0 else float(((heat - heat.mean()) / deviation)[mask > 0].mean())


def auc_judd(heat: Array, mask: Array) -> float:
    """AUC-Judd: probability that a pixel of the mask is hotter than one outside, ties half. In [0, 1], chance 0.5.

    The threshold sweep of Judd et al. (2009) over all values of the map, which is this probability exactly.
    """
    heat, mask = _checked(heat, mask)
    inside = mask.ravel() > 0
    ranks = rankdata(heat.ravel())
    ones, zeros = int(inside.sum()), int((~inside).sum())
    return float((ranks[inside].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def intersection_over_union(heat: Array, mask: Array, threshold: float) -> float:
    """IoU of the mask with the places where the heat is at least ``threshold``. In [0, 1], higher is better."""
    heat, mask = _checked(heat, mask)
    marked, true = heat >= threshold, mask > 0
    return float((marked & true).sum() / (marked | true).sum())


def mean_iou(heat: Array, mask: Array, threshold: float) -> float:
    """mIoU: mean of the IoU of the flawed places and of the IoU of the others, as in semantic segmentation."""
    heat, mask = _checked(heat, mask)
    sound = np.where(mask > 0, 0.0, 1.0)
    # what is not marked is marked sound
    unmarked = np.where(heat >= threshold, 0.0, 1.0)
    return (intersection_over_union(heat, mask, threshold) + intersection_over_union(unmarked, sound, 0.5)) / 2


FIGURES: dict[str, tuple[Callable[[Array, Array], float], bool]] = {
    "CC": (correlation, True),
    "KLD": (divergence, False),
    "SIM": (similarity, True),
    "NSS": (normalised_scanpath_saliency, True),
    "AUC-Judd": (auc_judd, True),
}
"""Figures without a threshold by their usual names, and whether higher is better."""


def _checked(heat: Array, mask: Array) -> tuple[Array, Array]:
    heat, mask = np.asarray(heat, dtype=np.float64), np.asarray(mask, dtype=np.float64)
    if heat.shape != mask.shape:
        raise InputError(f"heat map and mask must have one size, got {heat.shape} and {mask.shape}")
    if not (mask > 0).any() or (mask > 0).all():
        raise InputError("a mask must hold flawed and sound places; leave images without or all of a flaw out")
    return heat, mask


def _densities(heat: Array, mask: Array) -> tuple[Array, Array]:
    heat, mask = _checked(heat, mask)
    total = heat.sum()
    p = heat / total if total > 0 else np.full_like(heat, 1 / heat.size)
    return p, mask / mask.sum()
