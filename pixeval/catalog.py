"""Every metric that can be named on the command line. Importing this module imports no torch."""

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pixeval.errors import InputError, unknown_name

if TYPE_CHECKING:
    from pixeval.encoders import ClipEncoder

Family = Literal["quality", "flaws", "alignment", "distribution", "reference"]
Need = Literal["prompt", "captions", "reference_image", "reference_set", "clip"]
"""``captions`` are all distinct prompts of the run; ``clip`` is the shared encoder."""

FAMILIES: tuple[Family, ...] = ("quality", "flaws", "alignment", "distribution", "reference")


@dataclass(frozen=True)
class MetricSpec:
    """What a metric is, without loading it."""

    name: str
    family: Family
    summary: str
    """One line for people."""
    higher_is_better: bool
    low: float
    high: float
    """Range of possible values; ``inf`` where unbounded."""
    factory: str
    """``module:attribute``, called by :func:`load` with what the metric needs and nothing else."""
    citation: str
    needs: tuple[Need, ...] = ()
    differentiable: bool = False
    extra: str | None = None
    """The optional dependency group that must be installed, if any."""
    weights: str = "none"
    """Licence of the weights, or ``none``."""
    min_side: int = 1
    """Smallest height and width of an image that can be scored, in pixels."""
    caution: str = ""
    """When not to trust it, for people."""


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


def _flaw(name: str, attribute: str, summary: str, citation: str, caution: str) -> MetricSpec:
    factory = f"pixeval.metrics.flaws:{attribute}"
    return MetricSpec(name, "flaws", summary, False, 0.0, 1.0, factory, citation, min_side=16, caution=caution)


CATALOG: tuple[MetricSpec, ...] = (
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
    _flaw(
        "blur_flaw",
        "BlurFlaw",
        "edges that are not sharp",
        "local form of Crete-Roffet et al. 2007, doi:10.1117/12.702790",
        "Depth of field, smoke and soft shading count as flaws.",
    ),
    _flaw(
        "grid_flaw",
        "GridFlaw",
        "steps on the 8-pixel grid of latents and JPEG",
        "cf. Wang, Sheikh and Bovik 2002, doi:10.1109/ICIP.2002.1038064",
        "Finds the grid at its original place only: not after cropping or resizing.",
    ),
    _flaw(
        "banding_flaw",
        "BandingFlaw",
        "false contours in smooth gradients",
        "cf. Wang, Kum, Chen and Kokaram, ICIP 2016",
        "Flat drawings with nearly equal colours side by side look the same to it.",
    ),
    _flaw(
        "noise_flaw",
        "NoiseFlaw",
        "grain where the image is smooth",
        "local form of Immerkaer 1996, doi:10.1006/cviu.1996.0060",
        "Fur, grass and film grain count in part.",
    ),
    _flaw(
        "oversaturation_flaw",
        "OversaturationFlaw",
        "colour pushed against the gamut",
        "chroma of the RGB hexcone, Smith 1978, doi:10.1145/965139.807361",
        "Pure flat colours of logos and drawings count.",
    ),
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


def find(name: str) -> MetricSpec:
    """The metric called ``name``.

    Raises:
        InputError: there is none; names the closest.
    """
    for spec in CATALOG:
        if spec.name == name:
            return spec
    raise unknown_name("metric", name, [spec.name for spec in CATALOG])


def select(names: Sequence[str]) -> tuple[MetricSpec, ...]:
    """Metrics by name or by family, each once, in the order of the catalogue.

    Raises:
        InputError: a name is neither; names the closest.
    """
    known = {spec.name for spec in CATALOG}
    for name in names:
        if name not in known and name not in FAMILIES:
            raise unknown_name("metric or family", name, {*known, *FAMILIES})
    return tuple(spec for spec in CATALOG if spec.name in names or spec.family in names)


def load(spec: MetricSpec, *, encoder: "ClipEncoder | None" = None, captions: Sequence[str] = ()) -> Any:
    """The metric itself: a Scorer, FlawScorer, ReferenceScorer or SetMetric according to its family.

    Args:
        encoder: for metrics with ``clip`` among their needs. Set metrics take features and need none here.
        captions: for metrics with ``captions`` among their needs.

    Raises:
        InputError: what it needs was not given.
    """
    module, _, attribute = spec.factory.partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    if spec.family != "alignment":
        return factory()
    if encoder is None:
        raise InputError(f"{spec.name} needs a CLIP encoder; load one with ClipEncoder.load()")
    return factory(encoder, captions) if "captions" in spec.needs else factory(encoder)
