"""Everything that stands in a report, as one frozen dataclass. Pure: built from records, written by ``build``."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pixeval.metric_spec import MetricSpec
from pixeval.records import Sample, SetScore, Vote
from reports.arms import (
    Arm,
    Pairing,
    Source,
    arms_of,
    choose_baseline,
    choose_candidate,
    held_out,
    name_votes,
    pairings,
)
from reports.ballots import Protocol, VoteResult, protocol, vote_results
from reports.tables import (
    FlawChange,
    Incomparable,
    MetricTable,
    ScoreChange,
    Scored,
    SetRow,
    Unscored,
    flaw_changes,
    index_scores,
    metric_tables,
    score_changes,
    set_rows,
    unscored,
)
from reports.training import TrainingLog
from reports.verdict import Summary, caveats, summarise

GRID_ROWS = 12
STRIP_ROWS = 6
STRIP_COLUMNS = 8
FLAW_ROWS = 3
MAX_COMPARISONS = 6


@dataclass(frozen=True)
class ArmFacts:
    """An arm without its images."""

    name: str
    run: str
    label: str
    step: int | None
    images: int
    prompts: int
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
    votes: tuple[VoteResult, ...]
    changes: tuple[ScoreChange, ...]
    incomparable: tuple[Incomparable, ...]


@dataclass(frozen=True)
class RunFacts:
    """How a run came about, from its ``run.json``."""

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
    protocol: Protocol | None
    metrics: tuple[MetricTable, ...]
    sets: tuple[SetRow, ...]
    training: tuple[TrainingLog, ...]
    unscored: tuple[Unscored, ...]
    flaws: tuple[FlawChange, ...]
    """Pairs whose flaw score changed most; their heat maps are made when the page is built."""
    grid: tuple[GridRow, ...]
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
    """
    arms = arms_of(sources)
    base = choose_baseline(arms, baseline_label)
    candidate = choose_candidate(arms, base, candidate_label) if base else (arms[0] if arms else None)
    scored = index_scores([score for source in reversed(sources) for score in source.scores])
    votes = name_votes(_distinct_votes(sources), arms)
    comparisons = _comparisons(arms, base, candidate, votes, scored, specs, tags) if base and candidate else ()
    sets = set_rows(_named_set_scores(sources, arms), base.name if base else None, specs)
    marked = any(held_out(tags, s.prompt_id) for arm in arms for s in arm.samples)
    missing = unscored(arms, scored)
    facts = protocol(votes, [arm.name for arm in arms])
    summary = None
    summaries = [
        # Verdicts on sets are against the report's baseline alone.
        summarise(c.baseline, c.candidate, c.votes, c.changes, sets if base and c.baseline == base.name else ())
        for c in comparisons
    ]
    if comparisons:
        head, summary = comparisons[0], summaries[0]
        told = caveats(head.votes, head.changes, facts, missing, logs, marked)
        summary = replace(summary, caveats=told)
    return Report(
        format=1,
        title=sources[0].name,
        command=tuple(command),
        baseline=base.name if base else None,
        candidate=candidate.name if candidate else None,
        simulated_votes=facts.simulated if facts else 0,
        arms=tuple(_arm_facts(arm, sources) for arm in arms),
        summary=summary,
        asides=tuple(summaries[1:]),
        comparisons=comparisons,
        protocol=facts,
        metrics=metric_tables(arms, base, scored, specs),
        sets=sets,
        training=tuple(logs),
        unscored=missing,
        flaws=_flaws(base, candidate, scored, specs, _by_effect(flaw_metrics, comparisons)),
        grid=_grid(base, candidate, tags),
        strip=_strip(arms, base, tags),
        runs=tuple(_run_facts(s, i, p) for s, i, p in zip(sources, infos, pairs, strict=True)),
        held_out_marked=marked,
    )


def _distinct_votes(sources: Sequence[Source]) -> list[Vote]:
    votes = {vote.id: vote for source in sources for vote in source.votes}
    return sorted(votes.values(), key=lambda vote: (vote.answered_at, vote.id))


