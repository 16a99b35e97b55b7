"""The content-addressed cache, sharding, and what happens when memory or disk run out while scoring."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_score import make_run, write_icons
from tiny_clip import tiny_clip

from pixeval.cli import run as command
from pixeval.errors import InputError
from pixeval.runs import SCORE_PARTS, Run
from pixeval.scoring import image_pass as score_images
from pixeval.scoring.batches import in_halves, prefetch
from pixeval.scoring.cache import Cache, CacheConfig, cache, feature_key, render, score_key
from pixeval.scoring.evaluate import score_folder, score_run
from pixeval.scoring.image_pass import guarded
from pixeval.stats.bootstrap import mean_interval, mean_intervals
from pixeval.zoo.icons import load_icons


@pytest.fixture(scope="module")
def icons() -> np.ndarray:
    return load_icons("heldout").images[:24]


def planted(folder: Path, value: float) -> None:
    """Give every cached score another value, so that what comes from the cache can be told."""
    with sqlite3.connect(folder / "scores-1.sqlite") as database:
        database.execute("UPDATE score SET value = ?", (value,))


def test_the_same_bytes_under_another_name_cost_nothing(tmp_path: Path, icons: np.ndarray) -> None:
    store = Cache(tmp_path / "cache")
    score_folder(write_icons(tmp_path / "a", icons[:6]), tmp_path / "out-a", ["contrast", "noise"], cache=store)
    planted(tmp_path / "cache", 7.0)
    moved = write_icons(tmp_path / "b", icons[3:8])
    run = score_folder(moved, tmp_path / "out-b", ["contrast", "noise"], cache=store)
    files = {sample.id: sample.path for sample in run.samples()}
    values = {(files[s.sample_id], s.metric): s.value for s in run.scores()}
    known, new = ("icon-000.png", "icon-001.png", "icon-002.png"), ("icon-003.png", "icon-004.png")
    assert all(values[name, metric] == 7.0 for name in known for metric in ("contrast", "noise"))
    assert all(values[name, metric] != 7.0 for name in new for metric in ("contrast", "noise"))


def test_a_prompt_belongs_to_the_key_where_the_metric_reads_it(tmp_path: Path, icons: np.ndarray) -> None:
    store, encoder = Cache(tmp_path / "cache"), tiny_clip(tmp_path / "clip")
    metrics = ["contrast", "clip_score"]
    score_run(make_run(tmp_path / "a", icons[:2], prompts=("a red apple",)), metrics, encoder=encoder, cache=store)
    planted(tmp_path / "cache", 7.0)
    run = make_run(tmp_path / "b", icons[:2], prompts=("a grey cat",))
    score_run(run, metrics, encoder=encoder, cache=store)
    assert {s.value for s in run.scores() if s.metric == "contrast"} == {7.0}
    assert 7.0 not in {s.value for s in run.scores() if s.metric == "clip_score"}
    assert (
        len({score_key("ab", "c", "d"), score_key("a", "bc", "d"), score_key("ab", None, "d"), feature_key("ab", "d")})
        == 4
    )


def test_features_are_encoded_once_for_all_runs(tmp_path: Path, icons: np.ndarray) -> None:
    seen = 0

    def count(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += len(inputs[0])

    store, encoder = Cache(tmp_path / "cache"), tiny_clip(tmp_path / "clip")
    encoder.model.visual.register_forward_pre_hook(count)  # type: ignore[union-attr, arg-type]
    reference = write_icons(tmp_path / "reference", icons[12:])
    runs = [make_run(tmp_path / name, icons[:12]) for name in ("a", "b")]
    score_run(runs[0], ["clip_score"], encoder=encoder, cache=store)
    for run in runs:
        score_run(run, ["alignment", "kernel_distance"], encoder=encoder, reference=reference, cache=store)
    assert seen == 12 + 12
    first, second = (run.set_scores()[0] for run in runs)
    assert (first.value, first.low) == (second.value, second.low)


def test_a_useless_cache_never_ends_a_run(tmp_path: Path, icons: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "scores-1.sqlite").write_bytes(b"this is no database, whatever its name says " * 50)
    run = make_run(tmp_path / "run", icons[:2])
    score_run(run, ["contrast"], cache=Cache(tmp_path / "cache"))
    assert all(score.value is not None for score in run.scores())
    assert "without the score cache" in caplog.text
    (tmp_path / "file").touch()
    assert Cache(tmp_path / "file" / "below").scores([b"x"]) == {}
    with pytest.raises(InputError, match="delete it"):
        cache(CacheConfig(folder=str(tmp_path / "cache")))


def test_the_cache_is_shown_and_pruned(tmp_path: Path, icons: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cache"
    images = write_icons(tmp_path / "images", icons[:3], size=32)
    words = ["score", str(images), "--out", str(tmp_path / "out"), "--cache", str(folder), "--metrics"]
    assert command([*words, "contrast", "noise", "clip_score"]) == 0
    capsys.readouterr()
    assert command(["cache", "--folder", str(folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {(row["name"], row["n"]) for row in shown["entries"]} == {("contrast", 3), ("noise", 3)}
    assert cache(CacheConfig(("noise",), prune=True, older_than=1, folder=str(folder)))["removed"] == 0
    after = cache(CacheConfig(("noise",), prune=True, folder=str(folder)))
    assert after["removed"] == 3
    assert [row["name"] for row in after["entries"]] == ["contrast"]
    assert "removed 3" in render(after)
    with pytest.raises(InputError, match="nothing is cached for 'noise'"):
        cache(CacheConfig(("noise",), prune=True, folder=str(folder)))
    with pytest.raises(InputError, match="negative"):
        cache(CacheConfig(older_than=-1))
    assert "empty" in render(cache(CacheConfig(folder=str(tmp_path / "nowhere"))))


def test_the_exit_code_tells_of_failures_only(tmp_path: Path, icons: np.ndarray) -> None:
    images = write_icons(tmp_path / "images", icons[:2], size=32)
    words = ["score", str(images), "--metrics", "contrast", "noise", "clip_score", "--out"]
    assert command([*words, str(tmp_path / "fine")]) == 0  # images without prompts are no failure
    (images / "broken.png").write_bytes(b"\x89PNG")
    assert command([*words, str(tmp_path / "broken")]) == 1


def test_rows_are_kept_in_parts_until_all_are_there(tmp_path: Path, icons: np.ndarray) -> None:
    run = make_run(tmp_path / "run", icons)
    score_run(run, ["contrast"])
    whole = run.scores()

    original = score_images.ImagePass._score_batch
    batches = 0

    def interrupted(self: score_images.ImagePass, batch: object) -> int:
        nonlocal batches
        batches += 1
        if batches == 4:
            raise KeyboardInterrupt
        return original(self, batch)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_images.ImagePass, "_score_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            score_run(run, ["noise"], batch_size=4, save_every=4)
    assert len(list((run.path / SCORE_PARTS).glob("*.parquet"))) == 3
    found = run.scores()
    assert len(found) == len(whole) + 12
    assert found[: len(whole)] == whole
    score_run(run, ["noise"], batch_size=4)
    assert not (run.path / SCORE_PARTS).exists()
    other = make_run(tmp_path / "other", icons)
    score_run(other, ["contrast", "noise"], batch_size=4)
    assert {(s.sample_id, s.metric): s for s in run.scores()} == {(s.sample_id, s.metric): s for s in other.scores()}


def test_two_processes_share_the_images_out(tmp_path: Path, icons: np.ndarray) -> None:
    folder = write_icons(tmp_path / "images", icons[:10], size=48)
    (folder / "broken.png").write_bytes(b"\x89PNG")
    words = ["score", str(folder), "--metrics", "contrast", "noise", "--batch-size", "2", "--cache", "none", "--out"]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "pixeval"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    shared = subprocess.run(
        [*launch, *words, str(tmp_path / "shared")], env=environment, capture_output=True, text=True, check=False
    )
    assert shared.stdout.count("scores of") == 1, shared.stderr[-2000:]
    assert command([*words, str(tmp_path / "alone")]) == 1
    assert (tmp_path / "shared/scores.parquet").read_bytes() == (tmp_path / "alone/scores.parquet").read_bytes()
    assert not (tmp_path / "shared" / SCORE_PARTS).exists()
    assert len(Run.open(tmp_path / "shared").scores()) == 22


def test_a_batch_that_does_not_fit_is_halved() -> None:
    sizes: list[int] = []

    def compute(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("too much")
        return images.flatten(1).sum(1)

    images = torch.arange(10.0).view(10, 1)
    assert in_halves(compute, images).tolist() == list(range(10))
    assert sizes == [10, 5, 2, 3, 5, 2, 3]
    assert guarded(lambda which: compute(images[which]), 10) == list(range(10))

    def never(which: list[int]) -> torch.Tensor:
        raise torch.OutOfMemoryError("too much")

    assert guarded(never, 2) == ["the metric failed: OutOfMemoryError: too much"] * 2
    with pytest.raises(torch.OutOfMemoryError):
        in_halves(lambda _: never([]), images)


def test_prefetching_keeps_the_order_and_passes_errors_on() -> None:
    ahead: list[int] = []

    def prepare(item: int):  # type: ignore[no-untyped-def]
        ahead.append(item)
        return lambda: 1 / (item - 7) if item == 7 else item * item

    found = []

    def consume() -> None:
        for item, square in prefetch(range(20), prepare):
            found.append((item, square))
            assert len(ahead) <= item + 3

    with pytest.raises(ZeroDivisionError):
        consume()
    assert found == [(i, i * i) for i in range(7)]


def test_many_means_are_those_of_one_at_a_time() -> None:
    rng = np.random.default_rng(0)
    values, clusters = rng.normal(size=(40, 3)), [f"p{i // 3}" for i in range(40)]
    together = mean_intervals(values, clusters=clusters)
    for column, found in enumerate(together):
        alone = mean_interval(values[:, column].tolist(), clusters=clusters)
        assert (found.value, found.low, found.high, found.n) == pytest.approx(
            (alone.value, alone.low, alone.high, alone.n)
        )
    # the interval of a mean of independent values is close to the normal one
    wide = mean_intervals(rng.normal(size=(4000, 1)))[0]
    assert wide.high is not None
    assert wide.low is not None
    assert wide.high - wide.low == pytest.approx(2 * 1.96 / 4000**0.5, rel=0.08)


def test_ray_gives_the_rows_of_one_process(tmp_path: Path, icons: np.ndarray) -> None:
    ray = pytest.importorskip("ray")
    folder = write_icons(tmp_path / "images", icons[:10], size=48)
    (folder / "broken.png").write_bytes(b"\x89PNG")
    metrics, encoder = ["contrast", "blur_flaw", "clip_score"], tiny_clip(tmp_path / "clip")
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("file_name,prompt\n" + "".join(f"icon-00{i}.png,a red apple\n" for i in range(8)))
    options = {"prompts": prompts, "encoder": encoder, "batch_size": 4, "save_every": 4}
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    try:
        score_folder(folder, tmp_path / "ray", metrics, engine="ray", cache=Cache(tmp_path / "cache"), **options)
        again = score_folder(
            folder, tmp_path / "again", metrics, engine="ray", cache=Cache(tmp_path / "cache"), **options
        )
    finally:
        ray.shutdown()
    alone = score_folder(folder, tmp_path / "alone", metrics, **options)
    for out in ("ray", "again"):
        assert (tmp_path / out / "scores.parquet").read_bytes() == (alone.path / "scores.parquet").read_bytes()
    assert len(again.scores()) == 33
