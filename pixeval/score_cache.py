"""What has been scored already: the rows of ``scores.parquet``, looked up, added to and written."""

from collections.abc import Iterable, Sequence

from pixeval.catalog import CATALOG
from pixeval.errors import InputError
from pixeval.records import Sample, Score, SetScore
from pixeval.runs import Run


class ScoreTable:
    """One row per sample and metric; a row under another fingerprint is replaced.

    Rows of samples that the run no longer has are dropped; rows of metrics that are not asked for now are kept.
    """

    def __init__(self, run: Run, samples: Sequence[Sample]) -> None:
        self._run = run
        self._position = {sample.id: position for position, sample in enumerate(samples)}
        self._metric = {spec.name: position for position, spec in enumerate(CATALOG)}
        found = run.scores()
        self._rows = {(score.sample_id, score.metric): score for score in found if score.sample_id in self._position}
        self._changed = len(self._rows) != len(found)

    def has(self, sample_id: str, metric: str, fingerprint: str) -> bool:
        """Whether there is a value under this fingerprint. A row without a value is tried again."""
        row = self._rows.get((sample_id, metric))
        return row is not None and row.value is not None and row.fingerprint == fingerprint

    def put(self, scores: Iterable[Score]) -> None:
        """Add or replace rows; :meth:`save` writes them."""
        for score in scores:
            key = (score.sample_id, score.metric)
            self._changed |= self._rows.get(key) != score
            self._rows[key] = score

    def rows(self) -> list[Score]:
        """All rows: samples in the run's order, metrics in the catalogue's, unknown metrics last by name."""
        last = len(self._metric)
        return sorted(
            self._rows.values(),
            key=lambda row: (self._position[row.sample_id], self._metric.get(row.metric, last), row.metric),
        )

    def save(self) -> None:
        """Replace the file when a row has changed.

        Raises:
            InputError: it cannot be written; the file of the last save is still whole.
        """
        if not self._changed:
            return
        try:
            self._run.write_scores(self.rows())
        except OSError as error:
            raise unwritable(self._run, "scores.parquet", error) from error
        self._changed = False


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
        raise unwritable(run, "set_scores.parquet", error) from error


def unwritable(run: Run, name: str, error: OSError) -> InputError:
    """The error for a table that cannot be written, as on a full disk."""
    (run.path / f"{name}.partial").unlink(missing_ok=True)
    return InputError(
        f"cannot write {run.path / name}: {error.strerror or error}. What was saved before is kept: free some space "
        "(or make the folder writable) and run the same command again to go on."
    )
