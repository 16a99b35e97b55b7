"""The figures of ``docs/experiments/rewards.md``, measured again: ``python -m reward_models.numbers OUT``.

Votes are simulated, so the truth is known: with 15 % noise the best predictor agrees with 85 % of them. Features are
cached in OUT, and views that numbers.json has already are left out, so that a stopped measurement goes on where it was.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from itertools import combinations
from math import exp
from pathlib import Path
from typing import Any

import torch

from pixeval.records import QUESTIONS
from pixeval.scoring.cache import Cache
from pixeval.stats.bootstrap import mean_interval
from pixeval.validation.clean_images import clean_images
from pixeval.validation.planted_flaws import MEDIUM, PLANTED, VISIBLE, plant
from reward_models.evaluate import judge
from reward_models.inputs import Frozen, tabulate, view_features
from reward_models.judgements import Judgement, picture_of
from reward_models.model import RewardModel
from reward_models.planted import png_of
from reward_models.reliability_figure import draw_reliability
from reward_models.simulated import SAME, SimulatedImage, annotator_scale, simulated_images, simulated_votes
from reward_models.train import RewardTrainConfig, fit
from reward_models.views import Detail

VOTES, NOISE, PROMPTS = 2000, 0.15, 200
CHECKED = 10_000
"""Held-out votes: with fewer, chance alone makes an ECE of 0.03."""
TIMED = 10_000
FULL = "whole view, crops and detectors"
VARIANTS: dict[str, tuple[Detail, ...]] = {
    FULL: ("crops", "flaws"),
    "whole view and detectors": ("flaws",),
    "whole view and crops": ("crops",),
    "whole view only": (),
}


def measure(out: Path) -> dict[str, Any]:
    """All figures; writes ``numbers.json``, reliability diagrams and the models into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    cache = Cache(out / "cache")
    tuned, held = simulated_images("train", PROMPTS), simulated_images("heldout", 116)
    votes = simulated_votes(tuned, VOTES, NOISE)
    checked, others = (simulated_votes(held, CHECKED, NOISE, seed=seed) for seed in (1, 3))
    planted = {"held-out icons": planted_icons(held), "photographs, drawings, samples": planted_clean()}
    file = out / "numbers.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name, detail in VARIANTS.items():
        if name in found:
            continue
        model = fit(votes, settings(detail), cache, progress=True)
        judged, curves = judge(model, checked, cache, progress=True)
        again, _ = judge(model, others, cache, progress=True)
        found[name] = {
            "accuracy": {q: judged["questions"][q]["agreement"]["single annotators"] for q in QUESTIONS},
            "of_best": of_best(model, held, cache),
            "ece": {q: judged["questions"][q]["calibration"] for q in QUESTIONS},
            "ece on other votes": {q: again["questions"][q]["calibration"] for q in QUESTIONS},
            "planted": {where: planted_accuracy(model, pairs, cache) for where, pairs in planted.items()},
        }
        if name == FULL:
            model.save(out / "model")
            for question in QUESTIONS:
                draw_reliability(curves[question], out / f"reliability-{question}.svg")
            found["seconds for 10,000 cached pairs"] = timed(tuned, detail, cache)
        file.write_text(json.dumps(found, indent=1) + "\n")
    return found


def settings(detail: tuple[Detail, ...]) -> RewardTrainConfig:
    """Those of the command, but for the views."""
    return RewardTrainConfig((Path("simulated"),), Path("unused"), detail=detail)


def true_pairs(images: dict[str, list[SimulatedImage]]) -> list[tuple[Judgement, float]]:
    """Every two images of a prompt with a better one, which comes first, by question; and by how much it is better."""
    found = []
    for prompt, group in images.items():
        for question in QUESTIONS:
            for a, b in combinations(group, 2):
                gap = a.utility(question) - b.utility(question)
                if abs(gap) >= SAME:
                    better, worse = (a, b) if gap > 0 else (b, a)
                    judgement = Judgement(prompt, better.picture, worse.picture, (1.0, 0.0, 0.0), question)
                    found.append((judgement, abs(gap)))
    return found


