"""What makes the pixel term cheaper, and that it computes what it says: windows, checkpoints, cached references."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_flow_models
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from tiny_models import CAPTIONS, RESOLUTION, save_tiny, tiny_vae
from torch import Tensor, nn

from pixeval.errors import InputError
from pixeval.pair_folder import export_pairs
from pixeval.records import Pair
from trainers.bf16_decoder import Bf16Decoder
from trainers.data import captioned_latents, paired_latents
from trainers.data_order import seeded
from trainers.decoder_agreement import Decoder, agreement
from trainers.decoder_checkpoints import checkpoint_decoder
from trainers.decoder_window import Window, draw_window
from trainers.errors import PixelTerm, add_noise, ask, measure
from trainers.families.detect import load
from trainers.latent_diffusion import LatentDiffusion
from trainers.objective import Composition, PixelConfig
from trainers.pixel_losses import pixel_sft
from trainers.preference import PreferenceConfig, measure_reference, preference_loss, train_preference
from trainers.schedules import target
from trainers.sft import SftConfig, sft_loss, train_sft
from trainers.tiny_decoder import load_tiny_decoder
from trainers.training_log import read_log

SIZE = (RESOLUTION, RESOLUTION)
LATENT = RESOLUTION // 2


def paint(path: Path, seed: int) -> None:
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(colours).resize(SIZE, Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, captioned images (sft/) and pairs/."""
    root = tmp_path_factory.mktemp("world")
    save_tiny("sd-v", root / "model")
    (root / "sft").mkdir()
    for i, caption in enumerate(CAPTIONS[:4]):
        paint(root / "sft" / f"{i}.png", i)
        (root / "sft" / f"{i}.txt").write_text(caption)
    pairs = []
    for i, caption in enumerate(CAPTIONS[:3]):
        for side in (0, 1):
            paint(root / f"pair-{i}-{side}.png", 100 + 2 * i + side)
        chosen, rejected = (str(root / f"pair-{i}-{side}.png") for side in (0, 1))
        pairs.append(Pair(f"p{i}", caption, f"c{i}", f"r{i}", chosen, rejected, "a", "b", 0.8, "votes:flaws"))
    export_pairs(pairs, root / "pairs", "test")
    return root


def sft(world: Path, out: Path, **changes: Any) -> SftConfig:
    config = SftConfig(
        model=world / "model", data=world / "sft", out=out, steps=2, batch_size=2, learning_rate=1e-3, device="cpu",
        self_test=False,
    )  # fmt: skip
    return replace(config, **changes)


def preference(world: Path, out: Path, **changes: Any) -> PreferenceConfig:
    config = PreferenceConfig(
        model=world / "model", data=world / "pairs", out=out, steps=2, batch_size=2, learning_rate=1e-3, device="cpu",
        self_test=False,
    )  # fmt: skip
    return replace(config, **changes)


