"""Two processes that train together."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from tiny_data import save_captioned, tree
from tiny_models import save_tiny
from torch import Tensor
from training_process import start, train_as, train_twice_as

from pixeval.errors import InputError
from pixeval.runs import Run
from trainers.sft import SftConfig, train_sft
from trainers.training_log import read_lines


def test_the_configurations_are_read_by_accelerate() -> None:
    files = sorted((Path(__file__).parents[1] / "examples/accelerate").glob("*.yaml"))
    kinds = {file.stem: load_config_from_file(str(file)).distributed_type.value for file in files}
    assert kinds == {"ddp": "MULTI_GPU", "fsdp": "FSDP", "nodes": "MULTI_GPU"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def steps_of(run: Path) -> list[dict[str, float]]:
    return read_lines(run / "metrics.jsonl")


def weights_of(run: Path, step: int) -> dict[str, Tensor]:
    return load_file(run / f"checkpoints/step-{step:06d}/unet/diffusion_pytorch_model.safetensors")


@pytest.mark.timeout(600)
def test_two_processes_with_half_of_the_model_each_train_as_one(tmp_path: Path) -> None:
    """Losses, held-out errors and weights up to rounding, also when the run is continued; whole models are saved."""
    model, data = save_tiny("sd-epsilon", tmp_path / "model"), save_captioned(tmp_path / "data")
    one = SftConfig(
        model=model, data=data, out=tmp_path / "one", steps=4, batch_size=2, accumulate=2, ema=0.9, learning_rate=1e-3,
        device="cpu", self_test=False, checkpoint_every=2, probe_every=4, probe_rows=2,
    )  # fmt: skip
    parts = replace(one, out=tmp_path / "parts", accumulate=1, shard=True)
    port = free_port()
    processes = [start(train_twice_as, rank, 2, tmp_path, parts, port, 2) for rank in (0, 1)]
    train_sft(one)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(steps_of(parts.out)) == 4
    for a, b in zip(steps_of(one.out), steps_of(parts.out), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    ours, theirs = (read_lines(config.out / "probes.jsonl") for config in (one, parts))
    assert [line["pixel_error"] for line in ours] == pytest.approx([line["pixel_error"] for line in theirs], rel=1e-3)
    base = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    for step in (2, 4):
        whole, gathered = weights_of(one.out, step), weights_of(parts.out, step)
        for name, value in whole.items():
            assert value.numpy() == pytest.approx(gathered[name].numpy(), abs=1e-4)
        assert any(not torch.equal(base[name], value) for name, value in gathered.items())
    moments = [load_file(config.out / "state" / "state.safetensors") for config in (one, parts)]
    assert moments[0].keys() == moments[1].keys()
    shares = [(tmp_path / f"share-{rank}").read_text() for rank in (0, 1)]
    held, every = zip(*(map(int, share.split()) for share in shares), strict=True)
    assert sum(held) == every[0] == every[1], "each number is held once"
    assert max(held) < 0.75 * every[0]


@pytest.mark.timeout(600)
def test_launched_by_accelerate_with_fsdp_the_model_is_split(tmp_path: Path) -> None:
    """As the example says it, by the real launcher: two processes give the losses of one."""
    model, data = save_tiny("sd-epsilon", tmp_path / "model"), save_captioned(tmp_path / "data")
    example = Path(__file__).parents[1] / "examples/accelerate/fsdp.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(example)]
    command += ["--num_processes", "2"]
    command += ["--main_process_port", str(free_port()), "-m", "pixeval", "train", "sft", "--model", str(model)]
    command += ["--data", str(data), "--out", str(tmp_path / "launched"), "--steps", "2", "--batch-size", "2"]
    command += ["--learning-rate", "1e-3", "--device", "cpu", "--self-test", "False"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launched = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    config = SftConfig(
        model=model, data=data, out=tmp_path / "one", steps=2, batch_size=2, accumulate=2, learning_rate=1e-3,
        device="cpu", self_test=False,
    )  # fmt: skip
    one = train_sft(config)
    _, told = launched.communicate()
    assert launched.returncode == 0, told
    assert Run(tmp_path / "launched").info["config"]["shard"] is True
    for a, b in zip(steps_of(one.path), steps_of(tmp_path / "launched"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_what_shard_cannot_do_is_refused_under_fsdp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SftConfig(model=tmp_path, data=tmp_path, out=tmp_path / "run", device="cpu")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="adamw"):
        train_sft(replace(config, lora_rank=2))
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    with pytest.raises(InputError, match="fsdp_offload_params"):
        train_sft(config)


def test_there_is_nothing_to_share_with_one_process(tmp_path: Path) -> None:
    config = SftConfig(model=tmp_path, data=tmp_path, out=tmp_path / "run", device="cpu", shard=True)
    with pytest.raises(InputError, match="several processes"):
        train_sft(config)
    with pytest.raises(InputError, match="adamw"):
        train_sft(replace(config, lora_rank=2))


@pytest.mark.timeout(600)
def test_two_processes_train_as_one_that_accumulates(tmp_path: Path) -> None:
    """The same losses and weights up to rounding, from the same batches; and one of the two writes."""
    two = SftConfig(
        model=save_tiny("sd-epsilon", tmp_path / "model"), data=save_captioned(tmp_path / "data"),
        out=tmp_path / "two", steps=4, batch_size=2, accumulate=2, ema=0.9, learning_rate=1e-3, device="cpu",
        self_test=False, checkpoint_every=2, keep_last=1, probe_every=2, probe_rows=2,
    )  # fmt: skip
    port = free_port()
    processes = [start(train_as, rank, 2, tmp_path, two, port) for rank in (0, 1)]
    one = train_sft(replace(two, out=tmp_path / "one", accumulate=4)).path
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "done-1").exists(), "the second process has trained, too"
    mine, theirs = read_lines(one / "metrics.jsonl"), read_lines(two.out / "metrics.jsonl")
    assert [line["step"] for line in theirs] == [1, 2, 3, 4], "each step is told once"
    for a, b in zip(mine, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert tree(one).keys() == tree(two.out).keys()
    trained = "checkpoints/step-000004/unet/diffusion_pytorch_model.safetensors"
    ours, others = load_file(one / trained), load_file(two.out / trained)
    for name, value in ours.items():
        assert value.numpy() == pytest.approx(others[name].numpy(), abs=1e-4)
