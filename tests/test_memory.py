"""How many images are scored at a time."""

import pytest
import torch

from pixeval.scoring import memory
from pixeval.scoring.memory import LEAST_PIXELS, MOST_PIXELS, batch_pixels, chunk_images, memory_bytes


@pytest.mark.parametrize(
    ("gigabytes", "megapixels"),
    [(None, 32.0), (240.0, 32.0), (8.0, 2.56), (0.5, 0.25)],
    ids=["none", "240", "8", "half"],
)
def test_batches_follow_the_memory(gigabytes: float | None, megapixels: float, monkeypatch: pytest.MonkeyPatch) -> None:
    size = None if gigabytes is None else int(gigabytes * 2**30)
    monkeypatch.setattr(memory, "memory_bytes", lambda device: size)
    assert batch_pixels("cuda") / 2**20 == pytest.approx(megapixels, rel=0.01)


def test_this_machine_has_memory() -> None:
    found = memory_bytes("cpu")
    assert found is not None and found > 2**30
    assert LEAST_PIXELS <= batch_pixels("cpu") <= MOST_PIXELS["cpu"]
    assert chunk_images("cpu") < chunk_images("mps") < chunk_images("cuda:1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_takes_more() -> None:
    assert batch_pixels("cuda") > batch_pixels("cpu")
