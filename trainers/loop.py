"""The one training loop: accelerate, AdamW, logs, checkpoints that are pipelines, and exact resumption.

A run folder gets ``metrics.jsonl`` (one line per step), ``probes.jsonl`` (held-out data), ``warnings.jsonl``,
``checkpoints/step-000050/`` (complete pipelines) and ``state/`` (weights and optimiser of the last checkpoint).
Everything random in a step is seeded by (seed, step), so a killed run that is started again ends, on the CPU, in the
bits of an uninterrupted one. Of several processes, the first one alone writes.
"""

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from pixeval.runs import Run
from trainers.checkpoint import Stateful, load_state, recover_directory, save_state
from trainers.keeping import checkpoint_path, keep
from trainers.latent_diffusion import LatentDiffusion
from trainers.lora import copy_of_trained
from trainers.optimizer_step import Loss, fast_attention, learning_rate, optimizer_step, update_average
from trainers.optimizers import make_optimizer
from trainers.sharding import gather, gather_moments, shard, shard_optimizer
from trainers.tracker import begin_tracking, end_tracking, track
from trainers.train_config import TrainConfig
from trainers.training_log import Line, append, read_lines, truncate_log
from trainers.tripwires import LossGuard, forget_stopped, warnings_at, write_stopped

OnCheckpoint = Callable[[int, Path], None]
"""(step, pipeline folder), after a checkpoint is complete; called again for the last one when a run is continued."""
Probe = Callable[[nn.Module], Line]
"""A look at held-out data: denoiser -> line (:class:`trainers.held_out.HeldOut`)."""
Describe = Callable[[int], Sequence[Mapping[str, Any]]]
"""Number of a batch -> its rows of the data, as they are told in ``stopped.json``, with their latents."""


def train(
    model: LatentDiffusion,
    loss: Loss,
    config: TrainConfig,
    run: Run,
    accelerator: Accelerator,
    on_checkpoint: OnCheckpoint | None = None,
    remembered: Stateful | None = None,
    describe: Describe = lambda batch: (),
    probe: Probe | None = None,
) -> None:
    """Train ``model.denoiser`` to ``config.steps``, from the last state in ``run`` where there is one.

    Args:
        model: its denoiser is trained in place.
        loss: of one batch.
        config: the settings.
        run: gets the log, the checkpoints and the state.
        accelerator: of :func:`trainers.start.make_accelerator`.
        on_checkpoint: called when a checkpoint is complete.
        remembered: what the loss carries from batch to batch; kept with the state and restored from it.
        describe: tells the rows of the batches that stopped a run.
        probe: looks at held-out data every ``config.probe_every`` steps, before the first and after the last one.

    Raises:
        InputError: a checkpoint or the log cannot be written.
        FloatingPointError: the loss is no longer a finite number, or it explodes; the last checkpoint is kept.
    """
    training = Training(model, loss, config, run, accelerator, on_checkpoint, remembered, describe, probe)
    begin_tracking(accelerator, run)
    done = training.resume()
    progress = tqdm(total=config.steps, initial=done, unit="step", disable=not accelerator.is_main_process)
    with progress:
        for step in range(done, config.steps):
            line = training.advance(step)
            progress.update()
            progress.set_postfix(loss=f"{line['loss']:.4g}", refresh=False)
    end_tracking(accelerator)


