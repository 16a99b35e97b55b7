"""Training whose checkpoints are generated from and scored, on a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import CAPTIONS, save_tiny

from pixeval.catalog import select
from pixeval.close_loop import sft
from pixeval.errors import InputError
from pixeval.pipelines import Sampler
from pixeval.rescore import Evaluation, evaluation_metrics
from trainers.sft import SftConfig


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    save_tiny("sd-epsilon", root / "model")
    (root / "data").mkdir()
    rng = np.random.default_rng(0)
    lines = ["file_name,text"]
    for index, caption in enumerate(CAPTIONS):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / "data" / f"{index}.png")
        lines.append(f"{index}.png,{caption}")
    (root / "data" / "metadata.csv").write_text("\n".join(lines) + "\n")
    (root / "suite.txt").write_text("a red apple\na blue car\n")
    return root


def config(world: Path, out: Path, **changes: object) -> SftConfig:
    options: dict[str, object] = {
        "steps": 4,
        "batch_size": 2,
        "checkpoint_every": 2,
        "device": "cpu",
        "self_test": False,
        "evaluate": str(world / "suite.txt"),
        "evaluation": Evaluation(seeds=(1, 2), sampler=Sampler(steps=2), metrics=("quality", "clip_score")),
    }
    return SftConfig(model=world / "model", data=world / "data", out=out, **(options | changes))  # type: ignore[arg-type]


def test_every_checkpoint_and_the_base_are_scored(world: Path, tmp_path: Path) -> None:
    run = sft(config(world, tmp_path / "run"))
    samples = run.samples()
    labels = ["base", "step-000002", "step-000004"]
    assert sorted({s.label for s in samples}) == labels
    asked = [("a blue car", 1), ("a blue car", 2), ("a red apple", 1), ("a red apple", 2)]
    for label in labels:
        assert sorted((s.prompt, s.seed) for s in samples if s.label == label) == asked
    scored = {score.sample_id for score in run.scores() if score.metric == "clip_score" and score.value is not None}
    assert scored == {s.id for s in samples}
    base, last = ({(s.prompt, s.seed): s.sha256 for s in samples if s.label == name} for name in (labels[0], labels[2]))
    assert base != last, "training changes the images"
    before = {path.name: path.read_bytes() for path in run.path.glob("*.parquet")}
    sft(config(world, tmp_path / "run"))
    assert before == {path.name: path.read_bytes() for path in run.path.glob("*.parquet")}


def test_the_best_checkpoint_by_a_metric_stays_beside_the_last(world: Path, tmp_path: Path) -> None:
    """Of four checkpoints; the learning rate is so large that the scores differ."""
    settings = {"steps": 4, "checkpoint_every": 1, "keep_last": 1, "keep_best": "clip_score", "learning_rate": 3e-2}
    evaluation = Evaluation(seeds=(1,), sampler=Sampler(steps=2), metrics=("clip_score",))
    run = sft(config(world, tmp_path / "run", evaluation=evaluation, **settings))
    labels = {sample.id: sample.label for sample in run.samples()}
    scores: dict[str, list[float]] = {}
    for score in run.scores():
        if score.metric == "clip_score" and score.value is not None and labels[score.sample_id] != "base":
            scores.setdefault(labels[score.sample_id], []).append(score.value)
    means = {label: float(np.mean(values)) for label, values in scores.items()}
    assert len(means) == 4
    best = max(sorted(means), key=lambda label: means[label])
    assert best != "step-000004", "or the test says nothing: choose another learning rate"
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == [best, "step-000004"]
    told = json.loads((run.path / "best.json").read_text())
    assert told["step"] == int(best.removeprefix("step-"))
    assert told["value"] == pytest.approx(means[best])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"evaluate": "icons-evil"}, "icons-eval"),
        ({"evaluation": Evaluation(metrics=("clip_scor",))}, "clip_score"),
        ({"evaluation": Evaluation(reference=Path("gone"))}, "gone"),
        ({"evaluation": Evaluation(clip="./no-clip-here")}, "no-clip-here"),
    ],
)
def test_a_bad_evaluation_is_refused_before_training(
    changes: dict[str, object], says: str, world: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        sft(config(world, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_reference_metrics_run_only_with_a_reference(tmp_path: Path) -> None:
    without, given = evaluation_metrics(Evaluation()), evaluation_metrics(Evaluation(reference=tmp_path))
    compared = {spec.name for spec in select(["distribution"]) if "reference_set" in spec.needs}
    assert set(given) - set(without) == compared >= {"frechet_distance", "kernel_distance", "cmmd"}
    assert not {"psnr", "ssim"} & set(given)
