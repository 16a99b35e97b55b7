"""Two small runs to compare, for the tests of the labelling app."""

from pathlib import Path

import torch

from pixeval.images import write_png
from pixeval.records import Sample, sample_id
from pixeval.runs import Run

SECRETS = ("basemodel", "tunedmodel", "secretfolder", "step-000040")
"""Labels and folder names that no annotator may see."""


def make_run(path: Path, label: str, prompts: int, level: float, seeds: tuple[int, ...] = (0,)) -> Run:
    """A run of ``prompts`` x ``seeds`` flat images of 64 px with a mark whose brightness is ``level``."""
    run = Run.create(path, "generate", {"label": label})
    samples = []
    for i in range(prompts):
        for seed in seeds:
            image = torch.full((3, 64, 64), i / (2 * prompts) + 0.25)
            image[:, 16:48, 16:48] = level
            file = f"images/{label}-{i}-{seed}.png"
            digest = write_png(image, path / file)
            prompt_id, text = f"p{i}", f"a thing <b>number</b> {i}"
            identity = sample_id(label, prompt_id, seed)
            samples.append(Sample(identity, label, prompt_id, text, seed, label, file, digest))
    run.write_samples(samples)
    return run


def two_runs(folder: Path, prompts: int = 12) -> tuple[Path, Path]:
    """A run of the base model and one of the tuned one, on the same prompts."""
    a = make_run(folder / "secretfolder-a", "basemodel", prompts, 0.1)
    b = make_run(folder / "secretfolder-b", "tunedmodel", prompts, 0.9)
    return a.path, b.path
