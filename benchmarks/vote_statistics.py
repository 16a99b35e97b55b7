"""Statistics of a million votes: seconds and peak memory of each step.

    python benchmarks/vote_statistics.py --votes 1000000 --models 10 --draws 1000

Writes a Parquet file of votes on three questions (20,000 prompts, 200 annotators, clustered in both), then reads it in
a process of its own and works out win rates of all pairs with two-way intervals, bootstrap and permutation tests,
Davidson rankings with sandwich and bootstrap intervals and rank sets, and agreement. Prints one JSON object; the
writing is not timed.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pixeval.records import QUESTIONS, Vote
from pixeval.tables import schema_of


def write_votes(path: Path, votes: int, models: int, prompts: int, annotators: int) -> None:
    """Simulated votes on random pairs of models as ``pixeval label`` keeps them."""
    rng = np.random.default_rng(0)
    prompt, annotator = rng.integers(0, prompts, votes), rng.integers(0, annotators, votes)
    left = rng.integers(0, models, votes)
    right = (left + rng.integers(1, models, votes)) % models
    quality = np.linspace(-0.5, 0.5, models) + rng.normal(0, 0.7, (prompts, models))
    logit = quality[prompt, left] - quality[prompt, right] + rng.normal(0, 0.3, annotators)[annotator] + 0.1
    odds = np.stack([np.exp(logit / 2), np.full(votes, 0.6), np.exp(-logit / 2)], 1)
    answer = (rng.random(votes)[:, None] > (odds / odds.sum(1, keepdims=True)).cumsum(1)[:, :2]).sum(1)
    choices = np.array(["left", "tie", "right"], dtype=object)[answer]
    choices[rng.random(votes) < 0.02] = "both_bad"
    names = [f"model-{i}" for i in range(models)]

    def coded(codes: np.ndarray, words: list[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(words)).cast(pa.string())

    images = [f"{i:016x}" for i in range(prompts * models)]
    columns = {
        "id": pa.array([f"{i:012x}" for i in range(votes)]),
        "annotator": coded(annotator, [f"annotator-{i}" for i in range(annotators)]),
        "question": coded(rng.integers(0, 3, votes), list(QUESTIONS)),
        "prompt_id": coded(prompt, [f"prompt-{i}" for i in range(prompts)]),
        "prompt": coded(prompt, [f"the text of prompt {i}" for i in range(prompts)]),
        "left": coded(prompt * models + left, images),
        "right": coded(prompt * models + right, images),
        "left_label": coded(left, names),
        "right_label": coded(right, names),
        "choice": pa.array(choices.tolist(), pa.string()),
        "seconds": pa.array(rng.gamma(2, 3, votes)),
        "answered_at": pa.array(["2026-01-01T00:00:00+00:00"] * votes),
        "supersedes": pa.nulls(votes, pa.string()),
        "simulated": pa.array(np.ones(votes, np.bool_)),
        "reason": pa.nulls(votes, pa.string()),
        "purpose": pa.array(["work"] * votes),
        "propensity": pa.array(np.ones(votes)),
    }
    schema = schema_of(Vote)
    empty = {name: pa.array([[]] * votes, schema.field(name).type) for name in ("marks", "words", "checks")}
    table = pa.table([(columns | empty)[name] for name in schema.names], schema=schema)
    pq.write_table(table, path, compression="zstd")


def measure(path: Path, draws: int) -> dict[str, float | int]:
    """Seconds of each step and the peak of memory, in a fresh process."""
    from pixeval.stats.agreement import vote_agreement
    from pixeval.stats.multiplicity import holm
    from pixeval.stats.ranking import rank
    from pixeval.stats.vote_table import VoteTable
    from pixeval.stats.win_rates import all_win_rates

    found: dict[str, float | int] = {"import_mb": round(peak_mb())}
    started = last = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        found[name], last = round(now - last, 2), now

    table = VoteTable.read([path])
    lap("read_s")
    rates = all_win_rates(table)
    holm([one.p_value for one in rates])
    lap("win_rates_s")
    rankings = [rank(table, question, draws=draws) for question in QUESTIONS]
    lap("rankings_s")
    for question in QUESTIONS:
        vote_agreement(table, question)
    lap("agreement_s")
    total = time.perf_counter() - started
    sets = [one.worst_rank - one.best_rank + 1 for one in rankings[0].models]
    return found | {
        "total_s": round(total, 2),
        "peak_mb": round(peak_mb()),
        "votes": len(table),
        "comparisons": len(rates),
        "largest_rank_set": max(sets),
    }


def peak_mb() -> float:
    """Greatest memory this process held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--votes", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=20_000)
    parser.add_argument("--annotators", type=int, default=200)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--file", type=Path, help="measure this file instead of making one")
    given = parser.parse_args()
    if given.file is not None:
        print(json.dumps(measure(given.file, given.draws)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "votes.parquet"
        write_votes(path, given.votes, given.models, given.prompts, given.annotators)
        command = [sys.executable, __file__, "--file", str(path), "--draws", str(given.draws)]
        subprocess.run(command, check=True, env=os.environ)


if __name__ == "__main__":
    main()
