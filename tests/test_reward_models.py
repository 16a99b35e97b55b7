"""Reward models: the arithmetic against closed forms, training that resumes, scoring, and gradients to the pixels."""

import hashlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import isotonic_regression
from tiny_clip import write_tiny_clip
from tiny_votes import SIDE, run_with_votes
from torch.nn import functional as F

import reward_models.simulated
from pixeval.catalog import find, load
from pixeval.errors import InputError
from pixeval.runs import Run
from pixeval.scoring.cache import Cache
from pixeval.scoring.evaluate import score_run
from pixeval.validation import clean_images
from reward_models import planted
from reward_models import train as training
from reward_models.agreement import Judged, agreement, human_ceiling, majorities, share
from reward_models.bradley_terry import log_probabilities, negative_log_likelihood
from reward_models.calibrate import (
    fit_calibration,
    fit_lapses,
    folded,
    isotonic_chance,
    lapsing_chance,
    pool_adjacent_violators,
    reliability,
)
from reward_models.evaluate import judge, render
from reward_models.heads import Heads
from reward_models.judgements import Judgement, Picture, read_judgements, reliabilities
from reward_models.model import HEADS, RewardModel
from reward_models.simulated import simulated_images, simulated_votes
from reward_models.train import RewardTrainConfig, fit, train
from reward_models.views import MOST_CROPS, CropView, FlawView, contour_disorder, crops


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny CLIP and a run with votes."""
    root = tmp_path_factory.mktemp("reward")
    return write_tiny_clip(root / "clip"), run_with_votes(root / "run").path


@pytest.fixture(scope="module")
def settings(world: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> RewardTrainConfig:
    cache = str(tmp_path_factory.mktemp("features"))
    quick = {"members": 2, "steps": 40, "checkpoint_every": 10, "folds": 3, "planted": 0.0}
    return RewardTrainConfig((world[1],), Path("unused"), str(world[0]), cache=cache, **quick)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(settings: RewardTrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model."""
    out = tmp_path_factory.mktemp("models") / "model"
    train(replace(settings, out=out))
    return out


def test_davidson_is_bradley_terry_without_ties_and_has_its_closed_form_with_them() -> None:
    d = torch.tensor([-2.0, 0.0, 0.7], dtype=torch.float64)
    without = log_probabilities(d, torch.tensor(-torch.inf, dtype=torch.float64)).exp()
    torch.testing.assert_close(without[:, 0], torch.sigmoid(d))
    nu, worth = 0.6, d.exp()
    found = log_probabilities(d, torch.tensor(np.log(nu))).exp()
    bottom = worth + 1 + nu * worth.sqrt()
    torch.testing.assert_close(found, torch.stack((worth / bottom, nu * worth.sqrt() / bottom, 1 / bottom), 1))
    losses = negative_log_likelihood(d, torch.tensor(np.log(nu)), torch.tensor([[0.5, 0.25, 0.25]]).double())
    torch.testing.assert_close(losses, -(found.log() * torch.tensor([0.5, 0.25, 0.25])).sum(1))
    decided = negative_log_likelihood(d, torch.tensor(-torch.inf), torch.tensor([1.0, 0.0, 0.0]).double())
    torch.testing.assert_close(decided, F.softplus(-d))


def test_flaw_readings_can_only_lower_a_reward() -> None:
    heads = Heads({"whole": 3, "flaws": 2}, 2, 2)
    with torch.no_grad():
        heads.linear.copy_(torch.arange(20.0).view(2, 2, 5) - 8)
        heads.score.copy_(torch.arange(10.0).view(2, 1, 5) - 4)
        heads.share.copy_(torch.tensor([-1.0, 2.0]).view(1, 2, 1))
    heads.constrain()
    base = torch.zeros(1, 5)
    change = (heads(base + torch.tensor([0, 0, 0, 1.0, 1.0])) - heads(base)).detach()
    assert torch.all(change <= 0)
    assert torch.all(change[:, :, 0] == 0)  # a question that would take a negative share takes none
    assert change[0, 0, 1] == pytest.approx(-2.0)  # twice the score -1 and 0 of the first member
    one = heads(base + torch.tensor([1.0, 0, 0, 0, 0])) - heads(base)
    torch.testing.assert_close(one[0], heads.linear[:, :, 0] / 3**0.5)


