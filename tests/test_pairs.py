"""Pairs from votes and scores, and the data set they become."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pixeval.errors import InputError
from pixeval.images import write_png
from pixeval.pair_folder import export_pairs, load_pairs
from pixeval.pairs import Condition, PairsConfig, conditions, from_scores, from_votes, make_pairs
from pixeval.records import Choice, Question, Sample, Score, Vote
from pixeval.runs import Run
from pixeval.tables import write_records

PROMPTS = ("a red <b>fox</b>", "two cats, 'quoted'")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two labels, two prompts, one seed: images of four different greys."""
    run = Run.create(tmp_path / "run", "generate", {})
    samples = []
    for i, label in enumerate(("base", "tuned")):
        for j, prompt in enumerate(PROMPTS):
            path = f"images/{label}-{j}.png"
            digest = write_png(torch.full((3, 8, 8), 0.2 * i + 0.1 * j), run.path / path)
            samples.append(Sample(f"{label}{j}", label, f"p{j}", prompt, 0, label, path, digest))
    run.write_samples(samples)
    return run


def vote(number: int, question: Question, choice: Choice, prompt: int = 0, simulated: bool = False) -> Vote:
    """A vote with base on the left."""
    return Vote(
        id=f"v{number}",
        annotator=f"annotator{number}",
        question=question,
        prompt_id=f"p{prompt}",
        prompt=PROMPTS[prompt],
        left=f"base{prompt}",
        right=f"tuned{prompt}",
        left_label="base",
        right_label="tuned",
        choice=choice,
        seconds=1.0,
        answered_at=f"2026-01-01T00:00:{number:02d}+00:00",
        simulated=simulated,
    )


def paths(run: Run) -> dict[str, Path]:
    return {s.id: run.image(s) for s in run.samples()}


def test_the_tie_policy_decides_the_soft_label(run: Run) -> None:
    votes = [
        vote(1, "appeal", "right"),
        vote(2, "appeal", "right"),
        vote(3, "appeal", "left"),
        vote(4, "appeal", "tie"),
    ]
    (dropped,) = from_votes(votes, paths(run), ("appeal",), ties="drop")
    (half,) = from_votes(votes, paths(run), ("appeal",), ties="half")
    assert (dropped.chosen, dropped.rejected, dropped.n) == ("tuned0", "base0", 3)
    assert dropped.soft_label == pytest.approx(2 / 3)
    assert (half.n, half.soft_label) == (4, pytest.approx(2.5 / 4))
    assert (half.source, half.chosen_label, half.simulated) == ("votes:appeal", "tuned", False)
    assert from_votes(votes, paths(run), ("appeal",), min_votes=4) == []


def test_fewer_flaws_win_over_appeal(run: Run) -> None:
    votes = [vote(1, "flaws", "left"), vote(2, "appeal", "right"), vote(3, "appeal", "right")]
    (pair,) = from_votes(votes, paths(run), ("appeal", "flaws"))
    assert (pair.chosen, pair.source) == ("base0", "votes:flaws")
    tied = [vote(1, "flaws", "tie"), *votes[1:]]
    (pair,) = from_votes(tied, paths(run), ("appeal", "flaws"))
    assert (pair.chosen, pair.source) == ("tuned0", "votes:appeal")


def test_even_skipped_and_rejected_pairs_are_left_out(run: Run) -> None:
    assert from_votes([vote(1, "appeal", "left"), vote(2, "appeal", "right")], paths(run), ("appeal",)) == []
    assert from_votes([vote(1, "appeal", "left"), vote(2, "appeal", "reject")], paths(run), ("appeal",)) == []
    with pytest.raises(InputError, match="no votes on 'flaws'"):
        from_votes([vote(1, "appeal", "left"), vote(2, "flaws", "skip")], paths(run), ("flaws",))
    with pytest.raises(InputError, match="in none of the runs"):
        from_votes([vote(1, "appeal", "left")], {}, ("appeal",))


def test_pairs_from_scores_follow_direction_and_margin(run: Run) -> None:
    values = {"base0": 1.0, "tuned0": 3.0, "base1": 2.0, "tuned1": 2.5}
    scores = [Score(k, "sharpness", v, None, "f") for k, v in values.items()]
    up = from_scores(run.samples(), scores, "sharpness", paths(run))
    assert [(p.chosen, p.rejected) for p in up] == [("tuned0", "base0"), ("tuned1", "base1")]
    down = from_scores(run.samples(), scores, "sharpness", paths(run), higher_is_better=False, margin=1.0)
    assert [(p.chosen, p.rejected) for p in down] == [("base0", "tuned0")]
    with pytest.raises(InputError, match="Did you mean 'sharpness'"):
        from_scores(run.samples(), scores, "sharpnes", paths(run))
    with pytest.raises(InputError, match="hold no scores"):
        from_scores(run.samples(), [], "sharpness", paths(run))


