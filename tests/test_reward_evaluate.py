"""Rewards and metrics against choices: what is accepted by name, the figures, and the files that are written."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_published as tiny
import torch
from safetensors.torch import save_file
from tiny_clip import write_tiny_clip
from tiny_votes import SIDE, run_with_votes
from torch import Tensor

from pixeval import cli
from pixeval.catalog import find, load
from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.images import read_image
from pixeval.records import Vote
from pixeval.runs import Run
from pixeval.tables import write_records
from reward_models.agreement import Judged, breakdowns, majorities
from reward_models.evaluate import RewardEvaluateConfig, evaluate, judge_source
from reward_models.judgements import Judgement, Picture, read_judgements
from reward_models.model import RewardModel
from reward_models.sources import Source, open_source
from reward_models.train import RewardTrainConfig, train

PROTOCOLS = {"ImageReward", "HPSv2", "PickScore", "GenAI-Bench", "MMRB2"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Smooth images and the same under noise; all who vote prefer the smooth ones. Half of them on appeal."""
    run = run_with_votes(tmp_path_factory.mktemp("votes") / "run", 12, ("ann", "bo"))
    votes = [replace(v, question="appeal") if int(v.prompt_id[1:]) % 2 else v for v in run.votes()]
    write_records(run.path / "votes" / "study.parquet", votes, Vote)
    return run


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model."""
    root = tmp_path_factory.mktemp("reward")
    clip = write_tiny_clip(root / "clip")
    quick: dict[str, Any] = {"members": 2, "steps": 30, "folds": 3, "planted": 0.0, "detail": ("flaws",)}
    train(RewardTrainConfig((run.path,), root / "mine", str(clip), cache="none", **quick))
    return root / "mine"


def test_what_is_written_is_what_is_returned(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    found = evaluate(RewardEvaluateConfig(str(folder), (run.path,), out, cache="none"))
    assert json.loads((out / "evaluation.json").read_text()) == found
    assert (found["model"], found["judgements"], found["prompts"], found["trained_on"]) == ("mine", 24, 12, 12)
    assert set(found["questions"]) == {"flaws", "appeal", "overall"}
    text = (out / "evaluation.md").read_text()
    assert "the figures flatter it" in text
    for question, row in found["questions"].items():
        assert f"\n## {question}\n" in text
        shown = row["protocols"]["MMRB2"]
        assert f"| protocol of MMRB2 | {shown['value']:.3f} [{shown['low']:.3f}, {shown['high']:.3f}] (n = " in text
        assert f"| ECE, raw | {row['calibration']['raw']['ece']['value']:.3f} [" in text
        picture = (out / f"reliability-{question}.svg").read_text()
        assert picture.startswith("<?xml") and picture.count('id="LineCollection') >= len(row["calibration"])
    people = found["questions"]["flaws"]["ceiling"]["single"]
    assert (people["value"], people["n"]) == (1.0, 6)
    (out / "evaluation.json").rename(out / "before.json")
    evaluate(RewardEvaluateConfig(str(folder), (run.path,), out, cache="none"))
    assert (out / "evaluation.json").read_bytes() == (out / "before.json").read_bytes()


def picture(name: str) -> Picture:
    return Picture(hashlib.sha256(name.encode()).hexdigest(), name, None, b"")


def test_breakdowns_are_shares_of_what_they_name() -> None:
    a, b = picture("a"), picture("b")
    rows = [
        # prompt, share of votes for the first, reward's difference, tags
        ("p0", 1.0, 0.1, ("people",)),  # all voted for the first: margin 1, right
        ("p1", 0.0, 0.2, ("people", "text")),  # margin 1, wrong
        ("p2", 0.75, 5.0, ("text",)),  # margin one half, right
        ("p3", 0.4, -6.0, ()),  # margin one fifth, right
        ("p4", 0.6, 0.0, ()),  # margin one fifth, a tie of the reward: half right
        ("p5", 0.5, 9.0, ("people",)),  # not decided
    ]
    judged = [
        Judged(Judgement(prompt, a, b, (share, 0.0, 1 - share), tags=tags), gap) for prompt, share, gap, tags in rows
    ]
    found = breakdowns(judged, majorities(judged))

    def figures(kind: str) -> dict[str, tuple[float, int] | None]:
        cells = found[kind]
        return {name: None if cell is None else (cell.value, cell.n) for name, cell in cells.items()}

    assert figures("margin") == {"0.00 to 0.33": (0.75, 2), "0.33 to 0.67": (1.0, 1), "0.67 to 1.00": (0.5, 2)}
    assert figures("tag") == {"people": (0.5, 2), "text": (0.5, 2)}
    assert figures("side") == {"first preferred": (pytest.approx(2.5 / 3), 3), "second preferred": (0.5, 2)}
    by_size = list(figures("difference").values())
    assert by_size[0] == (0.75, 2) and by_size[-1] == (1.0, 2)


@pytest.mark.parametrize("name", ["noise", "clip_score", "pickscore", "laion_aesthetic", "reward"])
def test_a_metric_is_evaluated_as_a_model_is(
    name: str, run: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_tiny_clip(tmp_path / "clip")
    width = ClipEncoder.load(str(clip))(torch.zeros(1, 3, 32, 32)).shape[1]
    save_file({"weight": torch.ones(1, width), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    weights = {"laion_aesthetic": tmp_path / "head.safetensors", "reward": folder}
    if name == "pickscore":
        weights[name] = tiny.write_clip(tmp_path / "pickscore")
    words = ["reward", "evaluate", name, str(run.path), "--out", str(tmp_path / "out"), "--clip", str(clip)]
    words += [
        "--cache",
        str(tmp_path / "cache"),
        *(["--weights", f"{name}={weights[name]}"] if name in weights else []),
    ]
    assert cli.run(words) == 0
    assert f"Reward {name}" in capsys.readouterr().out
    told = (tmp_path / "out" / "evaluation.json").read_text()
    found = json.loads(told)
    assert found["model"] == name and found["fingerprint"]
    assert found["trained_on"] == (12 if name == "reward" else 0)
    assert set(found["questions"]) == {"flaws", "appeal", "overall"}
    row = found["questions"]["overall"]
    assert set(row["protocols"]) == PROTOCOLS and row["ceiling"]["single"]["value"] == 1.0
    assert row["protocols"]["PickScore"]["threshold"] is not None
    # log odds are probabilities, and other values are none
    assert set(row["calibration"]) == ({"raw"} if name in ("pickscore", "reward") else set())
    assert (tmp_path / "out" / "reliability-overall.svg").exists() == (name in ("pickscore", "reward"))
    if name == "noise":  # lower is better, and the noisy ones lose
        assert row["protocols"]["MMRB2"]["value"] == row["agreement"]["majority"]["value"] == 1.0
        assert "no probabilities" in (tmp_path / "out" / "evaluation.md").read_text()
    assert cli.run(words) == 0
    assert (tmp_path / "out" / "evaluation.json").read_text() == told  # from the cache


def test_values_are_those_of_the_metric_and_what_has_none_is_counted(run: Run) -> None:
    judgements = read_judgements([run.path])
    metric = load(find("noise"))

    class Picky:
        fingerprint = "picky/1"

        def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
            return torch.stack([metric(image[None])[0] for image in images])

        def hindrance(self, prompt: str) -> str | None:
            return "an odd number" if int(prompt.split()[-1]) % 2 else None

    found, _ = judge_source(Source("picky", Picky(), -1.0, False, "cpu"), judgements)
    assert found["judgements"] == 12 and found["unreadable"] == {"an odd number": 12}
    assert set(found["questions"]) == {"flaws", "overall"}
    gaps = []
    for sample in run.samples()[:2]:
        gaps.append(float(metric(read_image(run.image(sample))[None])))
    (first,) = (j for j in judgements if j.prompt == run.samples()[0].prompt and j.annotator == "ann")
    one = judge_source(Source("picky", Picky(), -1.0, False, "cpu"), [first])[0]
    assert one["questions"]["overall"]["protocols"]["GenAI-Bench"]["epsilon"] == 0.0
    assert gaps[0] < gaps[1] and one["questions"]["overall"]["agreement"]["single annotators"]["value"] == 1.0
    small = Source("small", Picky(), -1.0, False, "cpu", least_side=SIDE + 1)
    with pytest.raises(InputError, match=f"no comparison has two images with a value.*{SIDE}x{SIDE} pixels"):
        judge_source(small, judgements)


def test_a_name_of_the_catalogue_is_the_metric_and_not_a_folder_beside_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("noise").symlink_to(folder)
    assert open_source("noise").fingerprint == load(find("noise")).fingerprint
    assert open_source("./noise").name == "mine"
    with pytest.raises(InputError, match="there is no folder rewards/none"):
        open_source("rewards/none")


def test_one_question_s_head_is_reached_by_its_name(folder: Path) -> None:
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    prompts, model = ["a red apple", "a green tree"], RewardModel.load(folder)
    found = {}
    for question in ("flaws", "appeal", "overall"):
        expected = model.opinion(images, prompts, question)
        scorer = load(find("reward"), weights=f"{folder}#{question}")
        torch.testing.assert_close(scorer(images, prompts), expected.mean)
        source = open_source(f"{folder}#{question}")
        assert source.name == f"mine#{question}" and source.fingerprint == scorer.fingerprint
        torch.testing.assert_close(source.values(images, prompts), expected.mean)
        rows = source.rewards(list(images), prompts)
        assert rows == [pytest.approx(row) for row in zip(*(x.tolist() for x in vars(expected).values()), strict=True)]
        found[question] = scorer.fingerprint
    assert len(set(found.values())) == 3
    assert load(find("reward"), weights=str(folder)).fingerprint == found["overall"]
    with pytest.raises(InputError, match=r"unknown question of .*mine: 'alignment'"):
        load(find("reward"), weights=f"{folder}#alignment")


def test_a_served_conservative_reward_is_conservative(folder: Path) -> None:
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    source = open_source("reward_conservative", [f"reward_conservative={folder}#flaws"])
    values = source.values(images, ["a red apple", "a green tree"])
    served = source.rewards(list(images), ["a red apple", "a green tree"])
    assert [row[0] for row in served] == pytest.approx(values.tolist())
    assert all(row[1] is not None and row[1] > 0 for row in served)
