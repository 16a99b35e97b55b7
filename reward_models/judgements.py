"""What a reward model learns from: comparisons of two images of one prompt, from runs with votes or tables of pairs."""

import hashlib
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pixeval.errors import InputError
from pixeval.images import UnreadableImage
from pixeval.pair_folder import load_pair_rows
from pixeval.records import QUESTIONS, Vote, counted_votes, people_first
from pixeval.runs import Run
from pixeval.validation.human_labels import Choice, LabelledImage, read_labels

Shares = tuple[float, float, float]
"""Of the votes for the first image, for a tie and for the second; they add up to 1."""
ROUNDS = 20
"""Of expectation maximisation, which settles within a few."""
LEAST_SHARED = 5
"""Pairs that an annotator must share with others before their agreement says something."""


@dataclass(frozen=True)
class Picture:
    """An image as it is stored; two of equal contents are one."""

    sha256: str
    name: str
    path: Path | None = None
    data: bytes | None = None

    def contents(self) -> bytes:
        """The bytes of the file.

        Raises:
            UnreadableImage: it is gone, or not what was judged.
        """
        if self.data is not None:
            return self.data
        assert self.path is not None
        try:
            found = self.path.read_bytes()
        except OSError as error:
            raise UnreadableImage(f"cannot read {self.name}: {error.strerror or error}") from error
        if hashlib.sha256(found).hexdigest() != self.sha256:
            raise UnreadableImage(f"{self.name} has changed since it was recorded (SHA-256 differs)")
        return found


@dataclass(frozen=True)
class Judgement:
    """What one annotator, or several together, said about two images of one prompt."""

    prompt: str
    first: Picture
    second: Picture
    shares: Shares
    question: str | None = None
    """``flaws``, ``appeal`` or ``alignment``; None where it is not known and only the overall head can learn."""
    weight: float = 1.0
    """How much it counts: the number of votes behind it, or the reliability of its annotator."""
    annotator: str | None = None
    """None where several were put together."""
    tags: tuple[str, ...] = ()
    """Of the prompt."""

    @property
    def pair(self) -> tuple[str, str, str, str | None]:
        """The same for every judgement on the same pair and question, whichever image came first."""
        low, high = sorted((self.first.sha256, self.second.sha256))
        return self.prompt, low, high, self.question

    @property
    def decided(self) -> bool:
        """Whether it prefers one image."""
        return self.shares[0] != self.shares[2]


def read_judgements(sources: Sequence[Path]) -> list[Judgement]:
    """Judgements of all sources, in a fixed order.

    Args:
        sources: data sets of 'pixeval pairs'; tables with two images and label_0, label_1 (Pick-a-Pic); or runs with
            votes, given together where votes compare their images.

    Raises:
        InputError: none of these, or nothing in it that compares two images.
    """
    if not sources:
        raise InputError("name at least one run with votes, data set of 'pixeval pairs', or table of choices")
    for path in sources:
        if not path.exists():
            raise InputError(f"there is no {path}; give a run with votes, a data set of 'pixeval pairs', or a table")
    runs = [Run.open(path) for path in sources if (path / "run.json").exists()]
    found = from_runs(runs) if runs else []
    for path in sources:
        if (path / "run.json").exists():
            continue
        if (path / "preference" / "train.parquet").exists():
            found += from_pairs(path)
        elif path.is_file():
            found += from_table(path)
        else:
            raise InputError(
                f"{path} holds no comparisons: give what 'pixeval pairs' wrote, a run with votes, or a table of pairs"
            )
    if not found:
        raise InputError("there is not one comparison of two images in what was given")
    return found


def from_runs(runs: Sequence[Run]) -> list[Judgement]:
    """One judgement for every vote that counts; ``both_bad`` is a tie, ``skip`` and ``reject`` are left out.

    Raises:
        InputError: no votes, or one on a sample that is in none of the runs.
    """
    votes = {vote.id: vote for run in runs for vote in run.votes()}
    if not votes:
        raise InputError(f"{runs[0].path} holds no votes; collect some with 'pixeval label' and export them")
    pictures = {s.id: Picture(s.sha256, s.path, run.image(s)) for run in runs for s in run.samples()}
    tags = {prompt.text: prompt.tags for run in runs for prompt in run.prompts()}
    found = []
    for vote in counted_votes(people_first(list(votes.values()))):
        if vote.choice in ("skip", "reject"):
            continue
        for sample, label in ((vote.left, vote.left_label), (vote.right, vote.right_label)):
            if sample not in pictures:
                raise InputError(
                    f"votes are on images of {label!r} (sample {sample}), which are in none of the runs; give all the "
                    "runs that were labelled"
                )
        sides = pictures[vote.left], pictures[vote.right]
        shares = _shares(vote)
        found.append(
            Judgement(vote.prompt, *sides, shares, vote.question, 1.0, vote.annotator, tags.get(vote.prompt, ()))
        )
    return found