class Believer(nn.Module):
    """Answers every question with the same output."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, *arguments: Any, **named: Any) -> tuple[Tensor]:
        return (self.output,)


def test_a_window_as_large_as_the_image_is_no_window(world: Path, tmp_path: Path) -> None:
    model = load(world / "model")
    data = captioned_latents(model, world / "sft", SIZE)
    losses = []
    for crop in (None, RESOLUTION):
        config = sft(world, tmp_path, decode_crop=crop)
        composition = Composition(config, model, CAPTIONS, RESOLUTION)
        terms = sft_loss(model, data, config, composition)(model.denoiser, 3, seeded(0, "batch", 3))
        losses.append((terms["loss"], terms["pixel_error"]))
    assert torch.equal(losses[0][0], losses[1][0])
    assert torch.equal(losses[0][1], losses[1][1])


def test_windows_depend_on_nothing_but_the_generator_and_reach_every_place() -> None:
    first, again = (draw_window(400, (7, 5), 3, 0, seeded(0, "w")) for _ in range(2))
    assert first is not None
    assert again is not None
    assert torch.equal(first.corner, again.corner)
    assert first.corner.amin(0).tolist() == [0, 0]
    assert first.corner.amax(0).tolist() == [4, 2]
    long = draw_window(5, (3, 9), 4, 0, seeded(0, "w"))
    assert long is not None
    assert long.size == (3, 4), "a window is no higher than the latent"
    assert draw_window(5, (3, 4), 4, 0, seeded(0, "w")) is None


def test_both_arguments_are_cut_alike_and_only_the_window_gets_a_gradient(world: Path) -> None:
    model = load(world / "model")
    generator = torch.Generator().manual_seed(5)
    z, eps = (torch.randn((2, 4, LATENT, LATENT), generator=generator) for _ in range(2))
    t = torch.tensor([200, 700])
    conditioning = model.encode_prompts(CAPTIONS[:2])
    a, s = model.coefficients(t)
    window = Window(torch.tensor([[0, 9], [5, 2]]), (6, 6), (LATENT, LATENT))
    noised = add_noise(model, z, eps, t, conditioning, ("pixel",), PixelTerm(), None, window)
    perfect = Believer(target(model.prediction, z, eps, a, s))
    found = measure(model, ask(model, perfect, noised), noised, ("pixel",))["pixel"]
    assert float(found.detach().max()) < 1e-8
    wrong = Believer(target(model.prediction, z, eps, a, s) + 0.5)
    error = measure(model, ask(model, wrong, noised), noised, ("pixel",))["pixel"]
    error.sum().backward()  # type: ignore[no-untyped-call]
    gradient = wrong.output.grad
    assert gradient is not None
    inside = torch.zeros(2, 1, LATENT, LATENT, dtype=torch.bool)
    inside[0, :, 0:6, 9:15] = True
    inside[1, :, 5:11, 2:8] = True
    assert bool((gradient.masked_select(~inside) == 0).all())
    assert bool((gradient.abs().sum(1, keepdim=True)[inside] > 0).all())
    # the cut latents decoded by hand
    z_t = model.add_noise(z, eps, t)
    off = z_t + s * (ask(model, wrong, noised).eps - eps)
    with torch.no_grad():
        cuts = [torch.stack([v[0, :, 0:6, 9:15], v[1, :, 5:11, 2:8]]) for v in (off, z_t)]
        torch.testing.assert_close(error, pixel_sft(model.decode(cuts[0]), model.decode(cuts[1])))


def test_weights_are_cut_with_the_latents_and_the_border_of_cuts_is_left_out(world: Path) -> None:
    model = load(world / "model")
    z = torch.randn((2, 4, LATENT, LATENT), generator=torch.Generator().manual_seed(1))
    weight = torch.rand((2, 1, RESOLUTION, RESOLUTION), generator=torch.Generator().manual_seed(2))
    window = Window(torch.tensor([[0, 4], [10, 0]]), (6, 6), (LATENT, LATENT), border=2)
    t = torch.tensor([100, 900])
    term = PixelTerm(band=(0.5, 1.0))
    noised = add_noise(model, z, z, t, model.encode_prompts(CAPTIONS[:2]), ("pixel",), term, weight, window)
    assert noised.rows is not None
    assert noised.rows.tolist() == [1]
    found = noised.pixel_weight(2)
    assert found is not None
    assert found.shape == (1, 1, 12, 12)
    kept = torch.zeros(12, 12)
    kept[4:, :8] = 1  # the lower and the left edge are the image's own
    torch.testing.assert_close(found[0, 0], weight[1, 0, 20:32, 0:12] * kept / kept.mean())
    # what happens in the border does not matter
    left_out = window.rows(torch.tensor([1])).weight(2)
    assert left_out is not None
    assert float(left_out.mean()) == pytest.approx(1)
    images, change = torch.zeros(1, 3, 12, 12), torch.zeros(1, 3, 12, 12)
    change[:, :, :4] = 9
    change[:, :, :, 8:] = 9
    assert float(pixel_sft(images + change, images, left_out)) == 0
    assert float(pixel_sft(images + 1, images, left_out)) == pytest.approx(1)


@pytest.mark.parametrize("distance", ["squared", "pyramid", "decoder_features"])
def test_runs_with_windows_train_and_resume_to_the_same_bits(distance: Any, world: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "decode_crop": 16, "crop_border": 1, "pixel": PixelConfig(distance=distance), "decoder_checkpointing": True,
        "method": "dpo", "steps": 3, "checkpoint_every": 2,
    }  # fmt: skip
    train_preference(preference(world, tmp_path / "whole", **settings))
    with pytest.raises(StopError):
        train_preference(preference(world, tmp_path / "parts", **settings), stop_at(2))
    train_preference(preference(world, tmp_path / "parts", **settings))
    logs = [read_log_lines(tmp_path / name) for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert logs[0][0]["pixel_margin"] == pytest.approx(0, abs=1e-3), "the reference sees the same windows"
    assert logs[0][2]["pixel_margin"] != 0


class StopError(Exception):
    pass


def stop_at(step: int) -> Any:
    def callback(done: int, path: Path) -> None:
        if done == step:
            raise StopError

    return callback


def read_log_lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_checkpointed_decoder_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    vae = tiny_vae().requires_grad_(False).eval()
    z = torch.randn(2, 4, 8, 8)
    gradients = []
    for again in (False, True):
        if again:
            checkpoint_decoder(vae)
        given = z.clone().requires_grad_()
        vae.decode(given).sample.square().mean().backward()
        assert given.grad is not None
        gradients.append(given.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-8)
    with pytest.raises(InputError, match="Linear"):
        checkpoint_decoder(nn.Linear(1, 1))


def test_a_pixel_term_at_every_third_step_counts_three_times(world: Path, tmp_path: Path) -> None:
    every = read_log(train_sft(sft(world, tmp_path / "every", steps=4, learning_rate=1e-12, accumulate=2)))
    third = read_log(
        train_sft(sft(world, tmp_path / "third", steps=4, learning_rate=1e-12, accumulate=2, pixel_every=3))
    )
    assert ["pixel_error" in line for line in third] == [True, False, False, True]
    for step, line in enumerate(third):
        assert line["latent_error"] == pytest.approx(every[step]["latent_error"], rel=1e-4)
        pixel = 3 * 2.0 * every[step]["pixel_error"] if step % 3 == 0 else 0
        assert line["loss"] == pytest.approx(line["latent_error"] + pixel, rel=1e-4)


def test_runs_with_steps_between_pixel_terms_resume_to_the_same_bits(world: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 5, "checkpoint_every": 2, "pixel_every": 2, "pixel_weight": "balance"}
    train_sft(sft(world, tmp_path / "whole", **settings))
    with pytest.raises(StopError):
        train_sft(sft(world, tmp_path / "parts", **settings), stop_at(2))
    train_sft(sft(world, tmp_path / "parts", **settings))
    assert read_log_lines(tmp_path / "whole") == read_log_lines(tmp_path / "parts")


def test_a_cached_reference_gives_exactly_the_loss_of_one_that_is_asked(world: Path, tmp_path: Path) -> None:
    config = preference(world, tmp_path, method="dpo", reference_draws=2, decode_crop=16, beta=50.0)
    model = load(config.model)
    data = paired_latents(model, config.data, SIZE)
    composition = Composition(config, model, CAPTIONS, RESOLUTION)
    reference = measure_reference(model, data, config, composition, tmp_path)
    assert reference is not None
    assert reference.errors["pixel"].shape == (3, 2, 2)
    cached = preference_loss(model, data, config, composition, reference)
    asked = preference_loss(model, data, config, composition)  # holds a copy of the model as it is now
    with torch.no_grad():
        for i, parameter in enumerate(model.denoiser.parameters()):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
        for batch in range(4):
            found, expected = (loss(model.denoiser, batch, seeded(0, "batch", batch)) for loss in (cached, asked))
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in found)
            assert abs(float(found["latent_margin"])) > 1e-2
    again = measure_reference(model, data, config, composition, tmp_path)
    assert again is not None
    assert torch.equal(again.errors["pixel"], reference.errors["pixel"]), "read, not measured with the changed model"


def test_a_run_with_a_cached_reference_resumes_to_the_same_bits(world: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 3, "checkpoint_every": 2, "method": "ipo", "reference_draws": 2}
    train_preference(preference(world, tmp_path / "whole", **settings))
    with pytest.raises(StopError):
        train_preference(preference(world, tmp_path / "parts", **settings), stop_at(2))
    train_preference(preference(world, tmp_path / "parts", **settings))
    assert read_log_lines(tmp_path / "whole") == read_log_lines(tmp_path / "parts")
    log = read_log_lines(tmp_path / "whole")
    assert log[0]["latent_margin"] == pytest.approx(0, abs=1e-3)
    assert log[2]["latent_margin"] != 0


def test_settings_of_cost_that_cannot_work_are_named(world: Path, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"decode_crop": 15}, "decode_crop"),
        ({"decode_crop": 64}, "decode_crop"),
        ({"decode_crop": 16, "objective": "latent"}, "decode_crop"),
        ({"decode_crop": 16, "crop_border": 4}, "crop_border"),
        ({"crop_border": 1}, "crop_border"),
        ({"pixel_every": 0}, "pixel_every"),
        ({"pixel_every": 2, "objective": "pixel"}, "pixel_every"),
        ({"decoder_checkpointing": True, "objective": "control"}, "decoder_checkpointing"),
        ({"bf16_decoder": True, "objective": "latent"}, "bf16_decoder"),
        ({"bf16_decoder": True, "tiny_decoder": tmp_path}, "bf16_decoder"),
        ({"bf16_decoder": True, "pixel": PixelConfig(distance="decoder_features")}, "bf16_decoder"),
    ]
    for changes, name in wrong:
        with pytest.raises(InputError, match=name):
            train_sft(sft(world, tmp_path / "run", **changes))
    with pytest.raises(InputError, match="reference_draws"):
        train_preference(preference(world, tmp_path / "run", reference_draws=2))
    assert not (tmp_path / "run").exists()


def tiny_autoencoder(seed: int = 0) -> AutoencoderTiny:
    """A decoder of TAESD's kind for the tiny VAE: 2x, four latent channels."""
    torch.manual_seed(seed)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4,
    )  # fmt: skip


