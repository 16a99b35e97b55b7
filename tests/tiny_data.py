"""Tiny training data: captioned images and preference pairs of random colours."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_models import CAPTIONS, RESOLUTION

from pixeval.pair_folder import export_pairs
from pixeval.records import Pair


def paint(path: Path, seed: int, size: tuple[int, int] = (RESOLUTION, RESOLUTION)) -> None:
    """Save an image of 4 x 4 soft patches."""
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC).save(path)


def save_captioned(folder: Path, captions: Sequence[str] = CAPTIONS) -> Path:
    """A folder with an image for each caption; returns it."""
    folder.mkdir(parents=True)
    lines = []
    for i, caption in enumerate(captions):
        paint(folder / f"{i}.png", i)
        lines.append(json.dumps({"file_name": f"{i}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def save_pairs(folder: Path, captions: Sequence[str] = CAPTIONS) -> Path:
    """A folder of preference pairs, one for each caption; returns it."""
    images = folder.with_name(folder.name + "-images")
    images.mkdir(parents=True)
    pairs = []
    for i, caption in enumerate(captions):
        for side in (0, 1):
            paint(images / f"{i}-{side}.png", 100 + 2 * i + side)
        chosen, rejected = (str(images / f"{i}-{side}.png") for side in (0, 1))
        pairs.append(Pair(f"p{i}", caption, f"c{i}", f"r{i}", chosen, rejected, "a", "b", 0.8, "votes:appeal"))
    export_pairs(pairs, folder, "test")
    return folder


def tree(root: Path) -> dict[str, bytes]:
    """Every file of a run but run.json, which tells the command that was given, and what TensorBoard is shown."""
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.name != "run.json"]
    names = {str(p.relative_to(root)): p for p in files}
    return {name: p.read_bytes() for name, p in names.items() if not name.startswith("tensorboard")}
