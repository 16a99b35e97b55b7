"""Everything that is trained gets a gradient: processes that train together wait for each parameter's."""

from pathlib import Path

import pytest
import torch
from tiny_flow_models import TINY_FLOW, save_tiny_flow
from tiny_models import CAPTIONS, TINY, save_tiny

from trainers.errors import add_noise, errors
from trainers.families.detect import load


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("name", [*TINY, *TINY_FLOW])
def test_every_trained_parameter_gets_a_gradient(name: str, rank: int | None, tmp_path: Path) -> None:
    model = load(save_tiny(name, tmp_path) if name in TINY else save_tiny_flow(name, tmp_path))
    if rank is not None:
        model.adapt(rank, None, (), 0)
    channels = model.encode(torch.zeros(1, 3, 16, 16)).mean.shape[1]
    z = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    noised = add_noise(model, z, z.flip(0), model.schedule.at(0.5, 2), model.encode_prompts(CAPTIONS[:2]), ("latent",))
    errors(model, model.denoiser, noised, ("latent",))["latent"].sum().backward()
    trained = {key: value for key, value in model.denoiser.named_parameters() if value.requires_grad}
    assert trained
    assert [key for key, value in trained.items() if value.grad is None] == []
