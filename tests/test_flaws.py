"""Detectors of flaws on planted flaws, and what they must leave alone. The full study is ``pixeval validate``."""

from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor

from pixeval.catalog import CATALOG, find, load
from pixeval.errors import InputError
from pixeval.images import read_image
from pixeval.metrics.filters import gaussian
from pixeval.scoring.heatmap_overlay import heatmaps, overlay
from pixeval.validation.clean_images import PHOTOGRAPHS, clean_images, eight_bit, reduced
from pixeval.validation.jpeg_code import jpeg_coded
from pixeval.validation.localisation import auc_judd
from pixeval.validation.planted_flaws import PLANTED, VISIBLE, plant
from pixeval.validation.rank_figures import krcc
from pixeval.zoo.icons import load_icons

DETECTORS = [spec.name for spec in CATALOG if spec.family == "flaws" and "weights" not in spec.needs]
SCENES = ("astronaut-0", "motorcycle_left-0", "icons-3")


@cache
def tuning() -> dict[str, Tensor]:
    """The tuning set, 3 x 160 x 160 each."""
    return {image.name: image.pixels for image in clean_images("tune")}


def scenes() -> dict[str, Tensor]:
    """Two photographs and a sheet of icons of it."""
    return {name: tuning()[name] for name in SCENES}


def value(name: str, pixels: Tensor) -> float:
    with torch.no_grad():
        return float(load(find(name))(pixels[None]))


def test_every_flaw_metric_has_a_planted_flaw() -> None:
    assert set(DETECTORS) <= {flaw.detector for flaw in PLANTED}
    assert sorted(scenes()) == sorted(SCENES)


@pytest.mark.parametrize("name", DETECTORS)
def test_value_and_heat_follow_the_planted_flaw(name: str) -> None:
    (flaw,) = (flaw for flaw in PLANTED if flaw.detector == name)
    judged = 0
    for scene, clean in scenes().items():
        medium = plant(flaw, clean, 3, scene)
        if medium.change < VISIBLE or (name, scene) == ("clipping_flaw", "icons-3"):
            continue  # grounds of paper hide clipping from it
        judged += 1
        values = [value(name, pixels) for pixels in (clean, medium.pixels, plant(flaw, clean, 5, scene).pixels)]
        assert values[0] < values[1], (scene, values)
        assert values[0] < values[2], (scene, values)
        with torch.no_grad():
            heat = load(find(name)).heatmap(medium.pixels[None])[0]
        assert heat.shape == clean.shape[1:]
        assert 0 <= float(heat.min()) <= float(heat.max()) <= 1
        assert auc_judd(heat.double().numpy(), medium.mask.double().numpy()) > 0.5, scene
    assert judged >= 2


def test_planting_is_deterministic_and_keeps_its_place() -> None:
    clean = scenes()["astronaut-0"]
    for flaw in PLANTED:
        first, again = plant(flaw, clean, 3, "a"), plant(flaw, clean, 3, "a")
        assert torch.equal(first.pixels, again.pixels)
        assert not torch.equal(first.pixels, plant(flaw, clean, 3, "b").pixels)
        assert first.pixels.shape == clean.shape
        assert torch.equal(first.pixels, (first.pixels * 255).round() / 255)
        if flaw.name not in ("repetition", "blank"):  # severity is their extent
            strong = plant(flaw, clean, 5, "a")
            assert torch.equal(first.mask, strong.mask)
            assert strong.change > first.change, flaw.name
            untouched = (first.pixels - clean).abs().amax(0) * (
                1 - torch.nn.functional.max_pool2d(first.mask[None], 11, 1, 5)[0]
            )
            assert float(untouched.max()) == 0 or flaw.name == "seam"  # which fades out to both sides


def test_coding_matches_a_real_encoder() -> None:
    import io

    import numpy as np
    from PIL import Image

    clean = scenes()["astronaut-0"]
    for quality in (15, 40, 75):
        buffer = io.BytesIO()
        array = (clean.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(array).save(buffer, "JPEG", quality=quality, subsampling=2)
        real = torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1).float() / 255
        ours = jpeg_coded(clean[None], quality)[0]
        apart, lost = (float((a - b).square().mean().sqrt()) * 255 for a, b in ((ours, real), (real, clean)))
        # of the encoder's own loss less than a third: it rounds between the steps
        assert apart < 0.3 * lost, (quality, apart, lost)


def test_cropped_jpeg_is_found_and_is_no_latent_grid() -> None:
    clean = scenes()["astronaut-0"][None]
    coded = (jpeg_coded(clean, 25) * 255).round() / 255
    for row, column in ((0, 0), (3, 5), (7, 2)):
        crop, uncoded = coded[..., row:, column:], clean[..., row:, column:]
        assert value("jpeg_flaw", crop[0]) > 0.05 + value("jpeg_flaw", uncoded[0]), (row, column)
    assert value("grid_flaw", coded[0]) < 0.5 * value("jpeg_flaw", coded[0])
    (grid,) = (flaw for flaw in PLANTED if flaw.name == "grid")
    planted = plant(grid, clean[0], 3, "astronaut-0").pixels
    assert value("jpeg_flaw", planted) < 0.5 * value("jpeg_flaw", coded[0])


