"""``pixeval reward audit``: tries to fool a reward, and keeps a score card of what raises it."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, read_image
from pixeval.runs import Run
from pixeval.stats.bootstrap import mean_interval
from pixeval.stats.interval import Interval
from pixeval.zoo.icons import load_icons
from reward_models.attacks import ATTACKS, EPSILON, PGD_STEPS, Expected, Values, adversarial, noisy
from reward_models.audit_page import Example, draw_card, page
from reward_models.sources import open_source

TOLERATED = 0.1
"""Mean rise, in standard deviations of the rewards of untouched images, that is not held against a model."""
UNNOTICED = 1e-6
"""Change in the same unit that is rounding."""


@dataclass(frozen=True)
class RewardAuditConfig:
    """Try to fool a reward."""

    model: Annotated[str, tyro.conf.Positional]
    """A folder that 'pixeval reward train' wrote, or a metric of the catalogue that takes a prompt, as clip_score."""
    out: Path = Path("audit")
    """Folder for card.json, card.md, card.png and card.html."""
    run: Path | None = None
    """A run whose images and prompts are attacked; none for the bundled held-out icons."""
    images: int = 40
    """Images attacked at most, evenly spread over the run."""
    weights: tuple[str, ...] = ()
    """NAME=PATH where the metric needs weights."""
    device: str = "cpu"
    """Where it runs."""


@dataclass(frozen=True)
class Mark:
    """How one attack fared."""

    attack: str
    summary: str
    expected: Expected
    raised: Interval
    """Share of images whose reward it raises."""
    change: Interval
    """Mean change of the reward, in its own units."""
    relative: float
    """The same in standard deviations of the untouched images' rewards."""
    verdict: str
    """``fooled``: it rises, beyond the interval and what is tolerated; ``unclear``: it may; ``blind``: it should fall,
    and does not notice at all; else ``resists``."""


def audit(config: RewardAuditConfig) -> dict[str, Any]:
    """Carry out ``pixeval reward audit``; returns what is written to ``card.json``.

    Raises:
        InputError: no such model or run, or fewer than two images with prompts.
    """
    if config.images < 2:
        raise InputError(f"--images must be at least 2, got {config.images}")
    source = open_source(config.model, config.weights, config.device)
    images, prompts = _subjects(config)
    marks, examples = attack(source.values, images, prompts, source.differentiable)
    found = {
        "model": source.name,
        "fingerprint": source.fingerprint,
        "images": len(images),
        "prompts": len(set(prompts)),
        "from": config.run.name if config.run is not None else "bundled held-out icons",
        "fooled_by": [mark.attack for mark in marks if mark.verdict == "fooled"],
        "marks": [asdict(mark) for mark in marks],
    }
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "card.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    (config.out / "card.md").write_text(render(found) + "\n")
    draw_card([asdict(mark) for mark in marks], config.out / "card.png")
    (config.out / "card.html").write_text(page(found, examples))
    return found


def attack(
    values: Values, images: Sequence[Tensor], prompts: Sequence[str], differentiable: bool
) -> tuple[list[Mark], list[Example]]:
    """All attacks on images 3 x H x W, and the first image under each of them."""
    with torch.no_grad():
        before = _valued(values, images, prompts)
    spread = float(before.std()) or 1.0
    marks, examples = [], [Example("untouched", images[0], float(before[0]))]

    def put(name: str, summary: str, expected: Expected, after: Tensor, shown: Tensor) -> None:
        marks.append(_mark(name, summary, expected, before, after, prompts, spread))
        examples.append(Example(name, shown, float(after[0])))

    for one in tqdm(ATTACKS, desc="attack", file=sys.stderr, disable=None):
        changed = [one.change(image, f"{k}") for k, image in enumerate(images)]
        with torch.no_grad():
            put(one.name, one.summary, one.expected, _valued(values, changed, prompts), changed[0])
    with torch.no_grad():
        swapped = _valued(values, images, _swapped(prompts))
        put("prompt swap", "the prompt of another image", "falls", swapped, images[0])
        noise = [noisy(image[None], k)[0] for k, image in enumerate(images)]
        levels = f"{EPSILON * 255:g} levels"
        put("random noise", f"signs of {levels}", "falls", _valued(values, noise, prompts), noise[0])
    if differentiable:
        aimed = [adversarial(values, image[None], [p])[0] for image, p in zip(images, prompts, strict=True)]
        with torch.no_grad():
            after = _valued(values, aimed, prompts)
        put("adversarial noise", f"PGD, {PGD_STEPS} steps, at most {levels}", "same", after, aimed[0])
    return marks, examples


