"""The curves of the training page: small runs on a tiny model, continued, compared and drawn."""

import json
from pathlib import Path

import pytest
import torch
from tiny_models import save_tiny

from pixeval.stats.bootstrap import mean_interval
from trainers.curves.compare import DETAIL, Compared
from trainers.curves.draw import draw
from trainers.curves.material import crisp, held_out_icons, write_pairs
from trainers.curves.measure import measure
from trainers.curves.page import tables
from trainers.curves.points import Point, Study, all_points
from trainers.pair_sets import ReadPair, read_pairs
from trainers.tables import DatasetConfig

POINTS = [
    Point("latent", {"objective": "latent"}),
    Point("both 2", {"objective": "both", "pixel_weight": 2.0}),
    Point("latent 1000", {"objective": "latent", "beta": 1000.0}, "dpo"),
]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    save_tiny("sd-epsilon", tmp_path_factory.mktemp("curves") / "model")
    model = tmp_path_factory.getbasetemp() / "curves0" / "model"
    return Study({"unet": model}, seeds=1, steps=2, batch_size=2, icons=4, held_out=3, held_out_pairs=2)


def test_a_measurement_goes_on_and_is_drawn(study: Study, tmp_path: Path) -> None:
    found = measure(tmp_path, study, POINTS)
    file = tmp_path / "numbers.json"
    assert found == json.loads(file.read_text())
    assert found["unet/base"]["ratio"].keys() == {"pixel", "x0", "control"}
    # What is there is not measured again; what is missing comes out as before.
    changed = {**found, "unet/sft/latent/0": "kept"}
    removed = changed.pop("unet/sft/both 2/0")
    file.write_text(json.dumps(changed))
    again = measure(tmp_path, study, POINTS)
    assert again["unet/sft/latent/0"] == "kept"
    assert again["unet/sft/both 2/0"]["errors"] == removed["errors"]
    assert not list((tmp_path / "runs").iterdir())

    compared = Compared(found)
    assert [file.name for file in draw(compared, tmp_path / "figures")] == ["training_lambda.svg", "training_beta.svg"]
    written = tables(compared, POINTS)
    assert "| both 2 | 2 |" in written
    assert "| dpo latent 1000 |" in written


def test_changes_are_paired_by_row_and_clustered_by_scene() -> None:
    def figures(errors: list[float], fine: float) -> dict[str, object]:
        parts = {"pixel_error_fine": fine, "pixel_error_finest": 1.0}
        return {"errors": {**parts, "rows": {"pixel_error": errors}, "pixel_error": sum(errors) / 3}}

    found = {
        "unet/sft/a/0": figures([1.0, 2.0, 4.0], 2.0),
        "unet/sft/a/1": figures([3.0, 2.0, 4.0], 4.0),
        "unet/sft/b/0": figures([1.0, 1.0, 1.0], 1.0),
        "unet/sft/b/1": figures([1.0, 3.0, 3.0], 1.0),
    }
    compared = Compared(found)
    change = compared.change("unet/sft/a", "unet/sft/b", "pixel_error")
    wanted = mean_interval([1.0, 0.0, 2.0], clusters=compared.scenes(3)).scaled(100 / (10 / 6), 0.0)
    assert (change.value, change.low, change.high) == pytest.approx((wanted.value, wanted.low, wanted.high))
    assert compared.changes("unet/sft/a", "unet/sft/b", "pixel_error") == pytest.approx([400 / 3, 200 / 7])
    assert compared.changes("unet/sft/a", "unet/sft/b", DETAIL) == pytest.approx([50.0, 150.0])


def test_scenes_leave_the_skin_tone_out_and_rows_are_in_the_order_of_files() -> None:
    icons = held_out_icons(24)
    assert icons[0].caption == "woman running medium skin tone"
    assert icons[0].scene == "woman running"
    assert [icon.name for icon in icons] == sorted(icon.name for icon in icons)
    sharp = crisp(icons)
    assert torch.stack([i.pixels for i in sharp]).std() > torch.stack([i.pixels for i in icons]).std()


def test_rejected_images_are_the_chosen_ones_with_a_flaw(tmp_path: Path) -> None:
    icons = held_out_icons(3)
    pairs = list(read_pairs(write_pairs(icons, tmp_path / "pairs"), False, DatasetConfig()))
    for pair, icon in zip(pairs, icons, strict=True):
        assert isinstance(pair, ReadPair)
        assert torch.allclose(pair.chosen.image, icon.pixels, atol=1e-6)
        assert not torch.equal(pair.rejected.image, pair.chosen.image)


def test_every_point_has_its_own_place() -> None:
    keys = [point.key(0) for point in all_points()]
    assert len(keys) == len(set(keys))
