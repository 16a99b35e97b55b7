"""Catalogue rows. Alignment metrics: image and prompt."""

import math

from pixeval.metric_spec import MetricSpec

ALIGNMENT: tuple[MetricSpec, ...] = (
    MetricSpec(
        "clip_score",
        "alignment",
        "100 max(cos(image, prompt), 0) in CLIP",
        True,
        0.0,
        100.0,
        "pixeval.metrics.alignment:ClipScore",
        "Hessel et al. 2021, arXiv 2104.14718 (scaled by 100, there 2.5)",
        needs=("prompt", "clip"),
        differentiable=True,
        weights="of the CLIP in use",
        min_side=8,
        caution="Counts, spatial relations and negation hardly move it. Compares only within one CLIP. Prompts longer "
        "than the context are scored in parts.",
    ),
    MetricSpec(
        "caption_rank",
        "alignment",
        "place of the own prompt among the run's distinct prompts",
        False,
        1.0,
        math.inf,
        "pixeval.metrics.alignment:CaptionRank",
        "retrieval as in Radford et al. 2021, arXiv 2103.00020",
        needs=("prompt", "captions", "clip"),
        weights="of the CLIP in use",
        min_side=8,
        caution="Depends on the other prompts: compare runs with the same prompts only.",
    ),
    MetricSpec(
        "caption_probability",
        "alignment",
        "probability of the own prompt among the run's distinct prompts",
        True,
        0.0,
        1.0,
        "pixeval.metrics.alignment:CaptionProbability",
        "retrieval as in Radford et al. 2021, arXiv 2103.00020",
        needs=("prompt", "captions", "clip"),
        differentiable=True,
        weights="of the CLIP in use",
        min_side=8,
        caution="Depends on the other prompts, and is not calibrated: CLIP is often sure of a wrong caption.",
    ),
)
