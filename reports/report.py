"""Everything that stands in a report, as one frozen dataclass. Pure: built from records, written by ``build``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from pixeval.metric_spec import MetricSpec
from pixeval.records import QUESTIONS, Sample, SetScore, Vote
from pixeval.stats.vote_table import VoteTable
from reports.arms import (
    Arm,
    Source,
    arms_of,
    choose_baseline,
    choose_candidate,
    held_out,
    name_votes,
)
from reports.gallery import Group, common_pairs, gallery, shuffle_key, spread
from reports.levels import MetricTable, metric_tables
from reports.metric_votes import MetricVotes, metric_votes
from reports.protocol import Protocol, Sensitivity, protocol, sensitivities
from reports.score_table import ScoreTable, score_table
from reports.sets import SetRow, Unscored, set_rows, unscored
from reports.tables import Incomparable, Paired, ScoreChange, score_changes
from reports.training import TrainingLog
from reports.verdict import Summary, caveats, summarise
from reports.vote_test import QuestionRanking, TagTest, VoteTest, rankings, tag_tests, vote_tests

FORMAT = 2
SINGLES = 24
"""Images shown where there is nothing to compare with."""
STRIP_ROWS = 4
STRIP_COLUMNS = 8
MAX_COMPARISONS = 6
MAX_TAGS = 12


@dataclass(frozen=True)
class ArmFacts:
    """An arm without its images."""

    KEY: ClassVar[str] = "name"
    name: str
    run: str
    label: str
    step: int | None
    images: int
    prompts: int
    seeds: tuple[int, ...]
    generators: tuple[str, ...]
    """Fingerprints."""

    @property
    def size(self) -> str:
        """In words."""
        return f"{self.images} images of {self.prompts} prompts" if self.prompts else f"{self.images} images"


@dataclass(frozen=True)
class Cell:
    """One image in a grid."""

    arm: str
    sample_id: str
    path: str
    sha256: str


@dataclass(frozen=True)
class GridRow:
    """Images of one prompt and seed, the baseline's first."""

    prompt_id: str | None
    prompt: str | None
    seed: int | None
    held_out: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Comparison:
    """Candidate against baseline, by votes and by scores."""

    baseline: str
    candidate: str
    votes: tuple[VoteTest, ...]
    changes: tuple[ScoreChange, ...]
    incomparable: tuple[Incomparable, ...]
    tags: tuple[TagTest, ...]
    """Votes by the prompts' tags; of the headline's comparison only."""
    metric_votes: tuple[MetricVotes, ...]
    """Metrics against the votes; of the headline's comparison only."""


@dataclass(frozen=True)
class RunFacts:
    """How a run came about, from its ``run.json``."""

    KEY: ClassVar[str] = "name"
    name: str
    info: Mapping[str, Any]
    metrics: tuple[tuple[str, str], ...]
    """Names and fingerprints of the metrics that scored it."""
    pairs: int | None
    """Preference pairs it was trained on; None where there are none or their folder is gone."""
    simulated_pairs: int | None


@dataclass(frozen=True)
class Report:
    """The whole page."""

    format: int
    title: str
    command: tuple[str, ...]
    """Builds this report again; runs stand by name, not by path."""
    baseline: str | None
    candidate: str | None
    simulated_votes: int
    arms: tuple[ArmFacts, ...]
    summary: Summary | None
    """None when there is nothing to compare."""
    asides: tuple[Summary, ...]
    """Of the other comparisons, in their order."""
    comparisons: tuple[Comparison, ...]
    """The headline's first, then other runs, then whatever else was voted on."""
    rankings: tuple[QuestionRanking, ...]
    """All arms by votes, where three or more were compared."""
    protocol: Protocol | None
    sensitivity: tuple[Sensitivity, ...]
    """The headline's net win rates under other rules of exclusion."""
    metrics: tuple[MetricTable, ...]
    sets: tuple[SetRow, ...]
    training: tuple[TrainingLog, ...]
    unscored: tuple[Unscored, ...]
    gallery: tuple[Group, ...]
    heat_metric: str | None
    """Flaw metric whose heat maps stand beside the gallery's images."""
    singles: tuple[GridRow, ...]
    """Images where there is nothing to compare with."""
    strip: tuple[GridRow, ...]
    """Every checkpoint, empty where there are fewer than three arms."""
    runs: tuple[RunFacts, ...]
    held_out_marked: bool