def own_decoder(model: LatentDiffusion, sign: float) -> Decoder:
    """The model's own decoder in the place of a cheaper one; ``sign`` turns its images around."""

    def decoder(latents: Tensor) -> Tensor:
        return sign * model.decode(latents) + 0.25

    return decoder


def test_a_decoder_agrees_with_itself_and_not_with_a_random_one(world: Path, tmp_path: Path) -> None:
    model = load(world / "model")
    z = 0.8 * torch.randn((3, 4, LATENT, LATENT), generator=torch.Generator().manual_seed(4))
    asked = model.encode_prompts(CAPTIONS[:3])
    for sign in (1.0, -1.0):  # squared errors do not know the sign, nor a constant
        own = agreement(model, own_decoder(model, sign), z, asked, PixelTerm())
        assert own.loss_correlation == pytest.approx(1, abs=1e-4)
        assert own.gradient_cosine == pytest.approx(1, abs=1e-4)
        assert own.enough
    tiny_autoencoder().save_pretrained(tmp_path / "tiny")
    other = agreement(model, load_tiny_decoder(tmp_path / "tiny", model), z, asked, PixelTerm())
    assert not other.enough
    assert other.gradient_cosine < 0.5
    with pytest.raises(InputError, match="does not agree"):
        train_sft(sft(world, tmp_path / "run", tiny_decoder=tmp_path / "tiny"))
    AutoencoderTiny(latent_channels=8).save_pretrained(tmp_path / "eight")
    with pytest.raises(InputError, match="8 channels"):
        train_sft(sft(world, tmp_path / "run", tiny_decoder=tmp_path / "eight"))
    assert not (tmp_path / "run").exists()


