"""Catalogue rows. Reference metrics: an image against its own reference."""

import math

from pixeval.metric_spec import MetricSpec

REFERENCE: tuple[MetricSpec, ...] = (
    MetricSpec(
        "psnr",
        "reference",
        "peak signal-to-noise ratio in dB",
        True,
        -math.inf,
        math.inf,
        "pixeval.metrics.reference:Psnr",
        "10 log10(1 / MSE)",
        needs=("reference_image",),
        differentiable=True,
        caution="Blind to where the error is; a shift by one pixel ruins it. Equal images have no finite value.",
    ),
    MetricSpec(
        "ssim",
        "reference",
        "structural similarity, 11-pixel Gaussian window",
        True,
        -1.0,
        1.0,
        "pixeval.metrics.reference:Ssim",
        "Wang et al. 2004, doi:10.1109/TIP.2003.819861",
        needs=("reference_image",),
        differentiable=True,
        min_side=11,
        caution="Lenient with hue and with blur in texture.",
    ),
    MetricSpec(
        "low_band_error",
        "reference",
        "relative error energy below 0.25 cycles per pixel",
        False,
        0.0,
        math.inf,
        "pixeval.metrics.reference:low_band_error",
        "radial bands as in Durall et al. 2020, arXiv 2003.01826",
        needs=("reference_image",),
        differentiable=True,
        min_side=8,
        caution="The Hann window gives the borders little weight.",
    ),
    MetricSpec(
        "high_band_error",
        "reference",
        "relative error energy from 0.25 cycles per pixel",
        False,
        0.0,
        math.inf,
        "pixeval.metrics.reference:high_band_error",
        "radial bands as in Durall et al. 2020, arXiv 2003.01826",
        needs=("reference_image",),
        differentiable=True,
        min_side=8,
        caution="1 is what leaving all detail out would get: wrong detail is punished more than none.",
    ),
)
