"""``RUN`` and ``RUN:LABEL`` to the images that they name, and the votes between them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pixeval.errors import InputError, unknown_name
from pixeval.records import people_first
from pixeval.runs import Run
from pixeval.stats.vote_table import VoteTable
from reports.arms import Arm, name_votes, step_of


def split(given: str) -> tuple[Run, str | None]:
    """``run:label`` to both; a path that exists is taken whole, colons included.

    Raises:
        InputError: no run there.
    """
    path, colon, label = given.rpartition(":")
    if Path(given).exists() or not colon:
        return Run.open(Path(given)), None
    return Run.open(Path(path)), label


def open_arms(given: Sequence[str]) -> tuple[list[Run], list[Arm]]:
    """The runs, each once, and an arm with a name of its own for each that was given.

    Raises:
        InputError: a folder is no run, a label is unknown, or two of them name the same images.
    """
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


def votes_between(runs: Sequence[Run], arms: Sequence[Arm]) -> VoteTable:
    """Votes on images of the arms, labelled by the arms' names, in the order of answer."""
    votes = {vote.id: vote for run in runs for vote in run.votes()}
    named = name_votes(sorted(people_first(list(votes.values())), key=lambda v: (v.answered_at, v.id)), arms)
    names = {arm.name for arm in arms}
    own = {sample.id for arm in arms for sample in arm.samples}
    kept = [v for v in named if v.left in own and v.right in own and {v.left_label, v.right_label} <= names]
    return VoteTable.of(kept)
