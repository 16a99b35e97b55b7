"""HPSv3 on tiny random weights of its architecture: the size of its images, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import tiny_published as tiny
import torch
from torch import Tensor

from pixeval.catalog import find, load
from pixeval.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_hps_v3(tmp_path_factory.mktemp("hpsv3"))


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Any:
    return load(find("hpsv3"), weights=str(folder))


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    # 256 * 28 * 28 pixels in the image's shape, then whole blocks of 28: fewer where it shrinks, more where it grows
    [(1024, 1024, [1, 32, 32]), (40, 48, [1, 30, 36]), (1536, 640, [1, 48, 20]), (448, 448, [1, 32, 32])],
)
def test_every_image_has_the_authors_number_of_pixels(
    height: int, width: int, grid: list[int], scorer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Tensor] = {}
    inner = scorer.model.model.forward

    def watched(**inputs: Tensor) -> Any:
        seen.update(inputs)
        return inner(**inputs)

    monkeypatch.setattr(scorer.model.model, "forward", watched)
    assert scorer(tiny.images(1, height, width), ["a red apple"]).isfinite()
    assert seen["image_grid_thw"].tolist() == [grid]
    assert len(seen["pixel_values"]) == grid[1] * grid[2]
    assert (seen["input_ids"] == scorer.model.config.image_token_id).sum() == grid[1] * grid[2] / 4


def test_each_image_has_its_own_value_under_the_second_version(scorer: Any) -> None:
    images, prompts = tiny.images(), ["a red apple", "a blue car", "a red apple"]
    found = scorer(images, prompts)
    assert found.shape == (3,) and found.dtype == torch.float32
    assert len(set(found.tolist())) == 3
    torch.testing.assert_close(scorer(images[1:2], prompts[1:2]), found[1:2])
    # values of version 1, at the images' own size, must not be mistaken for these
    assert scorer.fingerprint.startswith("hpsv3/2/")


def test_what_it_refuses(folder: Path, scorer: Any, tmp_path: Path) -> None:
    images = tiny.images(1)
    assert scorer.hindrance("a red apple") is None
    with pytest.raises(InputError, match="means something else"):
        scorer(images, ["a <|Reward|> car"])
    assert "tokens with its instruction" in scorer.hindrance("red " * 600)
    with pytest.raises(InputError, match="images come first"):
        scorer(["a red apple"], images)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(InputError, match=r"instruction\.txt"):
        load(find("hpsv3"), weights=str(tmp_path))
    (tmp_path / "instruction.txt").write_text("no place")
    with pytest.raises(InputError, match="each once"):
        load(find("hpsv3"), weights=str(tmp_path))
