"""LoRA adapters of an encoder's image side, by peft (Hu et al., arXiv 2106.09685)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from reward_models.views import DinoEncoder
from trainers.lora import add_adapters, present

TARGETS = (
    *("c_fc", "c_proj"),  # open_clip's own towers; their attention is one fused module that peft cannot reach by name
    *("qkv", "proj", "fc1", "fc2"),  # timm's, as of SigLIP; fc1 and fc2 are DINOv2's too
    *("q_proj", "v_proj", "up_proj", "down_proj"),  # DINOv2 and DINOv3 of transformers
)
"""Linear layers of the blocks of image encoders."""


@dataclass(frozen=True)
class Adaptation:
    """Low-rank adapters of the image encoder."""

    rank: int = 4
    """Of each adapter."""
    alpha: float | None = None
    """Adapters are scaled by alpha / rank; none for 1."""
    targets: tuple[str, ...] = TARGETS
    """Ends of the names of the layers that get one; those that the encoder has not are passed over."""


def image_side(encoder: ClipEncoder | DinoEncoder) -> nn.Module:
    """The part of an encoder that reads images."""
    found = encoder.model.visual if isinstance(encoder, ClipEncoder) else encoder.model
    assert isinstance(found, nn.Module)
    return found


def adapt(encoder: ClipEncoder | DinoEncoder, lora: Adaptation, seed: int) -> None:
    """Give the image side adapters; what it computes does not change yet.

    Raises:
        InputError: none of the targets is there, or the rank is not positive.
    """
    side = image_side(encoder)
    targets = present(side, lora.targets)
    if not targets:
        raise InputError(
            f"this encoder has none of the layers {', '.join(lora.targets)}; train without --lora-rank, or take another"
        )
    add_adapters(side, lora.rank, lora.alpha, targets, seed)


def adapter_parameters(encoder: ClipEncoder | DinoEncoder) -> list[nn.Parameter]:
    """What is trained of the encoder; empty for a frozen one."""
    return [value for name, value in image_side(encoder).named_parameters() if "lora_" in name]


def adapter_tensors(encoder: ClipEncoder | DinoEncoder) -> dict[str, Tensor]:
    """Adapters by name, with the prefix ``encoder.``; empty where there are none."""
    state = image_side(encoder).state_dict()
    return {f"encoder.{name}": value.detach().cpu().contiguous() for name, value in state.items() if "lora_" in name}


def load_adapters(encoder: ClipEncoder | DinoEncoder, tensors: Mapping[str, Tensor]) -> None:
    """Put saved adapters in place.

    Raises:
        InputError: some are missing, or of another shape.
    """
    found = {name.removeprefix("encoder."): value for name, value in tensors.items() if name.startswith("encoder.")}
    side = image_side(encoder)
    wanted = {name: value.shape for name, value in side.state_dict().items() if "lora_" in name}
    if wanted != {name: value.shape for name, value in found.items()}:
        raise InputError("the saved adapters do not fit the encoder; train the reward model again")
    side.load_state_dict(found, strict=False)
