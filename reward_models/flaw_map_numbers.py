"""The figures of ``docs/experiments/flaw_map.md``, measured again: ``python -m reward_models.flaw_map_numbers OUT``.

What is in OUT already is not made again, so that a stopped measurement goes on where it was.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from pixeval.catalog import load, select
from pixeval.flaw_marks import mark_shape
from pixeval.images import to_uint8
from pixeval.records import FlawMark
from pixeval.validation.clean_images import clean_images
from pixeval.validation.localisation import correlation
from pixeval.validation.planted_flaws import LEVELS, MEDIUM, PLANTED
from pixeval.validation.rank_figures import auc
from reward_models.flaw_examples import Marked, planted_examples, training_images
from reward_models.flaw_figures import Judged, agreement, judge, summary
from reward_models.flaw_map import CELL, FlawMap, Lesson, fit_map, flaw_detectors, lessons
from reward_models.train_flaw_map import figures

UNTAUGHT = ("repetition", "blank", "warp", "seam")
"""Kinds that are left out of the planted ones, to see what marks of people teach."""
MISSED, SHIFT, FALSE = 0.2, 0.15, 0.1
"""Simulated annotators miss so many flaws, set each side of a box wrong by up to so much of its length, and mark a
random box in so many sound images."""

KINDS = ("photograph", "drawing", "generated")
QUANTILES = (0.1, 0.5, 0.9)
"""Of the examples of a kind, best first, that are drawn."""

HeatOf = Callable[[Tensor], Tensor]


def measure(out: Path) -> dict[str, Any]:
    """All figures; writes ``numbers.json`` and the maps into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "numbers.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name, part in PARTS.items():
        if name not in found:
            print(name, file=sys.stderr, flush=True)
            found[name] = part(out)
            file.write_text(json.dumps(found, indent=1) + "\n")
    return found


def trained(out: Path) -> dict[str, Any]:
    """The map of the documentation and those that learn from simulated marks, from one set of examples."""
    examples = list(planted_examples(training_images()))
    taught = lessons(examples, progress=True)
    fit_map(taught).save(out / "map")
    known = [one.flaw not in UNTAUGHT for one in examples]
    fit_map([one for one, taken in zip(taught, known, strict=True) if taken]).save(out / "without")
    marked = marked_lessons(examples, taught)
    fit_map([one for one, taken in zip(taught, known, strict=True) if taken] + marked).save(out / "marks")
    return {"examples": len(taught), "marked": len(marked)}


def marked_lessons(examples: Sequence[Marked], taught: Sequence[Lesson]) -> list[Lesson]:
    """What annotators would mark: boxes about the untaught kinds, some missed, and some where nothing is."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for one, lesson in zip(examples, taught, strict=True):
        if one.flaw and one.flaw not in UNTAUGHT:
            continue
        mask = F.avg_pool2d(noisy_mask(one, generator)[None], CELL, ceil_mode=True)
        found.append(replace(lesson, mask=mask, group="marked"))
    return found


def noisy_mask(one: Marked, generator: torch.Generator) -> Tensor:
    """H x W: one annotator's box about the flawed places, or what the annotator takes for one."""
    height, width = one.mask.shape
    chance, *shifts = torch.rand(5, generator=generator).tolist()
    places = one.mask.nonzero()
    if len(places):
        if chance < MISSED:
            return torch.zeros_like(one.mask)
        (top, left), (bottom, right) = places.amin(0).tolist(), (places.amax(0) + 1).tolist()
    elif chance < FALSE:
        top, left = int(shifts[0] * height * 0.7), int(shifts[1] * width * 0.7)
        bottom, right = top + height * 0.3, left + width * 0.3
    else:
        return torch.zeros_like(one.mask)
    tall, wide = bottom - top, right - left
    moved = [SHIFT * (2 * shift - 1) for shift in shifts]
    y, x = max(0.0, (top + moved[0] * tall) / height), max(0.0, (left + moved[1] * wide) / width)
    y2, x2 = min(1.0, (bottom + moved[2] * tall) / height), min(1.0, (right + moved[3] * wide) / width)
    box = FlawMark("left", "artifact", "major", x, y, x2 - x, y2 - y)
    return torch.from_numpy(mark_shape([box], width, height))


def report() -> Iterator[Marked]:
    """Images that nothing was trained on, clean and with every medium flaw."""
    return planted_examples(clean_images("report"), (MEDIUM,))


def whole(out: Path) -> dict[str, Any]:
    """The map on the report set."""
    return figures(judge(FlawMap.load(out / "map").heatmap, report()))


