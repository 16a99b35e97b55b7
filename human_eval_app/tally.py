"""The votes of a project as columns, straight from the database: for looks at a study while it runs."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from human_eval_app.schema import answers, assignments, pairs, users
from pixeval.records import QUESTIONS, Question
from pixeval.stats.vote_table import CHOICES, VoteTable

ROWS_AT_ONCE = 5000


def standing_votes(connection: sa.Connection, project: str, question: Question | None = None) -> VoteTable:
    """What :meth:`VoteTable.of` makes of a project's votes, without making objects of them: an answer a row, in order.

    An answer that was taken back and not given again is a skip there and missing here.

    Args:
        question: only votes on this one; None for all.
    """
    query = (
        sa.select(
            pairs.c.prompt_id,
            users.c.name,
            users.c.simulated,
            assignments.c.question,
            assignments.c.left,
            assignments.c.right,
            assignments.c.propensity,
            pairs.c.first,
            pairs.c.first_label,
            pairs.c.second_label,
            answers.c.choice,
        )
        .join(assignments, sa.and_(answers.c.project == project, answers.c.number == assignments.c.answer))
        .join(pairs, pairs.c.id == assignments.c.pair)
        .join(users, users.c.id == assignments.c.annotator)
        .where(assignments.c.project == project, assignments.c.purpose == "work")
        .order_by(answers.c.number)
    )
    if question is not None:
        query = query.where(assignments.c.question == question)
    return _table(connection.execute(query, execution_options={"yield_per": ROWS_AT_ONCE}))


def _table(rows: Iterable[Any]) -> VoteTable:
    prompts, annotators, labels, images = _Codes(), _Codes(), _Codes(), _Codes()
    columns: list[tuple[Any, ...]] = [
        (
            prompts.of(prompt),
            annotators.of(name),
            QUESTIONS.index(question),
            labels.of(first_label if left == first else second_label),
            labels.of(second_label if left == first else first_label),
            images.of(left),
            images.of(right),
            CHOICES.index(choice),
            propensity,
            simulated,
        )
        for (
            prompt,
            name,
            simulated,
            question,
            left,
            right,
            propensity,
            first,
            first_label,
            second_label,
            choice,
        ) in rows
    ]
    data = np.array(columns, dtype=np.float64).reshape(len(columns), 10).T
    codes = data[:8].astype(np.int32)
    return VoteTable(
        labels=labels.sorted_words,
        prompts=tuple(prompts.places),
        annotators=tuple(annotators.places),
        images=images.sorted_words,
        prompt=codes[0],
        annotator=codes[1],
        question=codes[2],
        left_label=labels.sorted_codes(codes[3]),
        right_label=labels.sorted_codes(codes[4]),
        left=images.sorted_codes(codes[5]),
        right=images.sorted_codes(codes[6]),
        choice=codes[7],
        propensity=data[8],
        simulated=data[9] > 0,
    )


class _Codes:
    """Numbers for words, in the order in which they come."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}

    def of(self, word: str) -> int:
        return self.places.setdefault(word, len(self.places))

    @property
    def sorted_words(self) -> tuple[str, ...]:
        return tuple(sorted(self.places))

    def sorted_codes(self, codes: Any) -> Any:
        """Codes by the order of words."""
        order: Sequence[int] = [self.places[word] for word in self.sorted_words]
        moved = np.empty(len(order), dtype=np.int32)
        moved[order] = np.arange(len(order), dtype=np.int32)
        return moved[codes] if len(order) else codes
