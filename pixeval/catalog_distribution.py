"""Catalogue rows. Distribution metrics: a set against a reference set."""

import math

from pixeval.metric_spec import MetricSpec

DISTRIBUTION: tuple[MetricSpec, ...] = (
    MetricSpec(
        "frechet_distance",
        "distribution",
        "distance between Gaussians fitted to CLIP features",
        False,
        0.0,
        math.inf,
        "pixeval.metrics.distribution:FrechetDistance",
        "Heusel et al. 2017, arXiv 1706.08500",
        needs=("reference_set", "clip"),
        weights="of the CLIP in use",
        min_side=8,
        caution="Biased upwards for small sets: compare equal n only. Not the published FID, which rests on Inception.",
    ),
    MetricSpec(
        "kernel_distance",
        "distribution",
        "unbiased squared MMD with a cubic kernel on CLIP features",
        False,
        -math.inf,
        math.inf,
        "pixeval.metrics.distribution:KernelDistance",
        "Binkowski et al. 2018, arXiv 1801.01401",
        needs=("reference_set", "clip"),
        weights="of the CLIP in use",
        min_side=8,
        caution="About 0 for equal distributions, also just below. Not the published KID, which rests on Inception.",
    ),
    MetricSpec(
        "cmmd",
        "distribution",
        "squared MMD with a Gaussian kernel on CLIP features, times 1000",
        False,
        0.0,
        math.inf,
        "pixeval.metrics.distribution:Cmmd",
        "Jayasumana et al. 2024, arXiv 2401.09603",
        needs=("reference_set", "clip"),
        weights="of the CLIP in use",
        min_side=8,
        caution="Published values rest on CLIP ViT-L/14 at 336 pixels. Biased upwards for small sets.",
    ),
)
