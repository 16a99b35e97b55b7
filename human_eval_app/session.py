"""Where an annotator stands, computed from what the store holds; pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

from human_eval_app.schedule import Assignment
from human_eval_app.store import Answer


@dataclass(frozen=True)
class Open:
    """An assignment that waits for an answer."""

    assignment: Assignment
    revision: int
    """The revision that the answer will have."""


@dataclass(frozen=True)
class Standing:
    """What one annotator has done and has yet to do."""

    done: int
    total: int
    queue: tuple[Open, ...]
    """In order; an answer taken back comes first again, since its place is earlier."""
    last: Answer | None
    """The latest answer that still stands, which an undo takes back."""


def standing(assignments: Sequence[Assignment], answers: Sequence[Answer]) -> Standing:
    """Where the annotator of these assignments stands.

    Args:
        assignments: in order of position.
        answers: all revisions, in the order they were stored.
    """
    latest: dict[str, Answer] = {}
    for answer in answers:
        latest[answer.assignment] = answer
    queue = []
    for assignment in assignments:
        known = latest.get(assignment.id)
        if known is None or known.undoes:
            queue.append(Open(assignment, 0 if known is None else known.revision + 1))
    standing_answers = [a for a in answers if not a.undoes and latest[a.assignment] is a]
    return Standing(
        done=len(assignments) - len(queue),
        total=len(assignments),
        queue=tuple(queue),
        last=standing_answers[-1] if standing_answers else None,
    )


def undo_of(answer: Answer, answered_at: str) -> Answer:
    """The row that takes ``answer`` back."""
    return Answer(answer.assignment, answer.revision + 1, "skip", 0.0, answered_at, answer.simulated)
