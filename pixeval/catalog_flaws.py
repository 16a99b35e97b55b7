"""Catalogue rows. Flaw metrics: one image, with a heat map."""

from pixeval.metric_spec import MetricSpec


def _flaw(name: str, attribute: str, summary: str, citation: str, caution: str) -> MetricSpec:
    factory = f"pixeval.metrics.flaws:{attribute}"
    return MetricSpec(name, "flaws", summary, False, 0.0, 1.0, factory, citation, min_side=16, caution=caution)


FLAWS: tuple[MetricSpec, ...] = (
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
)