def of_best(model: RewardModel, images: dict[str, list[SimulatedImage]], cache: Cache) -> dict[str, Any]:
    """For each question, and over all: expected accuracy on noisy votes as a share of the best possible, with interval.

    The best predictor always names the better image, and a vote agrees with it with the annotators' own probability.
    """
    pairs = true_pairs(images)
    right = _right(model, [pair for pair, _ in pairs], cache)
    scales: dict[str, float] = {question: annotator_scale(images, NOISE, question) for question in QUESTIONS}
    found: dict[str, Any] = {}
    for question in (*QUESTIONS, "all"):
        rows = [k for k, (pair, _) in enumerate(pairs) if question in ("all", pair.question)]
        best = [1 / (1 + exp(-scales[str(pair.question)] * gap)) for pair, gap in (pairs[k] for k in rows)]
        reached = [right[k] * p + (1 - right[k]) * (1 - p) for k, p in zip(rows, best, strict=True)]
        figure = mean_interval(reached, clusters=[pairs[k][0].prompt for k in rows])
        found[question] = vars(figure.scaled(len(best) / sum(best), 0.0))
    return found


def planted_icons(images: dict[str, list[SimulatedImage]]) -> list[tuple[str, Judgement]]:
    """Every fourth held-out icon against itself with each medium flaw that can be seen in it."""
    found = []
    for prompt, group in list(images.items())[::4]:
        clean = next(one for one in group if one.own and one.flaws == 0)
        found += _planted_pairs(prompt, clean.picture.name, clean.pixels())
    return found


def planted_clean() -> list[tuple[str, Judgement]]:
    """The same for the clean images that the detectors are reported on."""
    return [pair for image in clean_images("report") for pair in _planted_pairs(image.source, image.name, image.pixels)]


def _planted_pairs(prompt: str, name: str, pixels: torch.Tensor) -> list[tuple[str, Judgement]]:
    clean = picture_of(png_of(pixels), name)
    found = []
    for flaw in PLANTED:
        planted = plant(flaw, pixels, MEDIUM, name)
        if planted.change >= VISIBLE:
            flawed = picture_of(png_of(planted.pixels), f"{name}-{flaw.name}")
            found.append((flaw.name, Judgement(prompt, clean, flawed, (1.0, 0.0, 0.0), "flaws")))
    return found


def planted_accuracy(model: RewardModel, pairs: Sequence[tuple[str, Judgement]], cache: Cache) -> dict[str, Any]:
    """Share of pairs in which the head for flaws prefers the image without; all, and by flaw."""
    right = _right(model, [pair for _, pair in pairs], cache)
    found = {}
    for name in ("all", *(flaw.name for flaw in PLANTED)):
        rows = [k for k, (flaw, _) in enumerate(pairs) if name in ("all", flaw)]
        if rows:
            found[name] = vars(mean_interval([right[k] for k in rows], clusters=[pairs[k][1].prompt for k in rows]))
    return found


def _right(model: RewardModel, pairs: Sequence[Judgement], cache: Cache) -> list[float]:
    """1 where the head of the pair's question prefers its first image, one half where it cannot tell."""
    views = {"whole": model.encoder, **model.views}
    features, _ = view_features(views, {p.sha256: p for j in pairs for p in (j.first, j.second)}.values(), cache)
    table = tabulate(pairs)
    inputs = Frozen(model, table, features).all
    with torch.no_grad():
        rewards: dict[str, torch.Tensor] = {question: model.opinion_of(inputs, question).mean for question in QUESTIONS}
    gaps = [
        float(rewards[str(j.question)][a] - rewards[str(j.question)][b])
        for j, a, b in zip(pairs, table.first.tolist(), table.second.tolist(), strict=True)
    ]
    return [0.5 if gap == 0 else float(gap > 0) for gap in gaps]


def timed(images: dict[str, list[SimulatedImage]], detail: tuple[Detail, ...], cache: Cache) -> float:
    """Wall time of a whole training on 10,000 votes whose features are cached, loading the encoder included."""
    votes = simulated_votes(images, TIMED, NOISE, seed=2)
    start = time.monotonic()
    fit(votes, settings(detail), cache, progress=True)
    return time.monotonic() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for cached features, the model and the figures")
    json.dump(measure(parser.parse_args().out), sys.stdout, indent=1)
