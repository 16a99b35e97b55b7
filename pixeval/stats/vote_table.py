"""Votes as columns: what statistics compute with, for a hundred votes as for a million."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pixeval.errors import InputError
from pixeval.records import QUESTIONS, Choice, Question, Vote, counted_votes

Array = NDArray[np.float64]
Codes = NDArray[np.int32]
Mask = NDArray[np.bool_]

CHOICES: tuple[Choice, ...] = get_args(Choice)
LEFT, TIE, RIGHT, BOTH_BAD, SKIP, REJECT = range(len(CHOICES))
TEXT_COLUMNS = ("annotator", "question", "prompt_id", "left", "right", "left_label", "right_label", "choice")
COLUMNS = (*TEXT_COLUMNS, "id", "supersedes", "simulated", "purpose", "propensity")


@dataclass(frozen=True, eq=False)
class VoteTable:
    """Votes that count (no superseded ones, no training, gold or repeated pairs), one row each, in order of answer."""

    labels: tuple[str, ...]
    """Names of what is compared, sorted; ``left_label`` and ``right_label`` are places in it."""
    prompts: tuple[str, ...]
    annotators: tuple[str, ...]
    images: tuple[str, ...]
    """Sample ids; ``left`` and ``right`` are places in it."""
    prompt: Codes
    annotator: Codes
    question: Codes
    """Place in ``records.QUESTIONS``."""
    left_label: Codes
    right_label: Codes
    left: Codes
    """Image on the left."""
    right: Codes
    choice: Codes
    """Place in ``CHOICES``."""
    propensity: Array
    """In (0, 1]."""
    simulated: Mask

    @classmethod
    def of(cls, votes: "Sequence[Vote] | VoteTable") -> "VoteTable":
        """The votes that count as columns; a table as it is.

        Raises:
            InputError: a propensity outside (0, 1].
        """
        if isinstance(votes, VoteTable):
            return votes
        kept = counted_votes(list(votes))
        texts = {name: pa.array([getattr(v, name) for v in kept], pa.string()) for name in TEXT_COLUMNS}
        coded = {name: column.dictionary_encode() for name, column in texts.items()}
        propensity = np.array([v.propensity for v in kept], dtype=np.float64)
        return _table(coded, propensity, np.array([v.simulated for v in kept], dtype=np.bool_))

    @classmethod
    def read(cls, files: Sequence[Path]) -> "VoteTable":
        """The votes that count of tables of :class:`pixeval.records.Vote`, each once, without making objects of them.

        People's votes where there are any, otherwise the simulated ones; the two are never mixed.

        Raises:
            InputError: a file is damaged, lacks a column or holds a propensity outside (0, 1].
        """
        if not files:
            return cls.of([])
        table = pa.concat_tables([_read(file) for file in files])
        if len(files) > 1:
            ids = table["id"].combine_chunks().dictionary_encode().indices.to_numpy()
            table = table.take(pa.array(np.sort(np.unique(ids, return_index=True)[1])))
        replaced = table["supersedes"].drop_null()
        if len(replaced):
            table = table.filter(pc.invert(pc.is_in(table["id"], value_set=replaced.combine_chunks())))
        table = table.filter(pc.equal(pc.cast(table["purpose"], pa.string()), "work"))
        people = pc.invert(table["simulated"])
        if pc.any(people).as_py():
            table = table.filter(people)
        coded = {name: _dictionary(table[name]) for name in TEXT_COLUMNS}
        return _table(coded, table["propensity"].to_numpy(), table["simulated"].to_numpy())

    def __len__(self) -> int:
        return len(self.prompt)

    def where(self, mask: Mask) -> "VoteTable":
        """The rows of a mask; codes keep their meaning."""
        return self.rows(np.flatnonzero(mask))

    def rows(self, rows: NDArray[np.integer]) -> "VoteTable":
        """Some rows by their numbers; codes keep their meaning."""
        arrays: dict[str, Any] = {name: value[rows] for name, value in vars(self).items() if _is_column(name, value)}
        return replace(self, **arrays)

    def about(self, a_label: str, b_label: str, question: Question) -> "VoteTable":
        """The rows that compare two labels on one question, on either side."""
        a, b = self.label_code(a_label), self.label_code(b_label)
        either = ((self.left_label == a) & (self.right_label == b)) | ((self.left_label == b) & (self.right_label == a))
        return self.where(either & (self.question == QUESTIONS.index(question)) & (a != b))

    def label_code(self, label: str) -> int:
        """The code of a label, -1 for one that no vote names."""
        return self.labels.index(label) if label in self.labels else -1

    def signs(self, a_label: str) -> Array:
        """+1 where the image of ``a_label`` was preferred, -1 where the other was, 0 for ties and both bad.

        Skips and rejections are 0 too; leave them out with :attr:`answered`.
        """
        toward_left = np.select([self.choice == LEFT, self.choice == RIGHT], [1.0, -1.0], 0.0)
        found: Array = np.where(self.left_label == self.label_code(a_label), toward_left, -toward_left)
        return found

    @cached_property
    def answered(self) -> Mask:
        """Where there is an answer: neither skipped nor rejected."""
        found: Mask = (self.choice != SKIP) & (self.choice != REJECT)
        return found

    @cached_property
    def weighted(self) -> bool:
        """Whether the schedule picked some pairs with less than certainty."""
        return bool((self.propensity < 1).any())

    @property
    def weights(self) -> Array | None:
        """Inverse propensities; None when all are 1."""
        return 1 / self.propensity if self.weighted else None

    def tagged(self, tags: Mapping[str, Sequence[str]]) -> dict[str, Mask]:
        """Rows of every tag of the prompts, by tag; a prompt with several tags is in the rows of each."""
        by_tag: dict[str, list[int]] = {}
        for code, prompt in enumerate(self.prompts):
            for tag in tags.get(prompt, ()):
                by_tag.setdefault(tag, []).append(code)
        return {tag: np.isin(self.prompt, codes) for tag, codes in sorted(by_tag.items())}


def _is_column(name: str, value: object) -> bool:
    return isinstance(value, np.ndarray) and name != "answered"


def _read(file: Path) -> pa.Table:
    try:
        return pq.read_table(file, columns=list(COLUMNS), read_dictionary=list(TEXT_COLUMNS)).select(COLUMNS)
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise InputError(f"{file} cannot be read as a table of votes ({error}); export the votes again") from error


def _dictionary(column: pa.ChunkedArray) -> pa.DictionaryArray:
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
        chunk = column.combine_chunks()
        return chunk if isinstance(chunk, pa.DictionaryArray) else chunk.chunk(0)
    return column.combine_chunks().dictionary_encode()


def _table(coded: Mapping[str, pa.DictionaryArray], propensity: Array, simulated: Mask) -> VoteTable:
    if len(propensity) and not (propensity.min() > 0 and propensity.max() <= 1):
        bad = float(propensity[(propensity <= 0) | (propensity > 1)][0]) if np.isfinite(propensity).all() else "NaN"
        raise InputError(f"a vote has propensity {bad}; it must be a probability above 0, the schedule's own")
    (prompt,), prompts = _coded(coded["prompt_id"])
    (annotator,), annotators = _coded(coded["annotator"])
    (left_label, right_label), labels = _coded(coded["left_label"], coded["right_label"])
    (left, right), images = _coded(coded["left"], coded["right"])
    return VoteTable(
        labels=labels,
        prompts=prompts,
        annotators=annotators,
        images=images,
        prompt=prompt,
        annotator=annotator,
        question=_places(coded["question"], QUESTIONS, "question"),
        left_label=left_label,
        right_label=right_label,
        left=left,
        right=right,
        choice=_places(coded["choice"], CHOICES, "choice"),
        propensity=propensity,
        simulated=simulated,
    )


def _coded(*columns: pa.DictionaryArray) -> tuple[list[Codes], tuple[str, ...]]:
    """Columns in codes of one sorted vocabulary, so that codes do not depend on the order of votes or files."""
    vocabulary = pa.concat_arrays([column.dictionary for column in columns]).unique()
    vocabulary = vocabulary.take(pc.sort_indices(vocabulary))
    codes = []
    for column in columns:
        moved = pc.index_in(column.dictionary, vocabulary).to_numpy(zero_copy_only=False).astype(np.int32)
        indices = column.indices.to_numpy(zero_copy_only=False)
        codes.append(moved[indices] if len(moved) else indices.astype(np.int32))
    return codes, tuple(vocabulary.to_pylist())


def _places(column: pa.DictionaryArray, known: Sequence[str], what: str) -> Codes:
    (codes,), words = _coded(column)
    strange = set(words) - set(known)
    if strange:
        raise InputError(f"a vote has the {what} {sorted(strange)[0]!r}; known are {', '.join(known)}")
    moved = np.array([known.index(word) for word in words], dtype=np.int32)
    return moved[codes] if len(moved) else codes
