"""Looks at held-out data: closed forms, determinism, and that training does not notice them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_data import save_captioned, save_pairs, tree
from tiny_models import CAPTIONS, RESOLUTION, save_tiny
from torch import Tensor

from trainers.data import captioned_latents
from trainers.families.detect import load
from trainers.held_out import BANDS, FRACTIONS, band_errors, hold_out
from trainers.latent_diffusion import LatentDiffusion
from trainers.losses import min_snr_weight
from trainers.preference import PreferenceConfig, train_preference
from trainers.schedules import target, to_denoised
from trainers.sft import SftConfig, train_sft
from trainers.training_log import read_lines, read_log


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    save_tiny("sd-epsilon", root / "model")
    save_captioned(root / "sft")
    save_pairs(root / "pairs")
    return root


def sft_config(world: Path, out: Path, **changes: Any) -> SftConfig:
    config = SftConfig(
        model=world / "model", data=world / "sft", out=out, steps=4, batch_size=2, learning_rate=1e-3, device="cpu",
        self_test=False,
    )  # fmt: skip
    return replace(config, **changes)


def test_bands_add_up_to_the_error_and_a_wave_lies_in_its_band() -> None:
    difference = torch.randn(2, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    parts = band_errors(difference)
    assert list(parts) == list(BANDS)
    assert sum(parts.values()).tolist() == pytest.approx(difference.square().mean((1, 2, 3)).tolist(), rel=1e-5)
    x = torch.arange(32.0)
    for cycles, band in ((1, "coarse"), (3, "medium"), (6, "fine"), (12, "finest")):
        wave = torch.cos(2 * torch.pi * cycles * x / 32).expand(1, 3, 32, 32)
        found = band_errors(wave)
        assert float(found[band]) == pytest.approx(0.5, abs=1e-5)
        assert float(sum(found.values())) == pytest.approx(0.5, abs=1e-5)


def test_looking_does_not_change_training(world: Path, tmp_path: Path) -> None:
    held = {"probe_data": world / "sft", "probe_every": 2, "probe_rows": 3}
    plain = train_sft(sft_config(world, tmp_path / "plain")).path
    seen = train_sft(sft_config(world, tmp_path / "seen", **held)).path
    again = train_sft(sft_config(world, tmp_path / "again", **held)).path
    lines = read_lines(seen / "probes.jsonl")
    assert [line["step"] for line in lines] == [0, 2, 4]
    assert tree(again) == tree(seen)
    assert {k: v for k, v in tree(seen).items() if k != "probes.jsonl"} == tree(plain)


@pytest.mark.parametrize("cheaper", [{}, {"bf16_decoder": True}])
def test_where_training_decodes_windows_nothing_larger_is_decoded_with_gradients(
    cheaper: dict[str, Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that fits in memory by its windows still fits when it is looked at, and when decoders are compared."""
    decoded: list[tuple[bool, int, int]] = []
    decode = LatentDiffusion.decode

    def watched(model: LatentDiffusion, latents: Tensor) -> Tensor:
        decoded.append((torch.is_grad_enabled(), len(latents), latents.shape[-1]))
        return decode(model, latents)

    monkeypatch.setattr(LatentDiffusion, "decode", watched)
    train_sft(sft_config(world, tmp_path / "run", steps=2, probe_every=1, probe_rows=3, decode_crop=16, **cheaper))
    whole = RESOLUTION // 2
    assert {(n, side) for _, n, side in decoded if side == whole} == {(1, whole)}, "whole images one by one"
    assert not any(gradient for gradient, _, side in decoded if side == whole)
    assert any(gradient for gradient, _, side in decoded if side == 8), "windows of 16 pixels with gradients"


def test_a_line_tells_errors_by_time_band_and_row(world: Path, tmp_path: Path) -> None:
    run = train_sft(sft_config(world, tmp_path / "run", steps=2, probe_every=1, probe_rows=3))
    first, *_, last = read_lines(run.path / "probes.jsonl")
    for kind in ("latent", "pixel"):
        mean = first[f"{kind}_error"]
        by_time = [first[f"{kind}_error_t{round(100 * fraction)}"] for fraction in FRACTIONS]
        assert sum(by_time) / len(by_time) == pytest.approx(mean, rel=1e-5)
        rows = first["rows"][f"{kind}_error"]
        assert len(rows) == 3
        assert sum(rows) / 3 == pytest.approx(mean, rel=1e-5)
    assert sum(first[f"pixel_error_{band}"] for band in BANDS) == pytest.approx(first["pixel_error"], rel=1e-4)
    assert first["gradient_ratio"] > 0
    assert last["latent_error"] != first["latent_error"]