def baselines(out: Path) -> dict[str, Any]:
    """Maps that need no training, and the best single detector for each kind of image."""
    detectors = {name: load(spec) for name, spec in zip(flaw_detectors(), select(flaw_detectors()), strict=True)}
    rules: dict[str, HeatOf] = {
        "centre": lambda images: centre(images.shape[-2], images.shape[-1])[None],
        "constant": lambda images: torch.full_like(images[:, 0], 0.3),
    }
    found: dict[str, Any] = {name: figures(judge(rule, report())) for name, rule in rules.items()}
    rows: dict[str, list[Judged]] = {name: [] for name in ("maximum", *detectors)}
    for one in report():
        with torch.no_grad():
            heat = {name: detector.heatmap(one.pixels[None]) for name, detector in detectors.items()}
        heat["maximum"] = torch.stack(list(heat.values())).amax(0)
        for name, its in heat.items():
            rows[name] += judge(lambda _, its=its: its, [one])  # type: ignore[misc]
    found["maximum"] = figures(rows["maximum"])
    own = {flaw.name: flaw.detector for flaw in PLANTED}
    of_kind = [[one for one in rows[name] if own.get(one.flaw) == name] for name in detectors]
    found["detector of the flaw, named beforehand"] = figures([one for its in of_kind for one in its])
    best: list[Judged] = []
    for kind in found["maximum"]["kinds"]:
        its = {name: [one for one in rows[name] if one.kind == kind] for name in detectors}
        name = max(its, key=lambda name: summary(its[name])["AUC-Judd"]["value"])
        found[f"best detector: {kind}"] = name
        best += its[name]
    found["best single detector of each kind of image"] = figures(best)
    return found


def centre(height: int, width: int) -> Tensor:
    """H x W: a Gaussian bump in the middle, as planted regions are mostly there."""
    rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    return torch.exp(-2 * (rows.square() + columns.square()))


def severity(out: Path) -> dict[str, Any]:
    """How the mean of the map follows the level of a flaw (0 where there is none), levels 1, 3 and 5."""
    found = FlawMap.load(out / "map")
    judged = judge(found.heatmap, report())
    for level in (LEVELS[0], LEVELS[-1]):
        judged += [one for one in judge(found.heatmap, planted_examples(clean_images("report"), (level,))) if one.flaw]
    return follows_level(judged)


def follows_level(judged: Sequence[Judged]) -> dict[str, Any]:
    """PLCC and SRCC of means and levels over all flaws, and for each beside the sound images."""
    told: dict[str, Any] = {"all": agreement([float(one.level) for one in judged], judged), "flaws": {}}
    for flaw in PLANTED:
        its = [one for one in judged if one.flaw in ("", flaw.name)]
        told["flaws"][flaw.name] = agreement([float(one.level) for one in its], its)
    means = {level: np.array([one.mean for one in judged if one.level == level]) for level in (0, *LEVELS)}
    told["AUC against sound"] = {level: auc(means[0], its) for level, its in means.items() if level and len(its)}
    return told


def marks(out: Path) -> dict[str, Any]:
    """Maps that were not taught four kinds of flaws, taught them by marks, and taught them by planting."""
    found = {}
    for name in ("without", "marks", "map"):
        rows = judge(FlawMap.load(out / name).heatmap, report())
        found[name] = {
            "untaught": summary([one for one in rows if one.flaw in UNTAUGHT]),
            "others": summary([one for one in rows if one.flaw and one.flaw not in UNTAUGHT]),
            "sound": summary([one for one in rows if not one.flaw]),
        }
    return found


def picture(out: Path) -> dict[str, Any]:
    """``flaw_map.webp``: of each kind a good, a middling and a bad map by CC, and the sound images marked most."""
    found = FlawMap.load(out / "map")
    examples = list(report())
    with torch.no_grad():
        heat = [found.heatmap(one.pixels[None])[0] for one in examples]
    drawn = examples_to_show(examples, heat)
    contact_sheet(drawn).save(out / "flaw_map.webp", quality=88, method=6)
    return {"shown": [f"{one.source} {one.kind} {one.flaw}" for one, _ in drawn]}


def examples_to_show(examples: Sequence[Marked], heat: Sequence[Tensor]) -> list[tuple[Marked, Tensor]]:
    """By :data:`QUANTILES` of each kind of image, and the sound ones with the most heat."""
    shown: list[int] = []
    for kind in KINDS:
        rows = [row for row, one in enumerate(examples) if one.flaw and one.kind == kind]
        rows.sort(key=lambda row: -correlation(heat[row].double().numpy(), examples[row].mask.double().numpy()))
        shown += [rows[int(share * len(rows))] for share in QUANTILES]
    sound = [row for row, one in enumerate(examples) if not one.flaw]
    shown += sorted(sound, key=lambda row: -float(heat[row].mean()))[: len(QUANTILES)]
    return [(examples[row], heat[row]) for row in shown]


def contact_sheet(drawn: Sequence[tuple[Marked, Tensor]]) -> Image.Image:
    """Image, truth and map side by side; a column for each kind of image, and one for sound ones."""
    side, title, gap = 128, 16, 12
    deep = len(QUANTILES)
    wide = len(drawn) // deep
    sheet = Image.new("RGB", (wide * (3 * side + gap) - gap, deep * (side + title)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (one, heat) in enumerate(drawn):
        left, top = number // deep * (3 * side + gap), number % deep * (side + title)
        pen.text((left, top + 2), f"{one.kind}, {one.flaw.replace('_', ' ') or 'sound'}", fill="black")
        for place, pixels in enumerate((one.pixels, one.mask.expand(3, -1, -1), heat.expand(3, -1, -1))):
            tile = Image.fromarray(to_uint8(pixels[None])[0]).resize((side - 2, side - 2), Image.Resampling.LANCZOS)
            sheet.paste(tile, (left + place * side, top + title))
    return sheet


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "trained": trained,
    "map": whole,
    "baselines": baselines,
    "marks": marks,
    "severity": severity,
    "picture": picture,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    measure(parser.parse_args().out)