@pytest.mark.parametrize(
    ("height", "width"), [(768, 768), (2048, 2048), (640, 1536), (2000, 96), (64, 320), (641, 640)]
)
def test_crops_of_large_images_are_spread_over_both_axes(height: int, width: int) -> None:
    down = torch.arange(height)[:, None].expand(height, width)
    across = torch.arange(width)[None].expand(height, width)
    parts = crops(torch.stack((down, across, down))[None], 128)
    assert len(parts) <= MOST_CROPS
    corners = [(int(part[0, 0, 0, 0]), int(part[0, 1, 0, 0])) for part in parts]
    for axis, length in ((0, height), (1, width)):
        starts = sorted({corner[axis] for corner in corners})
        gaps = [b - a for a, b in pairwise(starts)]
        assert starts[0] == 0 and starts[-1] == length - parts[0].shape[-1]
        assert gaps and max(gaps) - min(gaps) <= 1
        assert all(sum(corner[axis] == start for corner in corners) == len(parts) / len(starts) for start in starts)


def test_crops_cover_an_image_and_small_images_are_seen_in_parts() -> None:
    image = torch.arange(100 * 70, dtype=torch.float32).view(1, 1, 100, 70).expand(1, 3, 100, 70)
    for side, size in ((32, 32), (64, 35)):
        parts = crops(image, side)
        assert {part.shape[-2:] for part in parts} == {torch.Size((size, size))}
        assert len(torch.unique(torch.cat([part.flatten() for part in parts]))) == 100 * 70


