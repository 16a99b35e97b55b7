"""Flaws of known kind, place and strength, planted in clean images; the same seed plants the same flaw.

Levels run from 1 (barely visible) to 5 (gross); 3 is medium, plainly visible at a normal viewing distance. What a
level means is stated in the unit of each row of ``PLANTED``.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pixeval.errors import unknown_name
from pixeval.metrics.filters import box, gaussian, luma
from pixeval.metrics.flaw_heat import STEP, gradient_magnitude, ramp
from pixeval.validation import flaw_effects as effects
from pixeval.validation.clean_images import eight_bit

LEVELS = (1, 2, 3, 4, 5)
MEDIUM = 3
VISIBLE = 1.0
"""An image takes part when the medium flaw changes its region by at least so many levels (root mean square)."""

Effect = Callable[[Tensor, float, torch.Generator], Tensor]
"""(1 x 3 x H x W, amount, generator) -> the whole image with the flaw."""
Placed = Callable[[Tensor, float, torch.Generator], tuple[Tensor, Tensor]]
"""As ``Effect``, with the mask 1 x 1 x H x W of the places that have it."""


@dataclass(frozen=True)
class PlantedFlaw:
    """One kind of flaw at five strengths."""

    name: str
    detector: str
    """Metric of the catalogue that should find it."""
    amounts: tuple[float, float, float, float, float]
    unit: str
    effect: Effect | None = None
    """For flaws of a region, together with ``carrier``."""
    carrier: Callable[[Tensor], Tensor] | None = None
    """Where such a flaw can show: N x 3 x H x W -> N x 1 x H x W in [0, 1]."""
    placed: Placed | None = None
    """For flaws that choose their own place."""


@dataclass(frozen=True)
class Planted:
    """A flawed image and where the flaw is."""

    pixels: Tensor
    """3 x H x W in [0, 1], on 8-bit levels."""
    mask: Tensor
    """H x W, 0 or 1."""
    change: float
    """Root mean square change within the mask, in 8-bit levels."""


def edges(images: Tensor) -> Tensor:
    """Where there are contours."""
    return ramp(gaussian(gradient_magnitude(luma(images)), 2.0), 1 * STEP, 8 * STEP)


def smooth_shading(images: Tensor) -> Tensor:
    """Where luma changes, but slowly."""
    slope = gradient_magnitude(gaussian(luma(images), 1.5))
    rough = gaussian((luma(images) - gaussian(luma(images), 1.5)).abs(), 2.0)
    return ramp(slope, 0.1 * STEP, 0.4 * STEP) * ramp(-slope, -4 * STEP, -2 * STEP) * ramp(-rough, -3 * STEP, -STEP)


def colour(images: Tensor) -> Tensor:
    """Where there is colour, and it is not at the limit yet."""
    spread = images.amax(1, keepdim=True) - images.amin(1, keepdim=True)
    return ramp(spread, 0.05, 0.3)


def colour_edges(images: Tensor) -> Tensor:
    """Where contours separate colours."""
    grey = luma(images)
    return edges(images) * ramp(gaussian(gradient_magnitude(images[:, :1] - grey), 2.0), 1 * STEP, 6 * STEP)


def not_paper(images: Tensor) -> Tensor:
    """Where the image is neither black nor white."""
    return ramp(images.amax(1, keepdim=True), 0.1, 0.3) * ramp(-images.amin(1, keepdim=True), -0.97, -0.8)


def anywhere(images: Tensor) -> Tensor:
    """Everywhere alike."""
    return torch.ones_like(images[:, :1])


PLANTED: tuple[PlantedFlaw, ...] = (
    PlantedFlaw("blur", "blur_flaw", (0.8, 1.2, 1.8, 2.6, 4.0), "sigma in pixels", effects.blur, edges),
    PlantedFlaw("noise", "noise_flaw", (4, 8, 14, 22, 35), "standard deviation in levels", effects.noise, anywhere),
    PlantedFlaw("banding", "banding_flaw", (3, 5, 8, 12, 18), "levels per band", effects.banding, smooth_shading),
    PlantedFlaw("grid", "grid_flaw", (3, 5, 8, 12, 18), "levels of 8-pixel cells", effects.latent_grid, anywhere),
    PlantedFlaw(
        "patch_grid", "patch_grid_flaw", (3, 5, 8, 12, 18), "levels of 16-pixel cells", effects.patch_grid, anywhere
    ),
    PlantedFlaw(
        "oversaturation", "oversaturation_flaw", (0.5, 1, 1.8, 3, 5), "chroma added, of its own", effects.vivid, colour
    ),
    PlantedFlaw("jpeg", "jpeg_flaw", (60, 40, 25, 15, 8), "JPEG quality, any phase", effects.jpeg, edges),
    PlantedFlaw("checkerboard", "checkerboard_flaw", (2, 4, 7, 12, 20), "levels", effects.checkerboard, anywhere),
    PlantedFlaw("seam", "seam_flaw", (3, 5, 8, 12, 18), "levels of the jump", placed=effects.seam),
    PlantedFlaw("ringing", "ringing_flaw", (0.4, 0.8, 1.4, 2.2, 3.5), "gain of a narrow band", effects.ringing, edges),
    PlantedFlaw("clipping", "clipping_flaw", (0.1, 0.2, 0.35, 0.5, 0.7), "share clipped", effects.clipped, not_paper),
    PlantedFlaw(
        "colour_bleeding",
        "colour_bleeding_flaw",
        (1.5, 2.5, 4, 6, 9),
        "smear in pixels",
        effects.bleeding,
        colour_edges,
    ),
    PlantedFlaw("repetition", "repetition_flaw", (1, 2, 3, 4, 6), "copies of a patch", placed=effects.repetition),
    PlantedFlaw("blank", "blank_flaw", (0.4, 0.55, 0.7, 0.85, 1.0), "share erased", placed=effects.erased),
    PlantedFlaw("warp", "warp_flaw", (1.5, 2.5, 4, 6, 9), "displacement in pixels", effects.warped, edges),
)


def find_planted(name: str) -> PlantedFlaw:
    """The planted flaw called ``name``.

    Raises:
        InputError: there is none; names the closest.
    """
    for flaw in PLANTED:
        if flaw.name == name:
            return flaw
    raise unknown_name("planted flaw", name, [flaw.name for flaw in PLANTED])


def plant(flaw: PlantedFlaw, image: Tensor, level: int, seed: str) -> Planted:
    """Plant ``flaw`` in 3 x H x W in [0, 1].

    Args:
        level: 1 to 5.
        seed: any text, such as the image's name; place and pattern follow from it and the flaw, and are the same at
            every level.
    """
    digest = hashlib.sha256(f"{flaw.name}\x1f{seed}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    amount = flaw.amounts[level - 1]
    clean = image[None].float()
    if flaw.placed is not None:
        flawed, mask = flaw.placed(clean, amount, generator)
    else:
        assert flaw.effect is not None and flaw.carrier is not None
        region = _region(flaw.carrier(clean), generator)
        cover = box(region, 7)
        flawed, mask = clean + cover * (flaw.effect(clean, amount, generator) - clean), region
    pixels = eight_bit(flawed)
    squared = ((pixels - clean) * 255).square().mean(1, keepdim=True)
    change = float((squared * mask).sum() / mask.sum().clamp_min(1)) ** 0.5
    return Planted(pixels[0], mask[0, 0], change)


def _region(carrier: Tensor, generator: torch.Generator) -> Tensor:
    """An ellipse of about a third of the image: of twelve at random the one with most of the carrier. 1 x 1 x H x W.

    Its border has no straight line, which would be a seam.
    """
    height, width = carrier.shape[-2:]
    best, most = torch.zeros_like(carrier), -1.0
    for _ in range(12):
        tall, wide, down, right = torch.rand(4, generator=generator).tolist()
        rows, columns = height * (0.6 + 0.2 * tall), width * (0.6 + 0.2 * wide)
        top, left = (height - rows) * down, (width - columns) * right
        y = (torch.arange(height) + 0.5 - top) / rows * 2 - 1
        x = (torch.arange(width) + 0.5 - left) / columns * 2 - 1
        inside = (torch.hypot(y[:, None], x[None]) <= 1).to(carrier)[None, None]
        held = float((carrier * inside).sum() / inside.sum())
        if held > most:
            most, best = held, inside
    return best
