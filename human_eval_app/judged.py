"""What people said about single pairs: where they disagree, and where they marked flaws."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, Literal, cast

import sqlalchemy as sa

from human_eval_app.projects import Project, image_key
from human_eval_app.schema import answers, assignments, images, pairs, users
from pixeval.records import Choice, FlawMark, Question

Order = Literal["contested", "marked"]
Said = Literal["first", "second", "tie", "both_bad", "skip", "reject"]


@dataclass(frozen=True)
class Opinion:
    """One annotator's answer about a pair, with sides undone."""

    annotator: str
    said: Said
    marks: tuple[tuple[FlawMark, ...], tuple[FlawMark, ...]]
    """On the first image and on the second."""
    words: tuple[int, ...]
    """Places in the prompt of words that are missing or wrong."""


@dataclass(frozen=True)
class Judged:
    """A pair with everything that was said about it on one question."""

    prompt: str
    question: Question
    keys: tuple[str, str]
    """Of the first image and the second, for their addresses."""
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """Width and height."""
    samples: tuple[str, str]
    labels: tuple[str, str]
    opinions: tuple[Opinion, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How often each was said, skips and rejections included."""
        return dict(Counter(opinion.said for opinion in self.opinions))

    @property
    def disagreement(self) -> float:
        """Chance that two of its answers differ, in [0, 1]; 0 for fewer than two."""
        counts = [n for said, n in self.counts.items() if said not in ("skip", "reject")]
        total = sum(counts)
        return 1 - sum(n * (n - 1) for n in counts) / (total * (total - 1)) if total > 1 else 0.0

    @property
    def mark_count(self) -> int:
        """Flaw marks of everybody on both images."""
        return sum(len(side) for opinion in self.opinions for side in opinion.marks)


def judged_pairs(
    connection: sa.Connection,
    secret: str,
    project: Project,
    question: Question,
    order: Order = "contested",
    limit: int = 12,
    skip: int = 0,
) -> list[Judged]:
    """Pairs of a project on which people differ most, or marked most flaws, first; those without either left out.

    Between equally contested ones those with more answers come first.
    """
    found = read_judged(connection, secret, project, question)
    if order == "contested":
        kept = [pair for pair in found if pair.disagreement > 0]
        kept.sort(key=lambda pair: (-pair.disagreement, -len(pair.opinions), pair.samples))
    else:
        kept = [pair for pair in found if pair.mark_count]
        kept.sort(key=lambda pair: (-pair.mark_count, pair.samples))
    return kept[skip : skip + limit]


def read_judged(connection: sa.Connection, secret: str, project: Project, question: Question) -> list[Judged]:
    """Every pair of a project's work that somebody judged on a question."""
    columns = (pairs.c.prompt, pairs.c.first, pairs.c.second, pairs.c.first_label, pairs.c.second_label)
    query = (
        sa.select(pairs.c.id, *columns, users.c.name, assignments.c.left)
        .add_columns(answers.c.choice, answers.c.marks, answers.c.words)
        .join(assignments, assignments.c.pair == pairs.c.id)
        .join(answers, sa.and_(answers.c.project == project.id, answers.c.number == assignments.c.answer))
        .join(users, users.c.id == assignments.c.annotator)
        .where(assignments.c.project == project.id, assignments.c.question == question)
        .where(assignments.c.purpose == "work")
        .order_by(answers.c.number)
    )
    by_pair: dict[str, list[Any]] = defaultdict(list)
    for row in connection.execute(query).mappings():
        by_pair[row["id"]].append(row)
    size_of = sa.select(images.c.sample, images.c.width, images.c.height).where(images.c.project == project.id)
    sizes = {row.sample: (row.width, row.height) for row in connection.execute(size_of)}
    found = []
    for rows in by_pair.values():
        one = rows[0]
        samples = (one["first"], one["second"])
        keys = (image_key(secret, project.id, samples[0]), image_key(secret, project.id, samples[1]))
        labels = (one["first_label"], one["second_label"])
        opinions = tuple(_opinion(row) for row in rows)
        both = (sizes[samples[0]], sizes[samples[1]])
        found.append(Judged(one["prompt"], question, keys, both, samples, labels, opinions))
    return found


def _opinion(row: Any) -> Opinion:
    first_left = row["left"] == row["first"]
    choice = cast(Choice, row["choice"])
    said: str = choice
    if choice in ("left", "right"):
        said = "first" if (choice == "left") == first_left else "second"
    marks = [FlawMark(**mark) for mark in json.loads(row["marks"])]
    left = tuple(mark for mark in marks if mark.side == "left")
    right = tuple(mark for mark in marks if mark.side == "right")
    both = (left, right) if first_left else (right, left)
    return Opinion(row["name"], cast(Said, said), both, tuple(json.loads(row["words"])))
