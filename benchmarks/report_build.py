"""How long the report of a large run takes: 5,000 prompts, 20 checkpoints, made-up scores and votes.

    python benchmarks/report_build.py                       # writes the run to a temporary folder, builds, measures
    python benchmarks/report_build.py --prompts 500 --checkpoints 5

Images are real files of 512 x 512 pixels, but few: the samples share them, since only those that are shown are read.
Prints seconds, peak memory and the size of the page as JSON.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pixeval.catalog import CATALOG
from pixeval.images import write_png
from pixeval.records import QUESTIONS, Prompt, Sample, Score, Vote
from pixeval.runs import Run
from pixeval.tables import schema_of, write_records
from reports.build import ReportConfig, build_report

IMAGES = 40
METRICS = 30
VOTES_PER_PAIR = 5
ANNOTATORS = 20
TAGS = ("people", "animals", "text", "counting", "style", "heldout")


def make_run(folder: Path, prompts: int, checkpoints: int) -> Run:
    """A training run with a score of every metric for every image, and votes on the last checkpoint."""
    run = Run.create(folder, "train", {"method": "dpo"})
    rng = np.random.default_rng(0)
    digests = []
    for i in range(IMAGES):
        smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16), size=512, mode="bicubic")[0]
        digests.append(write_png((smooth + 0.05 * torch.randn(3, 512, 512)).clamp(0, 1), folder / f"images/{i}.png"))
    texts = [f"a picture of thing number {i} beside another one" for i in range(prompts)]
    run.add_prompts([Prompt(f"p{i}", text, (TAGS[i % len(TAGS)],)) for i, text in enumerate(texts)])
    labels = ["base", *(f"step-{100 * (i + 1):06d}" for i in range(checkpoints))]
    samples = [
        Sample(f"{label}-{i}", label, f"p{i}", texts[i], 0, label, f"images/{(i + n) % IMAGES}.png",
               digests[(i + n) % IMAGES])
        for n, label in enumerate(labels) for i in range(prompts)
    ]  # fmt: skip
    run.write_samples(samples)
    names = [spec.name for spec in CATALOG if spec.family in ("quality", "flaws", "alignment")][:METRICS]
    shared = rng.normal(0, 1, prompts)
    ids = pa.array([sample.id for sample in samples])
    writer = pq.ParquetWriter(folder / "scores.parquet", schema_of(Score), compression="zstd")
    for name in names:
        values = np.concatenate([shared + 0.01 * n + rng.normal(0, 0.3, prompts) for n in range(len(labels))])
        values[rng.random(values.size) < 0.001] = np.nan
        missing = np.isnan(values)
        columns = [
            ids, pa.array([name] * len(samples)), pa.array(values, mask=missing),
            pa.array(["too small" if gone else None for gone in missing]), pa.array(["1"] * len(samples)),
        ]  # fmt: skip
        writer.write_table(pa.Table.from_arrays(columns, schema=schema_of(Score)))
    writer.close()
    write_records(folder / "votes" / "study.parquet", make_votes(texts, labels[-1], rng), Vote)
    log = [{"step": s, "loss": float(np.exp(-s / 500) + 0.1 * rng.normal())} for s in range(100 * checkpoints)]
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in log))
    return run


def make_votes(texts: list[str], last: str, rng: np.random.Generator) -> list[Vote]:
    """Votes of people who lean towards the last checkpoint."""
    votes = []
    for i, text in enumerate(texts):
        for question in QUESTIONS:
            for who in rng.choice(ANNOTATORS, VOTES_PER_PAIR, replace=False):
                swap, draw = bool(rng.random() < 0.5), rng.random()
                left, right = (last, "base") if swap else ("base", last)
                choice = "tie" if draw < 0.2 else "left" if (draw < 0.65) == swap else "right"
                votes.append(
                    Vote(f"v{len(votes)}", f"annotator {who}", question, f"p{i}", text, f"{left}-{i}", f"{right}-{i}",
                         left, right, choice, 3.0 + draw, f"2026-01-01T{len(votes) % 24:02d}:00:00Z")
                )  # fmt: skip
    return votes


def main() -> None:
    """Make the run, build its report, and print what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=5000)
    parser.add_argument("--checkpoints", type=int, default=20)
    parser.add_argument("--profile", action="store_true", help="print where the time goes, to stderr")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", given.prompts, given.checkpoints)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        if given.profile:
            import cProfile
            import pstats

            profile = cProfile.Profile()
            page = profile.runcall(build_report, ReportConfig((run.path,)))
            pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(45)
        else:
            page = build_report(ReportConfig((run.path,)))
        seconds = time.perf_counter() - started
        size = page.stat().st_size
        figures = pq.read_table(page.parent / "figures.parquet").num_rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {
        "prompts": given.prompts,
        "checkpoints": given.checkpoints,
        "scores": given.prompts * (given.checkpoints + 1) * METRICS,
        "votes": given.prompts * len(QUESTIONS) * VOTES_PER_PAIR,
        "seconds": round(seconds, 1),
        "peak_mb": round(peak / 1024),
        "peak_mb_before": round(before / 1024),
        "page_mb": round(size / 1e6, 2),
        "figures": figures,
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
