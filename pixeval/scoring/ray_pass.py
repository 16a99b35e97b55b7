"""The pass over the images on Ray Data: chunks travel to workers that hold the metrics, rows come back.

The stages are those of :class:`pixeval.scoring.image_pass.ImagePass`, on the same chunks, so the numbers are too. Image
files must be reachable under the same path on every machine of the cluster.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from typing import Any

from tqdm import tqdm

from pixeval.errors import InputError
from pixeval.records import Sample, Score
from pixeval.scoring.batches import chunks
from pixeval.scoring.features import FeatureStore
from pixeval.scoring.image_pass import ImagePass
from pixeval.tables import schema_of


def run_on_ray(images: ImagePass, batch_size: int, save_every: int, progress: bool) -> None:
    """Score what is missing, with one worker per GPU, or per CPU where the metrics run on the CPU.

    Unlike the pass in one process, chunks in which nothing is missing are not read, so a changed file goes unnoticed.

    Joins the cluster that ``RAY_ADDRESS`` names, else starts a local one.

    Raises:
        InputError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise InputError("--engine ray needs Ray; install it with: pip install 'pixeval[ray]'")
    import ray
    import ray.data

    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="WARNING")
    ray.data.DataContext.get_current().enable_progress_bars = False
    todo = []
    for samples in chunks(images.images.samples, batch_size):
        if images.recall(samples):
            todo.append(samples)
        else:
            images.put_hindrances(samples)
    by_id = {sample.id: sample for samples in todo for sample in samples}
    metrics = {metric.spec.name: metric for metric in images.metrics}
    with tqdm(total=len(by_id), desc="score", unit="image", file=sys.stderr, disable=None if progress else True) as bar:
        unsaved = 0
        for rows in _worked(images, todo) if todo else ():
            images.table.put(rows)
            images.remember((by_id[row.sample_id], metrics[row.metric], row) for row in rows)
            done = len({row.sample_id for row in rows})
            bar.update(done)
            unsaved += done
            if unsaved >= save_every:
                images.table.save()
                unsaved = 0
    images.table.save()


def _worked(images: ImagePass, todo: Sequence[Sequence[Sample]]) -> Iterator[list[Score]]:
    """The rows of every chunk, in the order in which they come back."""
    import ray
    import ray.data

    kind = "GPU" if images.device.startswith("cuda") else "CPU"
    free = int(ray.cluster_resources().get(kind, 1)) - (kind == "CPU")  # one CPU is left for reading the data set
    features = FeatureStore(images.features.encoder) if images.features is not None else None
    bare = replace(images.images, samples=())
    shipped = ImagePass(
        bare, images.metrics, _Collected(), features, images.references, images.device, keep_features=False
    )
    worked = ray.data.from_items(
        [{"samples": json.dumps([asdict(s) for s in samples])} for samples in todo]
    ).map_batches(
        _Worker,
        fn_constructor_args=(ray.put(shipped),),
        batch_size=1,
        concurrency=max(1, min(len(todo), free)),
        **{f"num_{kind.lower()}s": 1},
    )
    for batch in worked.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield [Score(**row) for row in batch.to_pylist()]


class _Collected:
    """Stands for the table in a worker."""

    def __init__(self) -> None:
        self.rows: list[Score] = []

    def has(self, sample_id: str, metric: str, fingerprint: str) -> bool:
        return False

    def put(self, scores: Iterable[Score]) -> None:
        self.rows += scores

    def save(self) -> None:
        return


class _Worker:
    """Holds the metrics and scores one chunk at a time."""

    def __init__(self, images: Any) -> None:
        import ray

        self.images: ImagePass = ray.get(images) if isinstance(images, ray.ObjectRef) else images

    def __call__(self, batch: Any) -> Any:
        import pyarrow as pa

        (text,) = batch["samples"]
        samples = tuple(Sample(**fields) for fields in json.loads(text))
        self.images.table = found = _Collected()
        self.images.score_chunk(samples, self.images.prepare(samples)())
        return pa.Table.from_pylist([asdict(row) for row in found.rows], schema=schema_of(Score))
