"""LoRA by peft (Hu et al., arXiv 2106.09685): low-rank adapters learn, the denoiser's own weights stay as they are.

Beside the merged pipeline, a checkpoint holds the adapters alone; stock diffusers loads them onto the base model with
``pipeline.load_lora_weights(checkpoint)``. PixArt's pipelines have no such method; for them, the adapters lie in
``lora/`` as ``peft.PeftModel.from_pretrained(pipeline.transformer, checkpoint / "lora")`` loads them.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from pixeval.errors import InputError, unknown_name

ADAPTER = "default"
METADATA = "lora_adapter_metadata"
"""Where stock diffusers looks for rank, alpha and targets in the header of a file of adapters."""
PEFT_FOLDER = "lora"
"""In a checkpoint, where stock diffusers has no loader for the pipeline's class."""


def add_adapters(denoiser: nn.Module, rank: int, alpha: float | None, targets: tuple[str, ...], seed: int) -> None:
    """Freeze ``denoiser`` and give it adapters that learn; its output does not change yet.

    Args:
        denoiser: changed in place.
        rank: of each adapter.
        alpha: adapters are scaled by ``alpha / rank``; None for the rank, that is, by 1.
        targets: names of the linear and convolutional layers that get one, or the ends of their names.
        seed: of the first factors; the second ones start at zero.

    Raises:
        InputError: the rank or alpha is not positive, or a target names no layer.
    """
    if rank < 1:
        raise InputError(f"lora_rank must be at least 1, got {rank}")
    if alpha is not None and not alpha > 0:
        raise InputError(f"lora_alpha must be positive, got {alpha}")
    layers = _layers(denoiser)
    for target in targets:
        if not _named(target, layers):
            raise unknown_name("layer for lora_targets", target, {end for name in layers for end in _ends(name)})
    denoiser.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=float(rank if alpha is None else alpha), target_modules=list(targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, denoiser, ADAPTER)


def present(denoiser: nn.Module, targets: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``targets`` that name a layer of ``denoiser``."""
    layers = _layers(denoiser)
    return tuple(target for target in targets if _named(target, layers))


def adapted(denoiser: nn.Module) -> bool:
    """Whether there are adapters in it."""
    return any(True for _ in _adapters(denoiser))


class WithoutAdapters(nn.Module):
    """The denoiser as it was before training, for the reference of DPO: its own weights, adapters switched off.

    No second copy of the weights is needed. It is called without gradients.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the denoiser would have answered before training."""
        training, layers = self.denoiser.training, [layer for _, layer in _adapters(self.denoiser)]
        self.denoiser.eval()
        for layer in layers:
            layer.enable_adapters(False)
        try:
            return self.denoiser(*args, **kwargs)
        finally:
            for layer in layers:
                layer.enable_adapters(True)
            self.denoiser.train(training)


@contextmanager
def merged(denoiser: nn.Module) -> Iterator[None]:
    """Within, ``denoiser`` is a plain module of the stock architecture, with the adapters added to its weights.

    Its own weights are put back untouched afterwards: adding and subtracting would leave rounding errors in them.
    """
    found = list(_adapters(denoiser))
    bases: list[tuple[nn.Module, nn.Parameter]] = []
    try:
        for name, layer in found:
            base = layer.get_base_layer()
            own = base.weight
            bases.append((base, own))
            with torch.no_grad():
                total = own.float() + layer.get_delta_weight(ADAPTER).float()
            base.weight = nn.Parameter(total.to(own.dtype), requires_grad=False)
            _replace(denoiser, name, base)
        yield
    finally:
        for base, own in bases:
            base.weight = own
        for name, layer in found:
            _replace(denoiser, name, layer)


def save_adapters(pipeline: Any, denoiser_name: str, denoiser: nn.Module, folder: Path) -> None:
    """Write the adapters of ``denoiser`` alone into ``folder``, for stock diffusers or, where it cannot, for peft."""
    tensors: dict[str, Tensor] = get_peft_model_state_dict(denoiser, adapter_name=ADAPTER)
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    # Sorted, because the order of a set differs from process to process.
    facts: Any = denoiser.peft_config[ADAPTER].to_dict()  # type: ignore[index, union-attr]
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in facts.items()}
    if hasattr(pipeline, "save_lora_weights"):
        named = {f"{denoiser_name}.{key}": value for key, value in settings.items()}
        # One entry only, for safetensors writes several in no fixed order.
        metadata = {METADATA: json.dumps(named, indent=2, sort_keys=True)}

        def save(weights: dict[str, Tensor], file: str) -> None:
            save_file(weights, file, metadata)

        pipeline.save_lora_weights(folder, save_function=save, **{f"{denoiser_name}_lora_layers": tensors})
        return
    (folder / PEFT_FOLDER).mkdir()
    save_file(
        {f"base_model.model.{key}": value for key, value in tensors.items()},
        folder / PEFT_FOLDER / "adapter_model.safetensors",
    )
    settings = {**settings, "inference_mode": True}
    (folder / PEFT_FOLDER / "adapter_config.json").write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")


def copy_of_trained(module: nn.Module) -> nn.Module:
    """A copy of ``module`` that shares the parameters that do not learn, and has its own of the others."""
    shared = {id(parameter): parameter for parameter in module.parameters() if not parameter.requires_grad}
    return copy.deepcopy(module, shared)


def _layers(denoiser: nn.Module) -> list[str]:
    return [name for name, part in denoiser.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]


def _named(target: str, layers: list[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for name in layers)


def _adapters(denoiser: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, part in denoiser.named_modules():
        if isinstance(part, LoraLayer):
            yield name, part


def _replace(root: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, part)


def _ends(name: str) -> list[str]:
    """``blocks.0.attn.to_out.0`` -> ``to_out.0``: the last part of a name, with the one before a number."""
    parts = name.split(".")
    return [parts[-1] if not parts[-1].isdigit() else ".".join(parts[-2:])]
