"""``pixeval validate``: its figures against scipy and by hand, the planted-flaw study in small, and human labels."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from pixeval import cli
from pixeval.errors import InputError
from pixeval.images import write_png
from pixeval.validation.clean_images import CleanImage, clean_images
from pixeval.validation.drawn_images import drawn_image
from pixeval.validation.human_labels import Choice, read_labels
from pixeval.validation.image_runs import LINE_EVERY, Progress, measure_all
from pixeval.validation.localisation import (
    auc_judd,
    correlation,
    divergence,
    intersection_over_union,
    mean_iou,
    normalised_scanpath_saliency,
    similarity,
)
from pixeval.validation.page import BEGIN, END, Tables, cross_talk_distances
from pixeval.validation.pairwise_protocols import (
    Comparison,
    hps_inversion_score,
    imagereward_accuracy,
    pickscore_accuracy,
    pickscore_threshold,
    position_consistent_accuracy,
    tie_calibrated_accuracy,
)
from pixeval.validation.planted_flaws import PLANTED
from pixeval.validation.rank_figures import auc, auc_interval, correlation_interval, krcc, plcc, srcc

PAGE = Path(__file__).parents[1] / "docs" / "validation.md"


def map_and_mask() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    mask = np.zeros((12, 16))
    mask[2:7, 4:11] = 1
    return rng.random(mask.shape) * 0.6 + 0.4 * mask * rng.random(mask.shape), mask


def test_localisation_agrees_with_scipy() -> None:
    heat, mask = map_and_mask()
    p, q = heat.ravel() / heat.sum(), mask.ravel() / mask.sum()
    inside = mask.ravel() > 0
    assert correlation(heat, mask) == pytest.approx(scipy_stats.pearsonr(heat.ravel(), mask.ravel()).statistic)
    assert divergence(heat, mask) == pytest.approx(scipy_stats.entropy(q, p), rel=1e-9)
    assert similarity(heat, mask) == pytest.approx(1 - 0.5 * np.abs(p - q).sum())
    assert normalised_scanpath_saliency(heat, mask) == pytest.approx(scipy_stats.zscore(heat.ravel())[inside].mean())
    mann = scipy_stats.mannwhitneyu(heat.ravel()[inside], heat.ravel()[~inside]).statistic
    assert auc_judd(heat, mask) == pytest.approx(mann / (inside.sum() * (~inside).sum()))


def test_localisation_golden_numbers() -> None:
    heat = np.array([[0.9, 0.6, 0.1], [0.2, 0.4, 0.0]])
    mask = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert intersection_over_union(heat, mask, 0.4) == pytest.approx(2 / 3)
    assert mean_iou(heat, mask, 0.4) == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert similarity(heat, mask) == pytest.approx(0.9 / 2.2 + 0.6 / 2.2)
    assert auc_judd(heat, mask) == 1.0
    assert divergence(heat, mask) == pytest.approx(
        0.5 * math.log(0.5 / (0.9 / 2.2)) + 0.5 * math.log(0.5 / (0.6 / 2.2))
    )
    nothing = np.zeros_like(heat)
    assert correlation(nothing, mask) == 0
    assert normalised_scanpath_saliency(nothing, mask) == 0
    assert auc_judd(nothing, mask) == 0.5
    assert divergence(nothing, mask) == pytest.approx(math.log(3))
    with pytest.raises(InputError, match="flawed and sound"):
        auc_judd(heat, np.ones_like(mask))
    with pytest.raises(InputError, match="one size"):
        auc_judd(heat, mask.T)


def test_rank_figures_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=40).round(1)
    second = first + rng.normal(size=40).round(1)
    assert srcc(first, second) == pytest.approx(scipy_stats.spearmanr(first, second).statistic)
    assert plcc(first, second) == pytest.approx(scipy_stats.pearsonr(first, second).statistic)
    assert krcc(first, second) == pytest.approx(scipy_stats.kendalltau(first, second).statistic)
    assert auc(first, second) == pytest.approx(scipy_stats.mannwhitneyu(second, first).statistic / 1600)


def test_intervals_draw_whole_clusters() -> None:
    rng = np.random.default_rng(1)
    clean, flawed = rng.normal(size=30), rng.normal(size=30) + 1
    alone = auc_interval(clean, flawed, list(range(30)))
    # ten copies of each item are no new information
    copied = auc_interval(np.repeat(clean, 10), np.repeat(flawed, 10), list(np.repeat(np.arange(30), 10)))
    assert alone.low is not None and alone.high is not None and copied.low is not None and copied.high is not None
    assert alone.low < alone.value < alone.high
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert correlation_interval(srcc, clean, clean).value == pytest.approx(1)
    with pytest.raises(InputError, match="nothing to correlate"):
        correlation_interval(srcc, clean, np.zeros(30))
    with pytest.raises(InputError, match="at least three"):
        correlation_interval(srcc, [1, 2], [1, 2])


def comparisons() -> list[Comparison]:
    """By hand: right, wrong, the metric ties, people tie, both tie."""
    return [
        Comparison("a", 1.0, 2.0, 1.0),
        Comparison("a", 0.0, 2.0, 1.5),
        Comparison("a", 1.0, 1.0, 1.0),
        Comparison("b", 0.5, 3.0, 1.0),
        Comparison("b", 0.5, 1.0, 1.0),
    ]


def test_five_protocols_by_hand() -> None:
    made = comparisons()
    reward = imagereward_accuracy(made)
    assert (reward.value, reward.n) == (pytest.approx(1 / 3), 3)
    inversions = hps_inversion_score(made)
    assert (inversions.value, inversions.n) == (pytest.approx((2 / 3 + 1) / 2), 2)
    # at threshold 0 only equal values tie: 1, 0, 0.5, 0.5, 1
    assert pickscore_accuracy(made, 0.0).value == pytest.approx(3 / 5)
    # p differences are tanh(d / 2): 0.46, 0.24, 0, 0.76, 0; from 0.3 on the wrong one is a tie
    assert pickscore_accuracy(made, 0.3).value == pytest.approx(3.5 / 5)
    assert pickscore_threshold(made) == 0.3
    accuracy, epsilon = tie_calibrated_accuracy(made)
    assert (accuracy.value, epsilon, accuracy.n) == (pytest.approx(2 / 5), 0.0, 5)
    first, second = (2.0, 1.0), (1.0, 2.0)
    both = [Comparison("a", 1.0, 0.5, 0.5, (first, second)), Comparison("b", 1.0, *first, (first, first))]
    assert position_consistent_accuracy(both).value == 3 / 4  # each order counts
    assert position_consistent_accuracy(both).n == 4
    assert position_consistent_accuracy(made).value == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="decided pairs"):
        imagereward_accuracy(made[3:])


def test_tie_calibration_equals_a_search_over_all_thresholds() -> None:
    rng = np.random.default_rng(5)
    made = [
        Comparison(f"p{k % 7}", float(rng.choice([0, 0.5, 1])), *rng.normal(size=2).round(1).tolist())
        for k in range(80)
    ]
    gaps = np.array([c.first - c.second for c in made])
    human = np.sign(np.array([c.human for c in made]) - 0.5)
    best = max(
        float((np.where(np.abs(gaps) <= e, 0, np.sign(gaps)) == human).mean()) for e in [0.0, *np.abs(gaps).tolist()]
    )
    accuracy, epsilon = tie_calibrated_accuracy(made)
    assert accuracy.value == pytest.approx(best)
    assert (np.where(np.abs(gaps) <= epsilon, 0, np.sign(gaps)) == human).mean() == pytest.approx(best)


def test_the_sets_of_clean_images_share_nothing() -> None:
    tune, report = clean_images("tune"), clean_images("report")
    assert not {image.name for image in tune} & {image.name for image in report if image.kind == "photograph"}
    assert not {i.source.removesuffix("-tune") for i in tune if i.kind == "photograph"} & {i.source for i in report}
    corners = [{image.pixels[:, :80, :80].numpy().tobytes() for image in images} for images in (tune, report)]
    assert not corners[0] & corners[1]
    for images in (tune, report):
        assert {image.kind for image in images} == {"photograph", "drawing", "generated"}
        assert all(image.pixels.shape == (3, 160, 160) for image in images)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four drawings of 96 pixels."""
    target = tmp_path_factory.mktemp("own")
    for seed in range(4):
        write_png(drawn_image(seed, 96), target / f"{seed}.png")
    return target


