"""Watching checkpoints: real tiny pipelines that land one after the other, the best with its doubt, the tripwire."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_study import FLAW, make_run
from tiny_models import save_tiny

from pixeval.cli import run as pixeval
from pixeval.errors import InputError
from pixeval.pipelines import Sampler
from pixeval.records import Sample, Score, SetScore
from pixeval.rescore import Evaluation
from pixeval.runs import Run
from reports.arms import Arm
from reports.build import catalogue
from reports.checkpoints import find_checkpoints
from reports.hacking import training_rewards, tripwire
from reports.score_table import index_scores
from reports.tables import score_changes
from reports.trend import Trend, trend
from reports.watch import WatchConfig, look, open_watched, render, status, watch

NOW = 2_000_000_000.0
"""Long after every file was written."""


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("landed")
    save_tiny("sd-epsilon", root / "base")
    (root / "suite.txt").write_text("a red apple\na blue car\n")
    return root


def test_checkpoints_are_scored_as_they_land_once_each(landed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "training"
    folder.mkdir()
    evaluation = Evaluation(seeds=(0,), sampler=Sampler(steps=1), metrics=("blur_flaw", "clip_score"))
    config = WatchConfig(
        folder, str(landed / "suite.txt"), str(landed / "base"), evaluation=evaluation, by="clip_score"
    )
    watched = open_watched(config)
    assert look(config, watched, NOW)["rows"] == []
    copy(landed / "base", folder / "checkpoint-5", 0.9)
    (folder / "checkpoint-10").mkdir()
    (folder / "notes").mkdir()
    found = look(config, watched, NOW)
    assert [row["label"] for row in found["rows"]] == ["step-000005"]
    assert "no model_index.json" in found["failed"]["step-000010"]
    assert status(found) == 1
    before = {path: path.stat().st_mtime_ns for path in (watched.run.path / "images").iterdir()}
    copy(landed / "base", folder / "checkpoint-10", 0.5)
    young = look(config, watched, max(p.stat().st_mtime for p in (folder / "checkpoint-10").rglob("*")) + 1)
    assert young["waiting"] == ["step-000010"]
    found = look(config, watched, NOW)
    assert [row["label"] for row in found["rows"]] == ["step-000005", "step-000010"]
    assert found["failed"] == {}
    assert len(watched.run.samples()) == 3 * 2
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing is generated twice"
    assert "cannot be told from" in found["said"], "two prompts show nothing"
    held = json.loads((watched.run.path / "watch.json").read_text())
    assert held["best"] == found["best"]
    # a new process goes on from what is there, and a changed checkpoint is scored again
    os.utime(folder / "checkpoint-5" / "model_index.json", (NOW - 100, NOW - 100))
    weights = folder / "checkpoint-5" / "unet" / "diffusion_pytorch_model.safetensors"
    old = {s.generator for s in watched.run.samples() if s.label == "step-000005"}
    scale(weights, 0.8)
    again = look(config, open_watched(config), NOW)
    assert {s.generator for s in watched.run.samples() if s.label == "step-000005"} != old
    assert [row["label"] for row in again["rows"]] == ["step-000005", "step-000010"]


def copy(source: Path, target: Path, factor: float) -> None:
    import shutil

    shutil.copytree(source, target, dirs_exist_ok=True)
    scale(target / "unet" / "diffusion_pytorch_model.safetensors", factor)


def scale(file: Path, factor: float) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: value * factor for name, value in load_file(file).items()}, file)


def test_a_run_that_scores_itself_is_only_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", with_votes=False)
    info = run.info
    info["config"]["evaluate"] = "suite.txt"
    run.write_info(info)
    files = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    found = watch(WatchConfig(run.path, by=FLAW, once=True))
    assert found["best"] == "step-000060"
    assert found["second"] == "step-000040"
    assert [row["tied"] for row in found["rows"]] == [False, False, True]
    assert "confirm on other prompts" in found["said"]
    values = [row["value"]["value"] for row in found["rows"]]
    assert values == sorted(values, reverse=True), "shown in the metric's own units: lower is better"
    assert all(row["change"]["low"] > 0 for row in found["rows"]), "turned so that positive is better"
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == files
    assert "best" in render(found)
    assert pixeval(["watch", str(run.path), "--by", FLAW, "--once"]) == 0
    assert pixeval(["watch", str(run.path), "--by", "noise_flw", "--once"]) == 2
    assert "Did you mean 'noise_flaw'" in capsys.readouterr().err


def arm(label: str, values: np.ndarray, metric: str) -> tuple[Arm, list[Score]]:
    samples = [Sample(f"{label}-{i}", label, f"p{i}", "x", 0, label, "x.png", "0") for i in range(len(values))]
    scores = [Score(s.id, metric, float(v), None, "1") for s, v in zip(samples, values, strict=True)]
    step = None if label == "base" else int(label.removeprefix("step-"))
    return Arm(label, 0, label, step, tuple(samples)), scores


def made_trend(means: dict[str, float], seed: int = 0, prompts: int = 40, metric: str = "blur_flaw") -> Trend:
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 1, prompts)
    made = [arm(name, mean + shared + rng.normal(0, 0.2, prompts), metric) for name, mean in means.items()]
    arms = [one for one, _ in made]
    table = index_scores([score for _, scores in made for score in scores])
    base = next((one for one in arms if one.name == "base"), None)
    return trend([one for one in arms if one is not base], base, table, catalogue(), metric)


def test_the_best_is_told_from_others_only_where_the_data_show_it() -> None:
    clear = made_trend({"base": 3.0, "step-1": 2.0, "step-2": 1.0})
    assert (clear.best, clear.second) == ("step-2", "step-1")
    assert [row.tied for row in clear.rows] == [False, True]
    # among five equal checkpoints the best is told from the second in few cases
    claims = sum(not rows[-1].tied if (rows := told(made_trend(EQUAL, seed))) else 0 for seed in range(60))
    assert claims <= 6


EQUAL = {f"step-{i}": 0.0 for i in range(1, 6)}


def told(found: Trend) -> list:
    return [row for row in found.rows if row.label == found.second]


def test_a_family_is_an_index_of_its_metrics() -> None:
    first, one = arm("base", np.arange(10.0), "blur_flaw")
    second, two = arm("step-1", np.arange(10.0) - 1, "blur_flaw")
    other = [replace(score, metric="noise_flaw", value=10 * (score.value or 0)) for score in [*one, *two]]
    table = index_scores([*one, *two, *other])
    found = trend([second], first, table, catalogue(), "flaws")
    spread = float(np.arange(10.0).std(ddof=1))
    assert found.rows[0].change is not None
    # blur fell by one and noise by ten, each a third of its own deviation
    assert found.rows[0].change.value == pytest.approx((1 / spread + 10 / (10 * spread)) / 2)


def test_the_tripwire_needs_a_reward_that_rises_and_something_that_gets_worse() -> None:
    base, one = arm("base", np.random.default_rng(0).normal(0, 1, 30), "blur_flaw")
    worse, two = arm("step-9", np.random.default_rng(0).normal(1, 1, 30), "blur_flaw")
    table = index_scores([*one, *two])
    bad = score_changes(base, worse, table, catalogue(), {})[0]
    good = score_changes(worse, base, table, catalogue(), {})[0]
    rising, flat = [i / 100 for i in range(100)], [0.5] * 100
    found = tripwire("step-9", 9, {"reward": rising}, bad, [])
    assert found is not None
    assert (found.name, found.worse) == ("reward_hacking", ("blur_flaw",))
    assert "blur_flaw by +1" in found.text
    assert tripwire("step-9", 9, {"reward": flat}, bad, []) is None
    assert tripwire("step-9", 9, {"reward": rising}, good, []) is None
    assert tripwire("step-9", 9, {"reward": rising}, bad, [], trained_on="blur_flaw") is None
    unknown = tripwire("step-9", 9, {}, bad, [])
    assert unknown is not None
    assert unknown.name == "regression"
    images = {"base": 20.0, "step-9": 8.0}
    sets = [SetScore(n, "vendi_score", v, v - 1, v + 1, 30, "", None, "f") for n, v in images.items()]
    collapsed = tripwire("step-9", 9, {"reward": rising}, good, sets)
    assert collapsed is not None
    assert collapsed.worse == ("vendi_score",)


def test_rewards_are_read_from_foreign_logs(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "r": 0.5}\nnot json\n[1]\n{"step": 2, "r": NaN}\n{"step": 3, "r": 0.7}\n{"st')
    assert training_rewards(log, "r", None, None) == {"r": [0.5, 0.7]}
    assert training_rewards(log, "r", None, 2) == {"r": [0.5]}
    with pytest.raises(InputError, match=r"no line of .* has a number 'reward'"):
        training_rewards(log, "reward", None, None)
    assert training_rewards(tmp_path / "none.jsonl", "r", None, None) == {}


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        open_watched(WatchConfig(tmp_path / "gone"))
    with pytest.raises(InputError, match="Did you mean 'clip_score'"):
        open_watched(WatchConfig(tmp_path, held_out=("clip_scor",)))
    with pytest.raises(InputError, match="give --suite"):
        open_watched(WatchConfig(tmp_path))
    with pytest.raises(InputError, match="give another folder"):
        open_watched(WatchConfig(tmp_path, "icons-eval", out=tmp_path))
    for name in ("a-5", "b-5"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="both stand for step 5"):
        find_checkpoints(tmp_path, NOW, 10)
    damaged = Run.create(tmp_path / "run", "watch", {})
    (damaged.path / "watch.json").write_text("{")
    assert find_checkpoints(tmp_path / "gone", NOW, 10) == []
