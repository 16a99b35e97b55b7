"""A reward that another process serves (``pixeval reward serve``), as a metric: ``--weights remote_reward=http://...``."""

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pixeval.errors import InputError
from pixeval.images import to_uint8
from pixeval.metrics.arguments import check_pairs

TIMEOUT = 600.0
"""Seconds for one request."""


class RemoteReward:
    """Rewards by a service; higher is better. Images travel as PNG, so at 8 bits; there are no gradients.

    Args:
        source: address of the service, as ``http://127.0.0.1:7870``.

    Raises:
        InputError: no address, or nothing of this kind answers there.
    """

    def __init__(self, source: str) -> None:
        if not source.startswith(("http://", "https://")):
            raise InputError(f"remote_reward: {source!r} is no address; give one as http://127.0.0.1:7870")
        self.address = source.rstrip("/")
        self.fingerprint = f"remote/1/{self._ask('model', None).get('fingerprint', '')}"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """(N,) float32.

        Raises:
            InputError: see :func:`pixeval.metrics.arguments.check_pairs`.
            RuntimeError: the service could not score one of the images, with its reason.
        """
        texts = check_pairs("remote_reward", images, prompts)
        items = [{"prompt": p, "image": _png(image)} for image, p in zip(images, texts, strict=True)]
        results = self._ask("score", {"items": items})["results"]
        for row in results:
            if "error" in row:
                raise RuntimeError(str(row["error"]))
        return torch.tensor([float(row["reward"]) for row in results])

    def to(self, device: str) -> "RemoteReward":
        """Nothing to move."""
        return self

    def _ask(self, path: str, body: Any) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.address}/v1/{path}",
            data,
            {"Content-Type": "application/json"},
            method="GET" if body is None else "POST",
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except (urllib.error.URLError, TimeoutError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(
                f"no reward service answers at {self.address} ({error}); start one with 'pixeval reward serve'"
            ) from error


def _png(image: Tensor) -> str:
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image[None])[0]).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