def _shares(vote: Vote) -> Shares:
    return (float(vote.choice == "left"), float(vote.choice in ("tie", "both_bad")), float(vote.choice == "right"))


def from_pairs(folder: Path) -> list[Judgement]:
    """The pairs of a data set of 'pixeval pairs', with their soft labels; the chosen image comes first.

    Raises:
        InputError: it is damaged.
    """
    found = []
    for row in load_pair_rows(folder):
        sides = [picture_of(row[side]["bytes"], row[f"{side}_uid"]) for side in ("chosen", "rejected")]
        kind, _, question = row["source"].partition(":")
        asked = question if kind == "votes" and question in QUESTIONS else None
        share = float(row["soft_label"])
        found.append(Judgement(row["prompt"], sides[0], sides[1], (share, 0.0, 1 - share), asked, float(row["n"])))
    return found


def from_table(file: Path) -> list[Judgement]:
    """The comparisons of a table of people's choices (see :mod:`pixeval.validation.human_labels`), with soft labels.

    Raises:
        InputError: it holds ratings of single images, cannot be read, or its images are not there.
    """
    found, missing = [], []
    for choice in read_labels(file):
        if not isinstance(choice, Choice):
            raise InputError(f"{file} rates single images; a reward model learns from and is judged by comparisons")
        shares = (choice.share, 0.0, 1 - choice.share) if choice.human != 0.5 else (0.0, 1.0, 0.0)
        first, second = _labelled(choice.first), _labelled(choice.second)
        if first is not None and second is not None:
            found.append(Judgement(choice.first.prompt, first, second, shares))
        else:
            missing.append(str((choice.second if first is not None else choice.first).cell))
    if missing:
        told = f"{len(missing)} comparisons of {file} whose images are not below its folder, the first {missing[0]!r}"
        if not found:
            raise InputError(f"there is nothing but {told}; put the images there")
        print(f"left out {told}", file=sys.stderr)
    return found


def _labelled(image: LabelledImage) -> Picture | None:
    """None for a file that is not there; it could not be told from others."""
    if isinstance(image.cell, bytes):
        return picture_of(image.cell, "an image of the table")
    file = (image.table.parent / image.cell).resolve()
    if not file.is_relative_to(image.table.parent.resolve()) or not file.is_file():
        return None
    return Picture(hashlib.sha256(file.read_bytes()).hexdigest(), image.cell, file)


def picture_of(data: bytes, name: str) -> Picture:
    """A picture in memory."""
    return Picture(hashlib.sha256(data).hexdigest(), name, None, data)


def reliabilities(judgements: Iterable[Judgement]) -> dict[str, float]:
    """How much each annotator's votes should count: 1 on average, 0 for one who answers at random or against the rest.

    The log odds that they are right, where what is right about a pair is what all annotators of it make probable: the
    model of Dawid and Skene (1979, doi:10.2307/2346806) with one rate per annotator, by expectation maximisation from
    the shares of votes. Annotators with fewer than ``LEAST_SHARED`` pairs that others decided too get the mean.
    """
    by_pair: dict[object, list[tuple[str, bool]]] = defaultdict(list)
    names = set()
    for judgement in judgements:
        if judgement.annotator is not None:
            names.add(judgement.annotator)
            if judgement.decided:
                by_pair[judgement.pair].append((judgement.annotator, _first_of_pair(judgement)))
    shared = [votes for votes in by_pair.values() if len({name for name, _ in votes}) > 1]
    chances = [sum(said for _, said in votes) / len(votes) for votes in shared]
    odds: dict[str, float] = {}
    counts = Counter(name for votes in shared for name, _ in votes)
    for _ in range(ROUNDS):
        right: dict[str, float] = defaultdict(float)
        for votes, chance in zip(shared, chances, strict=True):
            for name, said in votes:
                right[name] += chance if said else 1 - chance
        odds = {name: math.log((right[name] + 1) / (n - right[name] + 1)) for name, n in counts.items()}
        chances = [_logistic(sum(odds[name] if said else -odds[name] for name, said in votes)) for votes in shared]
    known = {name: max(0.0, found) for name, found in odds.items() if counts[name] >= LEAST_SHARED}
    mean = sum(known.values()) / len(known) if known else 1.0
    return {name: known.get(name, mean) / mean if mean > 0 else 1.0 for name in sorted(names)}


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, x))))


def _first_of_pair(judgement: Judgement) -> bool:
    """Whether the image that sorts first won."""
    return (judgement.shares[0] > judgement.shares[2]) == (judgement.first.sha256 < judgement.second.sha256)
