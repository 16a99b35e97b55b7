"""The metrics as torchmetrics.Metric: in one process, in collections, and gathered over two."""

from pathlib import Path

import gather_worker
import pytest
import torch
from tiny_clip import CAPTIONS, tiny_clip
from torchmetrics import MetricCollection

from pixeval.catalog import find, load
from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.torchmetric import as_torchmetric


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def images(n: int = 6, side: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_values_are_gathered_over_batches_and_not_averaged_by_batch() -> None:
    metric, batch = as_torchmetric("sharpness"), images()
    metric.update(batch[:4])
    metric.update(batch[4:])
    expected = load(find("sharpness"))(batch)
    torch.testing.assert_close(metric.per_image(), expected)
    found = metric.compute()
    torch.testing.assert_close(found["sharpness"], expected.mean())
    assert (int(found["sharpness_scored"]), int(found["sharpness_unscored"])) == (6, 0)
    metric.reset()
    assert len(metric.per_image()) == 0


def test_what_cannot_be_scored_is_counted_and_enters_no_mean() -> None:
    metric = as_torchmetric("psnr")
    batch = images(3)
    references = batch.clone()
    references[1:] = (references[1:] + 0.1).clamp(0, 1)
    metric.update(batch, references)
    metric.update(batch, references)
    found = metric.compute()
    assert found["psnr"].isfinite()
    assert (int(found["psnr_scored"]), int(found["psnr_unscored"])) == (4, 2)
    small = as_torchmetric("niqe")
    small.update(batch)
    assert small.compute()["niqe"].isnan()
    assert int(small.compute()["niqe_unscored"]) == 3
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        metric.update(batch * 255, references)


def test_prompts_and_collections(encoder: ClipEncoder) -> None:
    prompts = list(CAPTIONS[:4])
    metric = as_torchmetric("clip_score", encoder=encoder)
    metric.update(images(4), prompts)
    torch.testing.assert_close(
        metric.compute()["clip_score"], load(find("clip_score"), encoder=encoder)(images(4), prompts).mean()
    )
    together = MetricCollection({name: as_torchmetric(name) for name in ("noise", "contrast")}, compute_groups=False)
    together.update(images(4))
    found = together.compute()
    assert float(found["noise"]) != float(found["contrast"])


@pytest.mark.parametrize("name", ["kernel_distance", "coverage", "vendi_score", "spectrum_distance"])
def test_sets(name: str, encoder: ClipEncoder) -> None:
    metric = as_torchmetric(name, encoder=encoder)
    judged, reference = images(12, seed=1), images(14, seed=2) ** 2
    for part in judged.split(5):
        metric.update(part)
    assert float(metric.compute()[name]) > 0 if name == "vendi_score" else metric.compute()[name].isnan()
    metric.update(reference, real=True)
    features = [metric.encoder(batch) for batch in (judged, reference)]
    assert float(metric.compute()[name]) == pytest.approx(load(find(name))(*features), rel=1e-4, abs=1e-6)
    assert int(metric.compute()[f"{name}_n"]) == 12


def test_frechet_distance_equals_torchmetrics_on_the_same_features() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Pooled(torch.nn.Module):
        num_features = 12

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(batch.float(), 2).flatten(1)

    theirs = FrechetInceptionDistance(Pooled(), normalize=False, input_img_size=(3, 40, 40)).set_dtype(torch.float64)
    judged, reference = images(40, seed=1), images(50, seed=2) ** 1.2
    theirs.update(judged, real=False)
    theirs.update(reference, real=True)
    ours = load(find("frechet_distance"))(Pooled()(judged), Pooled()(reference))
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-4)


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    batch = images(7)
    torch.multiprocessing.spawn(gather_worker.work, args=(str(tmp_path), batch), nprocs=2)
    alone = gather_worker.scores(batch)
    assert alone["spectrum_distance"] > 0
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(alone, rel=1e-5)