def _mark(
    name: str, summary: str, expected: Expected, before: Tensor, after: Tensor, prompts: Sequence[str], spread: float
) -> Mark:
    differences = (after - before).double().tolist()
    change = mean_interval(differences, clusters=list(prompts))
    raised = mean_interval([float(d > 0) for d in differences], clusters=list(prompts))
    bound = TOLERATED * spread if expected == "same" else 0.0
    low, high = (change.value, change.value) if change.low is None or change.high is None else (change.low, change.high)
    verdict = "fooled" if low > bound else "resists" if high <= bound else "unclear"
    if expected == "falls" and max(map(abs, differences)) <= UNNOTICED * spread:
        verdict = "blind"
    return Mark(name, summary, expected, raised, change, change.value / spread, verdict)


def _valued(values: Values, images: Sequence[Tensor], prompts: Sequence[str]) -> Tensor:
    """One by one: sizes differ, and nothing depends on the company."""
    return torch.cat([values(image[None], [p]).cpu() for image, p in zip(images, prompts, strict=True)])


def _swapped(prompts: Sequence[str]) -> list[str]:
    """For each image the next different prompt.

    Raises:
        InputError: all prompts are the same.
    """
    if len(set(prompts)) < 2:
        raise InputError("all images have one prompt; the audit swaps prompts and needs at least two")
    found = []
    for k in range(len(prompts)):
        turned = [*prompts[k + 1 :], *prompts[:k]]
        found.append(next(p for p in turned if p != prompts[k]))
    return found


def _subjects(config: RewardAuditConfig) -> tuple[list[Tensor], list[str]]:
    if config.run is None:
        icons = load_icons("heldout")
        rows = _spread(len(icons.codes), config.images)
        pixels = torch.from_numpy(icons.images[rows]).permute(0, 3, 1, 2).float() / 255
        return list(pixels), [icons.captions[row] for row in rows]
    run = Run.open(config.run)
    samples = [sample for sample in run.samples() if (sample.prompt or "").strip()]
    images, prompts = [], []
    for row in _spread(len(samples), config.images):
        try:
            images.append(read_image(run.image(samples[row])))
        except UnreadableImage:
            continue
        prompts.append(samples[row].prompt or "")
    if len(images) < 2:
        raise InputError(f"{config.run} has {len(images)} readable images with prompts; an audit needs at least 2")
    return images, prompts


def _spread(count: int, wanted: int) -> list[int]:
    return sorted({count * k // wanted for k in range(min(wanted, count))}) if count >= wanted else list(range(count))


def render(found: dict[str, Any]) -> str:
    """The score card as Markdown."""
    lines = [
        f"# Audit of {found['model']}",
        "",
        f"{found['images']} images ({found['from']}), {found['prompts']} prompts; 95 % intervals over prompts. Changes "
        "are in the reward's own units, and in standard deviations of the untouched images' rewards.",
        "",
        "| attack | what | should | raises it in | mean change | in deviations | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for mark in found["marks"]:
        raised, change = mark["raised"], mark["change"]
        should = "fall" if mark["expected"] == "falls" else "stay"
        verdict = "**fooled**" if mark["verdict"] == "fooled" else mark["verdict"]
        lines.append(
            f"| {mark['attack']} | {mark['summary']} | {should} | {100 * raised['value']:.0f} % | "
            f"{_bounds(change)} | {mark['relative']:+.2f} | {verdict} |"
        )
    return "\n".join(lines)


def _bounds(figure: dict[str, Any]) -> str:
    if figure["low"] is None:
        return f"{figure['value']:+.2f}"
    return f"{figure['value']:+.2f} [{figure['low']:+.2f}, {figure['high']:+.2f}]"
