"""The nouns that travel between packages, as frozen dataclasses; on disk each is a row of Parquet.

A row never holds a clock time, so that an interrupted and resumed command ends in the same bytes. Votes are
the exception: when a person answered is part of what was observed.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

Question = Literal["flaws", "appeal", "alignment"]
Choice = Literal["left", "tie", "right", "both_bad", "skip", "reject"]
Side = Literal["left", "right"]
FlawCategory = Literal["artifact", "anatomy", "text", "blur", "texture", "colour", "other"]
Severity = Literal["minor", "major"]
CheckReply = Literal["yes", "no", "unsure"]
Purpose = Literal["work", "training", "gold", "repeat"]
Relation = Literal["left of", "right of", "above", "below"]

QUESTIONS: tuple[Question, ...] = ("flaws", "appeal", "alignment")
"""The paper's three questions (arXiv 2409.17565): fewer flaws (prompt hidden), more appealing, closer to the text."""


RELATIONS: tuple[Relation, ...] = ("left of", "right of", "above", "below")
"""Positions in the image plane, as the viewer sees them (the four of GenEval, arXiv 2310.11513)."""


@dataclass(frozen=True)
class ObjectSpec:
    """How many things of one kind and colour an image must show, for a detector to check."""

    name: str
    """Singular noun phrase without article and colour: ``dining table``."""
    colour: str | None = None
    """Only things of this colour count; None for any colour."""
    at_least: int = 1
    at_most: int | None = None
    """None for no bound; 0 (with ``at_least`` 0) when there must be none."""


@dataclass(frozen=True)
class RelationSpec:
    """Where one object of a prompt is relative to another, in the image plane."""

    subject: int
    """Index into ``Prompt.objects``, as is ``object``."""
    relation: Relation
    object: int


@dataclass(frozen=True)
class Prompt:
    """One text to generate from."""

    id: str
    """Stable name within its suite, ``[a-z0-9-]+``."""
    text: str
    tags: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    """Yes/no questions about the image, each to be answered with yes when it matches the text."""
    objects: tuple[ObjectSpec, ...] = ()
    """What a detector can check of the text; what it cannot check is left out."""
    relations: tuple[RelationSpec, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One image and where it came from."""

    id: str
    """:func:`sample_id` of generator, prompt and seed; unique across runs."""
    label: str
    """What produced it, for people: ``base``, ``step-000050``, a folder's name."""
    prompt_id: str | None
    prompt: str | None
    """None for images that came without a prompt."""
    seed: int | None
    generator: str
    """Fingerprint of model weights and sampler settings, or of the folder for foreign images."""
    path: str
    """Relative to the run folder (or to the scored folder), with forward slashes."""
    sha256: str
    """Of the image file."""


@dataclass(frozen=True)
class Score:
    """One number about one sample, or the reason why there is none."""

    sample_id: str
    metric: str
    value: float | None
    reason: str | None
    """Why ``value`` is None; None when there is a value."""
    fingerprint: str
    """Of the metric: implementation version, weights, settings."""


@dataclass(frozen=True)
class SetScore:
    """One number about a set of samples, with its interval."""

    label: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    """95 % interval; None where none can be given."""
    n: int
    reference: str
    """What the set was compared with."""
    reason: str | None
    fingerprint: str


@dataclass(frozen=True)
class FlawMark:
    """A place of one image that an annotator found flawed; coordinates are shares of width and height, in [0, 1]."""

    side: Side
    category: FlawCategory
    severity: Severity
    x: float
    """Of the point, or of the left edge of the box."""
    y: float
    width: float = 0.0
    """Of the box; a point has neither width nor height."""
    height: float = 0.0


@dataclass(frozen=True)
class CheckAnswer:
    """One yes/no question about the text of a prompt, answered for each image of a pair."""

    question: str
    left: CheckReply
    right: CheckReply


@dataclass(frozen=True)
class Vote:
    """One answer of one annotator to one question about one pair; append-only."""

    id: str
    annotator: str
    question: Question
    prompt_id: str
    prompt: str
    left: str
    """Sample id of the image shown on the left."""
    right: str
    left_label: str
    """``Sample.label`` of the left image (never shown to annotators)."""
    right_label: str
    choice: Choice
    seconds: float
    """From showing the pair to the answer."""
    answered_at: str
    """ISO 8601, UTC."""
    supersedes: str | None = None
    """Id of the earlier vote that this one replaces (undo)."""
    simulated: bool = False
    """True for votes of simulated annotators; everything downstream says so."""
    reason: str | None = None
    """Why the pair was skipped, in the annotator's words or one of the app's."""
    marks: tuple[FlawMark, ...] = ()
    words: tuple[int, ...] = ()
    """Places in ``prompt.split()`` of the words that an image misses or gets wrong."""
    checks: tuple[CheckAnswer, ...] = ()
    """Answers to the prompt's yes/no questions, as the paper measures text alignment."""
    purpose: Purpose = "work"
    """Only ``work`` enters win rates: the rest teaches annotators (``training``) or tests them (``gold`` pairs of known
    answer, ``repeat`` of an earlier pair with the sides swapped)."""
    propensity: float = 1.0
    """Probability with which the schedule picked this pair; below 1 under active selection."""


@dataclass(frozen=True)
class Pair:
    """One preference: for ``prompt``, ``chosen`` over ``rejected``."""

    prompt_id: str
    prompt: str
    chosen: str
    """Sample id."""
    rejected: str
    chosen_path: str
    """Absolute path of the image when the pair was made; the exported data set holds the bytes."""
    rejected_path: str
    chosen_label: str
    rejected_label: str
    soft_label: float
    """Estimated probability in (0.5, 1] that chosen is preferred: the share of votes, ties as halves."""
    source: str
    """``votes:appeal`` or ``score:clip_score``."""
    n: int = 1
    """Votes behind it, or 1 for a score."""
    simulated: bool = False


def sample_id(generator: str, prompt_id: str | None, seed: int | None, path: str = "") -> str:
    """Sixteen hexadecimal digits, the same for the same inputs everywhere."""
    text = "\x1f".join((generator, prompt_id or "", "" if seed is None else str(seed), path))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def current_votes(votes: list[Vote]) -> list[Vote]:
    """Drop votes that a later one supersedes."""
    replaced = {vote.supersedes for vote in votes if vote.supersedes}
    return [vote for vote in votes if vote.id not in replaced]


def counted_votes(votes: list[Vote]) -> list[Vote]:
    """Votes that enter win rates: current ones, without training, gold pairs and repeats."""
    return [vote for vote in current_votes(votes) if vote.purpose == "work"]


def people_first(votes: list[Vote]) -> list[Vote]:
    """People's votes where there are any, otherwise the simulated ones; the two are never mixed."""
    people = [vote for vote in votes if not vote.simulated]
    return people or votes
