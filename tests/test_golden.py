"""Every metric of the catalogue against its golden numbers, and the invariances that hold for all of them."""

import json
import sys
from pathlib import Path

import pytest
import torch

from pixeval.catalog import CATALOG, load
from pixeval.metric_spec import MetricSpec
from pixeval.validation.planted_flaws import PLANTED, plant

sys.path.insert(0, str(Path(__file__).parent / "golden"))

import make_golden

GOLDEN = json.loads(make_golden.FILE.read_text())
BUNDLED = [spec for spec in CATALOG if "weights" not in spec.needs]
"""The others are compared with independent implementations on tiny random weights in the tests of their adapters."""
PER_IMAGE = [spec for spec in BUNDLED if spec.family in ("quality", "flaws", "reference") and "clip" not in spec.needs]


def tensors(spec: MetricSpec, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    arrays = make_golden.inputs(spec)
    return [torch.from_numpy(array).permute(0, 3, 1, 2).to(dtype).contiguous() for array in arrays]


def values(spec: MetricSpec, images: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = load(spec)(images, references) if spec.family == "reference" else load(spec)(images)
    return found


def test_every_metric_has_a_golden_number_and_no_other_has() -> None:
    assert sorted(GOLDEN) == sorted(spec.name for spec in BUNDLED)
    assert all(entry["source"] and entry["values"] for entry in GOLDEN.values())


@pytest.mark.parametrize("spec", BUNDLED, ids=lambda spec: spec.name)
def test_golden(spec: MetricSpec) -> None:
    tolerance = GOLDEN[spec.name].get("tolerance", 1e-4)
    assert make_golden.ours(spec) == pytest.approx(GOLDEN[spec.name]["values"], rel=tolerance, abs=1e-8)


@pytest.mark.parametrize("spec", BUNDLED, ids=lambda spec: spec.name)
def test_values_lie_in_the_declared_range(spec: MetricSpec) -> None:
    assert all(spec.low <= value <= spec.high for value in GOLDEN[spec.name]["values"])


@pytest.mark.parametrize("spec", PER_IMAGE, ids=lambda spec: spec.name)
def test_invariance(spec: MetricSpec) -> None:
    images, references = tensors(spec)
    found = values(spec, images, references)
    assert found.shape == (len(images),)
    assert found.dtype == torch.float32
    alone = torch.cat([values(spec, images[i : i + 1], references[i : i + 1]) for i in range(len(images))])
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    shuffled = values(spec, images[order], references[order])
    exact = values(spec, *tensors(spec, torch.float64))
    torch.testing.assert_close(alone, found, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(shuffled, found[order], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.double(), exact, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("spec", [s for s in PER_IMAGE if s.differentiable], ids=lambda spec: spec.name)
def test_gradients(spec: MetricSpec) -> None:
    images, references = tensors(spec)
    images = images[:5]
    if spec.family == "flaws":  # a detector may be flat where there is nothing to find
        (own,) = (flaw for flaw in PLANTED if flaw.detector == spec.name)
        images = torch.stack([plant(own, image, 3, "gradient").pixels for image in images])
    images.requires_grad_()
    values(spec, images, references[:5]).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("spec", PER_IMAGE, ids=lambda spec: spec.name)
def test_the_smallest_size_and_flat_images_work(spec: MetricSpec) -> None:
    side = spec.min_side
    grey = torch.full((2, 3, side, side), 0.5)
    white = torch.ones(2, 3, side, side + 1)
    for images in (grey, white):
        found = values(spec, images, images * 0.9)
        assert found.shape == (2,)
        # the detail of a flat reference does not exist, so an error relative to it does not either
        assert found.isfinite().all() or spec.undefined or "band_error" in spec.name