def assemble(
    sources: Sequence[Source],
    infos: Sequence[Mapping[str, Any]],
    pairs: Sequence[tuple[int, int] | None],
    logs: Sequence[TrainingLog],
    specs: Mapping[str, MetricSpec],
    tags: Mapping[str, Sequence[str]],
    flaw_metrics: Sequence[str],
    command: Sequence[str],
    baseline_label: str = "base",
    candidate_label: str | None = None,
    studies: Sequence[Mapping[str, Any]] = (),
) -> Report:
    """Compute the report.

    Args:
        sources: records of the run, then of the others.
        infos: ``run.json`` of each.
        pairs: number of pairs each was trained on and how many of them are simulated, where known.
        logs: training logs of those that have one.
        specs: what the catalogue knows, by metric name.
        tags: of each prompt, by its id.
        flaw_metrics: metrics with heat maps to choose from; the one that changed most is shown.
        command: what builds this report again.
        baseline_label: what to compare with.
        candidate_label: what to judge; the last checkpoint by default.
        studies: what the labelling app wrote beside the votes.
    """
    arms = arms_of(sources)
    base = choose_baseline(arms, baseline_label)
    candidate = choose_candidate(arms, base, candidate_label) if base else (arms[0] if arms else None)
    scored = score_table([source.scores for source in reversed(sources)])
    votes = name_votes(_distinct_votes(sources), arms)
    comparisons = _comparisons(arms, base, candidate, votes, scored, specs, tags) if base and candidate else ()
    sets = set_rows(_named_set_scores(sources, arms), base.name if base else None, specs)
    marked = any(held_out(tags, s.prompt_id) for arm in arms for s in arm.samples)
    missing = unscored(arms, scored)
    facts = protocol(votes, [arm.name for arm in arms], studies)
    summaries = _summaries(comparisons, base, sets)
    if comparisons:
        head = comparisons[0]
        told = caveats(head.votes, head.changes, facts, missing, logs, marked)
        summaries[0] = replace(summaries[0], caveats=told)
    heat = _heat_metric(flaw_metrics, comparisons, scored)
    shown = gallery(base, candidate, votes, scored, specs.get(heat or ""), tags) if base and candidate else ()
    return Report(
        format=FORMAT,
        title=sources[0].name,
        command=tuple(command),
        baseline=base.name if base else None,
        candidate=candidate.name if candidate else None,
        simulated_votes=facts.simulated if facts else 0,
        arms=tuple(_arm_facts(arm, sources) for arm in arms),
        summary=summaries[0] if summaries else None,
        asides=tuple(summaries[1:]),
        comparisons=comparisons,
        rankings=_rankings(votes, arms),
        protocol=facts,
        sensitivity=sensitivities(votes, base.name, candidate.name) if base and candidate else (),
        metrics=metric_tables(arms, base, scored, specs),
        sets=sets,
        training=tuple(logs),
        unscored=missing,
        gallery=shown,
        heat_metric=heat,
        singles=_singles(candidate, tags) if candidate and not base else (),
        strip=_strip(arms, base, tags),
        runs=tuple(_run_facts(s, i, p) for s, i, p in zip(sources, infos, pairs, strict=True)),
        held_out_marked=marked,
    )


def _summaries(comparisons: Sequence[Comparison], base: Arm | None, sets: Sequence[SetRow]) -> list[Summary]:
    """Of each comparison; verdicts on sets are against the report's baseline alone."""
    own = [sets if base and c.baseline == base.name else () for c in comparisons]
    return [
        summarise(c.baseline, c.candidate, c.votes, c.changes, rows) for c, rows in zip(comparisons, own, strict=True)
    ]


def _distinct_votes(sources: Sequence[Source]) -> list[Vote]:
    votes = {vote.id: vote for source in sources for vote in source.votes}
    return sorted(votes.values(), key=lambda vote: (vote.answered_at, vote.id))


def _comparisons(
    arms: Sequence[Arm],
    base: Arm,
    candidate: Arm,
    votes: Sequence[Vote],
    scored: ScoreTable,
    specs: Mapping[str, MetricSpec],
    tags: Mapping[str, Sequence[str]],
) -> tuple[Comparison, ...]:
    pairs = [(base, candidate)]
    for source in sorted({arm.source for arm in arms} - {candidate.source}):
        other = choose_candidate(arms, base, None, source)
        if other is not None:
            pairs += [(base, other), (other, candidate)]
    seen = {frozenset((a.name, b.name)) for a, b in pairs}
    voted = {frozenset((v.left_label, v.right_label)) for v in votes}
    for i, first in enumerate(arms):
        for second in arms[i + 1 :]:
            key = frozenset((first.name, second.name))
            if key in voted - seen:
                # The baseline is the one that changes are measured from, wherever it stands.
                pairs.append((second, first) if second is base else (first, second))
    pairs = pairs[:MAX_COMPARISONS]
    table = VoteTable.of(votes)
    results = vote_tests(table, [(a.name, b.name) for a, b in pairs])
    found: list[Comparison] = []
    for first, second in pairs:
        changes, left_out = score_changes(first, second, scored, specs, tags)
        own = tuple(r for r in results if (r.rates.b_label, r.rates.a_label) == (first.name, second.name))
        tagged: tuple[TagTest, ...] = ()
        judged: tuple[MetricVotes, ...] = ()
        if own and not found:  # the headline's
            tagged = _few_tags(tag_tests(table, [(first.name, second.name)], tags))
            codes = [table.label_code(arm.name) for arm in (first, second)]
            between = table.where(np.isin(table.left_label, codes) & np.isin(table.right_label, codes))
            names = [change.metric for change in changes]
            judged = metric_votes(between, Paired.of(first, second, scored), scored, specs, names)
        found.append(Comparison(first.name, second.name, own, changes, left_out, tagged, judged))
    return tuple(found)


