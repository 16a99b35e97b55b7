"""What was encoded once is read again: the cache on disk, and that a run goes on with the same data only."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_buckets import shaped
from test_data import SIZE, make_world, picture
from test_training import preference_config, sft_config
from tiny_data import tree
from tiny_flow_models import save_tiny_flow
from tiny_models import CAPTIONS
from tokenizers.normalizers import Lowercase
from training_process import StopError, start, stop_at, train_and_count_as

from pixeval.errors import InputError
from trainers.data import captioned_latents, paired_latents
from trainers.families.detect import load
from trainers.latent_cache import LatentRows, latent_folder, text_folder
from trainers.latents import Posterior
from trainers.pair_draws import REFERENCE_FILE
from trainers.preference import train_preference
from trainers.sft import train_sft
from trainers.tables import DatasetConfig


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("trainer", ["sft", "preference"])
def test_a_cache_on_disk_changes_no_bit_and_is_used_again(
    trainer: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, train = {"sft": (sft_config, train_sft), "preference": (preference_config, train_preference)}[trainer]
    kept = DatasetConfig(cache=tmp_path / "cache", flip=trainer == "sft")
    plain: Any = make(world, tmp_path / "plain", objective="latent", dataset=replace(kept, cache=None))
    train(plain)
    train(replace(plain, out=tmp_path / "cached", dataset=kept))
    assert tree(tmp_path / "plain") == tree(tmp_path / "cached")
    files = {file for file in (tmp_path / "cache").rglob("*") if file.is_file()}
    assert {file.suffix for file in files} == {".safetensors"}
    model = load(world / "models/sd-epsilon")
    read = captioned_latents if trainer == "sft" else paired_latents

    def never(*given: Any) -> Any:
        raise AssertionError("encoded again")

    monkeypatch.setattr(model, "encode", never)
    monkeypatch.setattr(model, "encode_prompts", never)
    data: Any = read(model, plain.data, SIZE, dataset=kept)
    assert isinstance(data.good, LatentRows) and all(isinstance(item, Path) for item in data.good.items)
    before = {file.stat().st_mtime_ns for file in files}
    assert {file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.safetensors")} == before


def test_another_vae_text_encoder_or_size_has_other_entries(world: Path, tmp_path: Path) -> None:
    model = load(world / "models/sd-epsilon")
    folders = [latent_folder(tmp_path, model), text_folder(tmp_path, model)]
    again = load(world / "models/sd-epsilon")
    assert folders == [latent_folder(tmp_path, again), text_folder(tmp_path, again)]
    with torch.no_grad():
        next(again.vae.decoder.parameters()).add_(1e-6)  # type: ignore[union-attr]
        next(again.pipeline.text_encoder.parameters())[0, 0] += 1e-6
    assert latent_folder(tmp_path, again) != folders[0] and text_folder(tmp_path, again) != folders[1]
    image = torch.rand(3, 8, 8)
    from trainers.encoding import _content

    assert folders[0].place(_content(image)) != folders[0].place(_content(image.view(3, 4, 16)))


def test_a_tokenizer_or_encoder_that_reads_prompts_otherwise_has_other_entries(tmp_path: Path) -> None:
    model = load(save_tiny_flow("z-image", tmp_path / "model"))
    tokenizer = model.pipeline.tokenizer
    folder = text_folder(tmp_path, model)
    model.encode_prompts(["a red apple", "b"])
    assert text_folder(tmp_path, model) == folder, "what was encoded leaves no trace"
    template = tokenizer.chat_template
    tokenizer.chat_template = template.replace("user", "person") + " "
    assert text_folder(tmp_path, model) != folder
    tokenizer.chat_template = template
    assert text_folder(tmp_path, model) == folder
    depth = model.pipeline.text_encoder.config.num_hidden_layers
    model.pipeline.text_encoder.config.num_hidden_layers = depth - 1
    assert text_folder(tmp_path, model) != folder
    model.pipeline.text_encoder.config.num_hidden_layers = depth
    assert text_folder(tmp_path, model) == folder
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    assert text_folder(tmp_path, model) != folder


def test_a_damaged_entry_is_named(world: Path, tmp_path: Path) -> None:
    kept = DatasetConfig(cache=tmp_path / "cache")
    model = load(world / "models/sd-epsilon")
    data = captioned_latents(model, world / "sft", SIZE, dataset=kept)
    assert isinstance(data.posterior, LatentRows)
    broken = data.posterior.items[2]
    assert isinstance(broken, Path)
    broken.write_bytes(broken.read_bytes()[:50])
    with pytest.raises(InputError, match=f"{broken.name} is damaged"):
        data.posterior.rows(torch.tensor([2]))


def test_a_run_goes_on_with_the_same_data_only(world: Path, tmp_path: Path) -> None:
    data = tmp_path / "sft"
    shutil.copytree(world / "sft", data)
    config = sft_config(world, tmp_path / "run", data=data, objective="latent", dataset=DatasetConfig(max_rows=7))
    train_sft(config)
    before = tree(config.out)
    (data / "0.png").rename(data / "00.png")
    (data / "0.txt").rename(data / "00.txt")
    train_sft(config)  # the same rows in the same order, whatever they are called
    assert tree(config.out) == before
    read = json.loads((config.out / "run.json").read_text())["read"]["data"]
    assert read["rows"] == 6

    def refused(words: str) -> None:
        with pytest.raises(InputError, match=words):
            train_sft(config)
        assert tree(config.out) == before

    (data / "3.txt").write_text("another caption")
    refused(rf"6 rows of data \(digest {read['digest']}\), and now there are 6 \(digest (?!{read['digest']})")
    (data / "3.txt").write_text(CAPTIONS[3])
    (data / "3.png").write_bytes(picture(77))
    refused("6 rows of data .* now there are 6")
    (data / "3.png").write_bytes(picture(3))
    for kind, content in (("png", picture(7)), ("txt", b"one more")):
        (data / f"7.{kind}").write_bytes(content)
    refused("now there are 7 .* put them back")


def test_probe_data_stay_the_same_too(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "sft", tmp_path / "probes")
    config = sft_config(
        world, tmp_path / "run", objective="latent", probe_every=2, probe_data=tmp_path / "probes", probe_rows=2
    )
    train_sft(config)
    (tmp_path / "probes" / "1.txt").write_text("another")
    with pytest.raises(InputError, match="6 rows of probe_data"):
        train_sft(config)


def test_a_run_goes_on_with_as_many_processes_as_before(world: Path, tmp_path: Path) -> None:
    config = sft_config(world, tmp_path / "run", objective="latent")
    run = train_sft(config)
    run.write_info({**run.info, "processes": 8})
    with pytest.raises(InputError, match="begun by 8 processes, and here are 1"):
        train_sft(config)


def test_reference_errors_belong_to_their_pairs(world: Path, tmp_path: Path) -> None:
    """Two pairs change places: as many pairs as before, but not the same."""
    table = pq.read_table(world / "pairs" / "preference" / "train.parquet")
    config = preference_config(
        world, tmp_path / "run", data=tmp_path / "pairs.parquet", method="dpo", objective="latent", reference_draws=1
    )
    pq.write_table(table, config.data)
    train_preference(config)
    kept = (tmp_path / "run" / REFERENCE_FILE).read_bytes()
    pq.write_table(table.take([1, 0, 2, 3, 4]), config.data)
    with pytest.raises(InputError, match="5 rows of data"):
        train_preference(config)
    other = replace(config, out=tmp_path / "other", steps=1)
    train_preference(other)
    (other.out / REFERENCE_FILE).write_bytes(kept)
    with pytest.raises(InputError, match="other pairs than the data has now"):
        train_preference(other)
    (other.out / REFERENCE_FILE).unlink()
    train_preference(other)


@pytest.mark.timeout(300)
def test_of_several_processes_the_first_fills_the_cache(world: Path, tmp_path: Path) -> None:
    """The second one starts with the first and finds all images and prompts encoded."""
    config = sft_config(world, tmp_path / "run", objective="latent", dataset=DatasetConfig(cache=tmp_path / "cache"))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    processes = [start(train_and_count_as, rank, 2, tmp_path, config, port) for rank in (0, 1)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    written = [int((tmp_path / f"written-{rank}").read_text()) for rank in (0, 1)]
    assert written == [len(list((tmp_path / "cache").rglob("*.safetensors"))), 0]


SCRIPT = """
import sys
from pathlib import Path
from trainers.sft import SftConfig, train_sft
from trainers.tables import DatasetConfig
world, out = Path(sys.argv[1]), Path(sys.argv[2])
train_sft(SftConfig(model=world / "models" / "sd-epsilon", data=out / "many.parquet", out=out / "run", steps=2,
                    batch_size=2, learning_rate=1e-3, device="cpu", self_test=False, objective="latent",
                    dataset=DatasetConfig(cache=out / "cache")))
