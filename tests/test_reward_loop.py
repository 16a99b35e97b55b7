"""The loop with learned rewards on tiny models: votes given in the app, a reward, labelled pairs, tuning in pixel space
against it, the result judged by a reward that was not trained against and by flaw detectors, and a report of both."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_clip import CAPTIONS, write_tiny_clip
from tiny_models import save_tiny
from tiny_votes import run_with_votes

from human_eval_app.export import export_votes
from human_eval_app.simulate import SimulatedAnnotator, simulate_votes
from human_eval_app.store import Store
from pixeval.close_loop import preference
from pixeval.pairs import PairsConfig, make_pairs
from pixeval.pipelines import Sampler
from pixeval.rescore import Evaluation
from pixeval.runs import Run
from pixeval.scoring.evaluate import score_run
from reports.build import ReportConfig, build_report
from reports.figures import number
from reward_models.train import RewardTrainConfig, train
from trainers.preference import PreferenceConfig
from trainers.reward import RewardConfig
from trainers.training_log import append, read_log
from trainers.tripwires import warnings_at

LAST = "step-000002"
JUDGES = {"reward": True, "reward_held_out": True, "blur_flaw": False, "noise_flaw": False}
"""Whether more is better."""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of a model that was tuned on what a reward model, learned from the app's votes, says."""
    root = tmp_path_factory.mktemp("loop")
    run = voted(root, "ann", "bo")
    clip = str(write_tiny_clip(root / "clip"))
    train(RewardTrainConfig((run.path,), root / "first", clip, ("crops",), members=2, steps=20, planted=0.0))
    # what judges it shares neither votes, nor annotators, nor encoder, nor views
    (root / "others").mkdir()
    others, clip = voted(root / "others", "cy", "di", seed=1), str(write_tiny_clip(root / "other-clip", seed=1))
    train(RewardTrainConfig((others.path,), root / "second", clip, (), members=2, steps=20, planted=0.0))
    first, second = str(root / "first"), str(root / "second")
    score_run(run, ["reward"], weights={"reward": first})
    made = make_pairs(PairsConfig((run.path,), root / "pairs", "score:reward", temperature=1.0))
    assert made["pairs"] == 24
    save_tiny("sd-epsilon", root / "model")
    (root / "suite.txt").write_text("\n".join((*CAPTIONS, "a red car", "a blue tree")))
    weights = (f"reward={first}", f"reward_held_out={second}")
    return preference(
        PreferenceConfig(
            model=root / "model",
            data=root / "pairs",
            out=root / "tuned",
            steps=2,
            batch_size=2,
            learning_rate=1e-3,
            checkpoint_every=2,
            device="cpu",
            self_test=False,
            reward=RewardConfig("reward", band=(0.0, 1.0), weights=Path(first)),
            evaluate=str(root / "suite.txt"),
            evaluation=Evaluation((1,), Sampler(steps=2), metrics=tuple(JUDGES), weights=weights),
        )
    )


def voted(root: Path, good: str, rough: str, seed: int = 0) -> Run:
    """A run whose two arms were compared in the labelling app, by people who see noise, and the votes exported."""
    run = run_with_votes(root / "run", 24, ())
    worth = {sample.id: float(sample.label == "clean") for sample in run.samples()}
    people = [SimulatedAnnotator(good, noise=0.2), SimulatedAnnotator(rough, noise=0.6)]
    arms = [f"{run.path}:{label}" for label in ("clean", "noisy")]
    given = simulate_votes(arms, {"flaws": worth}, people, root / "votes.sqlite3", seed=seed)
    store = Store.at(root / "votes.sqlite3")
    try:
        export_votes(store, run.path)
    finally:
        store.close()
    assert len(run.votes()) == len(given) >= 48
    return run


def test_two_rewards_and_detectors_judge_what_one_reward_tuned(tuned: Run) -> None:
    assert any(line.get("rewarded", 0) > 0 for line in read_log(tuned))
    labels = {sample.id: sample.label for sample in tuned.samples()}
    found = {(labels[s.sample_id], s.metric) for s in tuned.scores() if s.value is not None}
    assert found == {(label, metric) for label in ("base", LAST) for metric in JUDGES}
    prints = {name: {s.fingerprint for s in tuned.scores() if s.metric == name} for name in JUDGES}
    assert prints["reward"].isdisjoint(prints["reward_held_out"])


def reported(run: Run, out: Path) -> tuple[dict[str, Any], str, str]:
    """``summary.json``, the page and its Markdown."""
    page = build_report(ReportConfig((run.path,), out))
    return json.loads((out / "summary.json").read_text()), page.read_text(), (out / "report.md").read_text()


def test_the_report_shows_both_rewards_and_the_detectors(tuned: Run, tmp_path: Path) -> None:
    summary, page, markdown = reported(tuned, tmp_path)
    values = {(s.sample_id, s.metric): s.value for s in tuned.scores()}
    (comparison,) = summary["comparisons"]
    assert (comparison["baseline"], comparison["candidate"]) == ("base", LAST)
    shown = {row["metric"]: row for row in comparison["metrics"]}
    assert {name: row["higher_is_better"] for name, row in shown.items()} == JUDGES
    for name, row in shown.items():
        sides = [[values[s.id, name] for s in tuned.samples() if s.label == label] for label in ("base", LAST)]
        means = [sum(side) / len(side) for side in sides]
        change = row["change"]
        assert (row["baseline"], row["candidate"]) == pytest.approx(means)
        assert change["value"] == pytest.approx(means[1] - means[0], abs=1e-6)
        assert change["n"] == 8 and change["low"] <= change["value"] <= change["high"]
        line = next(line for line in markdown.splitlines() if line.replace("\\", "").startswith(f"| {name} |"))
        cells = [number(change[key], signed=True) for key in ("value", "low", "high")]
        assert all(cell in line for cell in cells) and "| 8 |" in line, line
        assert name in page and all(cell in page for cell in cells)
        assert ("higher" if JUDGES[name] else "lower") in line or ("↑" if JUDGES[name] else "↓") in line
    assert "None was raised" in page


def test_a_report_tells_when_the_held_out_reward_falls(tuned: Run, tmp_path: Path) -> None:
    """The same run, had its reward risen in training and the held-out one fallen on every image."""
    shutil.copytree(tuned.path, tmp_path / "hacked")
    run = Run.open(tmp_path / "hacked")
    base = {s.prompt_id: s.id for s in run.samples() if s.label == "base"}
    before = {s.sample_id: s.value or 0.0 for s in run.scores() if s.metric == "reward_held_out"}
    fallen = {s.id: before[base[s.prompt_id]] - 1 for s in run.samples() if s.label == LAST}
    scores = [s if s.metric != "reward_held_out" else replace(s, value=fallen.get(s.sample_id, s.value))
              for s in run.scores()]  # fmt: skip
    run.write_scores(scores)
    lines = [{"step": k, "rewarded": 1.0, "reward": 0.1 * k} for k in range(20)]
    (warned,) = warnings_at(run, 2, lines, [])
    append(run.path / "warnings.jsonl", {"step": 2, "warning": warned.name, "text": warned.text, **warned.values})
    summary, page, markdown = reported(run, tmp_path / "report")
    (told,) = summary["tripwires"]
    assert told["name"] == "reward_hacking" and "reward_held_out by -1" in told["text"]
    assert "reward hacking</strong> at step" in page
    assert "reward hacking" in markdown
    row = next(row for row in summary["comparisons"][0]["metrics"] if row["metric"] == "reward_held_out")
    assert row["verdict"] == "worse" and row["change"]["high"] < 0
