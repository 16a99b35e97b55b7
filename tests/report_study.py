"""A training run on disk with images, scores, votes and a log, made up so that every part of a report has something."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pixeval.images import write_png
from pixeval.metrics.flaws import NoiseFlaw
from pixeval.records import QUESTIONS, FlawMark, Sample, Score, SetScore, Vote, sample_id
from pixeval.runs import Run
from pixeval.tables import write_records
from pixeval.zoo.icons import load_icons

HOSTILE = ('<script>alert(1)</script> a "red" cat', '"><img src=x onerror=alert(2)> | `dog` [a](http://evil.example/x)')
STEPS = (20, 40, 60)
FLAW = "noise_flaw"
TOO_LONG = "the prompt has 91 tokens, over the limit of 77"


def make_run(path: Path, prompts: int = 12, strength: float = 1.0, with_votes: bool = True) -> Run:
    """A training run whose images get cleaner with every checkpoint; two prompts try to break out of the page."""
    icons = load_icons("heldout")
    texts = [*HOSTILE, *icons.captions[2:prompts]]
    lines = [json.dumps({"id": f"p{i}", "prompt": text, "tags": tags(i)}) for i, text in enumerate(texts)]
    file = path.parent / f"{path.name}-prompts.jsonl"
    file.write_text("\n".join(lines))
    run = Run.create(path, "train", {"method": "simpo", "space": "both", "prompts": str(file), "mu": 8.0})
    samples, scores = [], []
    noise = np.random.default_rng(7)
    for label, amount in [("base", 1.0)] + [(f"step-{s:06d}", 1 - strength * s / 80) for s in STEPS]:
        for i in range(prompts):
            for seed in (0, 1):
                identity = sample_id(label if label == "base" else f"{path.name}-{label}", f"p{i}", seed)
                image = degrade(icons.images[i], amount * (0.7 + 0.6 * ((i * 7 + seed) % 5) / 5), 10 * i + seed)
                where = f"images/{identity}.png"
                digest = write_png(image, run.path / where)
                generator = "g0" if label == "base" else f"{path.name}/{label}"
                samples.append(Sample(identity, label, f"p{i}", texts[i], seed, generator, where, digest))
                scores += score(identity, image, amount, float(noise.normal()), len(samples) == 4)
    run.write_samples(samples)
    run.write_scores(scores)
    sets = [("base", 41.0), ("step-000020", 36.0), ("step-000060", 24.0)]
    run.write_set_scores(
        [SetScore(n, "frechet_distance", v, v - 4, v + 4, 24, "icons heldout", None, "fd/1") for n, v in sets]
    )
    log = [{"step": s, "loss": 0.7 / (1 + s / 40), "pixel_loss": 0.5 / (1 + s / 30), "accuracy": 0.5 + s / 200,
            "margin": s / 300, "grad_norm": 1.0 if s != 31 else float("nan")} for s in range(60)]  # fmt: skip
    (path / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in log) + '\n{"step": 60, "lo')
    if with_votes:
        write_votes(run, samples, strength)
    return run


def tags(i: int) -> list[str]:
    return ["heldout"] if i % 2 else []


def degrade(icon: np.ndarray, amount: float, seed: int) -> Tensor:
    image = torch.from_numpy(icon.astype(np.float32).transpose(2, 0, 1) / 255)
    soft = torch.nn.functional.avg_pool2d(image[None], 5, 1, 2, count_include_pad=False)[0]
    grain = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)) * 0.12
    return (image + amount * (soft - image) + amount * grain).clamp(0, 1)


def score(identity: str, image: Tensor, amount: float, wobble: float, failed: bool) -> list[Score]:
    flaw = float(NoiseFlaw()(image[None])[0])
    clip = None if failed else 0.27 - 0.004 * (1 - amount) + 0.004 * wobble
    reason = TOO_LONG if failed else None
    return [
        Score(identity, FLAW, flaw, None, "noise_flaw/1"),
        Score(identity, "sharpness", 0.4 + 0.2 * (1 - amount) + 0.1 * wobble, None, "sharp/1"),
        Score(identity, "clip_score", clip, reason, "clip/1"),
        Score(identity, "my_own_metric", 5 + wobble, None, "own/1"),
    ]


def write_votes(run: Run, samples: list[Sample], strength: float) -> None:
    by_key = {(s.label, s.prompt_id, s.seed): s for s in samples}
    rng = np.random.default_rng(3)
    votes = []
    wanted = {"flaws": 0.45, "appeal": 0.25, "alignment": 0.0}
    for key, base in by_key.items():
        if key[0] != "base" or key[2] != 0:
            continue
        for who in range(6):
            for question in QUESTIONS:
                final = by_key["step-000060", key[1], 0]
                swap = bool(rng.random() < 0.5)
                left, right = (final, base) if swap else (base, final)
                lean = strength * wanted[question] + 0.1 * (who - 2.5) / 2.5
                draw = rng.random()
                better = "tie" if draw < 0.2 else "final" if rng.random() < 0.5 + lean else "base"
                choice = "tie" if better == "tie" else "left" if (better == "final") == swap else "right"
                votes.append(
                    Vote(f"v{len(votes):04d}", f"sim-{who}", question, base.prompt_id or "", base.prompt or "", left.id,
                         right.id, left.label, right.label, choice, 2.0 + draw,
                         f"2026-11-01T10:{len(votes) // 60:02d}:{len(votes) % 60:02d}Z", None, True)
                )  # fmt: skip
    write_records(run.path / "votes" / "simulated.parquet", votes, Vote)


def mark_flaws(run: Run) -> None:
    """Let every decisive vote on flaws mark the image that lost, with a box (major) and a point (minor).

    On two prompts everybody prefers the base.
    """
    file = run.path / "votes" / "simulated.parquet"
    votes = []
    for vote in run.votes():
        marks: tuple[FlawMark, ...] = ()
        if vote.prompt_id in ("p3", "p4"):
            vote = replace(vote, choice="left" if vote.left_label == "base" else "right")
        if vote.question == "flaws" and vote.choice in ("left", "right"):
            side = "right" if vote.choice == "left" else "left"
            marks = (
                FlawMark(side, "anatomy", "major", 0.25, 0.5, 0.2, 0.1),  # type: ignore[arg-type]
                FlawMark(side, "blur", "minor", 0.7, 0.3),  # type: ignore[arg-type]
            )
        votes.append(replace(vote, marks=marks))
    write_records(file, votes, Vote)
