"""The flaw map: marks become masks, and noise is found where it was planted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lead_study import LEFT_MARK
from torch import Tensor
from torch.nn import functional as F

from human_eval_app.export import write_votes
from pixeval import cli
from pixeval.errors import InputError
from pixeval.images import read_image, write_png
from pixeval.records import FlawMark, Sample, Vote
from pixeval.runs import Run
from pixeval.scoring.heatmap_overlay import captioned, overlay
from reward_models.flaw_examples import (
    Marked,
    annotated_images,
    hold_out,
    marked_examples,
    planted_examples,
    training_images,
)
from reward_models.flaw_figures import figures_of, judge, summary
from reward_models.flaw_map import CELL, MOST_CELLS, FlawMap, fit_map, lessons, network, part_of
from reward_models.train_flaw_map import FlawMapConfig, train_map
from trainers.flaw_maps import FlawConfig, FlawMaps


def example(seed: int, flawed: bool = True) -> Marked:
    """A smooth image with grain in one half, or sound."""
    generator = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(1, 3, 3, 3, generator=generator), (50, 48), mode="bilinear")[0]
    mask = torch.zeros(50, 48)
    if flawed:
        mask[:, 24:] = 1
        smooth = (smooth + mask * 0.1 * torch.randn(3, 50, 48, generator=generator)).clamp(0, 1)
    return Marked(smooth, mask, str(seed))


@pytest.fixture(scope="module")
def trained() -> FlawMap:
    return fit_map(lessons([*(example(k) for k in range(6)), *(example(k, False) for k in range(6, 9))]), steps=150)


def labelled(folder: Path, prompts: int) -> Run:
    """For each prompt an image with grain in its right half and a sound one; two of three annotators mark the half.

    One of them also clicks into the sound image of the first prompt.
    """
    run, samples, votes = Run.create(folder, "generate", {}), [], []
    for k in range(prompts):
        for flawed in (True, False):
            file = f"images/{k}-{flawed}.png"
            digest = write_png(example(100 + k, flawed).pixels, folder / file)
            samples.append(Sample(f"s{k}{flawed}", "base", f"p{k}", "a thing", int(flawed), "g", file, digest))
        for who in ("anna", "bert", "carl"):
            marks = () if who == "carl" else (FlawMark("left", "artifact", "major", 0.5, 0.0, 0.5, 1.0),)
            marks += (replace(LEFT_MARK, side="right"),) if who == "bert" and k == 0 else ()
            votes.append(
                Vote(f"{who}{k}", who, "flaws", f"p{k}", "a thing", f"s{k}True", f"s{k}False", "base", "base", "right",
                     2.0, f"2026-03-01T10:00:{k:02d}Z", marks=marks)
            )  # fmt: skip
    run.write_samples(samples)
    write_votes(folder / "votes" / "people.parquet", votes)
    return run


def test_a_mask_is_the_share_of_the_annotators_who_marked_a_place(tmp_path: Path) -> None:
    run = labelled(tmp_path, 3)
    annotated = annotated_images([run])
    assert [(one.source, one.share) for one in annotated[:3]] == [("p0", 2 / 3), ("p0", 1 / 3), ("p1", 2 / 3)]
    grain, clicked, _, clean, *_ = marked_examples(annotated, [])
    assert (grain.by_people, grain.rating, clean.rating) == (True, pytest.approx(1 / 3), 1.0)
    torch.testing.assert_close(grain.mask, torch.cat((torch.zeros(50, 24), torch.full((50, 24), 2 / 3)), 1))
    # a click is a disc of a twentieth of the height, and one of three annotators made it
    assert clicked.mask.unique().tolist() == [0.0, pytest.approx(1 / 3)]
    assert float((clicked.mask > 0).sum()) == pytest.approx(np.pi * 2.5**2, rel=0.2)
    assert not clean.mask.any()
    (tmp_path / "images/0-True.png").write_bytes(b"\x89PNG no")
    problems: list[str] = []
    assert len(list(marked_examples(annotated, problems))) == 5
    assert len(problems) == 1 and "0-True.png" in problems[0]
    run.write_samples(run.samples()[:4])
    with pytest.raises(InputError, match="'s2True' has marks but is in none of the runs"):
        annotated_images([run])


def test_whole_prompts_are_held_out_where_there_is_enough(tmp_path: Path) -> None:
    annotated = annotated_images([labelled(tmp_path, 15)])
    taught, held = hold_out(annotated, 0)
    assert len(held) == 6 and len(taught) == 24
    assert not {one.source for one in taught} & {one.source for one in held}
    assert hold_out(annotated, 0) == (taught, held) != hold_out(annotated, 1)
    assert hold_out(annotated[2:20], 0) == (annotated[2:20], [])  # nine with marks
    assert hold_out(annotated[:18], 0)[1]  # ten, with the click


def test_the_command_judges_the_map_on_marks_that_it_did_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the planted examples take minutes; here those of annotators only
    monkeypatch.setattr("reward_models.train_flaw_map.training_images", list)
    monkeypatch.setattr("reward_models.train_flaw_map.clean_images", lambda _: [])
    monkeypatch.setattr("reward_models.train_flaw_map.STEPS", 150)
    told = train_map(FlawMapConfig(tmp_path / "map", (labelled(tmp_path / "run", 15).path,)))
    assert (told["marked_images"], told["held_out_images"], told["left_out"]) == (24, 6, [])
    found = told["held-out marks"]
    assert (found["MSE"]["n"], found["CC"]["n"], found["SRCC"]["n"]) == (6, 3, 6)
    assert found["AUC-Judd"]["value"] > 0.9 and found["mIoU"]["value"] > 0.6 and found["PLCC"]["value"] > 0.8
    assert found["CC"]["low"] <= found["CC"]["value"] <= found["CC"]["high"]
    assert json.loads((tmp_path / "map" / "figures.json").read_text()) == told


def test_the_map_is_a_metric_with_overlays(
    trained: FlawMap, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.save(tmp_path / "map")
    for k in range(2):
        write_png(example(k, flawed=k == 0).pixels, tmp_path / "images" / f"{k}.png")
    words = ["score", str(tmp_path / "images"), "--metrics", "learned_flaw", "--out", str(tmp_path / "out"), "--json"]
    assert cli.run(words) == 2
    assert "--weights learned_flaw=PATH (folder that 'pixeval reward flaw-map' wrote)" in capsys.readouterr().err
    words += ["--heatmaps", "--weights", f"learned_flaw={tmp_path / 'map'}"]
    assert cli.run(words) == 0
    assert json.loads(capsys.readouterr().out)["heatmaps"]["written"] == 2
    run = Run.open(tmp_path / "out")
    images = {sample.id: read_image(run.image(sample)) for sample in run.samples()}
    values = {score.sample_id: score.value for score in run.scores()}
    assert {score.fingerprint for score in run.scores()} == {trained.fingerprint}
    for identity, pixels in images.items():
        heat = trained.heatmap(pixels[None])[0]
        assert values[identity] == pytest.approx(float(heat.mean()), abs=1e-6)
        laid = captioned(overlay(pixels, heat), "learned_flaw", values[identity] or 0, 1.0)
        file = tmp_path / "out" / "heatmaps" / "learned_flaw" / f"{identity}.png"
        torch.testing.assert_close(read_image(file), laid, rtol=0, atol=0.003)
    # another map is another metric: nothing of the first is taken for its own
    with torch.no_grad():
        other = FlawMap(trained.names, network(len(trained.names)))
    other.save(tmp_path / "map")
    assert cli.run(words) == 0
    assert json.loads(capsys.readouterr().out)["heatmaps"] | {"folder": ""} == {
        "folder": "", "written": 2, "there": 0, "failed": {}
    }  # fmt: skip
    assert {score.fingerprint for score in run.scores()} == {other.fingerprint}


def test_the_trainers_weigh_places_by_the_map(trained: FlawMap, tmp_path: Path) -> None:
    trained.save(tmp_path)
    image = example(40).pixels[:, :48]
    maps = FlawMaps(FlawConfig(detectors=("learned_flaw",), weights=(f"learned_flaw={tmp_path}",)), torch.device("cpu"))
    found = maps.map_of(2 * image - 1, None).float() / 255
    torch.testing.assert_close(found, trained.heatmap(image[None]), rtol=0, atol=0.003)
    assert found[..., 24:].mean() > found[..., :24].mean() + 0.4
    with pytest.raises(InputError, match=r"give flaws\.weights learned_flaw=PATH"):
        FlawMaps(FlawConfig(detectors=("learned_flaw",)), torch.device("cpu"))
    with pytest.raises(InputError, match="metric that takes weights"):
        FlawMaps(FlawConfig(detectors=("blur_flaw",), weights=("blur_flaw=x",)), torch.device("cpu"))


class CellRows(torch.nn.Module):
    """Stands in for the network: the logit of a cell is the number of its row."""

    def forward(self, found: Tensor) -> Tensor:
        return torch.arange(found.shape[2]).float()[:, None].expand(1, 1, -1, found.shape[3])


def test_the_map_lies_where_its_cells_were() -> None:
    found = FlawMap(["noise_flaw"], CellRows()).spread(torch.zeros(1, 1, 13, 12), (50, 47))
    assert found.shape == (1, 50, 47)
    rows = ((torch.arange(50) + 0.5) / CELL - 0.5).clamp(0, 12)
    torch.testing.assert_close(found[0].logit(), rows[:, None].expand(50, 47), rtol=1e-3, atol=1e-3)


def test_of_a_large_image_a_part_with_a_flaw_is_kept_in_cells_of_the_same_size() -> None:
    large = torch.zeros(3, 4 * 80, 4 * 150) + 0.5
    mask = torch.zeros(large.shape[1:])
    mask[8:16, 580:590] = 1
    generator = torch.Generator().manual_seed(0)
    taught = lessons([Marked(large, mask, "a"), Marked(large, 0 * mask, "b")])
    assert [one.group for one in taught] == ["planted", "sound"]
    assert all(one.cells.shape[1:] == one.mask.shape[1:] == (MOST_CELLS, MOST_CELLS) for one in taught)
    assert float(taught[0].mask.sum()) * CELL**2 == 80  # the whole patch, at its own size
    pooled = F.avg_pool2d(mask[None], CELL)[0]
    parts = [part_of(pooled, generator) for _ in range(50)]
    assert all(pooled[rows, columns].any() for rows, columns in parts)
    assert len({(rows.start, columns.start) for rows, columns in parts}) > 10
    assert all(0 <= columns.start <= 150 - MOST_CELLS for _, columns in parts)
    assert part_of(torch.zeros(64, 9), generator) == (slice(None), slice(None))


def test_noise_is_found_where_it_is_and_the_map_is_saved(tmp_path: Path) -> None:
    taught = lessons([*(example(k) for k in range(6)), *(example(k, False) for k in range(6, 9))])
    assert {one.group for one in taught} == {"planted", "sound"}
    assert taught[0].mask.shape == (1, 13, 12)
    found = fit_map(taught, steps=150)
    figures = summary(judge(found.heatmap, [example(20), example(21), example(22, False)]))
    assert figures["AUC-Judd"]["value"] > 0.95
    assert figures["mIoU"]["value"] > 0.7
    assert figures["MSE of sound images"]["value"] < 0.1
    assert figures["marked share of sound images"] == {"value": 0.0, "low": None, "high": None, "n": 1}
    torch.testing.assert_close(fit_map(taught, steps=5).net.state_dict(), fit_map(taught, steps=5).net.state_dict())
    found.save(tmp_path)
    again = FlawMap.load(tmp_path)
    images = torch.stack([example(30).pixels, example(31, False).pixels])
    torch.testing.assert_close(again.heatmap(images), found.heatmap(images))
    values = again(images)
    assert values[0] > values[1] + 0.2
    file = tmp_path / "flaw_map.json"
    file.write_text(file.read_text().replace("noise_flaw/", "noise_flaw/0"))
    with pytest.raises(InputError, match="other versions of the flaw map"):
        FlawMap.load(tmp_path)
    (tmp_path / "flaw_map.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"flaw_map\.safetensors"):
        FlawMap.load(tmp_path)
    with pytest.raises(InputError, match="no image has a marked place"):
        fit_map([one for one in taught if one.group == "sound"])


def test_soft_truths_have_the_figures_of_the_paper() -> None:
    heat, truth = np.array([[0.1, 0.8], [0.2, 0.1]]), np.array([[0.0, 1.0], [1 / 3, 0.0]])
    found = figures_of(heat, truth)
    assert found["MSE"] == pytest.approx((0.01 + 0.04 + (1 / 3 - 0.2) ** 2 + 0.01) / 4)
    assert found["SIM"] == pytest.approx(0.8 / 1.2 + 0.2 / 1.2)  # of 3/4 and 1/4, and nothing elsewhere
    assert found["AUC-Judd"] == 1.0  # a third of the annotators is enough for a fixation
    assert found["mIoU"] == 1.0  # and not for a flawed place
    assert "MSE of sound images" not in found
    assert set(figures_of(heat, 0 * truth)) == {"MSE", "MSE of sound images", "marked share of sound images"}


def test_images_to_learn_from_are_not_reported_on_and_levels_take_turns() -> None:
    images = training_images()
    assert len(images) == len({image.name for image in images}) == 74
    first = [one for image in images[:3] for one in planted_examples([image], (2, 3, 4))]
    assert all(bool(one.mask.any()) == bool(one.flaw) for one in first)
    levels = {(one.flaw, one.level) for one in planted_examples(images[:3]) if one.flaw == "noise"}
    assert levels == {("noise", 2), ("noise", 3), ("noise", 4)}
