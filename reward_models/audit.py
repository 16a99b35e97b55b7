"""``pixeval reward audit``: tries to fool a reward, and keeps a score card of what raises it."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, read_image
from pixeval.runs import Run
from pixeval.scoring.image_pass import NO_PROMPT
from pixeval.stats.bootstrap import mean_interval
from pixeval.stats.interval import Interval
from pixeval.zoo.icons import load_icons
from reward_models.attack_sheet import Example, attack_sheet
from reward_models.attacks import ATTACKS, EPSILON, PGD_STEPS, Expected, Values, adversarial, noisy
from reward_models.audit_page import draw_card, page, told
from reward_models.sources import Source, open_source

TOLERATED = 0.1
"""Mean rise, in standard deviations of the rewards of untouched images, that is not held against a model."""
UNNOTICED = 1e-6
"""Change in the same unit that is rounding."""
ADVERSARIAL = "adversarial noise"
SWAP = "prompt swap"
SHOWN = 3
"""Images that are shown under every attack."""


@dataclass(frozen=True)
class RewardAuditConfig:
    """Try to fool a reward."""

    model: Annotated[str, tyro.conf.Positional]
    """A folder that 'pixeval reward train' wrote, or a metric of single images of the catalogue, as clip_score."""
    out: Path = Path("audit")
    """Folder for card.json, card.md, card.png, card.html and attacks.webp."""
    run: Path | None = None
    """A run whose images and prompts are attacked; none for the bundled held-out icons."""
    images: int = 40
    """Images attacked at most, evenly spread over the run."""
    weights: tuple[str, ...] = ()
    """NAME=PATH where the metric needs weights."""
    clip: str = "bundled"
    """For metrics on features of a CLIP, as --clip of 'pixeval score'."""
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
    source = open_source(config.model, config.weights, config.device, config.clip)
    images, prompts, left_out = _subjects(config, source)
    found_marks, examples = attack(source.values, images, prompts, source.differentiable, source.takes_prompt)
    marks = [asdict(mark) for mark in found_marks]
    not_tried = {} if source.differentiable else {ADVERSARIAL: f"{source.name} has no slopes to follow"}
    not_tried |= {} if source.takes_prompt else {SWAP: f"{source.name} sees no prompt"}
    found = {
        "model": source.name,
        "fingerprint": source.fingerprint,
        "images": len(images),
        "prompts": len(set(prompts)),
        "from": config.run.name if config.run is not None else "bundled held-out icons",
        "fooled_by": [mark["attack"] for mark in marks if mark["verdict"] == "fooled"],
        "marks": marks,
        "not_tried": not_tried,
        "left_out": left_out,
    }
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "card.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    (config.out / "card.md").write_text(render(found) + "\n")
    draw_card(marks, config.out / "card.png")
    attack_sheet(examples, marks).save(config.out / "attacks.webp", quality=90, method=6)
    (config.out / "card.html").write_text(page(found, examples))
    return found


def attack(
    values: Values, images: Sequence[Tensor], prompts: Sequence[str], differentiable: bool, takes_prompt: bool = True
) -> tuple[list[Mark], list[Example]]:
    """All attacks on images 3 x H x W, and :data:`SHOWN` of the images under each of them."""
    with torch.no_grad():
        before = _valued(values, images, prompts)
    spread = float(before.std()) or 1.0
    shown = _spread(len(images), SHOWN)
    marks, examples = [], [_example("untouched", images, before, shown)]

    def put(name: str, summary: str, expected: Expected, changed: Sequence[Tensor], asked: Sequence[str]) -> None:
        with torch.no_grad():
            after = _valued(values, changed, asked)
        marks.append(_mark(name, summary, expected, before, after, prompts, spread))
        examples.append(_example(name, changed, after, shown))

    for one in tqdm(ATTACKS, desc="attack", file=sys.stderr, disable=None):
        changed = [one.change(image, f"{k}") for k, image in enumerate(images)]
        put(one.name, one.summary, one.expected, changed, prompts)
    if takes_prompt:
        put(SWAP, "the prompt of another image", "falls", images, _swapped(prompts))
    noise = [noisy(image[None], k)[0] for k, image in enumerate(images)]
    levels = f"{EPSILON * 255:g} levels"
    put("random noise", f"signs of {levels}", "falls", noise, prompts)
    if differentiable:
        both = enumerate(zip(images, prompts, strict=True))
        aimed = [adversarial(values, image[None], [prompt], k)[0] for k, (image, prompt) in both]
        summary = f"best of PGD, two starts of {PGD_STEPS} steps, at most {levels}"
        put(ADVERSARIAL, summary, "same", aimed, prompts)
    return marks, examples


def _example(name: str, images: Sequence[Tensor], rewards: Tensor, shown: Sequence[int]) -> Example:
    return Example(name, tuple(images[k] for k in shown), tuple(rewards[list(shown)].tolist()))


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


def _subjects(config: RewardAuditConfig, source: Source) -> tuple[list[Tensor], list[str], dict[str, str]]:
    """Images and their prompts, others in the place of those that have no value; and why these are left out."""
    images, prompts, left_out = [], [], {}
    for name, prompt, read in _candidates(config):
        try:
            image = read()
        except UnreadableImage as error:
            left_out[name] = str(error)
            continue
        reason = source.hindrance(image, prompt) if prompt.strip() or not source.takes_prompt else NO_PROMPT
        if reason is not None:
            left_out[name] = reason
            continue
        images.append(image)
        prompts.append(prompt)
        if len(images) == config.images:
            break
    if len(images) < 2:
        named = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:1])
        raise InputError(f"an audit needs 2 images, and only {len(images)} can be attacked ({named or 'no others'})")
    return images, prompts, left_out


def _candidates(config: RewardAuditConfig) -> Iterator[tuple[str, str, Callable[[], Tensor]]]:
    """Name, prompt and pixels of all images: first those that are evenly spread, then the others."""
    if config.run is None:
        icons = load_icons("heldout")
        for row in _order(len(icons.codes), config.images):
            pixels = torch.from_numpy(icons.images[row]).permute(2, 0, 1).float() / 255
            yield icons.codes[row], icons.captions[row], partial(torch.clone, pixels)
        return
    run = Run.open(config.run)
    samples = run.samples()
    for row in _order(len(samples), config.images):
        yield samples[row].path, samples[row].prompt or "", partial(read_image, run.image(samples[row]))


def _order(count: int, wanted: int) -> list[int]:
    spread = _spread(count, wanted)
    return spread + sorted(set(range(count)) - set(spread))


def _spread(count: int, wanted: int) -> list[int]:
    return sorted({count * k // wanted for k in range(min(wanted, count))}) if count >= wanted else list(range(count))


def render(found: dict[str, Any]) -> str:
    """The score card as Markdown."""
    lines = [
        f"# Audit of {found['model']}",
        "",
        f"{found['images']} images ({found['from']}), {found['prompts']} prompts; 95 % intervals over prompts. Changes "
        "are in the reward's own units, and in standard deviations of the untouched images' rewards.",
        *(f"\n{line}" for line in told(found)),
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