def _rankings(votes: Sequence[Vote], arms: Sequence[Arm]) -> tuple[QuestionRanking, ...]:
    table = VoteTable.of(votes)
    voted = [arm.name for arm in arms if arm.name in table.labels]
    return tuple(rankings(table, voted)) if len(voted) > 2 else ()


def _few_tags(tests: Sequence[TagTest]) -> tuple[TagTest, ...]:
    """Of each question the tags of most prompts; none where there is only one, which says nothing new."""
    found: list[TagTest] = []
    for question in QUESTIONS:
        own = [test for test in tests if test.question == question]
        found += own[:MAX_TAGS] if len(own) > 1 else []
    return tuple(found)


def _named_set_scores(sources: Sequence[Source], arms: Sequence[Arm]) -> list[tuple[str, SetScore]]:
    names = {(arm.source, arm.label): arm for arm in arms}
    order = {arm.name: i for i, arm in enumerate(arms)}
    found: dict[tuple[str, str, str], SetScore] = {}
    for index, source in enumerate(sources):
        for score in source.set_scores:
            arm = names.get((index, score.label)) or next((a for a in arms if a.label == score.label), None)
            if arm is not None:
                found.setdefault((arm.name, score.metric, score.reference), score)
    return [(arm, score) for (arm, _, _), score in sorted(found.items(), key=lambda item: order[item[0][0]])]


def _heat_metric(flaw_metrics: Sequence[str], comparisons: Sequence[Comparison], scored: ScoreTable) -> str | None:
    """Of those the images were scored with, the one that changed most in the headline's comparison."""
    changes = comparisons[0].changes if comparisons else ()
    sizes = {change.metric: abs(change.effect.value) if change.effect else 0.0 for change in changes}
    known = [metric for metric in flaw_metrics if metric in scored.row]
    return max(known, key=lambda metric: sizes.get(metric, -1.0), default=None)


def _singles(arm: Arm, tags: Mapping[str, Sequence[str]]) -> tuple[GridRow, ...]:
    samples = sorted(arm.samples, key=lambda s: shuffle_key(s.prompt_id or s.path, s.seed or 0))
    return tuple(_row(s, [(arm.name, s)], tags) for s in samples[:SINGLES])


def _strip(arms: Sequence[Arm], base: Arm | None, tags: Mapping[str, Sequence[str]]) -> tuple[GridRow, ...]:
    own = [arm for arm in arms if arm.source == 0 and arm is not base]
    if base is None or len(own) < 2:
        return ()
    if len(own) > STRIP_COLUMNS - 1:  # evenly, with the first and the last
        last = len(own) - 1
        own = [own[round(i * last / (STRIP_COLUMNS - 2))] for i in range(STRIP_COLUMNS - 1)]
    common = {pairs[-1].key: pairs for pairs in common_pairs(base, own)}
    rows = []
    for pair in spread([pairs[-1] for pairs in common.values()], tags, STRIP_ROWS):
        later = [(arm.name, held.candidate) for arm, held in zip(own, common[pair.key], strict=True)]
        rows.append(_row(pair.baseline, [(base.name, pair.baseline), *later], tags))
    return tuple(rows)


def _row(sample: Sample, cells: Sequence[tuple[str, Sample]], tags: Mapping[str, Sequence[str]]) -> GridRow:
    return GridRow(
        sample.prompt_id,
        sample.prompt,
        sample.seed,
        held_out(tags, sample.prompt_id),
        tuple(Cell(arm, s.id, s.path, s.sha256) for arm, s in cells),
    )


def _arm_facts(arm: Arm, sources: Sequence[Source]) -> ArmFacts:
    return ArmFacts(
        arm.name,
        sources[arm.source].name,
        arm.label,
        arm.step,
        len(arm.samples),
        len({s.prompt_id for s in arm.samples if s.prompt_id is not None}),
        tuple(sorted({s.seed for s in arm.samples if s.seed is not None})),
        tuple(sorted({s.generator for s in arm.samples})),
    )


def _run_facts(source: Source, info: Mapping[str, Any], pairs: tuple[int, int] | None) -> RunFacts:
    asked = source.scores.group_by(["metric", "fingerprint"]).aggregate([]).to_pylist()
    prints = {(row["metric"], row["fingerprint"]) for row in asked}
    prints |= {(s.metric, s.fingerprint) for s in source.set_scores}
    total, simulated = pairs if pairs else (None, None)
    return RunFacts(source.name, info, tuple(sorted(prints)), total, simulated)
