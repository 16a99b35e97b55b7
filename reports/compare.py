"""Two or more sets of images against each other in a terminal: the report's arithmetic without the page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tyro.conf import Positional

from pixeval.errors import InputError
from pixeval.runs import Run
from pixeval.stats.seeds import seed_noise
from pixeval.stats.win_rates import left_share
from reports.arms import Pairing, pairings
from reports.build import catalogue
from reports.claims import ranking_claim, score_claim, vote_claim
from reports.compare_text import render
from reports.files import finite
from reports.named_arms import open_arms, votes_between
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
    runs, arms = open_arms(config.runs)
    baseline, candidates = arms[0], arms[1:]
    pairs = [(baseline.name, arm.name) for arm in candidates]
    table = votes_between(runs, arms)
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