def _comparisons(
    arms: Sequence[Arm],
    base: Arm,
    candidate: Arm,
    votes: Sequence[Vote],
    scored: Scored,
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
    results = vote_results(votes, [(a.name, b.name) for a, b in pairs])
    found = []
    for first, second in pairs:
        changes, left_out = score_changes(first, second, scored, specs, tags)
        own = tuple(r for r in results if (r.rates.b_label, r.rates.a_label) == (first.name, second.name))
        found.append(Comparison(first.name, second.name, own, changes, left_out))
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


def _by_effect(flaw_metrics: Sequence[str], comparisons: Sequence[Comparison]) -> list[str]:
    """The metrics of the headline comparison, the one that changed most first."""
    sizes = {
        c.metric: abs(c.effect.value) if c.effect else 0.0 for c in (comparisons[0].changes if comparisons else ())
    }
    return sorted((m for m in flaw_metrics if m in sizes), key=lambda m: -sizes[m])


def _flaws(
    base: Arm | None,
    candidate: Arm | None,
    scored: Scored,
    specs: Mapping[str, MetricSpec],
    flaw_metrics: Sequence[str],
) -> tuple[FlawChange, ...]:
    if base is None or candidate is None:
        return ()
    for metric in flaw_metrics:
        rows = flaw_changes(base, candidate, scored, specs[metric], FLAW_ROWS)
        if rows:
            return rows
    return ()


def _grid(base: Arm | None, candidate: Arm | None, tags: Mapping[str, Sequence[str]]) -> tuple[GridRow, ...]:
    if candidate is None:
        return ()
    if base is None:
        samples = sorted(candidate.samples, key=lambda s: _shuffle_key(s.prompt_id or s.path, s.seed or 0))
        return tuple(_row(s, [(candidate.name, s)], tags) for s in samples[: 2 * GRID_ROWS])
    chosen = _spread(pairings(base, candidate), tags, GRID_ROWS)
    return tuple(_row(p.baseline, [(base.name, p.baseline), (candidate.name, p.candidate)], tags) for p in chosen)


def _strip(arms: Sequence[Arm], base: Arm | None, tags: Mapping[str, Sequence[str]]) -> tuple[GridRow, ...]:
    own = [arm for arm in arms if arm.source == 0 and arm is not base]
    if base is None or len(own) < 2:
        return ()
    if len(own) > STRIP_COLUMNS - 1:  # evenly, with the first and the last
        last = len(own) - 1
        own = [own[round(i * last / (STRIP_COLUMNS - 2))] for i in range(STRIP_COLUMNS - 1)]
    pools = [{(p.prompt_id, p.seed): p for p in pairings(base, arm)} for arm in own]
    common = [p for p in pairings(base, own[-1]) if all((p.prompt_id, p.seed) in pool for pool in pools)]
    rows = []
    for pair in _spread(common, tags, STRIP_ROWS):
        later = [(arm.name, pool[pair.prompt_id, pair.seed].candidate) for arm, pool in zip(own, pools, strict=True)]
        rows.append(_row(pair.baseline, [(base.name, pair.baseline), *later], tags))
    return tuple(rows)


def _spread(pairs: Sequence[Pairing], tags: Mapping[str, Sequence[str]], count: int) -> list[Pairing]:
    """Pairs chosen by a hash, not by looks: one seed of each prompt first, half of them held out where marked."""
    ranked = sorted(pairs, key=lambda p: _shuffle_key(p.prompt_id, p.seed))
    seen: set[str] = set()
    firsts: list[Pairing] = []
    rest: list[Pairing] = []
    for pair in ranked:
        (rest if pair.prompt_id in seen else firsts).append(pair)
        seen.add(pair.prompt_id)
    unseen = [p for p in firsts if held_out(tags, p.prompt_id)]
    known = [p for p in firsts if not held_out(tags, p.prompt_id)]
    half = max(count // 2, count - len(known))
    chosen = unseen[:half]
    chosen += known[: count - len(chosen)]
    return chosen + rest[: count - len(chosen)]


def _shuffle_key(prompt_id: str, seed: int) -> str:
    return hashlib.sha256(f"{prompt_id}\x1f{seed}".encode()).hexdigest()


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
        tuple(sorted({s.generator for s in arm.samples})),
    )


def _run_facts(source: Source, info: Mapping[str, Any], pairs: tuple[int, int] | None) -> RunFacts:
    prints = {(s.metric, s.fingerprint) for s in source.scores}
    prints |= {(s.metric, s.fingerprint) for s in source.set_scores}
    total, simulated = pairs if pairs else (None, None)
    return RunFacts(source.name, info, tuple(sorted(prints)), total, simulated)