@pytest.mark.parametrize("method", ["dpo", "simpo"])
def test_pairs_are_looked_at_side_by_side(method: Any, world: Path, tmp_path: Path) -> None:
    config = PreferenceConfig(
        model=world / "model", data=world / "pairs", out=tmp_path / "run", steps=2, batch_size=2, learning_rate=1e-3,
        device="cpu", self_test=False, method=method, probe_every=2, probe_rows=3,
    )  # fmt: skip
    run = train_preference(config)
    first, last = read_lines(run.path / "probes.jsonl")
    for kind in ("latent", "pixel"):
        for side in ("winner", "loser"):
            assert first[f"{kind}_{side}_error"] > 0
            assert last[f"{kind}_{side}_error"] != first[f"{kind}_{side}_error"]
        assert 0 <= last[f"{kind}_accuracy"] <= 1
        if method == "dpo":  # the model is its own reference yet
            assert first[f"{kind}_margin"] == pytest.approx(0, abs=1e-3)
            assert last[f"{kind}_margin"] != 0


def test_what_is_held_out_is_not_trained_on(world: Path) -> None:
    model = load(world / "model")
    data = captioned_latents(model, world / "sft", model.resolution)
    kept, held = hold_out(data, 2, seed=0)
    assert (len(kept), len(held)) == (4, 2)
    prompts = [[data.texts.prompts[i] for i in part.prompt.tolist()] for part in (kept, held)]
    assert sorted(prompts[0] + prompts[1]) == sorted(CAPTIONS)
    for part, names in zip((kept, held), prompts, strict=True):
        index = torch.tensor([CAPTIONS.index(name) for name in names])
        rows = torch.arange(len(part))
        assert torch.equal(part.posterior.rows(rows).mean, data.posterior.rows(index).mean)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow_prediction"])
def test_min_snr_is_the_papers_weight_of_every_parametrisation(prediction: Any) -> None:
    """min(SNR, gamma) of the error of x0; for eps and v (arXiv 2303.09556) and for flows it is the same loss."""
    generator = torch.Generator().manual_seed(0)
    z, eps, wrong = (torch.randn(6, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    sigma = torch.tensor([0.02, 0.1, 0.3, 0.5, 0.7, 0.95], dtype=torch.float64).view(-1, 1, 1, 1)
    a, s = (1 - sigma, sigma) if prediction == "flow_prediction" else ((1 - sigma**2).sqrt(), sigma)
    z_t = a * z + s * eps
    wanted = target(prediction, z, eps, a, s)
    output = wanted + 0.1 * wrong
    eps_hat, x0_hat = to_denoised(prediction, output, z_t, a, s)
    snr, gamma = (a / s).square().flatten(), 5.0
    ours = min_snr_weight(a.flatten(), s.flatten(), gamma) * (eps_hat - eps).square().mean((1, 2, 3))
    of_x0 = snr.clamp(max=gamma) * (x0_hat - z).square().mean((1, 2, 3))
    own = (output - wanted).square().mean((1, 2, 3))
    factor = {
        "epsilon": snr.clamp(max=gamma) / snr,
        "v_prediction": snr.clamp(max=gamma) / (snr + 1),
        "flow_prediction": snr.clamp(max=gamma) * s.flatten().square(),
    }[prediction]
    assert ours.tolist() == pytest.approx(of_x0.tolist(), rel=1e-9)
    assert ours.tolist() == pytest.approx((factor * own).tolist(), rel=1e-9)


def test_min_snr_lowers_the_loss_and_not_the_logged_error(world: Path, tmp_path: Path) -> None:
    plain = read_log(train_sft(sft_config(world, tmp_path / "plain", steps=1, objective="latent")))[0]
    found = read_log(train_sft(sft_config(world, tmp_path / "run", steps=1, objective="latent", min_snr=0.01)))[0]
    assert found["latent_error"] == plain["latent_error"] == plain["loss"]
    assert 0 < found["loss"] < plain["loss"]
