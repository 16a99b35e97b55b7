"""Images of several shapes in one training: sizes, order, mirroring, dropped captions."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_data import SIZE, make_world, picture
from tiny_flow_models import save_tiny_flow
from tiny_models import CAPTIONS, RESOLUTION, save_tiny

from trainers.data import captioned_latents, paired_latents
from trainers.data_order import Batch, Order, batch_rows, drawn
from trainers.families.detect import load
from trainers.framing import bucket_sizes, nearest_bucket
from trainers.sft import SftConfig, train_sft
from trainers.tables import DatasetConfig


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(("side", "multiple"), [(1024, 16), (512, 8), (32, 4), (48, 16)])
def test_buckets_have_the_pixels_of_the_resolution_and_sides_that_fit(side: int, multiple: int) -> None:
    sizes = bucket_sizes((side, side), multiple)
    assert (side, side) in sizes and len(set(sizes)) == len(sizes) >= 3
    assert {(w, h) for h, w in sizes} == set(sizes)
    for height, width in sizes:
        assert height % multiple == width % multiple == 0
        assert height * width <= side * side and max(height, width) <= 2 * min(height, width)
    if side == 1024:
        assert (768, 1344) not in sizes or 768 * 1344 <= 1024**2
        assert all(height * width > 0.85 * side * side for height, width in sizes)
    assert sizes[nearest_bucket(torch.zeros(3, 100, 100), sizes)] == (side, side)
    assert sizes[nearest_bucket(torch.zeros(3, 100, 900), sizes)] == sizes[-1]
    assert sizes[-1][1] > sizes[-1][0]


def test_every_row_is_read_equally_often_and_batches_are_of_one_bucket() -> None:
    buckets = torch.tensor([0, 1, 0, 0, 2, 0, 1, 0, 0, 0])
    order = Order(buckets, 3, seed=5)
    batches = [order.batch(i) for i in range(20)]
    assert all(len(set(buckets[batch.rows].tolist())) == 1 for batch in batches)
    assert Counter(row for batch in batches for row in batch.rows.tolist()) == dict.fromkeys(range(10), 6)
    later = Order(buckets, 3, seed=5).batch(17)
    assert torch.equal(later.rows, batches[17].rows) and later.epochs == batches[17].epochs
    assert [b.rows.tolist() for b in batches[:10]] != [b.rows.tolist() for b in batches[10:]]
    single = Order(torch.zeros(7, dtype=torch.int64), 3, 1)
    assert all(torch.equal(single.batch(i).rows, batch_rows(7, 3, 1, i)) for i in range(9))
    assert single.batch(2).epochs == (0, 1, 1)


def test_captions_are_dropped_by_seed_epoch_and_row_alone() -> None:
    rows = torch.arange(2000)
    first, again = (drawn("caption", 0.1, 3, Batch(rows, (0,) * 2000)) for _ in range(2))
    assert torch.equal(first, again) and 0.07 < float(first.float().mean()) < 0.13
    assert torch.equal(drawn("caption", 0.1, 3, Batch(rows[[7, 1500]], (0, 0))), first[[7, 1500]])
    assert not torch.equal(drawn("caption", 0.1, 3, Batch(rows, (1,) * 2000)), first)
    assert not torch.equal(drawn("flip", 0.1, 3, Batch(rows, (0,) * 2000)), first)


def shaped(folder: Path) -> Path:
    """Three wide images, three tall ones."""
    folder.mkdir()
    for i, caption in enumerate(CAPTIONS):
        (folder / f"{i}.png").write_bytes(picture(i, (40, 72) if i % 2 else (72, 40)))
        (folder / f"{i}.txt").write_text(caption)
    return folder


@pytest.mark.parametrize("family", ["sd-epsilon", "pixart-flow", "sdxl", "sd3", "flux-dev"])
def test_families_train_in_buckets(family: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (save_tiny if family.split("-")[0] in ("sd", "pixart") else save_tiny_flow)(family, tmp_path / "model")
    config = SftConfig(
        model=tmp_path / "model", data=shaped(tmp_path / "sft"), out=tmp_path / "run", steps=3, batch_size=2,
        dataset=DatasetConfig(buckets=True, flip=True), resolution=RESOLUTION, device="cpu", self_test=False,
        learning_rate=1e-3,
    )  # fmt: skip
    seen: list[tuple[int, ...]] = []
    model = type(load(config.model))
    predict = model.predict

    def watched(self: Any, z_t: Any, t: Any, conditioning: Any, denoiser: Any) -> Any:
        seen.append(tuple(side * self.pipeline.vae_scale_factor for side in z_t.shape[2:]))
        return predict(self, z_t, t, conditioning, denoiser)

    monkeypatch.setattr(model, "predict", watched)
    train_sft(config)
    sizes = set(seen)
    assert len(sizes) == 2 and {size[::-1] for size in sizes} == sizes and (RESOLUTION, RESOLUTION) not in sizes


def test_sdxl_is_told_the_size_of_the_bucket(tmp_path: Path) -> None:
    model = load(save_tiny_flow("sdxl", tmp_path / "model"))
    told: list[torch.Tensor] = []

    class Asked(torch.nn.Module):
        def forward(self, z: torch.Tensor, t: torch.Tensor, **given: Any) -> tuple[torch.Tensor]:
            told.append(given["added_cond_kwargs"]["time_ids"])
            return (z,)

    z = torch.zeros(2, 4, 20, 12)
    model.predict(z, torch.zeros(2), model.encode_prompts(CAPTIONS[:2]), Asked())
    assert told[0].tolist() == [[40, 24, 0, 0, 40, 24]] * 2


def test_mirrored_latents_are_those_of_mirrored_images(world: Path, tmp_path: Path) -> None:
    model = load(world / "models/sd-epsilon")
    data = captioned_latents(model, world / "sft", SIZE, dataset=DatasetConfig(flip=True))
    assert data.mirrored is not None
    image = torch.from_numpy(np.array(Image.open(world / "sft/3.png"))).permute(2, 0, 1) / 127.5 - 1
    expected = model.encode(torch.stack([image, image.flip(-1)])).mean
    found = torch.cat([side.rows(torch.tensor([3])).mean for side in (data.posterior, data.mirrored)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    pairs = paired_latents(model, world / "pairs", SIZE, dataset=DatasetConfig(flip=True))
    assert pairs.mirrored is not None and not torch.equal(pairs.mirrored[0].rows(torch.tensor([0])).mean, expected[:1])
