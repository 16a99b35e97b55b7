"""A reward that another process serves (``pixeval reward serve``), as a metric: ``--weights remote_reward=http://...``."""

import base64
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pixeval.errors import InputError
from pixeval.images import to_uint8
from pixeval.metrics.arguments import check_pairs
from reward_models.http_json import NoAnswer, ask_json, one_line

TIMEOUT = 600.0
"""Seconds for one request."""
MOST_ITEMS = 256
MOST_BODY = 64_000_000
"""Bytes of a request; the service refuses more."""

Item = dict[str, str]


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
        self._served = _fingerprint(self._ask("model"), self.address)
        self.fingerprint = f"remote/1/{self._served}"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """(N,) float32.

        Raises:
            InputError: see :func:`pixeval.metrics.arguments.check_pairs`; or the service has gone, serves another model
                than at first, or answers in another form.
            RuntimeError: the service could not score one of the images, with its reason.
        """
        texts = check_pairs("remote_reward", images, prompts)
        items = ({"prompt": p, "image": _png(image)} for image, p in zip(images, texts, strict=True))
        return torch.tensor([reward for part in _parts(items) for reward in self._rewards(part)])

    def to(self, device: str) -> "RemoteReward":
        """Nothing to move."""
        return self

    def _rewards(self, items: Sequence[Item]) -> list[float]:
        answer = self._ask("score", {"items": items})
        now = _fingerprint(answer, self.address)
        if now != self._served:
            raise InputError(
                f"{self.address} now serves another reward ({now}, before {self._served}); what it says does not "
                "compare with what it said. Start again, or serve the first one."
            )
        rows = answer.get("results")
        if not isinstance(rows, list) or len(rows) != len(items):
            raise _other_form(self.address, f"not one result for each of {len(items)} images")
        return [_reward(row, self.address) for row in rows]

    def _ask(self, path: str, body: Any = None) -> Any:
        try:
            return ask_json(f"{self.address}/v1/{path}", body, timeout=TIMEOUT)
        except NoAnswer as error:
            raise InputError(
                f"no reward service answers at {self.address} ({error}); start one with 'pixeval reward serve'"
            ) from error


def _fingerprint(answer: Any, address: str) -> str:
    found = answer.get("fingerprint") if isinstance(answer, dict) else None
    if not isinstance(found, str) or not found or found != one_line(found):
        raise _other_form(address, "no fingerprint")
    return found


def _reward(row: Any, address: str) -> float:
    if isinstance(row, dict) and "error" in row:
        raise RuntimeError(one_line(row["error"]))
    value = row.get("reward") if isinstance(row, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise _other_form(address, "a result without a finite reward")
    return float(value)


def _other_form(address: str, what: str) -> InputError:
    return InputError(
        f"{address} answers in another form than 'pixeval reward serve' ({what}); give the address of one"
    )


def _parts(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Requests that the service takes; an image too large for any goes alone."""
    part: list[Item] = []
    size = 0
    for item in items:
        # what JSON makes of a character is at most 12 bytes
        own = len(item["image"]) + 12 * len(item["prompt"]) + 100
        if part and (len(part) == MOST_ITEMS or size + own > MOST_BODY):
            yield part
            part, size = [], 0
        part.append(item)
        size += own
    if part:
        yield part


def _png(image: Tensor) -> str:
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image[None])[0]).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