def test_every_pair_of_a_prompt(run: Run) -> None:
    samples = [Sample(f"s{i}", "base", "p", "text", i, "g", f"{i}.png", "") for i in range(4)]
    scores = [Score(f"s{i}", "m", float(i), None, "f") for i in range(3)] + [Score("s3", "m", None, "broken", "f")]
    files = {s.id: run.path for s in samples}
    assert len(from_scores(samples, scores, "m", files)) == 1
    assert len(from_scores(samples, scores, "m", files, every_pair=True)) == 3
    assert len(from_scores(samples, scores, "m", files, every_pair=True, margin=1.0)) == 1


def test_the_folder_opens_in_datasets_pandas_and_the_trainer(run: Run, tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    pairs = from_votes([vote(1, "appeal", "right"), vote(2, "appeal", "left", 1, True)], paths(run), ("appeal",))
    folder = tmp_path / "pairs"
    assert export_pairs(pairs, folder, "ties dropped") == []

    def load(name: str | None) -> "datasets.Dataset":
        return datasets.load_dataset(str(folder), name, split="train", cache_dir=str(tmp_path / "cache"))

    preference, pickapic = load(None), load("pickapic")
    assert preference["prompt"] == list(PROMPTS)
    assert np.asarray(preference[0]["chosen"]).tolist() == np.full((8, 8, 3), 51).tolist()
    assert pickapic["best_image_uid"] == ["tuned0", "base1"]
    for row in pickapic:
        best = 0 if row["label_0"] > row["label_1"] else 1
        assert row[f"image_{best}_uid"] == row["best_image_uid"]
        assert row["jpg_0"] != row["jpg_1"] and row["are_different"] and row["has_label"]
    assert pd.read_parquet(folder / "pickapic" / "train.parquet")["simulated"].tolist() == [False, True]
    assert "Simulated:** 1 of the 2" in (folder / "README.md").read_text()

    loaded = load_pairs(folder)
    assert len(loaded) == 2 and loaded[-1].prompt == PROMPTS[1]
    assert loaded[0].chosen.image.dtype == np.uint8 and loaded[0].chosen.image.shape == (8, 8, 3)
    assert int(loaded[0].chosen.image[0, 0, 0]) == 51 and int(loaded[0].rejected.image[0, 0, 0]) == 0
    assert [p.soft_label for p in loaded[0:2]] == [1.0, 1.0]


def test_equal_pairs_give_equal_bytes(run: Run, tmp_path: Path) -> None:
    pairs = from_votes([vote(1, "appeal", "right")], paths(run), ("appeal",))
    for name in ("one", "two"):
        export_pairs(pairs, tmp_path / name, "x")
    for file in ("README.md", "preference/train.parquet", "pickapic/train.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_make_pairs_uses_people_and_reports_broken_images(run: Run, tmp_path: Path) -> None:
    config = PairsConfig(runs=(run.path,), out=tmp_path / "pairs")
    with pytest.raises(InputError, match="no votes"):
        make_pairs(config)
    simulated = [vote(1, "appeal", "right", simulated=True), vote(2, "appeal", "right", 1, simulated=True)]
    write_records(run.path / "votes" / "simulated.parquet", simulated, Vote)
    assert make_pairs(config)["simulated"] is True
    people = [vote(3, "appeal", "left"), vote(4, "appeal", "left", 1)]
    write_records(run.path / "votes" / "people.parquet", people, Vote)
    (run.path / "images" / "base-1.png").write_bytes(b"not an image")
    done = make_pairs(config)
    assert (done["pairs"], done["simulated"]) == (1, False)
    assert len(done["unreadable"]) == 1 and "base-1.png" in done["unreadable"][0]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("x")
    with pytest.raises(InputError, match="not a pairs data set"):
        make_pairs(PairsConfig(runs=(run.path,), out=tmp_path / "other"))
    with pytest.raises(InputError, match="neither 'votes' nor"):
        make_pairs(PairsConfig(runs=(run.path,), out=tmp_path / "x", source="vote"))
    with pytest.raises(InputError, match=r"no preference/train\.parquet"):
        load_pairs(tmp_path / "other")


def test_make_pairs_takes_the_direction_from_the_catalogue(run: Run, tmp_path: Path) -> None:
    values = {"base0": 0.1, "tuned0": 0.3, "base1": 0.5, "tuned1": 0.2}
    run.write_scores([Score(k, "banding_flaw", v, None, "f") for k, v in values.items()])
    done = make_pairs(PairsConfig(runs=(run.path,), out=tmp_path / "pairs", source="score:banding_flaw"))
    assert (done["pairs"], done["simulated"]) == (2, False)
    table = pd.read_parquet(tmp_path / "pairs" / "preference" / "train.parquet")
    assert table["chosen_uid"].tolist() == ["base0", "tuned1"]
    with pytest.raises(InputError, match="banding_flow"):
        make_pairs(PairsConfig(runs=(run.path,), out=tmp_path / "pairs", source="score:banding_flow"))
    lapsing = {"source": "score:banding_flaw", "temperature": 0.1, "lapses": 0.2}
    make_pairs(PairsConfig(runs=(run.path,), out=tmp_path / "pairs", **lapsing))  # type: ignore[arg-type]
    table = pd.read_parquet(tmp_path / "pairs" / "preference" / "train.parquet")
    assert table["soft_label"].tolist() == pytest.approx([0.1 + 0.8 / (1 + np.exp(-gap / 0.1)) for gap in (0.2, 0.3)])
    assert "temperature 0.1 with 0.2 lapses" in (tmp_path / "pairs" / "README.md").read_text()


def scored(values: dict[str, tuple[float, float, float]]) -> tuple[list[Sample], list[Score], dict[str, Path]]:
    """Three images of one prompt with values of some metrics."""
    samples = [Sample(f"s{i}", "base", "p0", "fox", i, "g", f"{i}.png", "") for i in range(3)]
    scores = [Score(f"s{i}", name, row[i], None, "f") for name, row in values.items() for i in range(3)]
    return samples, scores, {sample.id: Path(sample.path) for sample in samples}


def test_the_best_of_k_must_convince_other_metrics_and_have_no_more_flaws() -> None:
    samples, scores, images = scored(
        {"clip_score": (30.0, 25.0, 10.0), "pickscore": (20.0, 22.0, 21.0), "blur_flaw": (0.5, 0.1, 0.1)}
    )

    def chosen(
        *demands: Condition, every: bool = False, temperature: float | None = None, lapses: float = 0.0
    ) -> list[tuple[str, str, float]]:
        found = from_scores(samples, scores, "clip_score", images, True, 0.0, every, demands, temperature, lapses)
        return [(pair.chosen, pair.rejected, round(pair.soft_label, 4)) for pair in found]

    assert chosen() == [("s0", "s2", 1.0)]
    assert chosen(Condition("pickscore", True, 0.0)) == [("s1", "s2", 1.0)]
    assert chosen(Condition("pickscore", True, 1.5)) == []
    assert chosen(Condition("blur_flaw", False, 0.0, veto=True)) == [("s1", "s2", 1.0)]  # equal flaws are no more
    assert chosen(Condition("blur_flaw", False, 0.5, veto=True)) == [("s0", "s2", 1.0)]
    assert chosen(every=True, temperature=5.0) == [("s0", "s1", 0.7311), ("s0", "s2", 0.982), ("s1", "s2", 0.9526)]
    assert chosen(temperature=5.0, lapses=0.2) == [("s0", "s2", round(0.1 + 0.8 * 0.98201, 4))]
    assert chosen(temperature=1e-9, lapses=0.2) == [("s0", "s2", 0.9)]


def test_demands_are_named_like_metrics(tmp_path: Path) -> None:
    config = PairsConfig((), tmp_path, agree=("clip_score=2",), fewer_flaws=("blur_flaw",))
    assert conditions(config) == [Condition("clip_score", True, 2.0), Condition("blur_flaw", False, 0.0, True)]
    for wrong, message in (
        ({"agree": ("clip_score=much",)}, "NAME=MARGIN"),
        ({"fewer_flaws": ("clip_score",)}, "measures no flaw"),
        ({"temperature": 0.0}, "must be a positive number"),
        ({"temperature": float("nan")}, "must be a positive number"),
        ({"temperature": 1.0, "lapses": 1.0}, "share from 0 to below 1"),
        ({"lapses": 0.2}, "needs --temperature"),
    ):
        with pytest.raises(InputError, match=message):
            conditions(PairsConfig((), tmp_path, **wrong))  # type: ignore[arg-type]