"""


@pytest.mark.timeout(600)
def test_kill_9_while_encoding_loses_nothing(world: Path, tmp_path: Path) -> None:
    rows = [{"image": picture(i), "text": f"number {i}"} for i in range(400)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "many.parquet")
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(world), str(tmp_path)], cwd=root, env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if len(list((tmp_path / "cache").rglob("*.safetensors"))) >= 40:
            break
        time.sleep(0.002)
    assert process.poll() is None, "the process ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list((tmp_path / "cache").rglob("*.safetensors")))
    assert 40 <= kept < 400
    config: Any = sft_config(world, tmp_path / "run", data=tmp_path / "many.parquet", objective="latent")
    train_sft(replace(config, dataset=DatasetConfig(cache=tmp_path / "cache")))
    train_sft(replace(config, out=tmp_path / "whole"))
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


def test_a_run_in_buckets_from_a_cache_resumes_to_the_same_bits(world: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "steps": 4, "checkpoint_every": 2, "data": shaped(tmp_path / "sft"), "objective": "latent",
        "dataset": DatasetConfig(buckets=True, flip=True, cache=tmp_path / "cache"), "caption_dropout": 0.5,
    }  # fmt: skip
    train_sft(sft_config(world, tmp_path / "whole", **settings))
    with pytest.raises(StopError):
        train_sft(sft_config(world, tmp_path / "parts", **settings), stop_at(2))
    train_sft(sft_config(world, tmp_path / "parts", **settings))
    assert tree(tmp_path / "whole") == tree(tmp_path / "parts")
    assert math.isfinite(json.loads((tmp_path / "whole/metrics.jsonl").read_text().splitlines()[-1])["loss"])


def test_latents_of_one_size_stay_one_block_in_memory(world: Path) -> None:
    data = captioned_latents(load(world / "models/sd-epsilon"), world / "sft", SIZE)
    assert isinstance(data.posterior, Posterior) and data.posterior.mean.shape[0] == 6
