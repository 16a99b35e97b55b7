"""Two processes that train together."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from tiny_data import save_captioned, tree
from tiny_models import save_tiny
from training_process import start, train_as

from trainers.sft import SftConfig, train_sft
from trainers.training_log import read_lines


def test_the_configurations_are_read_by_accelerate() -> None:
    files = sorted((Path(__file__).parents[1] / "examples/accelerate").glob("*.yaml"))
    assert [file.stem for file in files] == ["ddp", "nodes"]
    for file in files:
        assert load_config_from_file(str(file)).distributed_type == "MULTI_GPU"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


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
