"""Catalogue rows. Flaw metrics: one image, with a heat map."""

from pixeval.metric_spec import MetricSpec


def _flaw(
    name: str, factory: str, summary: str, citation: str, caution: str, differentiable: bool = False
) -> MetricSpec:
    return MetricSpec(
        name,
        "flaws",
        summary,
        False,
        0.0,
        1.0,
        f"pixeval.metrics.{factory}",
        citation,
        differentiable=differentiable,
        min_side=16,
        caution=caution,
    )


FLAWS: tuple[MetricSpec, ...] = (
    _flaw(
        "blur_flaw",
        "flaws:BlurFlaw",
        "edges that are not sharp",
        "local form of Crete-Roffet et al. 2007, doi:10.1117/12.702790",
        "Depth of field, smoke and soft shading count as flaws.",
        differentiable=True,
    ),
    _flaw(
        "noise_flaw",
        "flaws:NoiseFlaw",
        "grain: the same in all directions, most telling where it is coloured",
        "local form of Immerkaer 1996, doi:10.1006/cviu.1996.0060",
        "Grain without colour is hard to tell from fine texture such as fur and foliage, which counts in part.",
        differentiable=True,
    ),
    _flaw(
        "banding_flaw",
        "banding_flaw:BandingFlaw",
        "false contours in smooth gradients",
        "cf. Wang, Kum, Chen and Kokaram, ICIP 2016",
        "Flat drawings with nearly equal colours side by side look the same to it; a few bands that run exactly across "
        "or down count little, as the edges of blocks do.",
    ),
    _flaw(
        "grid_flaw",
        "grid_flaws:GridFlaw",
        "steps and lines on the 8-pixel grid of latents",
        "cf. Wang, Sheikh and Bovik 2002, doi:10.1109/ICIP.2002.1038064",
        "Finds the grid at its original place only: not after cropping or resizing.",
        differentiable=True,
    ),
    _flaw(
        "patch_grid_flaw",
        "grid_flaws:PatchGridFlaw",
        "steps and lines on the 16-pixel grid of transformer patches",
        "cf. Wang, Sheikh and Bovik 2002, doi:10.1109/ICIP.2002.1038064",
        "Finds the grid at its original place only: not after cropping or resizing.",
        differentiable=True,
    ),
    _flaw(
        "jpeg_flaw",
        "jpeg_flaw:JpegFlaw",
        "blocks of JPEG coding, at any phase",
        "cf. Wang, Sheikh and Bovik 2002; Fan and de Queiroz 2003, doi:10.1109/TIP.2002.807361",
        "Blind to coding that was rescaled afterwards. Coding also makes ringing and smears colour: those detectors "
        "rightly see it too.",
    ),
    _flaw(
        "checkerboard_flaw",
        "grid_flaws:CheckerboardFlaw",
        "patterns of period two, as uneven upsampling leaves them",
        "cf. Odena, Dumoulin and Olah 2016, doi:10.23915/distill.00003",
        "Woven cloth and screens photographed at the limit of resolution look the same.",
        differentiable=True,
    ),
    _flaw(
        "seam_flaw",
        "seam_flaw:SeamFlaw",
        "a straight jump across the image, as between tiles decoded apart",
        "this project",
        "A horizon, a wall or a frame that runs straight from border to border counts.",
    ),
    _flaw(
        "ringing_flaw",
        "edge_flaws:RingingFlaw",
        "oscillation beside strong edges",
        "cf. Marziliano et al. 2004, doi:10.1016/j.image.2003.08.003",
        "Fine texture along contours, such as hair, counts in part.",
        differentiable=True,
    ),
    _flaw(
        "colour_bleeding_flaw",
        "edge_flaws:ColourBleedingFlaw",
        "colour smeared over edges of luma",
        "blur of Crete-Roffet et al. 2007 in chroma against luma",
        "Coloured light and reflections count, and so does JPEG's coarser coding of colour; grey images have none.",
        differentiable=True,
    ),
    _flaw(
        "oversaturation_flaw",
        "flaws:OversaturationFlaw",
        "areas of colour pushed against the gamut",
        "this project; chroma of the RGB hexcone, Smith 1978, doi:10.1145/965139.807361",
        "Pure flat colours of logos and drawings count, and so do coloured lights that are overexposed.",
    ),
    _flaw(
        "clipping_flaw",
        "clipping_flaw:ClippingFlaw",
        "gradients cut off at black or white",
        "this project",
        "Lamps and the sun are rightly white and count all the same.",
    ),
    _flaw(
        "repetition_flaw",
        "content_flaws:RepetitionFlaw",
        "regions that recur by a shift: clones",
        "copy-move by key points, cf. Amerini et al. 2011, doi:10.1109/TIFS.2011.2129512",
        "Things that are rightly equal, such as the parts of a drawing, count; regular patterns, mirrored, turned and "
        "rescaled copies do not.",
    ),
    _flaw(
        "blank_flaw",
        "content_flaws:BlankFlaw",
        "emptiness: places far from any structure",
        "this project",
        "Clear skies and wide margins count. All other flaws are about 0 on empty images: read them with this one.",
        differentiable=True,
    ),
)
