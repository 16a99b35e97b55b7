"""How a training run begins, the same for every trainer: settings, model, data, checks, and only then the folder."""

import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs, patch_environment

from pixeval.errors import InputError
from pixeval.protocols import Scorer
from pixeval.runs import Run
from trainers.bf16_decoder import Bf16Decoder
from trainers.conventions import check_conventions
from trainers.data import Traced, TrainingData, counted
from trainers.data_order import Order, drawn, seeded
from trainers.decoder_agreement import Agreement, Decoder, agreeing
from trainers.decoder_checkpoints import checkpoint_decoder
from trainers.families.detect import load
from trainers.flaw_maps import FlawMaps
from trainers.framing import Size, training_sizes
from trainers.held_out import hold_out
from trainers.latent_diffusion import LatentDiffusion
from trainers.objective import Composition, ObjectiveConfig, check_objective
from trainers.reward import SCORER, check_scorer
from trainers.sources import check_processes, check_same_data
from trainers.tables import DatasetConfig
from trainers.tiny_decoder import load_tiny_decoder
from trainers.tracker import choose_tracker
from trainers.train_config import TrainConfig, check_settings, start_run

FOREIGN = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
"""Engines with a backward pass, an optimiser and checkpoints of their own; see docs/decisions/0008."""
LAUNCHED_FSDP = "ACCELERATE_USE_FSDP"
"""What ``accelerate launch`` sets where its file says FSDP."""
WAIT = timedelta(hours=12)
"""How long processes wait for the first one, which alone generates and scores."""
Data = TypeVar("Data", bound=TrainingData)
Config = TypeVar("Config", bound=ObjectiveConfig)
Read = Callable[[LatentDiffusion, Path, Size, FlawMaps | None, DatasetConfig], Data]
"""(model, source, height and width, maker of flaw maps, how to read) -> latents and texts."""
SKIPPED_NAMED = 20
"""Skipped rows that run.json names; skipped.json names all."""


@dataclass(frozen=True)
class Started(Generic[Data]):
    """A run that is ready to train."""

    config: ObjectiveConfig
    accelerator: Accelerator
    model: LatentDiffusion
    data: Data
    held_out: Data | None
    """What is probed and not trained on."""
    run: Run
    composition: Composition
    order: Order
    """Which rows each batch reads."""

    def describe(self, batch: int) -> list[dict[str, Any]]:
        """The rows of batch number ``batch``: which they are, and what was read of them.

        ``row`` counts without the skipped entries and those held out. Latents are told by side and part, for example
        ``winner_mean``, C x h x w.
        """
        read = self.order.batch(batch)
        rows, flips = read.rows, drawn("flip", 0.5 if self.config.dataset.flip else 0.0, self.config.seed, read)
        told: list[dict[str, Any]] = [
            {"batch": batch, "row": row, "epoch": epoch, "prompt": self.data.texts.prompts[prompt]}
            for row, epoch, prompt in zip(rows.tolist(), read.epochs, self.data.prompt[rows].tolist(), strict=True)
        ]
        if isinstance(self.data, Traced):
            sides = self.data.sides(rows, flips).items()
            for i, (row, source) in enumerate(zip(told, self.data.source[rows].tolist(), strict=True)):
                row |= {"name": self.data.sources.names[source], "mirrored": bool(flips[i])}
                row |= {f"{side}_{part}": value[i] for side, both in sides for part, value in both._asdict().items()}
        return told


def start(config: ObjectiveConfig, trainer: str, read: Read[Data], reward: Scorer | None = None) -> Started[Data]:
    """Check the settings, load model and data, refuse what cannot be trained, and create or continue the run folder.

    Args:
        config: all settings.
        trainer: its name in ``run.json``.
        read: of the data.
        reward: in the place of one that the settings name.

    Raises:
        InputError: unusable model, data, settings or disk; nothing is written then.
    """
    config = as_launched(config)
    check_objective(config)
    check_settings(config, trainer)
    check_scorer(reward, config.reward, config.out)
    accelerator = make_accelerator(config)
    check_processes(config.out, accelerator.num_processes)
    model = load(config.model).to(accelerator.device)
    if config.decoder_checkpointing:
        checkpoint_decoder(model.vae)
    if config.lora_rank is not None:
        model.adapt(config.lora_rank, config.lora_alpha, config.lora_targets, config.seed)
    resolution = training_resolution(model, config)
    data, held_out, sources = read_data(config, model, accelerator, resolution, read)
    check_same_data(config.out, sources)
    order = Order(data.buckets, config.batch_size, config.seed)
    if config.self_test:
        rows = order.batch(0).rows
        texts = data.texts.rows(data.prompt[rows], model.device)
        check_conventions(model, data.good.rows(rows).mean.to(model.device), texts)
    run = Run(config.out)

    def record(weight: float) -> None:
        if accelerator.is_main_process:
            run.write_info({**run.info, "balanced_pixel_weight": weight})

    shortest = min(min(size) for size in training_sizes(resolution, model.side_multiple, config.dataset.buckets))
    composition = Composition(config, model, data.texts.prompts, shortest, record, accelerator.num_processes, reward)
    agreement: Agreement | None = None
    cheaper = cheaper_decoder(config, model)
    if cheaper is not None:
        rows = order.batch(0).rows
        z, asked = data.good.rows(rows).mean.to(model.device), data.texts.rows(data.prompt[rows], model.device)
        window = composition.window(len(z), z.shape[2:], seeded(config.seed, "agreement", "window"))
        composition.pixel, agreement = agreeing(*cheaper, model, composition.pixel, z, asked, window)
    if accelerator.is_main_process:
        start_run(config, trainer)
        if reward is not None:
            run.write_info({**run.info, SCORER: reward.fingerprint})
        tell_skipped(run, data)
        run.write_info({**run.info, "processes": accelerator.num_processes, "read": sources})
        if agreement is not None:
            run.write_info({**run.info, "decoder_agreement": agreement._asdict()})
    accelerator.wait_for_everyone()
    return Started(config, accelerator, model, data, held_out, run, composition, order)


