"""A small running study with people who differ in care, for the tests of the lead's side."""

import random
from collections.abc import Callable
from pathlib import Path

from label_study import two_runs

from human_eval_app.accounts import add_user, find_user
from human_eval_app.answers import Answer, append
from human_eval_app.desk import begin
from human_eval_app.projects import Project, add_member
from human_eval_app.schedule import Design
from human_eval_app.session import Item, standing
from human_eval_app.store import Store
from human_eval_app.study import open_study, read_arms
from pixeval.records import Choice, FlawMark

LEFT_MARK = FlawMark("left", "artifact", "major", 0.5, 0.25)
RIGHT_BOX = FlawMark("right", "blur", "minor", 0.25, 0.5, 0.25, 0.125)
Judge = Callable[[Item, bool, random.Random], Choice]
"""Gets the item, whether the image of the tuned model is on the left, and random numbers."""


def careful(item: Item, tuned_left: bool, rng: random.Random) -> Choice:
    """Prefers the tuned model, mostly."""
    return "tie" if rng.random() < 0.1 else "left" if tuned_left == (rng.random() < 0.85) else "right"


def always_left(item: Item, tuned_left: bool, rng: random.Random) -> Choice:
    """Does not look."""
    return "left"


class LeadStudy:
    """A project of two runs in a database, and people who answer everything that is open to them."""

    def __init__(self, folder: Path, design: Design | None = None, prompts: int = 20, place: str | None = None) -> None:
        self.runs = two_runs(folder, prompts)
        self.store = Store.at(place or folder / "votes.sqlite3", secret="test")
        self.project: Project = open_study(self.store, read_arms(self.runs), design or Design(repeats=0.2, gold=0.0))

    def answer(self, name: str, judge: Judge, seconds: float = 5.0, most: int = 10_000, marking: bool = False) -> int:
        """Let somebody answer until nothing is open, or so many times; returns how many were stored."""
        rng, stored = random.Random(name), 0
        with self.store.write() as connection:
            user = find_user(connection, name) or add_user(connection, self.store.secret, name)
            add_member(connection, self.project.id, user.id)
            begin(connection, self.store.secret, self.project, user.id)
            while stored < most:
                now = standing(connection, self.store.secret, self.project, user.id, ahead=100)
                for item in now.queue[: most - stored]:
                    choice = judge(item, self._tuned_left(connection, item), rng)
                    marks = (LEFT_MARK, RIGHT_BOX) if marking and item.question == "flaws" else ()
                    at = f"2026-03-01T{10 + stored // 60:02d}:{stored % 60:02d}:00.000+00:00"
                    answer = Answer(item.assignment, item.revision, choice, seconds, at, marks=marks)
                    assert append(connection, self.store.secret, self.project.id, answer)
                    stored += 1
                if not now.queue:
                    break
        return stored

    @staticmethod
    def _tuned_left(connection: object, item: Item) -> bool:
        import sqlalchemy as sa

        from human_eval_app.schema import assignments, pairs

        assert isinstance(connection, sa.Connection)
        query = (
            sa.select(assignments.c.left, pairs.c.first, pairs.c.first_label)
            .join(pairs, pairs.c.id == assignments.c.pair)
            .where(assignments.c.id == item.assignment)
        )
        row = connection.execute(query).one()
        return (row.left == row.first) == (row.first_label == "tunedmodel")
