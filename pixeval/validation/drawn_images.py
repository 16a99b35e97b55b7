"""Drawings made by rule: flat and shaded shapes, lines and stripes; the same seed gives the same drawing."""

import math

import torch
from torch import Tensor


def drawn_image(seed: int, side: int) -> Tensor:
    """3 x side x side in [0, 1]: a shaded or plain ground with four to nine shapes on it."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) + 0.5,) * 2, indexing="ij")
    image = _shaded(rows, columns, generator, plain=seed % 3 == 0)
    for _ in range(4 + int(_uniform(generator, 0, 6))):
        cover = _shape(rows, columns, generator)
        image = image + cover * (_shaded(rows, columns, generator, plain=_uniform(generator, 0, 1) < 0.5) - image)
    return (image.clamp(0, 1) * 255).round() / 255


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _shaded(rows: Tensor, columns: Tensor, generator: torch.Generator, plain: bool) -> Tensor:
    """A colour, or a smooth change from one to another along a random direction."""
    side = rows.shape[-1]
    both: Tensor = torch.rand(2, 3, 1, 1, generator=generator) * 0.84 + 0.08
    first, second = both[0], both[1]
    if plain:
        return first.expand(3, side, side)
    angle = _uniform(generator, 0, 2 * math.pi)
    along = (rows * math.sin(angle) + columns * math.cos(angle)) / side
    along = (along - along.min()) / (along.max() - along.min())
    return first + (second - first) * along


def _shape(rows: Tensor, columns: Tensor, generator: torch.Generator) -> Tensor:
    """Cover in [0, 1] of an ellipse, a box, a ring, a line or a striped box, turned at random."""
    side = rows.shape[-1]
    y, x = (_uniform(generator, 0.15, 0.85) * side for _ in range(2))
    a, b = (_uniform(generator, 0.08, 0.3) * side for _ in range(2))
    angle = _uniform(generator, 0, math.pi)
    along = (columns - x) * math.cos(angle) + (rows - y) * math.sin(angle)
    aside = (rows - y) * math.cos(angle) - (columns - x) * math.sin(angle)
    kind = int(_uniform(generator, 0, 5))
    if kind == 0:
        distance = (torch.hypot(along / a, aside / b) - 1) * min(a, b)
    elif kind == 1:
        distance = (torch.hypot(along, aside) - a).abs() - _uniform(generator, 1.5, 5)
    elif kind == 2:
        distance = torch.maximum(along.abs() - a, aside.abs() - _uniform(generator, 0.8, 2.5))
    else:
        distance = torch.maximum(along.abs() - a, aside.abs() - b)
    cover = (0.5 - distance).clamp(0, 1)
    if kind == 4:
        cover = cover * (0.5 + 2 * torch.sin(2 * math.pi * along / _uniform(generator, 6, 14))).clamp(0, 1)
    return cover
