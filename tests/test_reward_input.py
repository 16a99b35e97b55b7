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
from pixeval.pair_folder import export_pairs
from pixeval.records import Pair
from pixeval.validation.human_labels import Choice, read_labels
from reward_models.agreement import Judged, agreement
from reward_models.judgements import Judgement, from_pairs, from_table, picture_of
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


def test_soft_labels_of_tables_are_kept(world: Path, tmp_path: Path, capsys: Capture) -> None:
    write_png(torch.rand(3, 16, 16), tmp_path / "a.png")
    write_png(torch.rand(3, 16, 16), tmp_path / "b.png")
    one = {"prompt": "p", "image_0": "a.png", "image_1": "b.png"}
    labels = [{"label_0": 0.7, "label_1": 0.3}, {"label_0": 0, "label_1": 1, "soft_label": 0.8}]
    labels += [{"label_0": 1, "label_1": 0, "soft_label": None}, {"label_0": 0.5, "label_1": 0.5, "soft_label": 0.5}]
    table = tmp_path / "soft.jsonl"
    table.write_text("\n".join(json.dumps({**one, **label}) for label in labels))
    shares = [judgement.shares for judgement in from_table(table)]
    assert [row[0] for row in shares] == pytest.approx([0.7, 0.2, 1.0, 0.0]) and shares[3] == (0.0, 1.0, 0.0)
    # the published protocols count them as they are published
    assert [choice.human for choice in read_labels(table) if isinstance(choice, Choice)] == [1.0, 0.0, 1.0, 0.5]
    table.write_text(json.dumps({**one, "label_0": 0, "label_1": 1, "soft_label": 0.2}))
    refused(capsys, words(world, table, tmp_path / "out"), "soft_label is 0.2; it is the preferred image's")


def test_both_tables_of_pairs_say_the_same(tmp_path: Path) -> None:
    ids = [f"s{k}" for k in range(4)]
    for number, name in enumerate(ids):
        write_png(torch.full((3, 8, 8), 0.1 * number), tmp_path / f"{name}.png")
    sides = [("s0", "s1", 0.9), ("s3", "s2", 0.6)]
    pairs = [
        Pair("p", "p", a, b, str(tmp_path / f"{a}.png"), str(tmp_path / f"{b}.png"), "x", "y", soft, "score:m")
        for a, b, soft in sides
    ]
    assert export_pairs(pairs, tmp_path / "pairs", "none") == []
    for found in (from_pairs(tmp_path / "pairs"), from_table(tmp_path / "pairs" / "pickapic" / "train.parquet")):
        chosen = [max(j.shares[0], j.shares[2]) for j in found]
        first = [(j.first if j.shares[0] > 0.5 else j.second).sha256 for j in found]
        assert chosen == pytest.approx([0.9, 0.6])
        assert first == [judgement.first.sha256 for judgement in from_pairs(tmp_path / "pairs")]


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
