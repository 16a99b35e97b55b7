"""Two or more sets of images against each other in a terminal: the report's arithmetic without the page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from pixeval.errors import InputError, unknown_name
from pixeval.records import people_first
from pixeval.runs import Run
from pixeval.stats.seeds import seed_noise
from pixeval.stats.vote_table import VoteTable
from pixeval.stats.win_rates import left_share
from reports.arms import Arm, Pairing, name_votes, pairings, step_of
from reports.build import catalogue, finite
from reports.claims import ranking_claim, score_claim, vote_claim
from reports.compare_text import render
from reports.tables import index_scores, score_changes
from reports.vote_test import Family, rankings, tag_tests, vote_tests

__all__ = ["CompareConfig", "compare", "render"]


@dataclass(frozen=True)
class CompareConfig:
    """Two or more sets of images of the same prompts and seeds."""

    runs: Positional[tuple[str, ...]]
    """The baseline, then the candidates: each a run, or ``run:label`` for one of its labels (the last checkpoint by
    default). Every change is candidate minus baseline; three and more are also ranked."""
    tags: bool = False
    """Break the votes down by the prompts' tags."""
    family: Family = "all"
    """Which vote tests Holm's method adjusts together: all, those of one question, or those of one comparison.
    Declare it before you look; metrics are adjusted within each comparison."""


def compare(config: CompareConfig) -> dict[str, Any]:
    """Win rates per question, rankings and paired change per metric, with intervals, as JSON-ready values.

    Raises:
        InputError: a folder is no run, a label is unknown, or two of them name the same images.
    """
    if len(config.runs) < 2:
        raise InputError("name at least two sets of images: pixeval compare BASELINE CANDIDATE [CANDIDATE ...]")
    runs, arms = _arms(config.runs)
    baseline, candidates = arms[0], arms[1:]
    pairs = [(baseline.name, arm.name) for arm in candidates]
    table = _votes(runs, arms)
    tests = vote_tests(table, pairs, config.family)
    ranked = rankings(table, [arm.name for arm in arms]) if len(arms) > 2 else []
    scores = [score for run in reversed(runs) for score in run.scores()]
    scored, values = index_scores(scores), {(s.sample_id, s.metric): s.value for s in scores}
    sentences = [vote_claim(test) for test in tests] + [ranking_claim(one) for one in ranked]
    comparisons = []
    for arm in candidates:
        changes, left_out = score_changes(baseline, arm, scored, catalogue(), {})
        firm = [c for c in changes if c.verdict != "unclear" and c.p_holm < 0.05]
        pairs_of_images = pairings(baseline, arm)
        sentences += [score_claim(change, arm.name, baseline.name, len(changes)) for change in firm]
        comparisons.append(
            {
                "baseline": baseline.name,
                "candidate": arm.name,
                "pairs": len(pairs_of_images),
                "votes": [asdict(test) for test in tests if test.rates.a_label == arm.name],
                "changes": [
                    asdict(change) | {"seed_noise": _seeds(change.metric, pairs_of_images, values)}
                    for change in changes
                ],
                "incomparable": [asdict(one) for one in left_out],
            }
        )
    bias = left_share(table)
    found: dict[str, Any] = finite(
        {
            "arms": [arm.name for arm in arms],
            "simulated": bool(table.simulated.any()),
            "family": config.family,
            "comparisons": comparisons,
            "rankings": [asdict(one) for one in ranked],
            "tags": [asdict(one) for one in tag_tests(table, pairs, _tags(runs))] if config.tags else None,
            "left_share": None if bias is None else asdict(bias),
            "sentences": sentences,
        }
    )
    return found


def split(given: str) -> tuple[Run, str | None]:
    """``run:label`` to both; a path that exists is taken whole, colons included.

    Raises:
        InputError: no run there.
    """
    path, colon, label = given.rpartition(":")
    if Path(given).exists() or not colon:
        return Run.open(Path(given)), None
    return Run.open(Path(path)), label


def _arms(given: Sequence[str]) -> tuple[list[Run], list[Arm]]:
    """The runs, each once, and an arm with a name of its own for each that was given."""
    opened = [split(one) for one in given]
    arms = [_arm(run, label, index) for index, (run, label) in enumerate(opened)]
    ids = [frozenset(sample.id for sample in arm.samples) for arm in arms]
    for i, own in enumerate(ids):
        if own in ids[:i]:
            twice = given[ids.index(own)]
            raise InputError(f"{twice} and {given[i]} are the same images; name two labels, as in RUN:base.")
    labels = [arm.label for arm in arms]
    names = [
        f"{run.name}/{label}" if labels.count(label) > 1 else label
        for (run, _), label in zip(opened, labels, strict=True)
    ]
    for i in range(len(names)):
        while names[i] in names[:i]:
            names[i] += "′"
    runs = list({run.path.resolve(): run for run, _ in opened}.values())
    return runs, [replace(arm, name=name) for arm, name in zip(arms, names, strict=True)]


def _arm(run: Run, label: str | None, source: int) -> Arm:
    samples = run.samples()
    labels = list(dict.fromkeys(sample.label for sample in samples))
    if not labels:
        raise InputError(f"{run.path} holds no samples; make some with 'pixeval generate'.")
    if label is None:
        steps = [(step, name) for name in labels if (step := step_of(name)) is not None]
        if len(labels) > 1 and not steps:
            raise InputError(f"{run.path} holds several labels ({', '.join(labels)}); write {run.path}:LABEL.")
        label = max(steps)[1] if steps else labels[0]
    if label not in labels:
        raise unknown_name("label", label, labels)
    return Arm(label, source, label, step_of(label), tuple(s for s in samples if s.label == label))


def _votes(runs: Sequence[Run], arms: Sequence[Arm]) -> VoteTable:
    """Votes on images of the arms, labelled by the arms' names, in the order of answer."""
    votes = {vote.id: vote for run in runs for vote in run.votes()}
    named = name_votes(sorted(people_first(list(votes.values())), key=lambda v: (v.answered_at, v.id)), arms)
    names = {arm.name for arm in arms}
    own = {sample.id for arm in arms for sample in arm.samples}
    kept = [v for v in named if v.left in own and v.right in own and {v.left_label, v.right_label} <= names]
    return VoteTable.of(kept)


def _seeds(
    metric: str, pairs: Sequence[Pairing], values: Mapping[tuple[str, str], float | None]
) -> dict[str, Any] | None:
    """How much of the spread of a metric's change comes from the seeds; None with one seed a prompt."""
    sides = [(p.prompt_id, values.get((p.baseline.id, metric)), values.get((p.candidate.id, metric))) for p in pairs]
    both = [(prompt, b - a) for prompt, a, b in sides if a is not None and b is not None]
    found = seed_noise([change for _, change in both], [prompt for prompt, _ in both]) if both else None
    return None if found is None else asdict(found)


def _tags(runs: Sequence[Run]) -> dict[str, tuple[str, ...]]:
    return {prompt.id: prompt.tags for run in reversed(runs) for prompt in run.prompts()}
