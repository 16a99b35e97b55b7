"""Simulated annotators: they get their pairs, and leave their votes, through the code that serves people.

Their votes are marked ``simulated`` and everything downstream says so.
"""

import datetime as dt
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from human_eval_app.schedule import Assignment
from human_eval_app.session import Open
from human_eval_app.store import Answer, Store
from human_eval_app.study import Study, open_study, read_arms
from pixeval.records import QUESTIONS, Choice, Question, Vote

START = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
"""Simulated votes carry made-up times from here on, so that the same seed gives the same bytes."""


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


def simulate_votes(
    runs: Sequence[str | Path],
    utilities: Mapping[Question, Mapping[str, float]],
    annotators: Sequence[SimulatedAnnotator],
    store_path: Path,
    seed: int = 0,
) -> list[Vote]:
    """Let every annotator answer everything that is still open to them; deterministic in its arguments.

    Args:
        runs: as for ``pixeval label``: ``RUN`` or ``RUN:LABEL``, at least two.
        utilities: for each question to be asked, what each sample id is worth, higher is better (so give flaw
            scores negated). A pair with a sample that has none is skipped.
        annotators: whose names differ.
        store_path: SQLite file, made or continued.
        seed: of sides, order and noise.

    Returns:
        All votes in the store.

    Raises:
        InputError: as :func:`human_eval_app.study.read_arms` and :func:`human_eval_app.study.open_study`.
    """
    store = Store.at(store_path, secret=f"simulated-{seed}")
    try:
        study = open_study(read_arms(runs), [q for q in QUESTIONS if q in utilities], seed, store)
        spreads = {question: _spread(study, utilities[question]) for question in study.questions}
        for annotator in annotators:
            study.join(annotator.name)
            answers = [
                _answer(annotator, item, utilities[item.assignment.question], spreads[item.assignment.question], seed)
                for item in study.standing(annotator.name).queue
            ]
            store.append(answers)
        return store.votes()
    finally:
        store.close()


def _spread(study: Study, utility: Mapping[str, float]) -> float:
    """Root mean square difference of utility over the pairs; 1 where all are equal."""
    squares = [
        (utility[m.a.id] - utility[m.b.id]) ** 2 for m in study.matchups if m.a.id in utility and m.b.id in utility
    ]
    return statistics.fmean(squares) ** 0.5 if any(squares) else 1.0


def _answer(
    annotator: SimulatedAnnotator, item: Open, utility: Mapping[str, float], spread: float, seed: int
) -> Answer:
    assignment = item.assignment
    # Seeded by the assignment, so that an interrupted simulation continues to the same votes.
    rng = random.Random(f"{seed}/{assignment.id}/{item.revision}")
    seconds = round(rng.lognormvariate(0, 0.5) * annotator.seconds, 3)
    at = START + dt.timedelta(seconds=assignment.position * annotator.seconds)
    choice = _judge(annotator, assignment, utility, spread, rng)
    return Answer(assignment.id, item.revision, choice, seconds, at.isoformat(timespec="milliseconds"), True)


def _judge(
    annotator: SimulatedAnnotator,
    assignment: Assignment,
    utility: Mapping[str, float],
    spread: float,
    rng: random.Random,
) -> Choice:
    if assignment.left not in utility or assignment.right not in utility:
        return "skip"
    difference = (utility[assignment.left] - utility[assignment.right]) / spread
    judged = difference + annotator.side_bias + rng.gauss(0, annotator.noise)
    if abs(judged) <= annotator.tie_threshold:
        return "tie"
    return "left" if judged > 0 else "right"
