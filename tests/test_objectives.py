"""Every option of the objective on tiny models: what it computes, that it trains, and that bad settings are named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_model
from tiny_data import paint
from tiny_models import CAPTIONS, RESOLUTION, save_tiny
from torch import Tensor, nn
from training_process import StopError, stop_at

from pixeval import cli
from pixeval.catalog import find
from pixeval.catalog import load as load_metric
from pixeval.errors import InputError
from pixeval.pair_folder import export_pairs
from pixeval.records import Pair
from trainers.balance import Balance, BalanceConfig
from trainers.data import captioned_latents, paired_latents
from trainers.decoder_features import decoder_features
from trainers.errors import PixelTerm, add_noise, ask, decoder_argument, errors, measure
from trainers.families.detect import load
from trainers.flaw_maps import FlawConfig, FlawMaps
from trainers.latent_diffusion import LatentDiffusion
from trainers.objective import PixelConfig
from trainers.pixel_losses import charbonnier, emphasis, pixel_sft
from trainers.preference import PreferenceConfig, pair_weights, train_preference
from trainers.reward import RewardConfig, named_reward
from trainers.schedules import target
from trainers.sft import SftConfig, train_sft
from trainers.training_log import read_log

MODELS = ("sd-epsilon", "sd-v", "sd-x0", "pixart-flow")


def mark(path: Path) -> None:
    """A flaw in the upper left quarter."""
    array = np.zeros((RESOLUTION, RESOLUTION), np.uint8)
    array[: RESOLUTION // 2, : RESOLUTION // 2] = 255
    Image.fromarray(array).save(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/, images with captions and a column of flaw maps (sft/), pairs/, and folders of maps for both."""
    root = tmp_path_factory.mktemp("world")
    for name in MODELS:
        save_tiny(name, root / "models" / name)
    for folder in ("sft", "maps", "pair-maps"):
        (root / folder).mkdir()
    lines = []
    for i, caption in enumerate(CAPTIONS[:4]):
        paint(root / "sft" / f"{i}.png", i)
        lines.append({"file_name": f"{i}.png", "text": caption, "flaw_map": "marks/all.png" if i == 0 else ""})
    (root / "sft" / "marks").mkdir()
    mark(root / "sft" / "marks" / "all.png")
    mark(root / "maps" / "0.png")
    (root / "sft" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs = []
    for i, caption in enumerate(CAPTIONS[:3]):
        for side in (0, 1):
            paint(root / f"pair-{i}-{side}.png", 100 + 2 * i + side)
        mark(root / "pair-maps" / f"r{i}.png")
        paths = [str(root / f"pair-{i}-{side}.png") for side in (0, 1)]
        pairs.append(Pair(f"p{i}", caption, f"c{i}", f"r{i}", *paths, "a", "b", 0.8, "votes:flaws"))
    export_pairs(pairs, root / "pairs", "test")
    return root


def common(world: Path, out: Path, model: str, data: str) -> dict[str, Any]:
    return {
        "model": world / "models" / model, "data": world / data, "out": out, "steps": 2, "batch_size": 2,
        "learning_rate": 1e-3, "device": "cpu", "self_test": False,
    }  # fmt: skip


def sft(world: Path, out: Path, model: str = "sd-v", **changes: Any) -> SftConfig:
    return replace(SftConfig(**common(world, out, model, "sft")), **changes)


def preference(world: Path, out: Path, model: str = "sd-v", **changes: Any) -> PreferenceConfig:
    return replace(PreferenceConfig(**common(world, out, model, "pairs")), **changes)


def assert_trained(world: Path, run: Path, model: str = "sd-v") -> None:
    for part, frozen in (("unet", False), ("vae", True)):
        before, after = (
            load_file(next((folder / part).glob("*.safetensors")))
            for folder in (world / "models" / model, run / "checkpoints" / "step-000002")
        )
        assert all(torch.equal(before[key], after[key]) for key in before) == frozen
        assert all(bool(torch.isfinite(value).all()) for value in after.values())


class Believer(nn.Module):
    """Answers every question with the same output."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, *arguments: Any, **named: Any) -> tuple[Tensor]:
        return (self.output,)


def batch(model: LatentDiffusion, n: int = 3) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    z, eps = (torch.randn((n, 4, 16, 16), generator=generator) for _ in range(2))
    t = torch.stack([model.schedule.at(fraction, 1)[0] for fraction in torch.linspace(0.1, 0.9, n).tolist()])
    return z, eps, t, model.encode_prompts(CAPTIONS[:n])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("argument", ["noisy", "x0"])
def test_both_arguments_of_the_decoder_are_right_in_every_parametrisation(
    name: str, argument: Any, world: Path
) -> None:
    """A belief that is off by d in the clean latent: x0_hat = z + d, re-noised z_t - a d, each decoded."""
    model = load(world / "models" / name)
    z, eps, t, conditioning = batch(model)
    a, s = model.coefficients(t)
    off = 0.1 * torch.randn(z.shape, generator=torch.Generator().manual_seed(6))
    # the noise that explains z_t when the clean latent is z + off
    belief = target(model.prediction, z + off, eps - a * off / s, a, s)
    term = PixelTerm(argument, pixel_sft)
    noised = add_noise(model, z, eps, t, conditioning, ("pixel",), term)
    found = errors(model, Believer(belief), noised, ("pixel",), term)["pixel"]
    z_t = (a.double() * z.double() + s.double() * eps.double()).float()
    with torch.no_grad():
        pair = (z_t - a * off, z_t) if argument == "noisy" else (z + off, z)
        expected = pixel_sft(model.decode(pair[0]), model.decode(pair[1]))
    torch.testing.assert_close(found.detach(), expected, rtol=2e-3, atol=1e-8)
    perfect = errors(model, Believer(target(model.prediction, z, eps, a, s)), noised, ("pixel",), term)["pixel"]
    assert float(perfect.detach().max()) < 1e-6 * float(expected.max()) + 1e-9


def test_the_x0_error_grows_with_the_noise_and_the_papers_does_not(world: Path) -> None:
    """Why the paper rejects (8): the same error of eps_hat weighs s/a in x0_hat, s in the re-noised latent."""
    model = load(world / "models/sd-epsilon")
    z, eps, _, conditioning = batch(model, 2)
    t = torch.tensor([100, 900])
    growth = {}
    for argument in ("noisy", "x0"):
        term = PixelTerm(argument, pixel_sft)  # type: ignore[arg-type]
        noised = add_noise(model, z, eps, t, conditioning, ("pixel",), term)
        low, high = errors(model, Believer(eps + 0.01 * z), noised, ("pixel",), term)["pixel"].tolist()
        growth[argument] = high / low
    assert growth["x0"] > 20 * growth["noisy"]


def test_outside_the_band_nothing_is_decoded_and_the_error_is_zero(world: Path) -> None:
    model = load(world / "models/sd-v")
    z, eps, t, conditioning = batch(model)  # at 0.1, 0.5 and 0.9 of the way
    whole, banded, none = PixelTerm(), PixelTerm(band=(0.0, 0.6)), PixelTerm(band=(0.95, 1.0))
    decoded: list[int] = []
    model.vae.decoder.register_forward_hook(lambda module, given, output: decoded.append(len(output)))
    found = {}
    for term in (whole, banded, none):
        noised = add_noise(model, z, eps, t, conditioning, ("pixel",), term)
        found[term.band] = errors(model, model.denoiser, noised, ("pixel",), term)["pixel"]
    assert decoded == [3, 3, 2, 2]
    torch.testing.assert_close(found[0.0, 0.6][:2], found[0.0, 1.0][:2])
    assert float(found[0.0, 0.6][2]) == 0
    assert found[0.95, 1.0].tolist() == [0, 0, 0]
    found[0.95, 1.0].sum().backward()


def test_decoder_features_are_those_of_the_blocks_and_leave_no_hooks(world: Path) -> None:
    model = load(world / "models/sd-v")
    latents = torch.randn((2, 4, 16, 16), requires_grad=True)
    features = decoder_features(model, latents)
    assert [tuple(f.shape[2:]) for f in features] == [(16, 16), (32, 32), (32, 32)]
    features[-1].square().mean().backward()
    assert latents.grad is not None and float(latents.grad.abs().sum()) > 0
    assert all(not module._forward_hooks for module in model.vae.modules())


def test_gradient_mass_moves_to_the_marked_region_down_to_the_latents(world: Path) -> None:
    model = load(world / "models/sd-v")
    z, eps, t, conditioning = batch(model)
    marks = torch.zeros(3, 1, RESOLUTION, RESOLUTION)
    marks[..., : RESOLUTION // 2, : RESOLUTION // 2] = 1
    shares: dict[str, list[float]] = {"pixels": [], "latents": []}
    for weight in (None, emphasis(marks, 4.0)):
        noised = add_noise(model, z, eps, t, conditioning, ("pixel",), PixelTerm(), weight)
        believer = Believer(torch.zeros_like(z))
        answer = ask(model, believer, noised)
        latents = decoder_argument(answer, noised, "noisy")
        image = model.decode(latents)
        assert isinstance(noised.decoded, Tensor)
        loss = pixel_sft(image, noised.decoded, weight).sum()
        of_image, of_latents = torch.autograd.grad(loss, [image, latents])
        measured = measure(model, answer, noised, ("pixel",))["pixel"].sum()
        torch.testing.assert_close(measured, loss)
        for kind, gradient in (("pixels", of_image), ("latents", of_latents)):
            inside = gradient[..., : gradient.shape[2] // 2, : gradient.shape[3] // 2]
            shares[kind].append(float(inside.abs().sum() / gradient.abs().sum()))
    assert shares["pixels"][0] == pytest.approx(0.25, abs=0.05)
    assert shares["pixels"][1] == pytest.approx(5 / 8, abs=0.05), "5 p / (1 + 4 p) with p = 1/4"
    assert shares["latents"][1] > shares["latents"][0] + 0.15


def test_flaw_maps_come_from_folders_columns_and_detectors(world: Path) -> None:
    model = load(world / "models/sd-v")
    size = (RESOLUTION, RESOLUTION)

    def maps(source: str, config: FlawConfig) -> Any:
        read: Callable[..., Any] = captioned_latents if source == "sft" else paired_latents
        return read(model, world / source, size, FlawMaps(config, model.device))

    half = RESOLUTION // 2
    for config in (FlawConfig(str(world / "maps")), FlawConfig("column")):
        found = maps("sft", config).flaws
        assert found.shape == (4, 1, *size) and found.dtype == torch.uint8
        assert int(found[0, 0, :half, :half].min()) == 255
        assert int(found[0, 0, half:].max()) == int(found[1:].max()) == 0
    pairs = maps("pairs", FlawConfig(str(world / "pair-maps")))
    assert int(pairs.winner_flaws.max()) == 0 and int(pairs.loser_flaws[:, :, :half, :half].min()) == 255
    detected = maps("sft", FlawConfig(str(world / "maps"), ("blank_flaw", "noise_flaw"))).flaws
    images = torch.from_numpy(np.stack([np.asarray(Image.open(world / f"sft/{i}.png")) for i in range(4)]))
    seen = images.permute(0, 3, 1, 2).float() / 255
    heat = torch.stack([load_metric(find(n)).heatmap(seen) for n in ("blank_flaw", "noise_flaw")]).amax(0)
    torch.testing.assert_close(detected[1:, 0].float() / 255, heat[1:], rtol=0, atol=0.003)
    assert int(detected[0, 0, :half, :half].min()) == 255
    for config, words in (
        (FlawConfig(str(world / "pair-maps")), "belongs to an image"),
        (FlawConfig(str(world / "nowhere")), "not a folder"),
        (FlawConfig(detectors=("sharpness",)), "no heat maps"),
        (FlawConfig("column", kappa=-2.0), "at least -1"),
    ):
        with pytest.raises(InputError, match=words):
            maps("sft", config)
    with pytest.raises(InputError, match="columns"):
        maps("pairs", FlawConfig("column"))


def test_losers_are_weighted_where_they_are_flawed_and_winners_as_told(world: Path, tmp_path: Path) -> None:
    config = preference(world, tmp_path, flaws=FlawConfig(str(world / "pair-maps"), kappa=3.0))
    model = load(config.model)
    data = paired_latents(model, config.data, model.resolution, FlawMaps(config.flaws, model.device))
    weight = pair_weights(data, torch.tensor([0, 2]), config)
    assert weight is not None and weight.shape == (4, 1, RESOLUTION, RESOLUTION)
    assert torch.equal(weight[:2], torch.ones_like(weight[:2]))
    torch.testing.assert_close(weight[2:, :, 0, 0] / weight[2:, :, -1, -1], torch.full((2, 1), 4.0))


@pytest.mark.parametrize("name", ["sharpness", "noise_flaw", "clip_score"])
def test_a_step_along_the_reward_improves_the_metric_in_its_direction(name: str, world: Path) -> None:
    model = load(world / "models/sd-v")
    reward = named_reward(RewardConfig(name, band=(0.0, 1.0)), model, CAPTIONS, RESOLUTION)
    assert reward is not None
    z, eps, t, conditioning = batch(model)
    noised = add_noise(model, z, eps, t, conditioning, ("latent",))
    believer = Believer(target("v_prediction", z, eps, *model.coefficients(t)))
    values, scored = reward.values(model, ask(model, believer, noised), noised, [*CAPTIONS[:2], ""])
    assert scored.tolist() == [True, True, name != "clip_score"], "without a prompt there is nothing to align with"
    loss = reward.loss(values)
    assert float(loss.detach()) == pytest.approx(
        (0.1 if name == "noise_flaw" else -0.1) * float(values.detach().mean()), rel=1e-5
    )
    (slope,) = torch.autograd.grad(loss, believer.output)
    with torch.no_grad():
        believer.output -= 0.02 * slope / slope.abs().max()
        after, _ = reward.values(model, ask(model, believer, noised), noised, [*CAPTIONS[:2], ""])
    change = float((after - values).sum())
    assert (change < 0) == (name == "noise_flaw") and change != 0


def test_rewards_are_given_within_their_band_only(world: Path) -> None:
    model = load(world / "models/sd-v")
    reward = named_reward(RewardConfig("contrast"), model, CAPTIONS, RESOLUTION)
    assert reward is not None
    z, eps, t, conditioning = batch(model)
    noised = add_noise(model, z, eps, t, conditioning, ("latent",))
    values, scored = reward.values(model, ask(model, model.denoiser, noised), noised, CAPTIONS[:3])
    assert scored.tolist() == [True, False, False] and values[1:].tolist() == [0, 0] and float(values[0]) > 0


def test_balance_sets_the_ratio_of_gradients_then_freezes_and_remembers() -> None:
    frozen: list[float] = []
    balance = Balance(BalanceConfig(ratio=0.5, batches=2), frozen.append)
    output = torch.tensor([3.0, 4.0], requires_grad=True)
    # gradients: 2 output, of norm 10; and 0.1, 0.1 times output / 5 of norm 0.1
    first, second = output.square().sum(), 0.1 * output.norm()
    assert balance(first, second, output) == pytest.approx(0.5 * 100)
    assert balance(first, 0 * second, output) == pytest.approx(50), "a term without a gradient is not measured"
    middle = Balance(BalanceConfig(ratio=0.5, batches=2), frozen.append)
    middle.restore(json.loads(json.dumps(balance.state())))
    for continued in (balance, middle):
        assert continued(first, 4 * second, output) == pytest.approx(0.5 * (100 * 25) ** 0.5)
        assert continued(first, 1000 * second, output) == pytest.approx(25), "frozen"
    assert frozen == [balance.value, balance.value]
    with pytest.raises(InputError, match="balance"):
        Balance(BalanceConfig(ratio=0.0), frozen.append)


@pytest.mark.parametrize("trainer", ["sft", "preference"])
def test_a_run_stopped_while_balancing_ends_in_the_same_bits(trainer: str, world: Path, tmp_path: Path) -> None:
    train: Callable[..., Any] = train_sft if trainer == "sft" else train_preference
    make: Callable[..., Any] = sft if trainer == "sft" else preference
    changes = {"steps": 5, "checkpoint_every": 1, "pixel_weight": "balance", "balance": BalanceConfig(batches=3)}
    whole = train(make(world, tmp_path / "whole", **changes))
    with pytest.raises(StopError):
        train(make(world, tmp_path / "parts", **changes), stop_at(2))
    assert "balanced_pixel_weight" not in json.loads((tmp_path / "parts/run.json").read_text())
    parts = train(make(world, tmp_path / "parts", **changes))
    weights = [line["pixel_weight"] for line in read_log(whole)]
    assert weights[0] != weights[2] and weights[2] == weights[3] == weights[4]
    assert whole.info["balanced_pixel_weight"] == pytest.approx(weights[2], rel=1e-6)
    assert parts.info["balanced_pixel_weight"] == whole.info["balanced_pixel_weight"]
    for file in ("metrics.jsonl", "state/state.safetensors", "state/state.json"):
        assert (whole.path / file).read_bytes() == (parts.path / file).read_bytes()
    state = json.loads((whole.path / "state/state.json").read_text())
    assert len(state["loss"]["logarithms"]) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"pixel": PixelConfig("x0")},
        {"pixel": PixelConfig("noisy", "charbonnier", band=(0.1, 0.9))},
        {"pixel": PixelConfig("noisy", "pyramid"), "flaws": FlawConfig(detectors=("blur_flaw",))},
        {"pixel": PixelConfig("noisy", "decoder_features"), "flaws": FlawConfig("column")},
        {"pixel": PixelConfig("x0", "decoder_features"), "objective": "pixel"},
        {"reward": RewardConfig("sharpness", 1.0, band=(0.0, 1.0)), "objective": "latent"},
    ],
    ids=["x0", "charbonnier", "pyramid", "features", "features-x0", "reward"],
)
def test_sft_trains_with_every_option(changes: dict[str, Any], world: Path, tmp_path: Path) -> None:
    log = read_log(train_sft(sft(world, tmp_path / "run", **changes)))
    first = log[0]
    kinds = [name for name in ("latent_error", "pixel_error") if name in first]
    expected = sum(weight * first[kind] for weight, kind in zip((1.0, 2.0), kinds, strict=False))
    if "reward" in changes:
        assert first["rewarded"] == 1.0
        expected -= first["reward"]
    assert first["loss"] == pytest.approx(expected, rel=1e-4)
    assert_trained(world, tmp_path / "run")


def test_sft_trains_on_lpips_when_weights_are_given(world: Path, tmp_path: Path) -> None:
    from torchmetrics.functional.image.lpips import _LPIPS

    torch.manual_seed(0)
    weights = tmp_path / "lpips.safetensors"
    save_model(_LPIPS(pretrained=False, net="alex", pnet_rand=True), str(weights))
    config = sft(world, tmp_path / "run", pixel=PixelConfig("noisy", "lpips", weights), resolution=64)
    assert read_log(train_sft(config))[0]["pixel_error"] > 0
    assert_trained(world, tmp_path / "run")
    with pytest.raises(InputError, match="at least 64"):
        train_sft(replace(config, resolution=32, out=tmp_path / "small"))


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "ipo", "margin": 0.1, "pixel_beta": 10.0},
        {"method": "mapo", "soft_labels": True},
        {"method": "dpo", "anchor": 0.5, "beta": 5000.0, "beta_convention": "half_mean"},
        {"method": "simpo", "loser_safety": 0.9, "beta": 0.02, "beta_convention": "sum"},
        {"method": "simpo", "pixel": PixelConfig("noisy", "charbonnier", band=(0.0, 0.5))},
        {"method": "dpo", "loser_safety": 0.0, "flaws": FlawConfig(detectors=("blur_flaw",), winner_kappa=-0.5)},
        {"method": "ipo", "reward": RewardConfig("noise_flaw", 1.0, band=(0.0, 1.0)), "objective": "latent"},
    ],
    ids=["ipo", "mapo", "anchor", "safe", "band", "flaws", "reward"],
)
def test_preference_tuning_trains_with_every_option(changes: dict[str, Any], world: Path, tmp_path: Path) -> None:
    log = read_log(train_preference(preference(world, tmp_path / "run", **changes)))
    first = log[0]
    kinds = [kind for kind in ("latent", "pixel") if f"{kind}_loss" in first]
    expected = sum(weight * first[f"{kind}_loss"] for weight, kind in zip((1.0, 2.0), kinds, strict=False))
    assert first["loss"] == pytest.approx(expected + first.get("reward", 0.0), rel=1e-4)
    if changes["method"] in ("dpo", "ipo"):
        # the model equals its reference: IPO with margin m starts at (m + 1/2)^2, DPO at ln 2
        start = (0.5 + changes.get("margin", 0.0)) ** 2 if changes["method"] == "ipo" else float(np.log(2))
        anchored = start + changes.get("anchor", 0.0) * first["latent_winner_error"]
        assert first["latent_loss"] == pytest.approx(anchored, rel=1e-3)
    if changes["method"] == "simpo" and "beta" in changes:
        beta = 0.02 * 4 * 16 * 16
        difference = first["latent_loser_error"] - first["latent_winner_error"]
        assert first["latent_margin"] == pytest.approx(beta * difference, rel=1e-3, abs=1e-6)
    assert_trained(world, tmp_path / "run")


def test_the_safe_factor_enters_the_gradient_and_not_the_value(world: Path, tmp_path: Path) -> None:
    """With safety 1 nothing of the loser is left where it would pull the winner along: only the winner's own slope."""
    logs = [
        read_log(train_preference(preference(world, tmp_path / name, objective="latent", loser_safety=safety)))
        for name, safety in (("free", None), ("safe", 1.0))
    ]
    assert logs[0][0]["loss"] == logs[1][0]["loss"]
    assert logs[0][0]["gradient_norm"] != logs[1][0]["gradient_norm"]


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("sft", {"pixel": PixelConfig(band=(0.5, 0.2))}, "pixel.band"),
    ("sft", {"pixel": PixelConfig(distance="lpips")}, "belong together"),
    ("sft", {"objective": "latent", "flaws": FlawConfig(detectors=("blur_flaw",))}, "has none"),
    ("sft", {"objective": "pixel", "pixel_weight": "balance"}, "nothing to balance"),
    ("sft", {"pixel_weight": -1.0}, "pixel_weight"),
    ("sft", {"reward": RewardConfig("sharpness", -1.0)}, "reward.weight"),
    ("sft", {"reward": RewardConfig("niqe")}, "differentiable"),
    ("sft", {"reward": RewardConfig("psnr")}, "single images"),
    ("sft", {"reward": RewardConfig("sharpnes")}, "sharpness"),
    ("preference", {"pixel_beta": 0.0}, "pixel_beta"),
    ("preference", {"anchor": -0.1}, "anchor"),
    ("preference", {"loser_safety": 1.5}, "loser_safety"),
    ("preference", {"method": "mapo", "loser_safety": 0.5}, "mapo bounds"),
    ("preference", {"method": "mapo", "beta_convention": "sum"}, "mapo"),
]