def test_a_tiny_decoder_that_agrees_is_used_and_its_agreement_recorded(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the threshold out of the way; no weights of a tiny decoder of the tiny VAE exist."""
    monkeypatch.setattr("trainers.decoder_agreement.LEAST_LOSS_CORRELATION", -2)
    monkeypatch.setattr("trainers.decoder_agreement.LEAST_GRADIENT_COSINE", -2)
    tiny_autoencoder().save_pretrained(tmp_path / "tiny")
    run = train_sft(sft(world, tmp_path / "tiny-run", tiny_decoder=tmp_path / "tiny", decode_crop=16))
    assert set(run.info["decoder_agreement"]) == {"loss_correlation", "gradient_cosine"}
    assert "cosine of their gradients" in capsys.readouterr().err
    own = train_sft(sft(world, tmp_path / "own-run", decode_crop=16))
    first, expected = read_log(run)[0], read_log(own)[0]
    assert first["latent_error"] == expected["latent_error"]
    assert first["pixel_error"] != expected["pixel_error"]


@pytest.mark.parametrize("name", ["sd-v", "sana", "qwen_image"])
def test_a_decoder_in_bfloat16_has_the_gradients_of_the_models_own(name: str, tmp_path: Path) -> None:
    """To its 8 bits: AutoencoderKL and DC-AE, with checkpoints and without, and a VAE for videos."""
    if name == "sd-v":
        save_tiny(name, tmp_path)
    else:
        getattr(tiny_flow_models, f"tiny_{name}")().save_pretrained(tmp_path)
    model = load(tmp_path)
    shape = model.encode(torch.zeros(2, 3, *model.resolution)).mean.shape
    z = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    own, half = gradient(model.decode, z), gradient(Bf16Decoder(model), z)
    assert not torch.equal(own, half)
    assert float(torch.cosine_similarity(own.flatten(), half.flatten(), 0)) > 0.99
    assert {tensor.dtype for tensor in model.vae.parameters()} == {torch.float32}
    if not model.video_vae:
        checkpoint_decoder(model.vae)
        torch.testing.assert_close(gradient(Bf16Decoder(model), z), half)


def gradient(decoder: Decoder, latents: Tensor) -> Tensor:
    """Of the mean square of what is decoded."""
    given = latents.clone().requires_grad_()
    image = decoder(given)
    assert image.dtype == torch.float32
    image.square().mean().backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None
    return given.grad


def test_training_with_a_decoder_in_bfloat16(world: Path, tmp_path: Path) -> None:
    run = train_sft(sft(world, tmp_path / "half", bf16_decoder=True))
    agreed = run.info["decoder_agreement"]
    assert agreed["gradient_cosine"] > 0.95
    first, expected = read_log(run)[0], read_log(train_sft(sft(world, tmp_path / "full")))[0]
    assert first["latent_error"] == expected["latent_error"]
    assert first["pixel_error"] != expected["pixel_error"]
    assert first["pixel_error"] == pytest.approx(expected["pixel_error"], rel=0.05)