def test_the_clean_photographs_bear_no_code() -> None:
    folder = Path(str(resources.files("skimage"))) / "data"
    for photograph in (*PHOTOGRAPHS["tune"], *PHOTOGRAPHS["report"]):
        # whole pictures say more than crops
        pixels = eight_bit(reduced(read_image(folder / photograph.file), photograph.reduce))[:, :320, :320]
        assert value("jpeg_flaw", pixels) < 0.001, photograph.file
    coins = read_image(folder / "coins.png")
    assert value("jpeg_flaw", coins) > 0.05


def test_grids_of_8_and_16_pixels_are_told_apart() -> None:
    by_name = {flaw.name: flaw for flaw in PLANTED}
    for scene, clean in scenes().items():
        small, large = (plant(by_name[n], clean, 3, scene).pixels for n in ("grid", "patch_grid"))
        assert value("grid_flaw", small) > value("patch_grid_flaw", small)
        assert value("patch_grid_flaw", large) > value("grid_flaw", large)


def test_the_patch_grid_of_the_bundled_dit_is_found() -> None:
    from pixeval.zoo import BUNDLED

    values = {}
    for model in ("zoo:unet", "zoo:dit"):
        sheet = read_image(BUNDLED[model] / "samples.webp")
        tiles = sheet.unfold(1, 128, 128).unfold(2, 128, 128).permute(1, 2, 0, 3, 4).flatten(0, 1)[::8]
        with torch.no_grad():
            values[model] = float(load(find("patch_grid_flaw"))(tiles).mean())
    # visible to the eye in the samples of the DiT, whose patches are 16 pixels, and absent from the U-Net's
    assert values["zoo:dit"] > 1.5 * values["zoo:unet"], values


def test_paper_white_is_no_blown_highlight() -> None:
    paper = scenes()["icons-3"]
    rows, columns = torch.meshgrid(torch.arange(160.0), torch.arange(160.0), indexing="ij")
    lamp = 1.6 - torch.hypot(rows - 80, columns - 80) / 60
    blown = lamp.clamp(0.1, 1).expand(3, -1, -1)
    assert float((paper.amin(0) > 0.995).float().mean()) > 0.25
    assert value("clipping_flaw", paper) < 0.03
    assert value("clipping_flaw", blown) > 0.1
    assert value("clipping_flaw", 1 - blown) > 0.1


def test_blank_images_are_seen_by_blank_flaw_alone() -> None:
    for level in (0.0, 0.5, 1.0):
        images = torch.full((1, 3, 32, 40), level)
        values = {name: float(load(find(name))(images)) for name in DETECTORS}
        assert values.pop("blank_flaw") > 0.99
        assert max(values.values()) < 1e-6
    icons = torch.from_numpy(load_icons("heldout").images[::20]).permute(0, 3, 1, 2).float() / 255
    assert float(load(find("blank_flaw"))(icons).max()) < 0.35
    faded = 1 + (icons - 1) * 0.01
    assert float(load(find("blank_flaw"))(faded).min()) > 0.8


def test_texture_is_no_noise_and_grain_without_colour_is() -> None:
    texture = max(value("noise_flaw", tuning()[name]) for name in ("gravel-0", "brick-0"))
    clean = scenes()["astronaut-0"]
    grain = 14 / 255 * torch.randn(1, 160, 160, generator=torch.Generator().manual_seed(0))
    assert value("noise_flaw", clean + grain) > 0.4 > 4 * texture
    ground = torch.full((3, 160, 160), 0.5)
    coloured = 8 / 255 * torch.randn(3, 160, 160, generator=torch.Generator().manual_seed(1))
    for noise in (coloured, coloured[:1]):
        assert value("noise_flaw", ground + noise) == pytest.approx(0.5, abs=0.06)


def test_even_shading_is_no_blur() -> None:
    shaded = ((torch.linspace(0, 1, 160).expand(3, 160, 160) * 255).round()) / 255
    assert value("blur_flaw", shaded) < 0.25
    edge = (torch.arange(160) >= 80).float().expand(1, 3, 160, 160).clone()
    soft = gaussian(edge.flatten(0, 1)[:, None], 3.0).view_as(edge)
    assert value("blur_flaw", edge[0]) == 0
    assert value("blur_flaw", soft[0]) > 0.9


