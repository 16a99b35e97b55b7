"""A run with two arms, one of them noisy, and votes on it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tiny_clip import CAPTIONS
from torch.nn import functional as F

from pixeval.images import write_png
from pixeval.records import Sample, Vote, sample_id
from pixeval.runs import Run
from pixeval.tables import write_records

SIDE = 40


def run_with_votes(folder: Path, prompts: int = 48, annotators: Sequence[str] = ("ann", "bo", "eve")) -> Run:
    """Two arms: smooth images and the same under noise. ``eve`` always says the opposite of what she sees.

    Without annotators there are no votes.
    """
    run = Run.create(folder, "generate", {})
    samples, votes = [], []
    for number in range(prompts):
        generator = torch.Generator().manual_seed(number)
        smooth = F.interpolate(torch.rand(1, 3, 3, 3, generator=generator), (SIDE, SIDE), mode="bilinear")[0]
        noise = torch.randn(3, SIDE, SIDE, generator=generator)
        text = f"{CAPTIONS[number % len(CAPTIONS)]} {number}"
        ids = []
        for label, strength in (("clean", 0.0), ("noisy", 0.12)):
            path = f"images/{label}-{number}.png"
            digest = write_png((smooth + strength * noise).clamp(0, 1), run.path / path)
            ids.append(sample_id(label, f"p{number}", 0))
            samples.append(Sample(ids[-1], label, f"p{number}", text, 0, label, path, digest))
        for k, annotator in enumerate(annotators):
            turned = (number + k) % 2 == 1
            left, right = ids[::-1] if turned else ids
            good = "right" if turned else "left"
            said = good if annotator != "eve" else ("left" if good == "right" else "right")
            at = f"2026-01-01T00:{number:02d}:{k:02d}+00:00"
            votes.append(
                Vote(f"v{number}-{k}", annotator, "flaws", f"p{number}", text, left, right, "a", "b", said, 1.0, at)  # type: ignore[arg-type]
            )
    run.write_samples(samples)
    if votes:
        (run.path / "votes").mkdir()
        write_records(run.path / "votes" / "study.parquet", votes, Vote)
    return run
