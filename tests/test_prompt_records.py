"""What prompts' records say reaches the metrics that check it: through a suite for folders, through the run itself."""

from pathlib import Path

import pytest
import tiny_published as tiny
import torch
from torch import Tensor

from pixeval.generate import generate_into
from pixeval.images import write_png
from pixeval.records import ObjectSpec, Prompt
from pixeval.runs import Run
from pixeval.scoring.evaluate import ScoreConfig, score, score_run

SUITE = """
[[prompt]]
id = "apple"
text = "a red apple"
questions = ["is it a apple ?", "is there a dog ?"]
objects = [{ name = "apple" }, { name = "dog", count = 0 }]
"""
LONG = "apple " * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, image in zip("abc", tiny.images(), strict=True):
        write_png(image, tmp_path / "shots" / f"{name}.png")
    (tmp_path / "prompts.csv").write_text(f"file_name,prompt\na.png,a red apple\nb.png,{LONG}\n")
    (tmp_path / "suite.toml").write_text(SUITE)
    return tmp_path / "shots"


def test_a_folder_is_scored_with_the_records_of_a_suite(folder: Path, tmp_path: Path) -> None:
    weights = (
        f"question_rate={tiny.write_llava(tmp_path / 'llava')}",
        f"composition={tiny.write_owl(tmp_path / 'owl')}",
        f"image_reward={tiny.write_image_reward(tmp_path / 'reward')}",
    )
    metrics = ("question_rate", "composition", "image_reward")
    config = ScoreConfig(folder, metrics, tmp_path / "prompts.csv", str(tmp_path / "suite.toml"), out=tmp_path / "run")
    config = ScoreConfig(**{**vars(config), "weights": weights})
    score(config)
    run = Run.open(tmp_path / "run")
    name = {sample.id: sample.path for sample in run.samples()}
    rows = {(name[row.sample_id], row.metric): row for row in run.scores()}
    assert len(rows) == 9
    for metric in metrics:
        assert rows["a.png", metric].value is not None
        assert rows["c.png", metric].reason == "no prompt"
        assert rows["b.png", metric].value is None
    assert "no yes/no questions" in str(rows["b.png", "question_rate"].reason)
    assert "no objects to check" in str(rows["b.png", "composition"].reason)
    assert "has 42 tokens" in str(rows["b.png", "image_reward"].reason)
    before = (tmp_path / "run" / "scores.parquet").read_bytes()
    score(config)
    assert (tmp_path / "run" / "scores.parquet").read_bytes() == before


def test_without_records_the_metric_says_so_and_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    score(
        ScoreConfig(
            folder,
            ("question_rate",),
            tmp_path / "prompts.csv",
            out=tmp_path / "run",
            weights=("question_rate=no-such-folder",),
        )
    )
    reasons = {row.reason for row in Run.open(tmp_path / "run").scores()}
    assert reasons == {"no prompt of these images has questions; give a suite that has them (--suite)"}


class Noise:
    """A generator that draws noise."""

    fingerprint = "noise"

    def __call__(self, prompts: list[str], seeds: list[int]) -> Tensor:
        return tiny.images(len(prompts))


def test_a_run_keeps_the_records_of_its_prompts(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "generate", {})
    prompt = Prompt("apple", "a red apple", ("x",), ("is it a apple ?",), (ObjectSpec("apple", "red"),))
    generate_into(run, Noise(), [prompt, Prompt("dog", "a dog")], (0,), "base", 2)
    assert run.prompts() == [prompt, Prompt("dog", "a dog")]
    asked_anew = Prompt("dog", "a dog", (), ("is there a dog ?",))
    generate_into(run, Noise(), [asked_anew], (1,), "more", 2)
    assert run.prompts() == [prompt, asked_anew]
    weights = {"question_rate": str(tiny.write_llava(tmp_path / "llava"))}
    score_run(run, ["question_rate"], weights=weights)
    rows = run.scores()
    assert len(rows) == 3
    assert all(row.value in (0.0, 1.0) for row in rows)
    changed = Prompt("dog", "a dog", (), ("is there a cat ?",))
    score_run(run, ["question_rate"], weights=weights, suite=[changed])
    again = run.scores()
    assert {row.fingerprint for row in again}.isdisjoint({row.fingerprint for row in rows})
    assert torch.tensor([row.value or 0.0 for row in again]).isfinite().all()