def test_oversaturation_is_colour_at_the_limit_in_areas() -> None:
    def flat(*colour: float) -> Tensor:
        return torch.tensor(colour).view(3, 1, 1).expand(3, 32, 32)

    assert value("oversaturation_flaw", flat(1, 0, 0)) > 0.99
    for colour in ((1, 1, 1), (0, 0, 0), (0.5, 0.5, 0.5), (0.9, 0.1, 0.1)):
        assert value("oversaturation_flaw", flat(*colour)) == 0, colour
    assert value("oversaturation_flaw", flat(0.2, 0.0, 0.0)) < 0.01
    speckled = flat(0.5, 0.5, 0.5).clone()
    speckled[:, ::4, ::4] = torch.tensor([1.0, 0, 0]).view(3, 1, 1)
    assert value("oversaturation_flaw", speckled) == 0


def test_clones_are_found_and_regular_texture_is_none() -> None:
    for name in ("brick-0", "gravel-0", "astronaut-0", "motorcycle_left-1"):
        assert value("repetition_flaw", tuning()[name]) == 0, name
    waves = 0.5 + 0.3 * torch.sin(torch.arange(160) / 1.5)
    assert value("repetition_flaw", (waves[:, None] * waves).expand(3, -1, -1)) == 0
    cloned = tuning()["gravel-0"].clone()
    cloned[:, 100:140, 90:130] = (cloned[:, 20:60, 10:50] + 0.05).clamp(0, 1)
    with torch.no_grad():
        heat = load(find("repetition_flaw")).heatmap(cloned[None])[0]
    assert heat[30:50, 20:40].mean() > 0.9
    assert heat[110:130, 100:120].mean() > 0.9
    assert heat.mean() < 0.15
    coded = jpeg_coded(cloned[None], 92)[0].clamp(0, 1)
    assert value("repetition_flaw", coded) > 0.02
    assert value("repetition_flaw", cloned.flip(2)) == pytest.approx(float(heat.mean()), abs=0.02)


def test_a_shifted_grid_is_no_latent_grid() -> None:
    (grid,) = (flaw for flaw in PLANTED if flaw.name == "grid")
    planted = plant(grid, scenes()["astronaut-0"], 3, "astronaut-0").pixels
    assert value("grid_flaw", planted.roll((3, 3), (1, 2))) < 0.3 * value("grid_flaw", planted)


def test_heatmaps_by_name_and_overlay() -> None:
    images = torch.stack(list(scenes().values()))
    found = heatmaps(images, ["noise_flaw", "blur_flaw"])
    assert list(found) == ["noise_flaw", "blur_flaw"]
    assert found["blur_flaw"].shape == (3, 160, 160)
    heat = torch.zeros(160, 160)
    heat[:64] = 1
    laid = overlay(images[0], heat)
    assert laid.shape == images[0].shape
    assert laid.min() >= 0
    assert laid.max() <= 1
    below = laid[:, 64:]
    assert (below.amax(0) - below.amin(0)).max() < 1e-6
    assert (laid[0, :64] - laid[1, :64]).min() > 0.5
    with pytest.raises(InputError, match="no heat map"):
        heatmaps(images, ["sharpness"])
    with pytest.raises(InputError, match="at least 16"):
        heatmaps(images[..., :8, :8], ["noise_flaw"])


def planted_value(name: str, flaw: str, scene: str, level: int) -> float:
    (found,) = (one for one in PLANTED if one.name == flaw)
    return value(name, plant(found, scenes()[scene], level, scene).pixels)


@pytest.mark.parametrize("flaw", ["banding", "colour_bleeding", "seam", "jpeg"])
def test_values_rise_with_severity(flaw: str) -> None:
    taus = []
    for scene, clean in scenes().items():
        values = [value(f"{flaw}_flaw", clean)] + [planted_value(f"{flaw}_flaw", flaw, scene, k) for k in range(1, 6)]
        taus.append(krcc(np.arange(6.0), np.array(values)))
    assert np.mean(taus) > 0.8, taus


def test_straight_lines_are_no_banding() -> None:
    for scene, clean in scenes().items():
        rise = planted_value("banding_flaw", "banding", scene, 3) - value("banding_flaw", clean)
        for other in ("grid", "patch_grid", "seam", "jpeg"):
            assert planted_value("banding_flaw", other, scene, 3) - value("banding_flaw", clean) < 0.3 * rise, other


def test_cells_are_no_seams() -> None:
    def mean(flaw: str) -> float:
        return float(np.mean([planted_value("seam_flaw", flaw, scene, 3) for scene in scenes()]))

    assert max(mean("grid"), mean("patch_grid")) < 0.3 * mean("seam")


def test_coding_that_was_averaged_away_is_not_found() -> None:
    """A photograph from a camera, reduced, is clean; at full size its blocks are there."""
    whole = torch.from_numpy(data.astronaut()[:320, :320].copy()).permute(2, 0, 1)[None].float() / 255
    coded = (jpeg_coded(whole, 75) * 255).round() / 255
    assert value("jpeg_flaw", torch.nn.functional.avg_pool2d(coded, 2)[0]) < 0.003
    assert value("jpeg_flaw", coded[0, :, 5:165, 3:163]) > 0.02
