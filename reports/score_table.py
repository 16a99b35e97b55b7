"""Per-image scores as columns: runs of many checkpoints hold millions, too many to be objects each."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pixeval.records import Sample, Score
from pixeval.runs import Run, score_files
from pixeval.tables import read_table, schema_of


@dataclass(frozen=True)
class ScoreTable:
    """Every metric of every sample."""

    metrics: tuple[str, ...]
    column: dict[str, int]
    """Column of each sample id."""
    values: NDArray[np.float64]
    """Metrics x samples; NaN where there is no value, and nowhere else."""
    prints: NDArray[np.int32]
    """Metrics x samples; index into ``fingerprints``, -1 where the metric was not asked."""
    fingerprints: tuple[str, ...]
    reasons: dict[tuple[str, str], str]
    """Why (metric, sample id) has no value."""

    @cached_property
    def row(self) -> dict[str, int]:
        """Row of each metric."""
        return {metric: i for i, metric in enumerate(self.metrics)}

    def columns(self, samples: Iterable[Sample]) -> NDArray[np.int64]:
        """Columns of samples; -1 for those that no metric was asked about."""
        return np.array([self.column.get(sample.id, -1) for sample in samples], dtype=np.int64)

    def values_at(self, columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Metrics x columns; NaN for column -1."""
        if not self.column:
            return np.full((len(self.metrics), len(columns)), np.nan)
        return np.where(columns >= 0, self.values[:, columns], np.nan)

    def prints_at(self, columns: NDArray[np.int64]) -> NDArray[np.int32]:
        """Metrics x columns; -1 for column -1."""
        if not self.column:
            return np.full((len(self.metrics), len(columns)), -1, dtype=np.int32)
        return np.where(columns >= 0, self.prints[:, columns], np.int32(-1))

    def value_of(self, sample: Sample, metric: str) -> float | None:
        """The value of one image, None where there is none."""
        row, column = self.row.get(metric), self.column.get(sample.id)
        if row is None or column is None or np.isnan(self.values[row, column]):
            return None
        return float(self.values[row, column])


def score_rows(run: Run) -> pa.Table:
    """The rows of all score files of a run, those of an interrupted command included; later rows replace earlier."""
    schema = schema_of(Score)
    tables = [read_table(file, Score).cast(schema) for file in score_files(run.path)]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def index_scores(scores: Sequence[Score]) -> ScoreTable:
    """Records as columns; a later record replaces an earlier one of the same sample and metric."""
    rows = [asdict(score) for score in scores]
    return score_table([pa.Table.from_pylist(rows, schema=schema_of(Score))])


def score_table(tables: Sequence[pa.Table]) -> ScoreTable:
    """Rows of tables with the columns of ``Score`` as one table; later rows replace earlier ones."""
    rows = pa.concat_tables(tables).unify_dictionaries()
    samples, columns = _coded(rows, "sample_id")
    metrics, lines = _coded(rows, "metric")
    fingerprints, prints = _coded(rows, "fingerprint")
    shape = (len(metrics), len(samples))
    values = np.full(shape, np.nan)
    values[lines, columns] = rows["value"].to_numpy()
    # Infinities are no values either: a mean over them says nothing.
    values[~np.isfinite(values)] = np.nan
    printed = np.full(shape, -1, dtype=np.int32)
    printed[lines, columns] = prints
    empty = rows.filter(rows["value"].is_null()).select(["metric", "sample_id", "reason"]).to_pylist()
    reasons = {(r["metric"], r["sample_id"]): r["reason"] or "no reason was recorded" for r in empty}
    return ScoreTable(metrics, {name: i for i, name in enumerate(samples)}, values, printed, fingerprints, reasons)


def _coded(rows: pa.Table, name: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Distinct texts of a column in order of appearance, and for each row which one it is."""
    coded = rows[name].combine_chunks().dictionary_encode()
    coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    return tuple(coded.dictionary.to_pylist()), coded.indices.to_numpy().astype(np.int64)
