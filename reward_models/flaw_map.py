"""Where an image is flawed: one map of all kinds of flaws, learned from planted ones and from annotators' marks.

A small convolutional network on the heat maps of pixeval's own detectors, in cells of 4 pixels. It sees some 120
pixels around a place and the mean of each heat over the image: what is everywhere alike is rather the image's nature.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from pixeval.catalog import load, select
from pixeval.errors import InputError
from pixeval.images import check_images
from pixeval.weight_files import digest, read_weights
from reward_models.flaw_examples import Marked

CELL = 4
"""Side in pixels of the places that are judged."""
WIDTH, DILATIONS = 12, (1, 2, 4, 8)
MOST_CELLS = 64
"""Side of the part of a larger image that is kept to learn from: memory, where images are large and many."""
BATCH, STEPS, RATE, DECAY = 32, 600, 9e-3, 1e-2
SOUND = 0.25
"""Share of sound images in a batch."""
CROP = (20, 40)
"""Side in cells of the parts that are learned from. Random parts, as planted flaws are near the centre of an image."""
JITTER = 0.2
"""Deviation of the factor on each heat: detectors are not equally keen on all images."""


class FlawMap:
    """A flaw scorer of all kinds: values are the mean of the map, both in [0, 1]; higher is worse.

    Args:
        detectors: flaw metrics of the catalogue.
        net: one made by :func:`network`.
    """

    def __init__(self, detectors: Sequence[str], net: nn.Module) -> None:
        self.names = list(detectors)
        self._detectors = [load(spec) for spec in select(detectors)]
        self.net = net.eval().requires_grad_(False)
        told = "/".join(str(detector.fingerprint) for detector in self._detectors)
        self.fingerprint = f"flaw_map/3/{digest(net.state_dict())}/{told}"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """(N,) means of the map."""
        return self.heatmap(images).flatten(1).mean(1)

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]: how probable it is that a place is flawed."""
        return self.spread(cells(self._detectors, check_images(images)), images.shape[-2:])

    def spread(self, found: Tensor, size: Sequence[int]) -> Tensor:
        """N x H x W in [0, 1] of the given size, from what :func:`cells` gave; the last cells may stick out of it."""
        logits = F.interpolate(self.net(found), scale_factor=float(CELL), mode="bilinear")[:, 0]
        return torch.sigmoid(logits[:, : size[0], : size[1]])

    def to(self, device: str) -> "FlawMap":
        """Move the weights; returns itself."""
        self.net.to(device)
        return self

    def save(self, folder: Path) -> None:
        """Write ``flaw_map.json`` and ``flaw_map.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.net.state_dict(), folder / "flaw_map.safetensors")
        told = {"detectors": self.names, "fingerprint": self.fingerprint}
        (folder / "flaw_map.json").write_text(json.dumps(told, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "FlawMap":
        """A saved one.

        Raises:
            InputError: none is there, it is damaged, or a detector has changed since.
        """
        try:
            told = json.loads((folder / "flaw_map.json").read_text())
            net = network(len(told["detectors"]))
            net.load_state_dict(read_weights(folder / "flaw_map.safetensors", "the flaw map"))
            found = cls(told["detectors"], net)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{folder} holds no flaw map ({reason}); make one with 'pixeval reward flaw-map'"
            ) from error
        if found.fingerprint != told.get("fingerprint"):
            raise InputError(f"{folder} was made by other versions of the flaw map and its detectors; train it again")
        return found


def learned_flaw(source: str) -> FlawMap:
    """The metric of that name, from a folder of 'pixeval reward flaw-map'; raises as :meth:`FlawMap.load`."""
    return FlawMap.load(Path(source))


def network(detectors: int) -> nn.Module:
    """N x C x h x w cells of C detectors -> N x 1 x h x w logits."""
    return _Network(detectors)


class _Network(nn.Module):
    def __init__(self, detectors: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2 * detectors, WIDTH, 1)
        self.around = nn.ModuleList(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=reach, dilation=reach, padding_mode="replicate") for reach in DILATIONS
        )
        self.last = nn.Conv2d(WIDTH, 1, 1)

    def forward(self, found: Tensor) -> Tensor:
        x = F.relu(self.first(torch.cat((found, found.mean((2, 3), keepdim=True).expand_as(found)), 1)))
        for layer in self.around:
            x = x + F.relu(layer(x))
        logits: Tensor = self.last(x)
        return logits


def cells(detectors: Sequence[Any], images: Tensor) -> Tensor:
    """N x C x h x w: means over cells of the roots of C detectors' heat; h and w are rounded up."""
    heat = torch.stack([detector.heatmap(images) for detector in detectors], 1)
    return F.avg_pool2d((heat.clamp_min(0) + 1e-6).sqrt(), CELL, ceil_mode=True)


