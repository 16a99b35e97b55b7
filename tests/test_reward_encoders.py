"""Reward models on SigLIP, DINOv2 and DINOv3: their own preprocessing, gradients, adapters, and the whole command."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import tiny_encoders as tiny
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_clip import write_tiny_clip
from tiny_votes import run_with_votes
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoImageProcessor

from pixeval import cli
from pixeval.errors import InputError
from pixeval.images import to_uint8
from pixeval.records import Vote
from pixeval.runs import Run
from pixeval.tables import write_records
from reward_models.adapters import Adaptation, adapt, adapter_parameters
from reward_models.model import RewardModel
from reward_models.sources import open_source
from reward_models.views import DinoEncoder, check_folder, load_encoder

WRITERS: dict[str, Callable[..., Path]] = {
    "siglip": tiny.write_siglip,
    "dinov2": tiny.write_dinov2,
    "dinov3": tiny.write_dinov3,
}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What ``--encoder`` takes, by kind."""
    root = tmp_path_factory.mktemp("encoders")
    folders = {kind: str(write(root / kind)) for kind, write in WRITERS.items()}
    return {kind: folder if kind == "siglip" else f"dino:{folder}" for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every third vote is on alignment."""
    run = run_with_votes(tmp_path_factory.mktemp("votes") / "run", 18, ("ann",))
    asked = [replace(vote, question="alignment") if k % 3 == 0 else vote for k, vote in enumerate(run.votes())]
    write_records(run.path / "votes" / "study.parquet", asked, Vote)
    return run


def images() -> Tensor:
    smooth = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    return (F.interpolate(smooth, (60, 86), mode="bicubic").clamp(0, 1) * 255).round() / 255


def published(kind: str, folder: str, pictures: list[Image.Image]) -> Tensor:
    """What the authors' own preprocessing makes of them."""
    if kind == "siglip":
        _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        return torch.stack([transform(picture) for picture in pictures])
    processor = AutoImageProcessor.from_pretrained(folder)
    # DINOv2's size is left out: see DinoEncoder
    size = {"size": {"shortest_edge": 28}} if kind == "dinov2" else {}
    found: Tensor = processor(images=pictures, return_tensors="pt", **size)["pixel_values"]
    return found


@pytest.mark.parametrize("kind", WRITERS)
def test_images_are_prepared_as_the_encoder_was_trained(kind: str, names: dict[str, str]) -> None:
    encoder = load_encoder(names[kind])
    prepared: list[Tensor] = []
    tower = encoder.model.visual if kind == "siglip" else encoder.model
    assert isinstance(tower, torch.nn.Module)
    hook = tower.register_forward_pre_hook(
        lambda _, args, kwargs: prepared.append(kwargs.get("pixel_values", args[0] if args else None)),
        with_kwargs=True,
    )
    features = encoder(images())
    hook.remove()
    pictures = [Image.fromarray(array) for array in to_uint8(images())]
    wanted = published(kind, names[kind].removeprefix("dino:"), pictures)
    assert wanted.shape == prepared[0].shape
    assert float((wanted - prepared[0]).abs().max()) < 0.06  # a level of 255 is up to 0.018, and theirs are rounded
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    assert float((features[0] - features[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", WRITERS)
def test_fingerprints_follow_weights_and_preprocessing(kind: str, names: dict[str, str], tmp_path: Path) -> None:
    other = WRITERS[kind](tmp_path / "other", seed=1)
    prefix = "" if kind == "siglip" else "dino:"
    prints = {load_encoder(name).fingerprint for name in (names[kind], names[kind], f"{prefix}{other}")}
    assert len(prints) == 2
    if kind != "siglip":
        settings = tmp_path / "other" / "preprocessor_config.json"
        settings.write_text(settings.read_text().replace("0.485", "0.5"))
        assert load_encoder(f"{prefix}{other}").fingerprint not in prints


@pytest.mark.parametrize("kind", WRITERS)
def test_adapters_reach_attention_and_feed_forward_layers(kind: str, names: dict[str, str]) -> None:
    encoder = load_encoder(names[kind])
    before = encoder(images())
    adapt(encoder, Adaptation(2), 0)
    torch.testing.assert_close(encoder(images()), before)
    adapted = {name for name, _ in encoder.model.named_parameters() if "lora_A" in name}
    wanted = {"siglip": ("qkv", "fc1"), "dinov2": ("q_proj", "fc1"), "dinov3": ("q_proj", "up_proj")}[kind]
    assert all(sum(f".{layer}." in name for name in adapted) >= 2 for layer in wanted)
    assert not any(".text." in name for name in adapted)
    encoder(images())[:, 0].sum().backward()
    assert all(parameter.grad is not None for parameter in adapter_parameters(encoder))


@pytest.mark.parametrize("tuned", [False, True], ids=["frozen", "lora"])
@pytest.mark.parametrize("kind", WRITERS)
def test_the_whole_command(kind: str, tuned: bool, names: dict[str, str], run: Run, tmp_path: Path) -> None:
    """Trained, loaded, differentiable, and evaluated; without alignment where no prompt is seen."""
    out = tmp_path / "model"
    words = ["reward", "train", str(run.path), "--encoder", names[kind], "--out", str(out), "--detail", "crops"]
    words += ["--steps", "3", "--members", "2", "--planted", "0", "--folds", "2", "--cache", str(tmp_path / "cache")]
    assert cli.run([*words, *(["--lora-rank", "2", "--batch-size", "4"] if tuned else [])]) == 0
    model = RewardModel.load(out)
    assert model.questions == (("flaws", "alignment", "overall") if kind == "siglip" else ("flaws", "overall"))
    assert model.facts["left_out"] == ({} if kind == "siglip" else {"alignment": 6})
    adapters = [value for name, value in load_file(out / "reward.safetensors").items() if "lora_B" in name]
    assert bool(adapters) == tuned and all(value.abs().sum() > 0 for value in adapters)
    reward = open_source(str(out))
    pixels = images().requires_grad_()
    values = reward.values(pixels, ["a red apple", "a blue car"])
    values.sum().backward()
    assert pixels.grad is not None and pixels.grad.isfinite().all()
    assert (pixels.grad.flatten(1).abs().sum(1) > 0).all()
    again = reward.values(images(), ["a green tree", "a blue car"]).detach()
    torch.testing.assert_close(again[1], values[1].detach(), rtol=1e-4, atol=1e-5)
    assert (abs(float(again[0] - values[0].detach())) > 1e-6) == (kind == "siglip")  # DINO sees no prompt
    assert cli.run(["reward", "evaluate", str(out), str(run.path), "--cache", str(tmp_path / "cache")]) == 0


def test_votes_on_alignment_alone_teach_nothing_without_prompts(
    names: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_with_votes(tmp_path / "run", 4, ("ann",))
    votes = [replace(vote, question="alignment") for vote in run.votes()]
    write_records(run.path / "votes" / "study.parquet", votes, Vote)
    words = ["reward", "train", str(run.path), "--encoder", names["dinov2"], "--out", str(tmp_path / "model")]
    assert cli.run([*words, "--cache", "none"]) == 2
    assert "sees no prompt and all votes are on alignment" in capsys.readouterr().err


def test_names_of_encoders(names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(names["dinov2"].removeprefix("dino:")).parent)
    Path("dinov2").rename("dino")
    try:
        assert check_folder("dino:dino") == f"dino:{Path.cwd() / 'dino'}"
        assert isinstance(load_encoder("dino:dino"), DinoEncoder)
    finally:
        Path("dino").rename("dinov2")
    clip = write_tiny_clip(tmp_path / "clip")
    for name, says in (
        (f"dino:{tmp_path / 'nowhere'}", "neither a folder nor a hub name"),
        (f"dino:{clip}", "cannot be loaded as AutoModel"),
        ("dino:", "names no model"),
    ):
        with pytest.raises(InputError, match=says):
            load_encoder(name)