class Training:
    """A run while it trains; the arguments are those of :func:`train`."""

    def __init__(
        self,
        model: LatentDiffusion,
        loss: Loss,
        config: TrainConfig,
        run: Run,
        accelerator: Accelerator,
        on_checkpoint: OnCheckpoint | None,
        remembered: Stateful | None,
        describe: Describe,
        probe: Probe | None,
    ) -> None:
        self.model, self.loss, self.config, self.run, self.accelerator = model, loss, config, run, accelerator
        self.on_checkpoint, self.remembered, self.describe, self.probe = on_checkpoint, remembered, describe, probe
        self.denoiser = model.denoiser.train()
        self.optimizer = self._make_optimizer(self.denoiser)
        self.modules = {"denoiser": self.denoiser}
        if config.ema is not None:
            self.modules["average"] = copy_of_trained(self.denoiser).eval()
        self.whole: dict[str, nn.Module] = {}
        self.whole_optimizer: torch.optim.Optimizer | None = None
        self.state, self.log = run.path / "state", run.path / "metrics.jsonl"
        self.probes, self.warnings = run.path / "probes.jsonl", run.path / "warnings.jsonl"
        self.guard = LossGuard(config.tripwires, scaled=accelerator.scaler is not None)

    def _make_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        config = self.config
        return make_optimizer(config.optimizer, trained, config.learning_rate, config.weight_decay)

    def resume(self) -> int:
        """Restore the last state; returns how many steps are done."""
        main, done = self.accelerator.is_main_process, 0
        if main:
            recover_directory(self.state)
        self.accelerator.wait_for_everyone()
        if self.state.exists():
            meta = load_state(self.state, self.modules, self.optimizer)
            done = int(meta["step"])
            if self.remembered is not None:
                self.remembered.restore(meta.get("loss", {}))
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(meta["scaler"])
        if main:
            truncate_log(self.log, done)
            truncate_log(self.probes, done if done else -1)
            forget_stopped(self.run)
        self.accelerator.wait_for_everyone()
        for line in read_lines(self.log):
            self.guard.add(line)
        if self.config.shard:
            self._shard()
            self.wrapped, self.stepper = self.denoiser, self.accelerator.prepare(self.optimizer)
        else:
            self.wrapped, self.stepper = self.accelerator.prepare(self.denoiser, self.optimizer)
        if main and done:
            self._look_back(done)
        if self.probe is not None and not done and (main or self.config.shard):
            self._look_at_held_out(0)
        self.accelerator.wait_for_everyone()
        return done

    def advance(self, step: int) -> Line:
        """One optimiser step and what follows it; returns its line of the log."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        line = optimizer_step(self.wrapped, self.stepper, self.loss, self.config, step, self.accelerator)
        if "average" in self.modules:
            update_average(self.modules["average"], self.denoiser, self.config.ema or 0.0, step)
        if self.accelerator.is_main_process:
            append(self.log, line)
            track(self.accelerator, "train", line)
        reason = self.guard.add(line)
        if reason is not None:
            self._stop(step, reason, line)
        step, last = step + 1, step + 1 == self.config.steps
        every, main = self.config.probe_every, self.accelerator.is_main_process
        looked_at = last or (every is not None and step % every == 0)
        if self.probe is not None and looked_at and (main or self.config.shard):  # its parts answer together
            self._look_at_held_out(step)
        if last or step % self.config.checkpoint_every == 0:
            if self.config.shard:
                self._gather()
            if main:
                self._save(step)
                self._look_back(step)
            self.accelerator.wait_for_everyone()
        return line

    def _shard(self) -> None:
        """Split denoiser, average and moments; the first process keeps whole copies on the CPU, for checkpoints."""
        if self.accelerator.is_main_process:
            self.whole = {name: copy.deepcopy(module).cpu() for name, module in self.modules.items()}
            self.whole_optimizer = self._make_optimizer(self.whole["denoiser"])
        before = dict(self.denoiser.named_parameters())
        for module in self.modules.values():
            shard(module, self.accelerator.device)
        shard_optimizer(self.optimizer, before, self.denoiser)

    def _gather(self) -> None:
        for name, module in self.modules.items():
            gather(module, self.whole.get(name))
        gather_moments(self.optimizer, self.whole_optimizer)

    def _save(self, step: int) -> None:
        modules, optimizer = self.modules, self.optimizer
        if self.whole_optimizer is not None:
            modules, optimizer = self.whole, self.whole_optimizer
        self.model.save_pipeline(checkpoint_path(self.run, step), modules.get("average", modules["denoiser"]))
        meta: dict[str, Any] = {"step": step}
        if self.remembered is not None:
            meta["loss"] = self.remembered.state()
        if self.accelerator.scaler is not None:
            meta["scaler"] = self.accelerator.scaler.state_dict()
        save_state(self.state, modules, optimizer, meta)

    def _look_back(self, step: int) -> None:
        """What follows a complete checkpoint; done again when a run is continued, as it may not have been finished."""
        if self.on_checkpoint is not None:
            self.on_checkpoint(step, checkpoint_path(self.run, step))
        truncate_log(self.warnings, step - 1)
        found = warnings_at(self.run, step, read_lines(self.log), read_lines(self.probes))
        for warned in found if self.config.tripwires else ():
            append(self.warnings, {"step": step, "warning": warned.name, "text": warned.text, **warned.values})
            tqdm.write(f"pixeval: warning at step {step}, {warned.name}: {warned.text}", file=sys.stderr)
        if not self.guard.streak:  # while the loss explodes, an earlier checkpoint may be the last good one
            keep(self.run, self.config.keep_last, self.config.keep_best, step)

    def _look_at_held_out(self, step: int) -> None:
        assert self.probe is not None
        with self.accelerator.autocast(), fast_attention(self.accelerator.device):
            line = {"step": step, **self.probe(self.modules.get("average", self.denoiser))}
        if self.accelerator.is_main_process:
            append(self.probes, line)
            track(self.accelerator, "held_out", line)

    def _stop(self, step: int, reason: str, line: Line) -> None:
        """Tell what was read, and stop, in every process: the line is the same in all of them."""
        if self.accelerator.is_main_process:
            each = self.config.accumulate * self.accelerator.num_processes
            rows = [row for batch in range(step * each, (step + 1) * each) for row in self.describe(batch)]
            write_stopped(self.run, step + 1, reason, line, rows)
            end_tracking(self.accelerator)
        raise FloatingPointError(
            f"{reason} at step {step + 1}; lower learning_rate. What was read then is told in "
            f"{self.run.path / 'stopped.json'}; the checkpoints before are kept."
        )
