"""Heat maps of flaw metrics laid over the images of a run, for people: ``heatmaps/METRIC/SAMPLE.png``."""

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pixeval.folder import ImageSet
from pixeval.records import Sample
from pixeval.runs import Run
from pixeval.scoring.batches import Batch, chunks, decode_chunk, read_chunk
from pixeval.scoring.heatmap_overlay import write_overlay
from pixeval.scoring.image_pass import LoadedMetric

DRAWING = "drawing/2"
"""Version of how heat is drawn."""


def write_heatmaps(
    run: Run, metrics: Sequence[LoadedMetric], batch_size: int, device: str = "cpu", progress: bool = False
) -> dict[str, Any]:
    """Write the overlays that are missing; those of another version of a metric are made again.

    Args:
        metrics: others than those of the flaws family are passed over.

    Returns:
        ``folder``, ``written``, ``there`` (from before), and ``failed``: reasons and how often.
    """
    images = ImageSet.open(run)
    root = run.path / "heatmaps"
    wanted = [metric for metric in metrics if metric.spec.family == "flaws"]
    for metric in wanted:
        _keep_only(root / metric.spec.name, f"{metric.scorer.fingerprint} {DRAWING} {metric.spec.full_heat:g}")
    written, there, failed = 0, 0, Counter[str]()
    total = len(images.samples)
    with tqdm(total=total, desc="heat maps", unit="image", file=sys.stderr, disable=None if progress else True) as bar:
        for samples in chunks(images.samples, batch_size):
            missing = [(s, m) for s in samples for m in wanted if not overlay_path(root, m, s).exists()]
            there += len(samples) * len(wanted) - len(missing)
            if missing:
                batches, reasons = decode_chunk(read_chunk(images, samples), device)
                failed.update(reasons[s.id] for s, _ in missing if s.id in reasons)
                for batch in batches:
                    moved = Batch(batch.samples, batch.images.to(device))
                    for metric in wanted:
                        written += _write_batch(root, moved, metric, failed)
            bar.update(len(samples))
    return {"folder": str(root), "written": written, "there": there, "failed": dict(failed)}


def overlay_path(root: Path, metric: LoadedMetric, sample: Sample) -> Path:
    """Where the overlay of a sample lies; an id that is no plain file name is replaced by its hash."""
    plain = re.fullmatch(r"[A-Za-z0-9_-]{1,100}", sample.id) is not None
    stem = sample.id if plain else hashlib.sha256(sample.id.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    return root / metric.spec.name / f"{stem}.png"


def _write_batch(root: Path, batch: Batch, metric: LoadedMetric, failed: Counter[str]) -> int:
    missing = [i for i, s in enumerate(batch.samples) if not overlay_path(root, metric, s).exists()]
    if missing and batch.side < metric.spec.min_side:
        failed[f"smaller than the {metric.spec.min_side} pixels a side that {metric.spec.name} needs"] += len(missing)
        return 0
    written = 0
    for i in missing:
        try:
            with torch.no_grad():
                one = batch.images[i : i + 1]
                heat, value = metric.scorer.heatmap(one)[0].float(), float(metric.scorer(one))
        except Exception as error:  # a metric may fail in any way; the other images go on
            failed[f"{metric.spec.name} failed: {type(error).__name__}: {error}"] += 1
            continue
        target = overlay_path(root, metric, batch.samples[i])
        write_overlay(batch.images[i].cpu(), heat.cpu(), target, metric.spec, value)
        written += 1
    return written


def _keep_only(folder: Path, fingerprint: str) -> None:
    """Remove the overlays of ``folder`` unless they were made under this fingerprint of metric and drawing."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "fingerprint.txt"
    if note.exists() and note.read_text(encoding="utf-8") == fingerprint:
        return
    for picture in folder.glob("*.png"):
        picture.unlink()
    partial = folder / "fingerprint.txt.partial"
    partial.write_text(fingerprint, encoding="utf-8")
    os.replace(partial, note)