@pytest.mark.parametrize(("trainer", "changes", "words"), BAD, ids=[words for _, _, words in BAD])
def test_settings_that_contradict_each_other_are_named(
    trainer: str, changes: dict[str, Any], words: str, world: Path, tmp_path: Path
) -> None:
    train: Callable[..., Any] = train_sft if trainer == "sft" else train_preference
    config = (sft if trainer == "sft" else preference)(world, tmp_path / "run", **changes)
    with pytest.raises(InputError, match=words):
        train(config)
    assert not (tmp_path / "run").exists()


def test_charbonnier_weighs_outliers_less_than_squares(world: Path) -> None:
    """Through the trainer's own path: doubling an error doubles the one and quadruples the other."""
    model = load(world / "models/sd-epsilon")
    z, eps, t, conditioning = batch(model, 1)
    ratios = []
    for distance in (pixel_sft, charbonnier):
        term = PixelTerm(distance=distance)
        noised = add_noise(model, z, eps, t, conditioning, ("pixel",), term)
        one, two = (
            float(errors(model, Believer(eps + k * z), noised, ("pixel",), term)["pixel"].detach()) for k in (0.5, 1.0)
        )
        ratios.append(two / one)
    assert ratios[0] > 1.5 * ratios[1]


def test_the_options_are_reached_from_the_command_line() -> None:
    required = ["--model", "m", "--data", "d", "--out", "o"]
    words = (
        "--method ipo --pixel-weight balance --balance.ratio 0.5 --pixel.argument x0 "
        "--pixel.distance decoder_features --pixel.band 0 0.2 "
        "--flaws.maps column --flaws.detectors blur_flaw noise_flaw --flaws.kappa 2 "
        "--reward.metric sharpness --beta-convention half_mean --loser-safety 0.9"
    )
    config = cli.parse(PreferenceConfig, required + words.split(), "pixeval train preference", "")
    assert config.pixel_weight == "balance" and config.balance == BalanceConfig(ratio=0.5)
    assert config.pixel == PixelConfig("x0", "decoder_features", None, (0.0, 0.2))
    assert config.flaws == FlawConfig("column", ("blur_flaw", "noise_flaw"), kappa=2.0)
    assert (config.reward.metric, config.loser_safety, config.beta_convention) == ("sharpness", 0.9, "half_mean")
    assert cli.parse(SftConfig, [*required, "--pixel-weight", "3"], "pixeval train sft", "").pixel_weight == 3.0
