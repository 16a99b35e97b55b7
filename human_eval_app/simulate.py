"""Simulated annotators: they get their pairs, and leave their votes, through the code that serves people.

Their votes are marked ``simulated`` and everything downstream says so.
"""

import datetime as dt
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from human_eval_app.accounts import User, add_user, find_user
from human_eval_app.answers import Answer, append
from human_eval_app.desk import begin
from human_eval_app.projects import Project, add_member
from human_eval_app.schedule import Design, match_samples
from human_eval_app.schema import assignments
from human_eval_app.session import Item, standing
from human_eval_app.store import Store
from human_eval_app.study import open_study, read_arms
from pixeval.records import QUESTIONS, Choice, Question, Vote

START = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
"""Simulated votes carry made-up times from here on, so that the same seed gives the same bytes."""
AT_ONCE = 1000
"""Answers given in one transaction, at most."""


@dataclass(frozen=True)
class SimulatedAnnotator:
    """One simulated annotator.

    They prefer the image of higher utility. Differences of utility are measured in standard deviations of all
    differences in the study, so the numbers below mean the same for every metric.
    """

    name: str
    noise: float = 0.5
    """Standard deviation of what is added to each judged difference."""
    tie_threshold: float = 0.3
    """Judged differences up to this size are answered with a tie."""
    side_bias: float = 0.0
    """Added in favour of the left image (negative: the right one)."""
    seconds: float = 4.0
    """Mean time per answer."""


@dataclass(frozen=True)
class _Worth:
    """What the images are worth to everybody."""

    utilities: Mapping[Question, Mapping[str, float]]
    spreads: Mapping[Question, float]
    seed: int


def simulate_votes(
    runs: Sequence[str | Path],
    utilities: Mapping[Question, Mapping[str, float]],
    annotators: Sequence[SimulatedAnnotator],
    store_path: Path | str,
    seed: int = 0,
    design: Design | None = None,
) -> list[Vote]:
    """Let every annotator answer everything that is still open to them; deterministic in its arguments.

    Args:
        runs: as for ``pixeval label``: ``RUN`` or ``RUN:LABEL``, at least two.
        utilities: for each question to be asked, what each sample id is worth, higher is better (so give flaw
            scores negated). A pair with a sample that has none is skipped.
        annotators: whose names differ.
        store_path: SQLite file or URL, made or continued.
        seed: of sides, order and noise.
        design: how the study asks; questions and seed are set from the other arguments. Default: everybody judges
            everything.

    Returns:
        All votes in the store.

    Raises:
        InputError: as :func:`human_eval_app.study.read_arms` and :func:`human_eval_app.study.open_study`.
    """
    store = Store.at(store_path, secret=f"simulated-{seed}")
    try:
        arms = read_arms(runs)
        questions = tuple(q for q in QUESTIONS if q in utilities)
        project = open_study(store, arms, Design(**{**vars(design or Design()), "questions": questions, "seed": seed}))
        matchups = match_samples(arms.groups)
        both = [(m.a.id, m.b.id) for m in matchups]
        worth = _Worth(utilities, {q: _spread(both, utilities[q]) for q in questions}, seed)
        for annotator in annotators:
            with store.write() as connection:
                user = find_user(connection, annotator.name)
                user = user or add_user(connection, store.secret, annotator.name, simulated=True)
                add_member(connection, project.id, user.id)
                begin(connection, store.secret, project, user.id)
            while _work(store, project, user, annotator, worth):
                pass
        return store.votes(project.id)
    finally:
        store.close()


def _work(store: Store, project: Project, user: User, annotator: SimulatedAnnotator, worth: _Worth) -> bool:
    """Answer what is open, in one transaction; False when there was nothing."""
    with store.write() as connection:
        now = standing(connection, store.secret, project, user.id, ahead=AT_ONCE)
        for item in now.queue:
            append(connection, store.secret, project.id, _answer(connection, annotator, item, worth))
        return bool(now.queue)


def _spread(both: Sequence[tuple[str, str]], utility: Mapping[str, float]) -> float:
    """Root mean square difference of utility over the pairs; 1 where all are equal."""
    squares = [(utility[a] - utility[b]) ** 2 for a, b in both if a in utility and b in utility]
    return statistics.fmean(squares) ** 0.5 if any(squares) else 1.0


def _answer(connection: sa.Connection, annotator: SimulatedAnnotator, item: Item, worth: _Worth) -> Answer:
    # Simulated eyes see the images themselves, which people's do not get by name.
    columns = (assignments.c.left, assignments.c.right, assignments.c.position)
    row = connection.execute(sa.select(*columns).where(assignments.c.id == item.assignment)).one()
    # Seeded by the assignment, so that an interrupted simulation continues to the same votes.
    rng = random.Random(f"{worth.seed}/{item.assignment}/{item.revision}")
    seconds = round(rng.lognormvariate(0, 0.5) * annotator.seconds, 3)
    at = START + dt.timedelta(seconds=row.position * annotator.seconds)
    choice = _judge(annotator, row, worth.utilities[item.question], worth.spreads[item.question], rng)
    return Answer(item.assignment, item.revision, choice, seconds, at.isoformat(timespec="milliseconds"))


def _judge(
    annotator: SimulatedAnnotator, row: Any, utility: Mapping[str, float], spread: float, rng: random.Random
) -> Choice:
    if row.left not in utility or row.right not in utility:
        return "skip"
    difference = (utility[row.left] - utility[row.right]) / spread
    judged = difference + annotator.side_bias + rng.gauss(0, annotator.noise)
    if abs(judged) <= annotator.tie_threshold:
        return "tie"
    return "left" if judged > 0 else "right"
