"""Catalogue rows. Quality metrics: one image, no prompt."""

import math

from pixeval.metric_spec import MetricSpec


def _quality(
    name: str,
    attribute: str,
    summary: str,
    high: float,
    citation: str,
    caution: str,
    higher_is_better: bool = True,
    min_side: int = 3,
) -> MetricSpec:
    return MetricSpec(
        name,
        "quality",
        summary,
        higher_is_better,
        0.0,
        high,
        f"pixeval.metrics.quality:{attribute}",
        citation,
        differentiable=True,
        min_side=min_side,
        caution=caution,
    )


QUALITY: tuple[MetricSpec, ...] = (
    _quality(
        "sharpness",
        "Sharpness",
        "variance of the Laplacian of luma in [0, 1]",
        math.inf,
        "Pertuz et al. 2013, doi:10.1016/j.patcog.2012.11.011",
        "Noise and hard contours raise it as detail does. Compare images of one size and one content only.",
    ),
    _quality(
        "blur_effect",
        "BlurEffect",
        "how little another blur changes the image",
        1.0,
        "Crete-Roffet et al. 2007, doi:10.1117/12.702790",
        "Flat and deliberately soft images score as blurred; an image without edges has 1.",
        higher_is_better=False,
        min_side=4,
    ),
    _quality(
        "noise",
        "Noise",
        "standard deviation of noise in luma",
        math.inf,
        "Immerkaer 1996, doi:10.1006/cviu.1996.0060",
        "Fine texture and thin lines count as noise, most of all in small images.",
        higher_is_better=False,
    ),
    _quality(
        "colourfulness",
        "Colourfulness",
        "spread and offset of the opponent colours",
        math.inf,
        "Hasler and Suesstrunk 2003, doi:10.1117/12.477378",
        "More is not always better: over-saturated images get the highest values (see oversaturation_flaw).",
    ),
    _quality(
        "contrast",
        "Contrast",
        "RMS contrast of luma",
        0.5,
        "Peli 1990, doi:10.1364/JOSAA.7.002032",
        "Black next to white has the most, whatever it shows.",
    ),
    _quality(
        "high_frequency",
        "HighFrequency",
        "share of spectral energy from 0.25 cycles per pixel",
        1.0,
        "cf. Durall et al. 2020, arXiv 2003.01826",
        "Noise, ringing and grids raise it as detail does; upscaled images have little whatever their quality.",
        min_side=8,
    ),
)
