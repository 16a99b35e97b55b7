"""What anchors are made of: bundled images made worse by degrees, captions right and wrong, sets that drift apart."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pixeval.metric_spec import MetricSpec
from pixeval.metrics.filters import luma
from pixeval.validation.clean_images import SIDE, CleanImage, clean_images, eight_bit, photographs
from pixeval.validation.flaw_effects import blur
from pixeval.validation.planted_flaws import MEDIUM, PLANTED, VISIBLE, Effect, PlantedFlaw, find_planted, plant
from pixeval.zoo.icons import load_icons

LARGE = 192
"""Side of the photographs for metrics that need more than the usual side."""
CAPTIONED = 24
"""Held-out icons that alignment metrics are asked about."""


@dataclass(frozen=True)
class Change:
    """A whole image changed in one respect, at five strengths."""

    title: str
    unit: str
    amounts: tuple[float, ...]
    effect: Effect


@dataclass(frozen=True)
class Graded:
    """One image as it is and at five strengths of a change."""

    source: CleanImage
    versions: Tensor
    """6 x 3 x H x W, the clean one first."""
    mask: Tensor | None
    """H x W, where a planted flaw is at medium strength; None when the whole image changes."""


def _whole(flaw: str) -> Change:
    planted = find_planted(flaw)
    assert planted.effect is not None
    return Change(planted.name, planted.unit, planted.amounts, planted.effect)


def _less_contrast(image: Tensor, kept: float, generator: torch.Generator) -> Tensor:
    middle = luma(image).mean()
    return middle + kept * (image - middle)


def _less_colour(image: Tensor, kept: float, generator: torch.Generator) -> Tensor:
    grey = luma(image)
    return grey + kept * (image - grey)


def _darker(image: Tensor, stops: float, generator: torch.Generator) -> Tensor:
    return image * 2 ** (-stops / 2.2)  # stops of light, through a display gamma of 2.2


CHANGES: dict[str, Change] = {
    **{name: _whole(name) for name in ("blur", "noise", "jpeg", "clipping", "warp")},
    "softness": Change("softness", "sigma in pixels", (0.4, 0.5, 0.6, 0.8, 1.2), blur),
    "contrast": Change("contrast", "share of the contrast left", (0.8, 0.6, 0.4, 0.25, 0.1), _less_contrast),
    "colour": Change("colour", "share of the colour left", (0.8, 0.6, 0.4, 0.2, 0.0), _less_colour),
    "darkness": Change("darkness", "stops darker", (0.5, 1.0, 1.5, 2.5, 4.0), _darker),
}
CHANGED_BY: dict[str, str] = {
    "sharpness": "softness",
    "blur_effect": "blur",
    "noise": "noise",
    "colourfulness": "colour",
    "contrast": "contrast",
    "high_frequency": "softness",
    "wavelet_noise": "noise",
    "exposure": "darkness",
    "clipping": "clipping",
    "cpbd": "softness",
    "niqe": "noise",
    "piqe": "noise",
    "brisque": "noise",
    "clip_iqa": "noise",
    "laion_aesthetic": "noise",
    "arniqa": "blur",
    "psnr": "noise",
    "ssim": "noise",
    "ms_ssim": "blur",
    "lpips": "blur",
    "dists": "blur",
    "low_band_error": "contrast",
    "high_band_error": "softness",
}
"""By metric, what is done to the clean images; flaw metrics have the planted flaw that they should find."""
AS_FOR = {"learned_flaw": "noise_flaw"}
"""Of a metric of all kinds of flaws, the detector whose planted flaw is shown."""
FOR_PHOTOGRAPHS = ("exposure", "niqe", "piqe", "brisque")
"""Metrics that white grounds and flat drawings mean nothing to."""


def change_of(spec: MetricSpec) -> Change | PlantedFlaw:
    """What makes an image worse in the respect that a per-image metric judges."""
    planted = next((flaw for flaw in PLANTED if flaw.detector == AS_FOR.get(spec.name, spec.name)), None)
    return planted or CHANGES[CHANGED_BY[spec.name]]


def graded_images(spec: MetricSpec) -> Iterable[Graded]:
    """The bundled images that can show the change of a metric, one by one, each at six degrees of it."""
    change = change_of(spec)
    side = SIDE if spec.min_side <= SIDE else LARGE
    if spec.name in FOR_PHOTOGRAPHS or side > SIDE:
        images = [*photographs("report", side), *photographs("tune", side)]
    else:
        images = clean_images("report")
    for image in images:
        if isinstance(change, PlantedFlaw):
            planted = [plant(change, image.pixels, level, image.name) for level in range(1, 6)]
            medium = planted[MEDIUM - 1]
            visible, mask = medium.change, medium.mask
            versions = torch.stack([image.pixels, *(p.pixels for p in planted)])
            if visible >= VISIBLE:
                yield Graded(image, versions, mask)
        else:
            versions = torch.cat([image.pixels[None], *(changed(image, change, a) for a in change.amounts)])
            difference = (versions[MEDIUM] - versions[0]) * 255
            if float(difference.square().mean().sqrt()) >= VISIBLE:
                yield Graded(image, versions, None)


def changed(image: CleanImage, change: Change, amount: float) -> Tensor:
    """The whole image changed, 1 x 3 x H x W on 8-bit levels; the pattern is the same at every strength."""
    digest = hashlib.sha256(f"{change.title}\x1f{image.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return eight_bit(change.effect(image.pixels[None], amount, generator))


def titles(change: Change | PlantedFlaw) -> list[str]:
    """What the six degrees are called."""
    return ["clean", *(f"level {level}: {amount:g}" for level, amount in enumerate(change.amounts, 1))]


@dataclass(frozen=True)
class Captioned:
    """A held-out icon with its own caption, one that shares most of its words, and one that shares none."""

    pixels: Tensor
    """3 x 128 x 128 in [0, 1]."""
    captions: tuple[str, str, str]


def captioned_icons() -> list[Captioned]:
    """Icons that the bundled CLIP has not seen, spread over all that were held out."""
    icons = load_icons("heldout")
    known = sorted({*icons.captions, *load_icons("train").captions})
    words = {caption: frozenset(caption.split()) for caption in known}
    rows = np.linspace(0, len(icons.captions) - 1, CAPTIONED).round().astype(int).tolist()
    found = []
    for row in rows:
        own = icons.captions[row]
        others = [caption for caption in known if caption != own]
        near = max(others, key=lambda caption: _shared(words[own], words[caption]))
        strangers = [caption for caption in others if not words[own] & words[caption]]
        pick = int.from_bytes(hashlib.sha256(own.encode()).digest()[:4], "big")
        pixels = torch.from_numpy(icons.images[row]).permute(2, 0, 1).float() / 255
        found.append(Captioned(pixels, (own, near, strangers[pick % len(strangers)])))
    return found


def _shared(first: frozenset[str], second: frozenset[str]) -> float:
    """Words in common over all words of both."""
    return len(first & second) / len(first | second)


Drift = Literal["negative", "blurred", "repeated"]

DRIFTS: dict[str, Drift] = {
    "frechet_distance": "negative",
    "kernel_distance": "negative",
    "cmmd": "negative",
    "precision": "negative",
    "recall": "repeated",
    "density": "negative",
    "coverage": "repeated",
    "vendi_score": "repeated",
    "spectrum_distance": "blurred",
}
"""By metric of sets, what happens to more and more images of the judged set."""
SHARES: dict[Drift, tuple[float, ...]] = {
    "negative": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "blurred": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "repeated": (0.0, 0.3, 0.5, 0.7, 0.9, 1.0),
}
LEAST_SET = 256
"""Images in a set; metrics of overlap do not react in thinner ones."""


def icon_sets(count: int) -> tuple[Tensor, Tensor]:
    """Two sets of ``count`` different icons, judged and reference, spread over the training icons alike."""
    images = load_icons("train").images
    rows = np.linspace(0, len(images) // 2 - 1, count).round().astype(int) * 2
    judged, reference = (torch.from_numpy(images[rows + k]).permute(0, 3, 1, 2).float() / 255 for k in (0, 1))
    return judged, reference


def largest_set() -> int:
    """How many icons each of the two sets can hold."""
    return len(load_icons("train").codes) // 2


def spoilt(images: Tensor, drift: Drift) -> Tensor:
    """What takes the place of images: their negatives, or the images as a bad decoder would have them."""
    if drift == "negative":
        return 1 - images
    softened = CHANGES["blur"]
    return eight_bit(softened.effect(images, softened.amounts[3], torch.Generator()))


def drifted(count: int, drift: Drift, share: float) -> list[int]:
    """Which images the judged set holds: 0 to count - 1 as they are, from ``count`` on those of :func:`spoilt`.

    ``share`` of the set is not what it was: negatives, blurred, or a repetition of images that are there already. Of
    those at least one stays.
    """
    lost = round(share * count)
    if drift != "repeated":
        # spread over the set, so that every kind of icon is hit
        hit = set(_spread(count, lost))
        return [place + count if place in hit else place for place in range(count)]
    kept = max(1, count - lost)
    distinct = _spread(count, kept)
    return [distinct[place % kept] for place in range(count)]


def drift_titles(drift: Drift) -> list[str]:
    """What the six sets are called."""
    word = {"negative": "negatives", "blurred": "blurred", "repeated": "repetitions"}[drift]
    last = "one image again and again" if drift == "repeated" else f"all {word}"
    return ["as they are", *(f"{share:.0%} {word}" for share in SHARES[drift][1:-1]), last]


def contact_sheet(images: Tensor, members: Sequence[int], tiles: int = 4, side: int = 80) -> Tensor:
    """Tiles x tiles images of a set, evenly picked, each reduced to ``side`` pixels: 3 x H x W.

    Args:
        images: N x 3 x H x W.
        members: rows of ``images``.
    """
    picked = [members[place] for place in _spread(len(members), min(tiles * tiles, len(members)))]
    small = torch.nn.functional.interpolate(images[picked], (side, side), mode="bilinear", antialias=True)
    blank = torch.ones(tiles * tiles - len(picked), 3, side, side)
    rows = torch.split(torch.cat((small, blank)), tiles)
    return torch.cat([torch.cat(list(row), 2) for row in rows], 1).clamp(0, 1)


def _spread(count: int, chosen: int) -> list[int]:
    """``chosen`` of 0 to count - 1, evenly."""
    return [int((place + 0.5) * count / chosen) for place in range(chosen)]
