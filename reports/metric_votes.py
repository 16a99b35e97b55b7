"""Each metric against the votes of this report: would one have come to the same conclusion without people? Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pixeval.metric_spec import Family, MetricSpec
from pixeval.records import Question
from pixeval.stats.metric_agreement import MetricAgreement, metric_agreement
from pixeval.stats.vote_table import VoteTable
from reports.score_table import ScoreTable
from reports.tables import Paired

ASKED: dict[Family, Question] = {"flaws": "flaws", "alignment": "alignment", "quality": "appeal"}
"""The question that a family of metrics stands in for."""
LEAST_PAIRS = 10


@dataclass(frozen=True)
class MetricVotes:
    """One metric against the votes on the question it stands in for."""

    KEY: ClassVar[str] = "metric"
    metric: str
    question: Question
    agreement: MetricAgreement


def metric_votes(
    votes: VoteTable, paired: Paired, scored: ScoreTable, specs: Mapping[str, MetricSpec], metrics: Sequence[str]
) -> tuple[MetricVotes, ...]:
    """Those that agree with most votes first; none for fewer than ten pairs with a vote and two values.

    Args:
        votes: between the two labels of ``paired``.
        metrics: of the catalogue, as far as they are known to it.
    """
    ids = [sample for pair in paired.pairs for sample in pair.ids]
    columns = np.stack([paired.before, paired.after], 1).ravel()
    values = scored.values_at(columns)
    found = []
    for metric in metrics:
        spec = specs.get(metric)
        question = ASKED.get(spec.family) if spec else None
        if spec is None or question is None:
            continue
        row = values[scored.row[metric]]
        scores = {ids[i]: float(row[i]) for i in np.flatnonzero(np.isfinite(row))}
        agreement = metric_agreement(votes, scores, question, spec.higher_is_better)
        if agreement is not None and agreement.pairs >= LEAST_PAIRS:
            found.append(MetricVotes(metric, question, agreement))
    return tuple(sorted(found, key=lambda one: (-one.agreement.votes.value, one.metric)))
