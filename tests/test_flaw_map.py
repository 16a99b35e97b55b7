"""The flaw map: marks become masks, and noise is found where it was planted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pixeval.errors import InputError
from pixeval.records import FlawMark
from reward_models.flaw_examples import Marked, mask_of, planted_examples, training_images
from reward_models.flaw_figures import figures_of, judge, summary
from reward_models.flaw_map import FlawMap, fit_map, lessons


def example(seed: int, flawed: bool = True) -> Marked:
    """A smooth image with grain in one half, or sound."""
    generator = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(1, 3, 3, 3, generator=generator), (50, 48), mode="bilinear")[0]
    mask = torch.zeros(50, 48)
    if flawed:
        mask[:, 24:] = 1
        smooth = (smooth + mask * 0.1 * torch.randn(3, 50, 48, generator=generator)).clamp(0, 1)
    return Marked(smooth, mask, str(seed))


def test_marks_become_masks() -> None:
    box = FlawMark("left", "artifact", "major", 0.25, 0.5, 0.5, 0.25)
    mask = mask_of([box], 8, 16)
    assert mask.sum() == 2 * 8
    assert mask[4:6, 4:12].all()
    point = mask_of([FlawMark("left", "blur", "minor", 0.5, 0.5)], 100, 200)
    assert point[50, 100] == 1 and point[50, 104] == 1 and point[50, 106] == 0 and point[56, 100] == 0


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
    with pytest.raises(InputError, match="other versions of the flaw detectors"):
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
