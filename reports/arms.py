"""What a report compares: arms, each the samples of one label of one run, under one name that is unique in the page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from pixeval.errors import InputError, unknown_name
from pixeval.records import Sample, Score, SetScore, Vote
from pixeval.tables import schema_of

HELD_OUT_TAGS = frozenset({"heldout", "held-out", "held_out", "unseen"})


@dataclass(frozen=True)
class Source:
    """The records of one run, read from disk."""

    name: str
    """The run's folder name."""
    samples: Sequence[Sample]
    scores: pa.Table = field(default_factory=schema_of(Score).empty_table)
    """Rows of :class:`pixeval.records.Score`."""
    set_scores: Sequence[SetScore] = ()
    votes: Sequence[Vote] = ()


@dataclass(frozen=True)
class Arm:
    """One generator's images."""

    name: str
    """Unique in the report: the label, with the run's name before it where two runs use one label."""
    source: int
    """Index of the run it comes from; 0 is the run the report is about."""
    label: str
    step: int | None
    """From labels such as ``step-000020``; None for others."""
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Pairing:
    """Two images of the same prompt and seed."""

    prompt_id: str
    prompt: str
    seed: int
    baseline: Sample
    candidate: Sample

    @property
    def ids(self) -> tuple[str, str]:
        """Sample ids of both sides."""
        return self.baseline.id, self.candidate.id

    @property
    def key(self) -> str:
        """Prompt and seed as one text."""
        return f"{self.prompt_id}\x1f{self.seed}"


def arms_of(sources: Sequence[Source]) -> list[Arm]:
    """Arms of all runs; images that two runs share (the same base model) make one arm, not two."""
    found: list[Arm] = []
    seen: list[frozenset[str]] = []
    names: set[str] = set()
    for index, source in enumerate(sources):
        by_label: dict[str, list[Sample]] = {}
        for sample in source.samples:
            by_label.setdefault(sample.label, []).append(sample)
        steps = {label: step_of(label) for label in by_label}
        # Labels without a step come first (base), checkpoints after them by step.
        for label in sorted(by_label, key=lambda x: -1 if steps[x] is None else steps[x]):  # type: ignore[arg-type,return-value]
            ids = frozenset(sample.id for sample in by_label[label])
            if any(ids <= other for other in seen):
                continue
            seen.append(ids)
            name = label if label not in names else f"{source.name}/{label}"
            while name in names:
                name += "′"
            names.add(name)
            found.append(Arm(name, index, label, steps[label], tuple(by_label[label])))
    return found


def step_of(label: str) -> int | None:
    """20 for ``step-000020``, None for anything else."""
    match = re.fullmatch(r"step-(\d+)", label)
    return int(match.group(1)) if match else None


def choose_baseline(arms: Sequence[Arm], label: str) -> Arm | None:
    """The arm that others are compared with, or None when there is only one arm.

    The label ``base``, being the default, need not exist: then it is the first arm of the last run given, else
    the first arm.

    Raises:
        InputError: no arm has the name or label asked for.
    """
    if len(arms) < 2:
        if arms and label not in ("base", arms[0].label, arms[0].name):
            raise unknown_name("label", label, {arms[0].name})
        return None
    matching = [arm for arm in arms if label in (arm.name, arm.label)]
    own = [arm for arm in arms if arm.source == 0]
    if len(matching) > 1 and len(own) == 1:
        matching = [arm for arm in matching if arm.source != 0]
    if matching:
        return matching[0]
    if label != "base":
        raise unknown_name("label", label, {arm.name for arm in arms} | {arm.label for arm in arms})
    others = [arm for arm in arms if arm.source == max(a.source for a in arms)]
    return others[0]


def choose_candidate(arms: Sequence[Arm], baseline: Arm | None, label: str | None, source: int = 0) -> Arm | None:
    """The last checkpoint of a run, or the arm of the given name; None when only the baseline is there.

    The last is taken, never the best: choosing the best by the numbers that are then reported would flatter them.
    """
    rest = [arm for arm in arms if arm is not baseline]
    if label is not None:
        matching = [arm for arm in rest if label in (arm.name, arm.label)]
        if not matching:
            raise unknown_name("label", label, {arm.name for arm in rest})
        return matching[0]
    own = [arm for arm in rest if arm.source == source]
    if not own:
        return None
    return max(own, key=lambda arm: (arm.step is not None, arm.step or 0))


def pairings(baseline: Arm, candidate: Arm) -> list[Pairing]:
    """Images of both arms with the same prompt and seed, in the order of the baseline.

    Images without prompt or seed (a folder of foreign images) cannot be paired.
    """
    others = {(s.prompt_id, s.seed): s for s in candidate.samples}
    found = []
    for sample in baseline.samples:
        other = others.get((sample.prompt_id, sample.seed))
        if sample.prompt_id is not None and sample.seed is not None and other is not None and other.id != sample.id:
            found.append(Pairing(sample.prompt_id, sample.prompt or "", sample.seed, sample, other))
    return found


def name_votes(votes: Sequence[Vote], arms: Sequence[Arm]) -> list[Vote]:
    """Votes with both labels replaced by the names of the arms that the images belong to.

    Labels alone would confuse ``step-000020`` of two runs; the sample ids do not.
    """
    owner = {sample.id: arm.name for arm in arms for sample in arm.samples}
    return [
        replace(v, left_label=owner.get(v.left, v.left_label), right_label=owner.get(v.right, v.right_label))
        for v in votes
    ]


def held_out(tags: Mapping[str, Sequence[str]], prompt_id: str | None) -> bool:
    """Whether the prompt's tags say that training never saw it."""
    return prompt_id is not None and any(tag.lower() in HELD_OUT_TAGS for tag in tags.get(prompt_id, ()))


def require_samples(sources: Sequence[Source]) -> None:
    """
    Raises:
        InputError: the run the report is about holds no images.
    """
    if not sources[0].samples:
        raise InputError(
            f"run {sources[0].name!r} holds no samples to report on. "
            "Make some with 'pixeval generate', or train with '--evaluate SUITE'."
        )
