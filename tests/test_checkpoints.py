"""What is kept of a run: the last and the best checkpoints, and the same bytes whenever it was killed."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_data import save_captioned, tree
from tiny_models import save_tiny
from training_process import start, train

from pixeval.errors import InputError
from pixeval.records import Sample, Score, SetScore
from pixeval.rescore import Evaluation
from pixeval.runs import Run
from trainers.keeping import best_of, keep, rate
from trainers.sft import SftConfig, train_sft
from trainers.training_log import read_lines


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> SftConfig:
    root = tmp_path_factory.mktemp("world")
    return SftConfig(
        model=save_tiny("sd-epsilon", root / "model"), data=save_captioned(root / "data"), out=root / "run", steps=8,
        batch_size=2, accumulate=2, ema=0.9, learning_rate=1e-3, device="cpu", self_test=False, checkpoint_every=2,
        keep_last=2, probe_every=3, probe_rows=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(base: SftConfig) -> Path:
    return train_sft(base).path


def steps_of(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.mark.timeout(600)
def test_killed_in_the_middle_of_accumulation_and_anywhere_ends_in_the_same_bytes(
    base: SftConfig, whole: Path, tmp_path: Path
) -> None:
    """Two kill -9: between the two batches of an optimiser step, and at some moment after it was started again."""
    config, log = replace(base, out=tmp_path / "run"), tmp_path / "run" / "metrics.jsonl"
    first = start(train, config, torch.get_num_threads(), 11)  # the second batch of the sixth step
    first.join()
    assert first.exitcode == -9
    assert len(read_lines(log)) == 5
    second = start(train, config, torch.get_num_threads(), None, 15)  # it cannot reach the end
    while second.is_alive() and len(read_lines(log)) <= 5:
        time.sleep(0.001)  # the log is cut back to the last state, and has its sixth line when training goes on
    time.sleep(0.1)
    second.kill()
    second.join()
    assert second.exitcode == -9
    assert 6 <= len(read_lines(log)) < config.steps
    train_sft(config)
    assert tree(config.out) == tree(whole)


def test_the_last_checkpoints_stay_and_hold_the_average(base: SftConfig, whole: Path) -> None:
    assert steps_of(whole) == ["step-000006", "step-000008"]
    state = load_file(whole / "state/state.safetensors")
    saved = load_file(whole / "checkpoints/step-000008/unet/diffusion_pytorch_model.safetensors")
    raw = {k.removeprefix("module/denoiser/"): v for k, v in state.items() if k.startswith("module/denoiser/")}
    average = {k.removeprefix("module/average/"): v for k, v in state.items() if k.startswith("module/average/")}
    assert all(torch.equal(saved[key], average[key]) for key in saved | average)
    assert any(not torch.equal(saved[key], raw[key]) for key in saved)


def scored_run(path: Path, values: dict[int, list[float]], metric: str = "clip_score") -> Run:
    """A run with checkpoints of these scores, one image for each of as many prompts."""
    run = Run.create(path, "train", {})
    samples, scores = [], []
    for step, found in values.items():
        (path / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
        for i, value in enumerate(found):
            samples.append(
                Sample(f"{step}-{i}", f"step-{step:06d}", f"p{i}", f"prompt {i}", 0, "g", f"{step}-{i}.png", "0")
            )
            scores.append(Score(f"{step}-{i}", metric, value, None, "f"))
    run.write_samples(samples)
    run.write_scores(scores)
    return run


def test_the_best_checkpoint_is_named_and_never_removed(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "run", {2: [0.2, 0.3], 4: [0.5, 0.6], 6: [0.3, 0.3], 8: [0.4, 0.1]})
    keep(run, 1, "clip_score", 8)
    assert steps_of(run.path) == ["step-000004", "step-000008"]
    best = json.loads((run.path / "best.json").read_text())
    assert (best["step"], best["checkpoint"], best["metric"]) == (4, "checkpoints/step-000004", "clip_score")
    assert best["value"] == pytest.approx(0.55)
    assert best["low"] <= best["value"] <= best["high"]
    assert best["n"] == 2
    keep(run, 1, "clip_score", 8)
    assert steps_of(run.path) == ["step-000004", "step-000008"]


def test_the_best_follows_the_direction_of_the_metric_and_unscored_ones_stay(tmp_path: Path) -> None:
    run = scored_run(tmp_path / "run", {2: [0.2], 4: [0.1], 6: [0.3], 8: []}, "blur_flaw")
    assert best_of(rate(run, "blur_flaw", [2, 4, 6, 8]), "blur_flaw").step == 4
    (run.path / "checkpoints" / "step-000010").mkdir()  # of a killed run that did not get to save its state
    keep(run, 1, "blur_flaw", 8)
    assert steps_of(run.path) == ["step-000004", "step-000008", "step-000010"]
    run.write_set_scores([SetScore(f"step-{s:06d}", "vendi_score", v, v - 1, v + 1, 8, "", None, "f")
                          for s, v in ((4, 3.0), (8, 5.0))])  # fmt: skip
    assert best_of(rate(run, "vendi_score", [4, 8]), "vendi_score").step == 8


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"keep_last": 0}, "keep_last"),
        ({"keep_best": "clip_score"}, "evaluate"),
        ({"keep_best": "clip_scor"}, "clip_score"),
        ({"keep_best": "niqe", "evaluate": "icons-eval", "evaluation": Evaluation(metrics=("clip_score",))}, "niqe"),
        ({"probe_every": 0}, "probe_every"),
        ({"probe_every": 2, "probe_rows": 6}, "probe_rows"),
        ({"probe_data": Path("x")}, "probe_every"),
        ({"mixed_precision": "fp16"}, "fp16"),
        ({"min_snr": 0.0}, "min_snr"),
    ],
)
def test_settings_that_cannot_work_are_named(changes: Any, says: str, base: SftConfig, tmp_path: Path) -> None:
    plain = replace(base, out=tmp_path / "run", keep_last=None, probe_every=None)
    with pytest.raises(InputError, match=says):
        train_sft(replace(plain, **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("changes", "package"), [({"optimizer": "adamw8bit"}, "bitsandbytes"),
                                                 ({"tracker": "wandb"}, "wandb")])  # fmt: skip
def test_a_missing_package_is_named(
    changes: Any, package: str, base: SftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("trainers.optimizers", "trainers.tracker"):
        monkeypatch.setattr(f"{module}.find_spec", lambda name: None)
    with pytest.raises(InputError, match=package):
        train_sft(replace(base, out=tmp_path / "run", **changes))
