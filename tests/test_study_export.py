"""A study as a folder that trains: marks as masks and heat maps, pairs with their flaw maps, the trainer on them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lead_study import LEFT_MARK, LeadStudy, always_left, careful
from PIL import Image

from human_eval_app.exclusion import ExclusionRule, declare_exclusion
from human_eval_app.flaw_masks import flaw_mask, heat_map
from human_eval_app.schedule import Design
from human_eval_app.serve import LabelConfig, label
from human_eval_app.stopping import StoppingRule
from human_eval_app.study import open_study, read_arms
from human_eval_app.study_export import ExportConfig, export_study
from pixeval.cli import parse
from pixeval.config_file import words_of
from pixeval.errors import InputError
from pixeval.flaw_marks import mark_shape, marks_by_image
from pixeval.pair_folder import load_pairs
from pixeval.records import FlawMark, counted_votes


def test_a_click_is_a_disc_of_a_twentieth_of_the_height() -> None:
    shape = mark_shape([FlawMark("left", "blur", "major", 0.5, 0.25)], width=300, height=200)
    assert shape.sum() == pytest.approx(np.pi * 10**2, rel=0.02)
    rows, columns = np.nonzero(shape)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((50, 150), abs=0.01)
    # Near an edge it is cut, in a tiny image it is a pixel at least.
    assert 0 < mark_shape([FlawMark("left", "blur", "major", 0.0, 0.0)], 300, 200).sum() < np.pi * 10**2 / 3
    assert mark_shape([FlawMark("left", "blur", "major", 0.5, 0.5)], 7, 7).sum() >= 1


def test_a_box_is_itself_and_minor_flaws_are_grey() -> None:
    box = FlawMark("left", "text", "minor", 0.25, 0.5, 0.25, 0.25)
    mask = flaw_mask({"anna": [box], "bert": []}, 100, 40)
    assert set(np.unique(mask)) == {0, 128} and (mask == 128).sum() == 25 * 10
    assert (mask[20:30, 25:50] == 128).all()
    over = flaw_mask({"anna": [box], "bert": [FlawMark("left", "text", "major", 0.25, 0.5, 0.25, 0.25)]}, 100, 40)
    assert set(np.unique(over)) == {0, 255}


def test_a_heat_map_is_the_share_of_annotators_who_marked_a_place() -> None:
    click = FlawMark("left", "blur", "minor", 0.5, 0.5)
    both = heat_map({"anna": [click], "bert": [click]}, 200, 200)
    one = heat_map({"anna": [click, click], "bert": []}, 200, 200)
    assert one == pytest.approx(both / 2, abs=1e-6) and one.max() < 0.5 and both[100, 100] > 0.8
    # Smoothing moves weight and loses none.
    assert both.sum() == pytest.approx(np.pi * 10**2, rel=0.03)
    assert heat_map({}, 5, 4).shape == (4, 5) and heat_map({}, 5, 4).max() == 0


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> LeadStudy:
    study = LeadStudy(tmp_path_factory.mktemp("export"), Design(questions=("flaws",), repeats=0.2, gold=0.0), prompts=4)
    with study.store.write() as connection:
        declare_exclusion(connection, study.project, ExclusionRule(side_above=0.9, fewest=4))
    study.answer("anna", careful, marking=True)
    study.answer("lefty", always_left)
    return study


def test_an_export_holds_votes_pairs_masks_and_heat_maps(study: LeadStudy, tmp_path: Path) -> None:
    done = export_study(study.store, study.project, tmp_path / "out", ExportConfig(ties="half"))
    assert done["flaw_maps"] == 8 and done["unreadable"] == [] and done["excluded"] == {}
    votes = study.store.votes()
    assert len((tmp_path / "out/votes.jsonl").read_text().splitlines()) == len(votes) == done["votes"]
    marked = marks_by_image(votes)
    first = counted_votes(votes)[0]
    for sample, folder in ((first.left, "flaw-maps"), (first.right, "heat-maps")):
        with Image.open(tmp_path / "out" / folder / f"{sample}.png") as image:
            assert image.mode == "L" and image.size == (64, 64)
    assert set(marked[first.left]) == {"anna", "lefty"} and marked[first.left]["lefty"] == ()
    facts = json.loads((tmp_path / "out/study.json").read_text())
    assert facts["answers"] == len(votes) and facts["exclusion"]["side_above"] == 0.9
    pairs = load_pairs(tmp_path / "out/pairs")
    assert len(pairs) == done["pairs"] > 0
    chosen = pairs[0].chosen
    assert chosen.flaw_map is not None and chosen.flaw_map.shape == (64, 64, 3) and chosen.flaw_map.max() == 255
    # Again into the same folder, and never over something else.
    export_study(study.store, study.project, tmp_path / "out", ExportConfig())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("keep")
    with pytest.raises(InputError, match="not the export of a study"):
        export_study(study.store, study.project, tmp_path / "mine", ExportConfig())


def test_ties_and_the_excluded_change_the_pairs_as_told(study: LeadStudy, tmp_path: Path) -> None:
    alone = export_study(study.store, study.project, tmp_path / "a", ExportConfig(exclude=True))
    assert set(alone["excluded"]) == {"lefty"}
    labels = [pair.soft_label for pair in load_pairs(tmp_path / "a/pairs")]
    assert labels and set(labels) == {1.0}
    with_both = export_study(study.store, study.project, tmp_path / "b", ExportConfig(min_votes=2))
    # Sides are balanced, so half of the time the one who answers left contradicts, and the pair is even.
    assert with_both["pairs"] < alone["pairs"]
    assert "1 annotator(s) left out" in (tmp_path / "a/pairs/README.md").read_text()


def test_the_command_line_exports_a_study_and_reads_rules_from_toml(study: LeadStudy, tmp_path: Path) -> None:
    database = str(study.store.shown_url)
    said = label(LabelConfig(db=database, export=tmp_path / "out", pairs=ExportConfig(ties="half", exclude=True)))
    assert said is not None and "left out lefty: one side in 100%" in said and "flaw maps of 8 images" in said
    assert (tmp_path / "out/pairs/pickapic/train.parquet").exists()
    names = LeadStudy(tmp_path / "two", prompts=2)
    open_study(names.store, read_arms(names.runs), Design(), name="second")
    with pytest.raises(InputError, match="no project 'x'"):
        label(LabelConfig(db=str(names.store.shown_url), project="x", export=tmp_path / "none"))
    file = tmp_path / "study.toml"
    file.write_text('[stopping]\nkind = "sequence"\nvotes = 90\n[exclusion]\ngold_below = 0.7\n')
    words = words_of(file, LabelConfig, "label", [])
    config = parse(LabelConfig, [*words, "--pairs.min-votes", "2"], "pixeval label", "")
    assert config.stopping == StoppingRule("sequence", 90) and config.exclusion == ExclusionRule(gold_below=0.7)
    assert config.pairs.min_votes == 2 and config.imported is None
    assert parse(LabelConfig, ["--import", "x.json"], "pixeval label", "").imported == Path("x.json")


def test_the_trainer_starts_on_the_export_with_the_masks_in_its_loss(study: LeadStudy, tmp_path: Path) -> None:
    from tiny_models import RESOLUTION, save_tiny

    from trainers.data import paired_latents
    from trainers.families.detect import load
    from trainers.flaw_maps import FlawConfig, FlawMaps
    from trainers.preference import PreferenceConfig, pair_weights, train_preference
    from trainers.training_log import read_log

    export_study(study.store, study.project, tmp_path / "out", ExportConfig(ties="half"))
    save_tiny("sd-v", tmp_path / "model")
    config = PreferenceConfig(
        model=tmp_path / "model",
        data=tmp_path / "out/pairs",
        out=tmp_path / "run",
        steps=2,
        batch_size=2,
        learning_rate=1e-3,
        device="cpu",
        self_test=False,
        flaws=FlawConfig("column", kappa=3.0),
    )
    model = load(config.model)
    data = paired_latents(model, config.data, model.resolution, FlawMaps(config.flaws, model.device))
    weight = pair_weights(data, torch.tensor([0]), config)
    assert weight is not None and weight.shape == (2, 1, RESOLUTION, RESOLUTION)
    # The loser counts up to four times as much where its flaws were marked, relative to where they were not.
    y, x = int(LEFT_MARK.y * RESOLUTION), int(LEFT_MARK.x * RESOLUTION)
    ratios = weight[1, 0] / weight[1, 0].min()
    assert weight[0].min() == weight[0].max() and 1.9 < float(ratios.max()) <= 4.0 + 1e-4
    marked = ratios[y, x] > 1.9 or ratios[int(0.55 * RESOLUTION), int(0.35 * RESOLUTION)] > 1.9
    assert bool(marked) and ratios[-1, -1] == 1
    log = read_log(train_preference(config))
    assert len(log) == 2 and all(np.isfinite(row["loss"]) for row in log) and log[0]["pixel_loss"] > 0
    by_folder = PreferenceConfig(**{**vars(config), "flaws": FlawConfig(str(tmp_path / "out/flaw-maps"), kappa=3.0)})
    same = paired_latents(model, config.data, model.resolution, FlawMaps(by_folder.flaws, model.device))
    torch.testing.assert_close(pair_weights(same, torch.tensor([0]), by_folder), weight)
