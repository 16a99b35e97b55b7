"""The flaw map: marks become masks, and noise is found where it was planted."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from pixeval.errors import InputError
from pixeval.records import FlawMark
from reward_models.flaw_map import FlawMap, Marked, fit_map, localisation, mask_of


def example(seed: int, flawed: bool = True) -> Marked:
    """A smooth image with grain in one half, or sound."""
    generator = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(1, 3, 3, 3, generator=generator), (48, 48), mode="bilinear")[0]
    mask = torch.zeros(48, 48)
    if flawed:
        mask[:, 24:] = 1
        smooth = (smooth + mask * 0.1 * torch.randn(3, 48, 48, generator=generator)).clamp(0, 1)
    return Marked(smooth, mask, str(seed))


def test_marks_become_masks() -> None:
    box = FlawMark("left", "artifact", "major", 0.25, 0.5, 0.5, 0.25)
    mask = mask_of([box], 8, 16)
    assert mask.sum() == 2 * 8
    assert mask[4:6, 4:12].all()
    point = mask_of([FlawMark("left", "blur", "minor", 0.5, 0.5)], 100, 200)
    assert point[50, 100] == 1 and point[50, 104] == 1 and point[50, 106] == 0 and point[56, 100] == 0


def test_noise_is_found_where_it_is_and_the_map_is_saved(tmp_path: Path) -> None:
    found = fit_map([*(example(k) for k in range(6)), *(example(k, False) for k in range(6, 9))])
    assert found.weights.min() >= 0
    figures = localisation(found, [example(20), example(21), example(22, False)])
    assert figures["AUC-Judd"]["value"] > 0.9
    assert figures["mIoU"]["value"] > 0.6
    assert figures["MSE of sound images"]["value"] < 0.2
    found.save(tmp_path)
    again = FlawMap.load(tmp_path)
    images = torch.stack([example(30).pixels, example(31, False).pixels])
    torch.testing.assert_close(again.heatmap(images), found.heatmap(images))
    values = again(images)
    assert values[0] > values[1]
    file = tmp_path / "flaw_map.json"
    file.write_text(file.read_text().replace("noise_flaw/", "noise_flaw/0"))
    with pytest.raises(InputError, match="other versions of the flaw detectors"):
        FlawMap.load(tmp_path)
    with pytest.raises(InputError, match="no image has a marked place"):
        fit_map([example(0, False)])