def test_views_have_the_width_they_say_and_contours_know_warps() -> None:
    view = FlawView()
    images = torch.rand(2, 3, 12, 30, generator=torch.Generator().manual_seed(0))
    readings = view(images)
    assert readings.shape == (2, view.width)
    assert view.inputs(readings).shape == (2, 2 * view.width)
    assert torch.all(view.inputs(readings + 0.1) > view.inputs(readings))  # more of a flaw never reads as less
    stripes = ((torch.arange(96) // 8) % 2).float().expand(1, 3, 96, 96)
    rows = torch.arange(96)[:, None].float()
    columns = torch.arange(96)[None] + 5 * torch.sin(rows / 5)
    wavy = ((columns // 8) % 2)[None, None].expand(1, 3, 96, 96)
    assert torch.all(contour_disorder(wavy) > contour_disorder(stripes) + 0.05)


def test_the_temperature_is_found_again() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(0, 3, 6000)
    logits = np.stack((d / 4, np.full(6000, np.log(0.5)), -d / 4), 1)  # temperature 2, nu 0.5
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    outcomes = np.eye(3)[[rng.choice(3, p=p) for p in chance]]
    found = fit_calibration(d, outcomes, np.ones(6000))
    assert found.temperature == pytest.approx(2, rel=0.1)
    p, right, _ = folded(d / found.temperature, outcomes, np.ones(6000))
    assert reliability(p, right, range(len(p))).ece.value < 0.03
    off, right, _ = folded(d, outcomes, np.ones(6000))
    wrong = reliability(off, right, range(len(off)))
    assert wrong.ece.value > 0.08 > wrong.floor
    with pytest.raises(InputError, match="too few"):
        fit_calibration(d[:5], outcomes[:5], np.ones(5))


def test_lapses_are_found_again_and_no_temperature_does_what_they_do() -> None:
    np.testing.assert_allclose(lapsing_chance(np.array([0.5, 0.8, 1 - 1e-12]), (0.0, 1.0)), [0.5, 0.8, 1.0])
    np.testing.assert_allclose(lapsing_chance(np.array([0.5, 0.8, 1.0]), (0.3, 2.0)), [0.5, 0.15 + 0.7 * 16 / 17, 0.85])
    rng = np.random.default_rng(2)
    d = rng.normal(0, 3, 5000)
    chances = 1 / (1 + np.exp(-np.abs(d)))
    right = (rng.random(5000) < lapsing_chance(chances, (0.3, 2.0))).astype(float)
    share, slope = fit_lapses(chances, right, np.ones(5000))
    assert share == pytest.approx(0.3, abs=0.04)
    assert slope == pytest.approx(2.0, rel=0.25)
    outcomes = np.where((d > 0) == (right > 0), [[1.0], [0.0], [0.0]], [[0.0], [0.0], [1.0]]).T
    found = fit_calibration(d, outcomes, np.ones(5000))
    tempered, right, _ = folded(d / found.temperature, outcomes, np.ones(5000))
    assert found.lapses is not None
    lapsing = reliability(lapsing_chance(tempered, found.lapses), right, range(5000)).ece.value
    assert lapsing < 0.02 < reliability(tempered, right, range(5000)).ece.value - 0.01


def test_pooling_is_isotonic_regression() -> None:
    rng = np.random.default_rng(1)
    chances, weights = np.sort(rng.uniform(0.5, 1, 80)), rng.uniform(0.5, 2, 80)
    right = (rng.random(80) < chances).astype(float)
    knots = pool_adjacent_violators(chances, right, weights)
    blocks = isotonic_regression(right, weights=weights)
    fitted = np.maximum(0.5, blocks.x[blocks.blocks[:-1]])
    np.testing.assert_allclose([share for _, share in knots], fitted)
    found = isotonic_chance(chances, fit_calibration(np.ones(40), np.eye(3)[[0] * 40], np.ones(40)))
    np.testing.assert_array_equal(found, chances)


def picture(name: str) -> Picture:
    return Picture(hashlib.sha256(name.encode()).hexdigest(), name, None, b"")


def test_people_are_compared_with_people_on_the_same_pairs() -> None:
    a, b = picture("a"), picture("b")
    votes = [
        Judgement("p", a, b, (1.0, 0.0, 0.0), "flaws", annotator="ann"),
        Judgement("p", b, a, (0.0, 0.0, 1.0), "flaws", annotator="bo"),  # the same, shown the other way round
        Judgement("p", a, b, (0.0, 0.0, 1.0), "flaws", annotator="cy"),
        Judgement("p", a, b, (0.0, 1.0, 0.0), "flaws", annotator="di"),
    ]
    judged = [Judged(vote, 1.0 if vote.first is a else -1.0) for vote in votes]
    ceiling = human_ceiling(judged)
    assert ceiling["single"] is not None and ceiling["single"].value == pytest.approx(1 / 3)
    assert ceiling["single"].n == 3  # of three people; not of each both ways
    assert ceiling["majority"] is not None and ceiling["majority"].value == 0.0  # cy against both; ann and bo see 1:1
    single = share(judged)
    assert single is not None and single.value == pytest.approx(2 / 3) and single.n == 3
    (together,) = majorities(judged)
    assert together.judgement.shares == (0.5, 0.25, 0.25)
    assert together.right == 1.0
    figures = agreement(judged, [together])
    others = figures["majority of the others where several judged"]
    assert others is not None and (others.value, others.n) == (1.0, 1)  # ann and bo, for cy; n as of the ceiling
    assert ceiling["majority"].n == 1
    against = agreement([replace(one, difference=-one.difference) for one in judged], [])
    others = against["majority of the others where several judged"]
    assert others is not None and others.value == 0.0


def test_an_annotator_against_all_others_does_not_count(world: tuple[Path, Path]) -> None:
    weights = reliabilities(read_judgements([world[1]]))
    assert weights["eve"] == 0
    assert weights["ann"] == pytest.approx(weights["bo"])


def test_it_learns_saves_loads_and_scores_the_same(folder: Path, world: tuple[Path, Path]) -> None:
    model = RewardModel.load(folder)
    assert model.questions == ("flaws", "overall")
    told = json.loads((folder / "reward.json").read_text())["facts"]["questions"]["flaws"]
    assert told["held_out"] > 20
    assert not (folder / "state").exists()
    found, curves = judge(model, [j for j in read_judgements([world[1]]) if j.annotator != "eve"])
    flaws = found["questions"]["flaws"]
    assert flaws["agreement"]["majority"]["value"] == 1.0
    assert set(flaws["protocols"]) == {"ImageReward", "HPSv2", "PickScore", "GenAI-Bench", "MMRB2"}
    assert {"raw", "temperature"} <= set(curves["flaws"])
    assert "protocol of MMRB2" in render({"model": "m", **found})
    run = Run.open(world[1])
    with pytest.raises(InputError, match="needs weights"):
        score_run(run, ["reward"])
    score_run(run, ["reward", "reward_conservative", "clip_score"], weights=dict.fromkeys(WEIGHTED, str(folder)))
    by_metric = {name: {s.sample_id: s.value for s in run.scores() if s.metric == name} for name in WEIGHTED}
    labels = {s.id: s.label for s in run.samples()}
    means = {
        label: np.mean([v for i, v in by_metric["reward"].items() if labels[i] == label])
        for label in ("clean", "noisy")
    }
    assert means["clean"] > means["noisy"] + 1


WEIGHTED = ("reward", "reward_conservative")


def test_the_reward_has_gradients_to_the_pixels(folder: Path) -> None:
    scorer = load(find("reward"), weights=str(folder))
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3), requires_grad=True)
    scorer(images, ["a red apple", "a green tree"]).sum().backward()
    assert images.grad is not None and images.grad.isfinite().all()
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()
    flat = torch.ones(1, 3, SIDE, SIDE)
    flat[..., 8:20, 8:30] = 0.3
    (slope,) = torch.autograd.grad(scorer(flat.requires_grad_(True), ["a red apple"]).sum(), flat)
    assert slope.isfinite().all(), "slopes of some detectors are no numbers on flat ground"
    alone = scorer(images[1:].detach(), ["a green tree"])
    torch.testing.assert_close(
        alone, scorer(images.detach(), ["a red apple", "a green tree"])[1:], rtol=1e-4, atol=1e-5
    )
    shared = scorer.from_image_features(
        scorer.shared_encoder(images[1:].detach()), images[1:].detach(), ["a green tree"]
    )
    torch.testing.assert_close(shared, alone)
    with pytest.raises(InputError, match="images come first"):
        scorer(["a red apple"], images)


def test_a_fingerprint_is_of_all_that_rewards_depend_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = RewardModel.load(folder)
    flaws, overall = model.calibration["flaws"], model.calibration["overall"]
    prints = [RewardModel.load(folder).fingerprint, model.fingerprint]
    model.calibration = {"flaws": flaws, "overall": replace(overall, temperature=overall.temperature * 2)}
    prints.append(model.fingerprint)
    model.calibration = {"flaws": flaws, "overall": replace(overall, lapses=(0.2, 1.5))}
    prints.append(model.fingerprint)
    model.views["crops"].fingerprint = "crops/next"  # type: ignore[misc]
    prints.append(model.fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_probabilities_level_off_at_the_lapses(folder: Path) -> None:
    model = RewardModel.load(folder)
    model.calibration["overall"] = replace(model.calibration["overall"], lapses=(0.3, 2.0))
    first, second = torch.tensor([0.4, 0.0, 50.0]).double(), torch.tensor([0.0, 0.4, 0.0]).double()
    found = model.probability(first, second)
    expected = lapsing_chance(1 / (1 + np.exp(-(first - second).numpy())), (0.3, 2.0))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert float(found[0] + found[1]) == pytest.approx(1)  # whichever is named first
    model.calibration["flaws"] = replace(model.calibration["flaws"], lapses=None)
    torch.testing.assert_close(model.probability(first, second, "flaws"), torch.sigmoid(first - second))
    with pytest.raises(InputError, match="appeal"):
        model.probability(first, second, "appeal")


def test_an_interrupted_training_ends_in_the_same_bytes(
    folder: Path, settings: RewardTrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = replace(settings, out=tmp_path / "again")
    append = training.append

    def die(log: Path, line: dict[str, float]) -> None:
        if line["step"] == 30:
            raise KeyboardInterrupt
        append(log, line)

    monkeypatch.setattr(training, "append", die)
    with pytest.raises(KeyboardInterrupt):
        train(again)
    monkeypatch.setattr(training, "append", append)
    assert (again.out / "state").exists()
    train(again)
    for name in ("reward.safetensors", "reward.json", "metrics.jsonl"):
        assert (again.out / name).read_bytes() == (folder / name).read_bytes()
    assert train(again)["images"] == 96  # finished: told again, not trained
    with pytest.raises(InputError, match="other settings"):
        train(replace(again, steps=41))


def test_adapters_tune_the_encoder_and_are_saved(settings: RewardTrainConfig, tmp_path: Path) -> None:
    judgements = read_judgements(settings.pairs)
    tuned = replace(settings, lora_rank=2, steps=3, batch_size=4, detail=("crops",), members=1)
    model = fit(judgements, tuned)
    model.save(tmp_path / "tuned")
    found = RewardModel.load(tmp_path / "tuned")
    plain = RewardModel.new(replace(model.design, lora=None))
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.encoder(images), model.encoder(images))
    assert not torch.allclose(plain.encoder(images), model.encoder(images))
    torch.testing.assert_close(
        found.opinion(images, ["a", "b"]).mean, model.opinion(images, ["a", "b"]).mean, rtol=1e-5, atol=1e-6
    )


def test_what_does_not_fit_is_refused(folder: Path, settings: RewardTrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no reward\.json"):
        RewardModel.load(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    told = json.loads((folder / "reward.json").read_text())
    (other / "reward.safetensors").write_bytes((folder / "reward.safetensors").read_bytes())
    (other / "reward.json").write_text(json.dumps({**told, "encoder": "clip-000000000000"}))
    with pytest.raises(InputError, match="another encoder"):
        RewardModel.load(other)
    (other / "reward.json").write_text(json.dumps({**told, "views": {**told["views"], "flaws": "flaw-view/0"}}))
    with pytest.raises(InputError, match="another version of the flaw detectors"):
        RewardModel.load(other)
    older = told["views"]["crops"].replace("crops/2-", "crops/1-")
    (other / "reward.json").write_text(json.dumps({**told, "views": {**told["views"], "crops": older}}))
    with pytest.raises(InputError, match="another version of the view 'crops'"):
        RewardModel.load(other)
    (other / "reward.json").write_text(json.dumps(told))
    (other / "reward.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        RewardModel.load(other)
    with pytest.raises(InputError, match="holds no comparisons"):
        train(replace(settings, pairs=(tmp_path,), out=tmp_path / "x"))
    with pytest.raises(InputError, match="at least 2"):
        train(replace(settings, folds=1))


def test_features_come_from_the_cache(settings: RewardTrainConfig) -> None:
    """Whole views under the key of the metrics core; a crop view under one of its own."""
    model = RewardModel.new(training.design_of(settings))
    cache = Cache(Path(settings.cache))
    from pixeval.scoring.cache import feature_key

    picture = read_judgements(settings.pairs)[0].first
    (vector,) = cache.features([feature_key(picture.sha256, model.encoder.fingerprint)]).values()
    assert vector.shape == (16,)
    assert cache.features([feature_key(picture.sha256, CropView(model.encoder).fingerprint)])
    assert HEADS[-1] == "overall"


def test_the_study_trains_on_no_icon_that_is_reported_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sheets: list[torch.Tensor] = []
    monkeypatch.setattr(clean_images, "sheets", lambda name, kind, images: sheets.append(images))
    clean_images._icon_sheets("report")
    reported = {image.numpy().tobytes() for image in sheets[0]}
    monkeypatch.setattr(reward_models.simulated, "PLANTED", ())  # the icons alone, the same as with flaws
    study = simulated_images("train", 200)
    trained = {one.pixels().numpy().tobytes() for group in study.values() for one in group}
    assert len(study) == 200 and len(trained) > 200 and len(reported) == 48
    assert reported.isdisjoint(trained)
    assert reported.isdisjoint(image.pixels.numpy().tobytes() for image in planted._icons())


def test_simulated_annotators_err_as_often_as_they_are_told() -> None:
    images = simulated_images("heldout", 6)
    assert simulated_images("heldout", 6) == images
    assert {(one.flaws, one.own) for group in images.values() for one in group} == {
        (0, True), (1, True), (2, True), (3, True), (0, False), (1, False),
    }  # fmt: skip
    votes = simulated_votes(images, 3000, 0.15)
    truth = {one.picture.sha256: one for group in images.values() for one in group}
    wrong = 0
    for vote in votes:
        gap = truth[vote.first.sha256].utility(vote.question) - truth[vote.second.sha256].utility(vote.question)  # type: ignore[arg-type]
        wrong += (gap > 0) != (vote.shares[0] > vote.shares[2])
    assert wrong / 3000 == pytest.approx(0.15, abs=0.02)
