"""What has been scored already: the rows of ``scores.parquet``, looked up, added to and written.

While a command runs, new rows go to small files in ``scores.parts/``, so that saving costs the same however many rows
there are; at the end everything is written once, in order, and the parts are removed. :meth:`pixeval.runs.Run.scores`
reads both, so nothing is lost in between.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pixeval.catalog import CATALOG
from pixeval.errors import InputError
from pixeval.records import Sample, Score, SetScore
from pixeval.runs import SCORE_PARTS, Run, score_files
from pixeval.tables import read_table, schema_of, write_records

ABSENT = -1
BLOCK = 4096
"""Samples that are written at a time."""


class _Column:
    """The rows of one metric: a value, a fingerprint and a reason per sample, the last two as codes."""

    def __init__(self, n: int) -> None:
        self.values: NDArray[np.float64] = np.full(n, np.nan)
        self.fingerprints: NDArray[np.int32] = np.full(n, ABSENT, dtype=np.int32)
        self.reasons: NDArray[np.int32] = np.full(n, ABSENT, dtype=np.int32)


class _Words:
    """Strings and their codes."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._codes: dict[str, int] = {}

    def code(self, word: str) -> int:
        if word not in self._codes:
            self._codes[word] = len(self.all)
            self.all.append(word)
        return self._codes[word]


class Rows(Protocol):
    """Where a pass looks rows up and puts them."""

    def has(self, sample_id: str, metric: str, fingerprint: str) -> bool:
        """Whether there is a value under this fingerprint."""
        ...

    def put(self, scores: Iterable[Score]) -> None:
        """Add or replace rows."""
        ...

    def save(self) -> None:
        """Keep what is new."""
        ...


