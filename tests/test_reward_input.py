"""What users give to the reward verbs by mistake, through the command: exit code 2, one line that says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_clip import write_tiny_clip
from tiny_votes import run_with_votes

from pixeval import cli
from pixeval.images import write_png
from reward_models.agreement import Judged, agreement
from reward_models.judgements import Judgement, picture_of
from reward_models.model import RewardModel

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP, a run with votes on 12 prompts, one with votes on others, and a model of the first."""
    root = tmp_path_factory.mktemp("input")
    write_tiny_clip(root / "clip")
    run_with_votes(root / "run", 12, ("ann", "bo"))
    assert cli.run(words(root, root / "run", root / "model")) == 0
    return root


def words(root: Path, pairs: Path, out: Path, *more: str) -> list[str]:
    """A quick training."""
    quick = ["--detail", "crops", "--members", "2", "--planted", "0", "--folds", "2", "--cache", "none", *more]
    steps = [] if "--steps" in more else ["--steps", "3"]
    return ["reward", "train", str(pairs), "--encoder", str(root / "clip"), "--out", str(out), *steps, *quick]


def refused(capsys: Capture, arguments: list[str], says: str) -> None:
    """Exit code 2 and a single line."""
    capsys.readouterr()
    assert cli.run(arguments) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("pixeval: ") and says in line, line


def test_a_mistake_does_not_occupy_the_folder(world: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    refused(capsys, words(world, tmp_path / "nothere", out), "there is no ")
    refused(capsys, words(world, world / "run", out, "--encoder", "nosuch"), "unknown CLIP 'nosuch'")
    refused(capsys, words(world, world / "run", out, "--steps", "0"), "steps must be at least 1")
    refused(capsys, words(world, world / "run", out, "--learning-rate", "-1"), "learning_rate must be positive")
    refused(capsys, words(world, world / "run", out, "--penalty", "nan"), "penalty must not be negative")
    assert cli.run(words(world, world / "run", out)) == 0
    refused(capsys, words(world, world / "run", out, "--steps", "4"), "other settings")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    refused(capsys, words(world, world / "run", tmp_path / "mine"), "not empty")


def wrong(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda told: {**told, **changes}


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no object": lambda told: [1],
    "members are a word": lambda told: {**told, "design": {**told["design"], "members": "five"}},
    "no members": lambda told: {**told, "design": {**told["design"], "members": 0}},
    "other members": lambda told: {**told, "design": {**told["design"], "members": 3}},
    "encoder is a number": lambda told: {**told, "design": {**told["design"], "encoder": 5}},
    "no design": wrong(design=None),
    "calibration is a list": wrong(calibration=[]),
    "temperature is a word": lambda told: {
        **told,
        "calibration": {"flaws": {**told["calibration"]["flaws"], "temperature": "hot"}},
    },
    "views are a list": wrong(views=[]),
    "detectors are a word": wrong(detectors="x"),
    "facts are a list": wrong(facts=[]),
    "another format": wrong(format=99),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_told(damage: str, world: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(world / "model", tmp_path / "model")
    file = tmp_path / "model" / "reward.json"
    file.write_text(json.dumps(DAMAGES[damage](json.loads(file.read_text()))))
    refused(capsys, ["reward", "evaluate", str(tmp_path / "model"), str(world / "run")], "reward.json")


def test_an_evaluation_on_what_was_trained_on_says_so(world: Path, tmp_path: Path, capsys: Capture) -> None:
    model = str(world / "model")
    assert RewardModel.load(model).trained_on(["never seen"]) == 0
    capsys.readouterr()
    assert cli.run(["reward", "evaluate", model, str(world / "run"), "--cache", "none"]) == 0
    assert "**The model was trained on 12 of these prompts" in capsys.readouterr().out
    one = {"image_0": "images/clean-0.png", "image_1": "images/noisy-0.png", "label_0": 1, "label_1": 0}
    table = world / "run" / "other.jsonl"
    gone = {**one, "prompt": "<b>gone</b>", "image_1": "../../../etc/passwd"}
    table.write_text("\n".join(json.dumps(row) for row in ({**one, "prompt": "猫 <b>"}, gone)))
    capsys.readouterr()
    assert cli.run(["reward", "evaluate", model, str(table), "--cache", "none", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["judgements"], found["trained_on"]) == (1, 0)
    assert "left out 1 comparisons" in printed.err and "etc/passwd" in printed.err
    table.write_text(json.dumps(gone))
    refused(capsys, ["reward", "evaluate", model, str(table)], "put the images there")
    refused(capsys, ["reward", "evaluate", model], "name at least one run")


def test_votes_on_runs_that_are_not_given(world: Path, tmp_path: Path, capsys: Capture) -> None:
    run = run_with_votes(tmp_path / "run", 4, ("ann",))
    run.write_samples([sample for sample in run.samples() if sample.label == "clean"])
    says = "which are in none of the runs; give all the runs that were labelled"
    refused(capsys, ["reward", "evaluate", str(world / "model"), str(run.path)], says)


def test_one_prompt_is_too_few_to_train_on(world: Path, tmp_path: Path, capsys: Capture) -> None:
    write_png(torch.rand(3, 16, 16), tmp_path / "a.png")
    write_png(torch.rand(3, 16, 16), tmp_path / "b.png")
    row = {"prompt": "p", "image_0": "a.png", "image_1": "b.png", "label_0": 1, "label_1": 0}
    (tmp_path / "one.jsonl").write_text(json.dumps(row))
    refused(capsys, words(world, tmp_path / "one.jsonl", tmp_path / "out"), "all comparisons are on one prompt")


def test_agreement_is_also_told_on_the_pairs_of_the_ceiling() -> None:
    a, b = picture_of(b"a", "a"), picture_of(b"b", "b")
    shared = [Judgement("p", a, b, (1.0, 0.0, 0.0), "flaws", annotator=name) for name in ("ann", "bo")]
    alone = Judgement("q", a, b, (0.0, 0.0, 1.0), "flaws", annotator="ann")
    found = agreement([Judged(one, 1.0) for one in (*shared, alone)], [])
    single, several = found["single annotators"], found["single annotators where several judged"]
    assert single is not None and several is not None
    assert (single.value, several.value, several.n) == (pytest.approx(2 / 3), 1.0, 2)
