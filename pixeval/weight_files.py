"""Safetensors files of metrics: read with checks, and named by their contents. Nothing is unpickled."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pixeval.errors import InputError


def read_weights(path: Path | str, metric: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Args:
        metric: whose weights they are, for the error.

    Raises:
        InputError: there is no such file, or it is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"cannot read the weights of {metric}, {path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}); pickled weights (.pt, .pth, .bin) are not read. "
            "Convert them with safetensors.torch.save_file."
        ) from error


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Twelve hexadecimal digits of names, shapes, types and values; for fingerprints."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
    return found.hexdigest()[:12]