def test_own_images_one_metric(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "validation"
    given = ["--images", str(folder), "--out", str(out), "--workers", "1", "--json"]
    code = cli.run(["validate", "checkerboard_flaw", *given])
    assert code == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((out / "validation.json").read_text())
    figures = found["detectors"]["checkerboard_flaw"]
    assert figures["auc"]["3"]["value"] >= 0.95
    assert figures["auc"]["3"]["n"] == 4
    assert figures["tau"]["value"] > 0.8
    assert figures["localisation"]["AUC-Judd"]["value"] > 0.8
    assert set(found["cross_talk"]) <= {flaw.name for flaw in PLANTED}
    assert "checkerboard_flaw" in (out / "validation.md").read_text()
    assert (out / "cross_talk.png").read_bytes().startswith(b"\x89PNG")


def test_figures_are_the_same_for_any_number_of_workers_and_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIXEVAL_CACHE", str(tmp_path))
    images = [CleanImage(str(seed), "own", str(seed), drawn_image(seed, 64)) for seed in range(3)]
    tasks = [(images[0], True), (images[1], True), (images[2], False)]
    names = ["blank_flaw", "noise_flaw"]
    whole = measure_all(tasks, names, workers=1)
    assert measure_all(tasks, names, workers=2) == whole
    assert set(whole[0]["clean"]) == set(names)
    assert "warp" in whole[0]["flaws"]
    assert set(whole[2]["flaws"]) == {"blank", "noise"}
    assert not list(tmp_path.rglob("*.jsonl"))

    measured: list[str] = []

    def killed(image: CleanImage, *rest: object) -> dict[str, object]:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(image.name)
        return whole[int(image.name)]

    monkeypatch.setattr("pixeval.validation.image_runs.measure", killed)
    with pytest.raises(KeyboardInterrupt):
        measure_all(tasks, names, workers=1)
    (partial,) = tmp_path.rglob("*.jsonl")
    partial.write_text(partial.read_text() + '\n{"key": "cut o')
    monkeypatch.undo()
    monkeypatch.setenv("PIXEVAL_CACHE", str(tmp_path))
    continued: list[str] = []

    def rest_only(image: CleanImage, *rest: object) -> dict[str, object]:
        continued.append(image.name)
        return {}

    monkeypatch.setattr("pixeval.validation.image_runs.measure", rest_only)
    assert measure_all(tasks, names, workers=1) == [*whole[:2], {}]
    assert continued == ["2"]


def test_progress_tells_now_and_then_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("pixeval.validation.image_runs.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = Progress(total=10, done=2, stream=stream)
    for _ in range(6):
        now[0] += LINE_EVERY / 2
        progress.step()
    progress.close()
    assert stream.getvalue().splitlines() == [
        "validate: 4 of 10 images, about 45 s left",
        "validate: 6 of 10 images, about 30 s left",
        "validate: 8 of 10 images, about 15 s left",
    ]


def test_only_what_was_asked_for_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [image for image in clean_images("tune") if image.name in ("astronaut-0", "coffee-0", "drawn-100", "unet-0")]
    monkeypatch.setattr("pixeval.validation.validate.clean_images", lambda split: few)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert cli.run(["validate", "blank_flaw", "--tuning", "--workers", "1"]) == 0
    shown = capsys.readouterr().out
    assert "on the same images: 2 photographs" in shown
    assert "Judged worst" in shown
    assert "astronaut-0" in shown
    assert not list((tmp_path / "here").iterdir())


def test_refusals(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("file_name,score\n0.png,1\n")
    for arguments, message in (
        (["nois_flaw"], "Did you mean 'noise_flaw'"),
        (["clip_score"], "cannot be judged by planted flaws"),
        (["--images", str(tmp_path / "none")], "is not a folder"),
        (["noise_flaw", "--labels", str(labels)], "--human"),
        (["--labels", str(labels), "--human", "score"], "name one metric"),
        (["noise_flaw", "--human", "score"], "--labels"),
        (["frechet_distance", "--labels", str(labels), "--human", "score"], "needs more than one image"),
        (["--page", str(labels)], "lacks the marks"),
        (["--page", str(labels), "--tuning"], "leave the metric"),
        (["--tuning", "--images", str(folder)], "leave --images out"),
        (["noise_flaw", "--workers", "0"], "at least 1"),
    ):
        assert cli.run(["validate", *arguments, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err, arguments


def test_ratings_and_choices_of_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = drawn_image(7, 64)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for k in range(8):
        noisy = (base + k * 4 / 255 * torch.randn(base.shape, generator=generator)).clamp(0, 1)
        write_png(noisy, tmp_path / f"{k}.png")
        rows.append(f"{k}.png,prompt {k % 3},{10 - k + (0.3 if k % 2 else 0)}")
    rows.append("../outside.png,prompt,3")
    (tmp_path / "ratings.csv").write_text("\n".join(["file_name,prompt,rating", *rows]) + "\n")
    out = ["--out", str(tmp_path / "out"), "--json"]
    assert cli.run(["validate", "noise_flaw", "--labels", str(tmp_path / "ratings.csv"), *out]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 8
    assert found["figures"]["SRCC"]["value"] > 0.9
    assert found["figures"]["SRCC"]["low"] <= found["figures"]["SRCC"]["value"]
    assert "lies outside" in next(iter(found["without_value"]))

    pairs = [
        {"caption": f"p{k}", "image_0": f"{k}.png", "image_1": f"{7 - k}.png", "label_0": a, "label_1": 1 - a}
        for k, a in ((0, 1), (1, 1), (2, 1), (3, 0.5), (5, 0), (6, 0), (7, 1))
    ]
    for pair in pairs:
        pair["has_label"] = True
    pairs.append({"image_0": "0.png", "image_1": "1.png", "label_0": 0, "label_1": 0, "has_label": False})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    assert cli.run(["validate", "noise_flaw", "--labels", str(tmp_path / "pairs.jsonl"), *out]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 7
    assert found["figures"]["ImageReward"]["value"] == pytest.approx(5 / 6)
    assert found["figures"]["MMRB2"]["n"] == 6
    assert set(found["figures"]) == {"ImageReward", "HPSv2", "PickScore", "GenAI-Bench", "MMRB2"}
    assert "ImageReward" in Tables(found).markdown()


def test_pick_a_pic_rows_carry_their_images(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_png(drawn_image(1, 64), tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    rows = [{"caption": "a", "jpg_0": data, "jpg_1": data, "label_0": 0.5, "label_1": 0.5, "has_label": True}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    (choice,) = read_labels(tmp_path / "p.parquet")
    assert isinstance(choice, Choice)
    assert choice.human == 0.5
    assert choice.first.pixels().shape == (3, 64, 64)
    (tmp_path / "bad.jsonl").write_text('{"caption": "a", "image_0": "a", "image_1": "b", "label_0": 1, "label_1": 1}')
    with pytest.raises(InputError, match="sum to 1"):
        read_labels(tmp_path / "bad.jsonl")


def test_the_page_holds_what_the_stored_figures_say() -> None:
    found = json.loads(PAGE.with_suffix(".json").read_text())
    between = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip()
    assert between == Tables(found).markdown()
    own, other = cross_talk_distances(found)
    assert len(own) == len(found["detectors"])
    assert len(other) > 10 * len(own)
    assert set(found["detectors"]) >= {"blur_flaw", "jpeg_flaw", "blank_flaw"}
