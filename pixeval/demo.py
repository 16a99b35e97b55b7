"""``pixeval demo``: the whole loop on a bundled model, each step by the function that serves its own verb.

Every step finds what an earlier, interrupted call has finished and goes on from there.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pixeval.close_loop import preference
from pixeval.errors import InputError
from pixeval.generate import GenerateConfig, generate
from pixeval.pairs import PairsConfig, make_pairs
from pixeval.pipelines import Sampler
from pixeval.records import Question
from pixeval.rescore import Evaluation
from pixeval.runs import Run
from pixeval.scoring.evaluate import score_run
from pixeval.zoo.icons import export_icons

JUDGED = ("flaws", "clip_score", "caption_probability")
"""What the images are scored with before the simulated annotators compare them."""
SCORED = ("quality", "flaws", "alignment", "kernel_distance", "cmmd")
"""What checkpoints are scored with; a Frechet distance would need more images than features."""


@dataclass(frozen=True)
class DemoConfig:
    """Base model, two sets of samples, simulated votes, pixel-space preference tuning, re-scoring, report."""

    out: Path = Path("work/demo")
    """Folder of all runs; an interrupted demo continues in it."""
    model: str = "zoo:dit"
    """``zoo:dit`` or ``zoo:unet``."""
    steps: int = 40
    """Optimiser steps of preference tuning."""
    annotators: int = 5
    """Simulated annotators; the paper asked at least five."""
    seed: int = 0


def demo(config: DemoConfig) -> str:
    """Run the loop; returns where the report is and how people replace the simulated votes."""
    # The demo is the composition root of its own loop, so the other packages are imported here.
    from reports.build import ReportConfig, build_report
    from trainers.preference import PreferenceConfig

    started = time.monotonic()
    if config.model not in ("zoo:dit", "zoo:unet"):
        raise InputError(f"the demo runs on zoo:dit or zoo:unet, not on {config.model!r}; use the single verbs")
    sampler = Sampler(steps=20)
    runs = []
    for name, seed in (("first", 2 * config.seed + 1), ("second", 2 * config.seed + 2)):
        say(f"generate the {name} set of samples")
        request = GenerateConfig(config.model, "icons-tune", config.out / name, name, (seed,), sampler, 16)
        runs.append(generate(request))
    say("score both sets")
    for run in runs:
        score_run(run, JUDGED, progress=True)
    say(f"collect votes of {config.annotators} simulated annotators")
    vote([str(run.path) for run in runs], runs, config, config.out / "votes-for-pairs.sqlite", runs[0])
    say("make preference pairs")
    # By alignment first: to most flaw detectors an empty image has no flaws, and a model learns that within 60 steps.
    pairs = make_pairs(
        PairsConfig(tuple(run.path for run in runs), config.out / "pairs", questions=("alignment", "appeal"))
    )
    print(f"{pairs['pairs']} pairs", file=sys.stderr)
    say("tune in pixel space; generate from every checkpoint and score it")
    reference = export_icons(config.out / "icons")
    tuned = preference(
        PreferenceConfig(
            model=Path(config.model),
            data=config.out / "pairs",
            out=config.out / "tuned",
            method="dpo",
            steps=config.steps,
            learning_rate=4e-5,
            checkpoint_every=config.steps // 2,
            probe_every=max(1, config.steps // 4),
            probe_rows=8,
            seed=config.seed,
            evaluate="icons-eval",
            evaluation=Evaluation((0, 1), sampler, 16, SCORED, reference),
        )
    )
    say("compare base and tuned model by simulated votes")
    last = sorted(path.name for path in (tuned.path / "checkpoints").glob("step-*"))[-1]
    arms = [f"{tuned.path}:base", f"{tuned.path}:{last}"]
    vote(arms, [tuned], config, config.out / "votes-on-result.sqlite", tuned)
    say("write the report")
    page = build_report(ReportConfig((tuned.path,)))
    minutes = (time.monotonic() - started) / 60
    say(f"done in {minutes:.1f} minutes")
    return (
        f"report: {page.resolve()}\n"
        f"The votes in it are simulated. To vote yourself: pixeval label {arms[0]} {arms[1]}\n"
        f"then: pixeval report {tuned.path}"
    )


def say(what: str) -> None:
    """Announce a step on stderr."""
    print(f"\n== {what}", file=sys.stderr, flush=True)


def vote(arms: Sequence[str], runs: Sequence[Run], config: DemoConfig, database: Path, target: Run) -> None:
    """Let simulated annotators compare ``arms`` on all three questions, and export the votes to ``target``.

    They see each image's scores through noise: flaw scores for the flaws, CLIP score for the alignment, and the
    mean of both, standardised, for the appeal. Some lean to the left image, some to the right, and all call
    small differences ties.
    """
    from human_eval_app.export import export_votes
    from human_eval_app.simulate import SimulatedAnnotator, simulate_votes
    from human_eval_app.store import Store

    people = [
        SimulatedAnnotator(f"simulated-{i + 1}", noise=0.4 + 0.1 * i, tie_threshold=0.25, side_bias=0.1 * (i - 2))
        for i in range(config.annotators)
    ]
    simulate_votes(arms, utilities(runs), people, database, config.seed)
    store = Store.at(database)
    try:
        export_votes(store, target.path)
    finally:
        store.close()


def utilities(runs: Sequence[Run]) -> Mapping[Question, Mapping[str, float]]:
    """What each sample is worth to the simulated annotators, by question."""
    flaws: dict[str, list[float]] = {}
    alignment: dict[str, float] = {}
    for run in runs:
        for score in run.scores():
            if score.value is not None and score.metric.endswith("_flaw"):
                flaws.setdefault(score.sample_id, []).append(score.value)
            if score.value is not None and score.metric == "clip_score":
                alignment[score.sample_id] = score.value
    fewer = {sample: -fmean(values) for sample, values in flaws.items()}
    z_fewer, z_alignment = standardised(fewer), standardised(alignment)
    appeal = {sample: (z_fewer[sample] + z_alignment[sample]) / 2 for sample in z_fewer if sample in z_alignment}
    return {"flaws": fewer, "appeal": appeal, "alignment": alignment}


def standardised(values: Mapping[str, float]) -> dict[str, float]:
    """Zero mean and unit deviation."""
    mean = fmean(values.values())
    deviation = fmean((value - mean) ** 2 for value in values.values()) ** 0.5 or 1.0
    return {key: (value - mean) / deviation for key, value in values.items()}
