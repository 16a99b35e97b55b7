"""Published models through transformers, from a local folder or by hub name: safetensors only, never half loaded."""

import importlib
import logging
from pathlib import Path
from typing import Any

from pixeval.errors import InputError

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


def load_model(kind: str, source: str, metric: str, **options: Any) -> Any:
    """The model ``kind`` of transformers with the weights of ``source``, in evaluation mode and frozen.

    Args:
        kind: class name, such as ``CLIPModel`` or ``AutoModelForImageTextToText``.
        source: a local folder as ``save_pretrained`` writes it, or a hub name ``owner/model`` (downloaded on first
            use).
        metric: whose model it is, for the error.
        options: passed on to ``from_pretrained``.

    Raises:
        InputError: no such folder or model, pickled weights, or weights that leave parts of the model unset.
    """
    check_source(source, metric)
    options = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True} | options
    model, found = _from_pretrained(kind, source, metric, options)
    # transformers would go on with random numbers in the missing places
    missing = sorted(map(str, found["missing_keys"]))
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise InputError(f"the weights of {metric}, {source}, lack {shown}; give the complete {kind} it was saved from")
    return model.eval().requires_grad_(False)


def load_processor(kind: str, source: str, metric: str) -> Any:
    """The processor or tokenizer ``kind`` of transformers in ``source``; arguments and errors as :func:`load_model`."""
    return _from_pretrained(kind, source, metric, {"trust_remote_code": False})


def check_source(source: str, metric: str) -> None:
    """Raise an InputError where ``source`` is neither a folder with safetensors nor of the form of a hub name."""
    path = Path(source)
    if path.is_dir():
        if not any(path.glob("*.safetensors")):
            held = "pickled weights, which are not read" if any(path.glob("*.bin")) else "no weights"
            raise InputError(
                f"{source} holds {held}; {metric} needs *.safetensors there, as save_pretrained writes them"
            )
    elif path.suffix in PICKLED:
        raise InputError(f"{source} is pickled and not read; {metric} needs a folder with *.safetensors or a hub name")
    elif path.exists() or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise InputError(f"{metric}: {source!r} is neither a folder nor a hub name of the form owner/model")


def _from_pretrained(kind: str, source: str, metric: str, options: dict[str, Any]) -> Any:
    try:
        importlib.import_module("transformers").utils.logging.disable_progress_bar()
        loader = getattr(importlib.import_module("transformers"), kind)
        return loader.from_pretrained(source, **options)
    except Exception as error:  # transformers, safetensors and the hub each raise their own kinds
        logging.getLogger(__name__).debug("loading a published model failed", exc_info=True)
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{metric}: {source!r} cannot be loaded as {kind}: {reason}. Check its files, or the network."
        ) from error