@dataclass(frozen=True)
class Lesson:
    """What is kept of an example."""

    cells: Tensor
    """C x h x w, half precision."""
    mask: Tensor
    """1 x h x w, the share of each cell that is flawed."""
    group: str
    """``sound``, ``planted`` or ``marked``."""


def flaw_detectors() -> list[str]:
    """Names of the flaw metrics that need nothing but the image."""
    return [spec.name for spec in select(["flaws"]) if not spec.needs]


def lessons(examples: Iterable[Marked], seed: int = 0, progress: bool = False) -> list[Lesson]:
    """All that a map learns from, with the heat of every detector; the slow part.

    Args:
        examples: any size; of large ones only a part is kept (:func:`part_of`), in cells of the same size.
        seed: of the parts.
        progress: whether to show it.
    """
    generator = torch.Generator().manual_seed(seed)
    detectors = [load(spec) for spec in select(flaw_detectors())]
    found = []
    for one in tqdm(examples, desc="flaw map", file=sys.stderr, disable=not progress):
        with torch.no_grad():
            heat = cells(detectors, one.pixels[None])
            mask = F.avg_pool2d(one.mask[None, None], CELL, ceil_mode=True)
        part = part_of(mask[0, 0], generator)
        heat, mask = heat[0][:, *part].half().clone(), mask[0][:, *part].clone()
        group = ("marked" if one.by_people else "planted") if mask.any() else "sound"
        found.append(Lesson(heat, mask, group))
    return found


def part_of(mask: Tensor, generator: torch.Generator) -> tuple[slice, slice]:
    """Rows and columns of a random part of at most :data:`MOST_CELLS` a side, with a flawed place where there is one.

    Args:
        mask: h x w, above 0 where cells are flawed.
        generator: of the choice; the whole of a small image needs none.
    """
    if max(mask.shape) <= MOST_CELLS:
        return slice(None), slice(None)
    places = mask.nonzero()
    shown = places[_number(generator, 0, len(places) - 1)].tolist() if len(places) else None
    found = []
    for axis, side in enumerate(mask.shape):
        low, high = 0, max(0, side - MOST_CELLS)
        if shown is not None:
            low, high = min(high, max(0, shown[axis] - MOST_CELLS + 1)), min(high, shown[axis])
        start = _number(generator, low, high)
        found.append(slice(start, start + MOST_CELLS))
    return found[0], found[1]


def fit_map(taught: Sequence[Lesson], seed: int = 0, steps: int = STEPS) -> FlawMap:
    """Weights by maximum likelihood; planted and marked images count alike, whatever their numbers.

    Raises:
        InputError: no example has a flawed place.
    """
    groups = [one.group for one in taught]
    flawed = sorted({"planted", "marked"} & set(groups))
    if not flawed:
        raise InputError("no image has a marked place; collect votes with marks, or plant flaws")
    shares = {"sound": SOUND} | {group: (1 - SOUND) / len(flawed) for group in flawed}
    chance = torch.tensor([shares[group] / groups.count(group) for group in groups])
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network(len(taught[0].cells))
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE / 3, weight_decay=DECAY)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(steps):
        rows = torch.multinomial(chance, BATCH, replacement=True, generator=generator).tolist()
        x, y = _batch([taught[row] for row in rows], generator)
        loss = F.binary_cross_entropy_with_logits(net(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rates.step()
    return FlawMap(flaw_detectors(), net)


def _batch(drawn: Sequence[Lesson], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Parts of one size at random places, turned and mirrored, each heat a little stronger or weaker."""
    side = min(_number(generator, *CROP), *(min(one.mask.shape[-2:]) for one in drawn))
    parts, masks = [], []
    for one in drawn:
        top, left = (_number(generator, 0, length - side) for length in one.mask.shape[-2:])
        parts.append(one.cells[:, top : top + side, left : left + side])
        masks.append(one.mask[:, top : top + side, left : left + side])
    x, y = torch.stack(parts).float(), torch.stack(masks)
    factors = 1 + JITTER * torch.randn(len(x), x.shape[1], 1, 1, generator=generator)
    x = x * factors.clamp(0.3, 2)
    quarters, mirrored = _number(generator, 0, 3), _number(generator, 0, 1)
    x, y = torch.rot90(x, quarters, (2, 3)), torch.rot90(y, quarters, (2, 3))
    return (x.flip(3), y.flip(3)) if mirrored else (x, y)


def _number(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=generator))
