"""Generation: what an image depends on, killing and resuming, unusable models."""

import hashlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny_models import save_tiny

from pixeval.errors import InputError
from pixeval.generate import GenerateConfig, generate, generate_into
from pixeval.images import read_image
from pixeval.pipelines import PipelineGenerator, Sampler, load_generator
from pixeval.records import Prompt
from pixeval.runs import Run

SAMPLER = Sampler(steps=2, guidance=2.0)
PROMPTS = "a red apple\na blue car\na green tree\n"


@pytest.fixture(scope="module", params=["sd-epsilon", "pixart-flow"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("sd-epsilon", tmp_path_factory.mktemp("unet"))


def config(model: Path, folder: Path, out: str = "run", **changes: object) -> GenerateConfig:
    (folder / "prompts.txt").write_text(PROMPTS)
    options: dict[str, object] = {"seeds": (1, 2), "sampler": SAMPLER, "batch_size": 4} | changes
    return GenerateConfig(str(model), str(folder / "prompts.txt"), folder / out, **options)  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, str]:
    found = [p for p in folder.rglob("*") if p.is_file() and p.name != "run.json"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def test_an_image_depends_on_prompt_and_seed_not_on_its_batch(model: Path) -> None:
    generator = load_generator(str(model), SAMPLER)
    together = generator(["a red apple", "a blue car", "a red apple"], [1, 1, 2])
    alone = generator(["a red apple"], [2])
    assert together.shape == (3, 3, 32, 32)
    assert torch.allclose(together[2], alone[0], atol=1e-4)
    assert not torch.allclose(together[0], together[2], atol=1e-2), "the seed matters"
    assert not torch.equal(together[0], together[1]), "the prompt matters"


def test_a_run_holds_every_prompt_and_seed(model: Path, tmp_path: Path) -> None:
    run = generate(config(model, tmp_path))
    samples = run.samples()
    assert [(s.prompt, s.seed) for s in samples] == [(text, seed) for text in PROMPTS.splitlines() for seed in (1, 2)]
    assert len({s.id for s in samples}) == 6
    for sample in samples:
        assert read_image(run.image(sample)).shape == (3, 32, 32)
        assert hashlib.sha256(run.image(sample).read_bytes()).hexdigest() == sample.sha256


def test_other_settings_have_another_fingerprint(unet: Path) -> None:
    prints = {load_generator(str(unet), s).fingerprint for s in (SAMPLER, Sampler(steps=3), Sampler(guidance=1.0))}
    assert len(prints) == 3
    assert load_generator(str(unet), SAMPLER).fingerprint in prints


def test_other_weights_have_another_fingerprint(unet: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(unet, changed)
    weights = next((changed / "unet").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert load_generator(str(changed), SAMPLER).fingerprint != load_generator(str(unet), SAMPLER).fingerprint


class Interrupted(PipelineGenerator):
    """Stops after some batches, as a crash would."""

    def __init__(self, inner: PipelineGenerator, batches: int) -> None:
        self.inner, self.left, self.fingerprint = inner, batches, inner.fingerprint

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.inner(prompts, seeds)


def test_interrupted_resumed_and_damaged_runs_end_in_the_same_files(unet: Path, tmp_path: Path) -> None:
    prompts = [Prompt(f"p{i}", text) for i, text in enumerate(PROMPTS.splitlines())]
    generator = load_generator(str(unet), SAMPLER)
    whole = Run.create(tmp_path / "whole", "generate", {})
    generate_into(whole, generator, prompts, (1, 2), "base", 4)
    parts = Run.create(tmp_path / "parts", "generate", {})
    with pytest.raises(KeyboardInterrupt):
        generate_into(parts, Interrupted(generator, 1), prompts, (1, 2), "base", 4)
    assert len(parts.samples()) == 4
    parts.image(parts.samples()[1]).unlink()
    generate_into(parts, generator, prompts, (1, 2), "base", 4)
    assert files(parts.path) == files(whole.path)
    generate_into(parts, Interrupted(generator, 0), prompts, (1, 2), "base", 4)  # nothing is left to do


def test_labels_live_side_by_side(unet: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "generate", {})
    generator = load_generator(str(unet), SAMPLER)
    for label in ("base", "new", "base"):
        generate_into(run, generator, [Prompt("p", "a red apple")], (1,), label, 4)
    assert sorted(s.label for s in run.samples()) == ["base", "new"]
    assert len({s.id for s in run.samples()}) == 2


@pytest.mark.timeout(600)  # three new processes, each of which imports everything
def test_kill_9_and_the_same_command_again_end_in_the_same_files(unet: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(PROMPTS)

    def command(out: str) -> list[str]:
        words = f"generate {unet} {tmp_path / 'prompts.txt'} --out {tmp_path / out} --seeds 1 2 3 4 --batch-size 1"
        return [sys.executable, "-m", "pixeval", *words.split(), "--sampler.steps", "2"]

    subprocess.run(command("whole"), check=True, capture_output=True)
    killed = subprocess.Popen(command("parts"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list((tmp_path / "parts" / "images").glob("*.png"))) < 3:
        assert killed.poll() is None, "finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert files(tmp_path / "parts") != files(tmp_path / "whole")
    subprocess.run(command("parts"), check=True, capture_output=True)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_unusable_models_are_named(unet: Path, tmp_path: Path) -> None:
    def refused(folder: Path | str, says: str) -> None:
        with pytest.raises(InputError, match=says):
            load_generator(str(folder), SAMPLER)

    refused(tmp_path / "gone", "not a model folder")
    refused("zoo:unt", "Did you mean 'zoo:unet'")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no model_index.json")
    half = tmp_path / "half"
    shutil.copytree(unet, half)
    weights = next((half / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-10])
    refused(half, r"diffusion_pytorch_model\.safetensors has .* the download was cut off")
    weights.write_bytes(b"<html>404</html>")
    refused(half, "not a complete safetensors file")
    shutil.rmtree(half / "vae")
    refused(half, "the folder vae/ is missing")
    (half / "model_index.json").write_text("{")
    refused(half, r"model_index\.json is damaged")


def test_a_run_without_seeds_is_refused(unet: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no seeds"):
        generate(config(unet, tmp_path, seeds=()))