class ScoreTable:
    """One row per sample and metric; a row under another fingerprint is replaced.

    Rows of samples that the run no longer has are dropped; rows of metrics that are not asked for now are kept.
    Takes 16 bytes per sample and metric, besides one copy of each distinct reason and fingerprint.
    """

    def __init__(self, run: Run, samples: Sequence[Sample], shard: int = 0) -> None:
        """``shard`` goes into the names of the parts, so that several processes can write at a time."""
        self._run, self._shard = run, shard
        self._ids = [sample.id for sample in samples]
        self._position = {identity: position for position, identity in enumerate(self._ids)}
        self._columns: dict[str, _Column] = {}
        self._words = _Words()
        self._unsaved: list[Score] = []
        files = score_files(run.path)
        self._changed = any(file.parent.name == SCORE_PARTS for file in files)
        for file in files:
            self._read(file)
        mine = sorted((run.path / SCORE_PARTS).glob(f"{shard:03d}-*.parquet"))
        self._next_part = int(mine[-1].stem.partition("-")[2]) + 1 if mine else 0

    def has(self, sample_id: str, metric: str, fingerprint: str) -> bool:
        """Whether there is a value under this fingerprint. A row without a value is tried again."""
        column = self._columns.get(metric)
        if column is None:
            return False
        position = self._position[sample_id]
        code = column.fingerprints[position]
        found: bool = code != ABSENT and column.reasons[position] == ABSENT
        return found and self._words.all[code] == fingerprint

    @property
    def metrics(self) -> list[str]:
        """The metrics that have rows: in the catalogue's order, unknown ones last by name."""
        rank = {spec.name: position for position, spec in enumerate(CATALOG)}
        return sorted(self._columns, key=lambda name: (rank.get(name, len(rank)), name))

    def values(self, metric: str) -> NDArray[np.float64]:
        """The values of a metric in the order of the samples; NaN where there is none."""
        return self._columns[metric].values

    def present(self, metric: str) -> NDArray[np.bool_]:
        """For which samples there is a row, with a value or a reason."""
        found: NDArray[np.bool_] = self._columns[metric].fingerprints != ABSENT
        return found

    def reasons(self, metric: str) -> NDArray[np.int32]:
        """Why there is no value, as a number for :meth:`reason`; ABSENT where there is a value or no row."""
        return self._columns[metric].reasons

    def reason(self, code: int) -> str:
        """The text of a reason."""
        return self._words.all[code]

    def put(self, scores: Iterable[Score]) -> None:
        """Add or replace rows; :meth:`save` writes them."""
        for score in scores:
            column = self._columns.setdefault(score.metric, _Column(len(self._ids)))
            position = self._position[score.sample_id]
            value = np.nan if score.value is None else score.value
            fingerprint = self._words.code(score.fingerprint)
            reason = ABSENT if score.value is not None else self._words.code(score.reason or "")
            if (
                column.fingerprints[position] != fingerprint
                or column.reasons[position] != reason
                or (reason == ABSENT and column.values[position] != value)
            ):
                column.values[position] = value
                column.fingerprints[position] = fingerprint
                column.reasons[position] = reason
                self._unsaved.append(score)

    def save(self) -> None:
        """Keep what is new, in a small file of its own.

        Raises:
            InputError: it cannot be written; what was saved before is still whole.
        """
        if not self._unsaved:
            return
        file = self._run.path / SCORE_PARTS / f"{self._shard:03d}-{self._next_part:06d}.parquet"
        try:
            write_records(file, self._unsaved, Score)
        except OSError as error:
            raise unwritable(file, error) from error
        self._unsaved, self._changed = [], True
        self._next_part += 1

    def finish(self) -> None:
        """Write all rows to ``scores.parquet`` when a row has changed, and remove the parts.

        Samples keep the run's order, metrics the catalogue's, unknown metrics come last by name.

        Raises:
            InputError: it cannot be written; the parts are still there.
        """
        self.save()
        if not self._changed:
            return
        file = self._run.path / "scores.parquet"
        partial = file.with_name(file.name + ".partial")
        try:
            with pq.ParquetWriter(partial, schema_of(Score), compression="zstd") as writer:
                for table in self._blocks():
                    writer.write_table(table)
            os.replace(partial, file)
        except OSError as error:
            raise unwritable(file, error) from error
        shutil.rmtree(self._run.path / SCORE_PARTS, ignore_errors=True)
        self._changed = False

    def _read(self, file: Path) -> None:
        """Take over the rows of a file."""
        table = read_table(file, Score)
        positions = pc.fill_null(pc.index_in(table["sample_id"], value_set=pa.array(self._ids, pa.string())), ABSENT)
        rows = positions.to_numpy()
        self._changed |= bool((rows == ABSENT).any())
        values = table["value"].to_numpy()
        metrics, metric_names = _encoded(table["metric"])
        fingerprints, fingerprint_words = _encoded(table["fingerprint"])
        reasons, reason_words = _encoded(pc.fill_null(table["reason"], ""))
        as_code = np.array([self._words.code(word) for word in fingerprint_words], dtype=np.int32)
        as_reason = np.array([self._words.code(word) for word in reason_words], dtype=np.int32)
        for number, metric in enumerate(metric_names):
            chosen = (metrics == number) & (rows != ABSENT)
            where = rows[chosen]
            column = self._columns.setdefault(metric, _Column(len(self._ids)))
            column.values[where] = values[chosen]
            column.fingerprints[where] = as_code[fingerprints[chosen]]
            column.reasons[where] = np.where(np.isnan(values[chosen]), as_reason[reasons[chosen]], ABSENT)

    def _blocks(self) -> Iterator[pa.Table]:
        """All rows in order, a block of samples at a time."""
        names = self.metrics
        columns = [self._columns[name] for name in names]
        words, ids = pa.array(self._words.all, pa.string()), pa.array(self._ids, pa.string())
        for start in range(0, len(self._ids), BLOCK):
            part = slice(start, min(start + BLOCK, len(self._ids)))
            fingerprints = np.stack([c.fingerprints[part] for c in columns], 1)
            present = fingerprints != ABSENT
            rows, which = np.nonzero(present)  # row by row: all metrics of a sample, then the next sample
            reasons = np.stack([c.reasons[part] for c in columns], 1)[present]
            values = np.stack([c.values[part] for c in columns], 1)[present]
            yield pa.table(
                {
                    "sample_id": ids.take(pa.array(rows + start)),
                    "metric": pa.array(names, pa.string()).take(pa.array(which)),
                    "value": pa.array(values, mask=reasons != ABSENT),
                    "reason": words.take(pa.array(reasons, mask=reasons == ABSENT)),
                    "fingerprint": words.take(pa.array(fingerprints[present])),
                },
                schema=schema_of(Score),
            )


def _encoded(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], list[str]]:
    """Codes and the distinct strings they stand for."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist()


def save_set_scores(run: Run, scores: Sequence[SetScore]) -> None:
    """Replace the run's set scores when they differ.

    Raises:
        InputError: the file cannot be written.
    """
    if list(scores) == run.set_scores():
        return
    try:
        run.write_set_scores(list(scores))
    except OSError as error:
        raise unwritable(run.path / "set_scores.parquet", error) from error


def unwritable(file: Path, error: OSError) -> InputError:
    """The error for a table that cannot be written, as on a full disk."""
    file.with_name(file.name + ".partial").unlink(missing_ok=True)
    return InputError(
        f"cannot write {file}: {error.strerror or error}. What was saved before is kept: free some space "
        "(or make the folder writable) and run the same command again to go on."
    )