def read_data(
    config: ObjectiveConfig, model: LatentDiffusion, accelerator: Accelerator, size: Size, read: Read[Data]
) -> tuple[Data, Data | None, dict[str, dict[str, Any]]]:
    """The data, what is held out or None, and by setting how many rows were read and their digest.

    With a cache on disk, the other processes wait until the first one has filled it.

    Args:
        config: all settings.
        model: its text encoders are moved to the CPU when they have done their work.
        accelerator: of :func:`make_accelerator`.
        size: height and width of the training images.
        read: of the data.

    Raises:
        InputError: the data cannot be used.
    """
    with nullcontext() if config.dataset.cache is None else accelerator.main_process_first():
        flaws = FlawMaps(config.flaws, model.device) if config.flaws.wanted else None
        data = read(model, config.data, size, flaws, config.dataset)
        sources, held_out = {"data": _counted(data)}, None
        if config.probe_data is not None:
            model.to(accelerator.device)
            held_out = read(model, config.probe_data, size, None, config.dataset)
            sources["probe_data"] = _counted(held_out)
    if config.probe_every is not None and held_out is None:
        data, held_out = hold_out(data, config.probe_rows, config.seed)
    elif held_out is not None and len(held_out) > config.probe_rows:
        held_out = hold_out(held_out, config.probe_rows, config.seed)[1]
    return data, held_out, sources


def cheaper_decoder(config: ObjectiveConfig, model: LatentDiffusion) -> tuple[str, Decoder] | None:
    """What decodes for the pixel term in the place of the model's own decoder, with its name; None for nothing.

    Raises:
        InputError: it cannot be loaded, or is for other latents.
    """
    if config.tiny_decoder is not None:
        return f"tiny decoder {config.tiny_decoder}", load_tiny_decoder(config.tiny_decoder, model)
    return ("decoder in bfloat16", Bf16Decoder(model)) if config.bf16_decoder else None


def tell_skipped(run: Run, data: TrainingData) -> None:
    """Count and name the rows that could not be used: in the log, in run.json and, all of them, in skipped.json."""
    skipped, kinds = data.skipped, counted(data.skipped)
    text = json.dumps([entry._asdict() for entry in skipped], indent=1)
    (run.path / "skipped.json").write_text(text + "\n")
    named = [f"{entry.name}: {entry.reason}" for entry in skipped[:SKIPPED_NAMED]]
    run.write_info({**run.info, "data": {"used": len(data), "skipped": kinds, "first_skipped": named}})
    if skipped:
        reasons = ", ".join(f"{count} by {kind}" for kind, count in kinds.items())
        print(
            f"pixeval: {len(skipped)} rows of the data cannot be used ({reasons}), {len(data)} are; "
            f"the first: {named[0]}. All are named in {run.path / 'skipped.json'}",
            file=sys.stderr,
        )


def as_launched(config: Config) -> Config:
    """The settings under ``accelerate launch``: with its FSDP, ``shard``.

    Raises:
        InputError: the launcher is told to offload, which ``shard`` does not.
    """
    if not _told(LAUNCHED_FSDP):
        return config
    if _told("FSDP_OFFLOAD_PARAMS"):
        raise InputError(
            "fsdp_offload_params is not supported: what is split stays on its device; set it to false in the file of "
            "accelerate launch. To save memory: mixed_precision bf16, decode_crop, decoder_checkpointing"
        )
    return replace(config, shard=True)


def make_accelerator(config: TrainConfig) -> Accelerator:
    """accelerate on the device of the settings; several processes when started by ``accelerate launch``."""
    # One process may train several times with different settings; accelerate keeps the first one's otherwise.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    tracker = choose_tracker(config.tracker)
    # The model is split by trainers.sharding; accelerate must not do it again.
    with patch_environment(**{LAUNCHED_FSDP: "false"}):
        accelerator = Accelerator(
            cpu=config.device == "cpu",
            mixed_precision=config.mixed_precision,
            log_with=None if tracker == "none" else tracker,
            project_dir=config.out,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
        )
    if accelerator.distributed_type in FOREIGN:
        raise InputError(
            f"training under accelerate's {accelerator.distributed_type.value} is not supported. Start it with "
            "examples/accelerate/fsdp.yaml, which splits the model over the processes. "
            "To save memory also: lora_rank, optimizer adamw8bit, decode_crop, decoder_checkpointing."
        )
    if config.shard and accelerator.num_processes == 1:
        raise InputError("shard splits the model over several processes, and there is one; use accelerate launch")
    # Nobody goes on, and the first process creates the run folder, before all have seen what is in it.
    accelerator.wait_for_everyone()
    return accelerator


def training_resolution(model: LatentDiffusion, config: TrainConfig) -> tuple[int, int]:
    """Height and width of the training images.

    Raises:
        InputError: the model cannot make images of that size.
    """
    height, width = model.resolution if config.resolution is None else (config.resolution, config.resolution)
    if height % model.side_multiple or width % model.side_multiple:
        raise InputError(f"resolution must be a multiple of {model.side_multiple} for this model, got {height}x{width}")
    return height, width


def _counted(data: TrainingData) -> dict[str, Any]:
    return {"rows": len(data), "digest": data.sources.digest if isinstance(data, Traced) else None}


def _told(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"
