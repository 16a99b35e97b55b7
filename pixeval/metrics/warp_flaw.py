"""Local warps and melted structure, found by a small network that was trained on planted ones."""

import itertools
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from pixeval.errors import InputError
from pixeval.metrics.flaw_heat import HeatMean

WEIGHTS = Path(__file__).resolve().parents[1] / "zoo" / "warp" / "model.safetensors"
WIDTHS = (20, 40, 60, 72)
"""Channels at 1/2, 1/4, 1/8 and 1/16 of the resolution."""
MULTIPLE = 2 ** len(WIDTHS)


class WarpNet(nn.Module):
    """A fully convolutional U-Net: N x 3 x H x W in [0, 1] to logits N x H x W that a place is warped (0.4 M)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 5, stride=2, padding=2)
        self.down = nn.ModuleList(Stage(width, width) for width in WIDTHS)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in _steps())
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in _steps())
        self.up = nn.ModuleList(Stage(2 * a, a) for a, _ in _steps())
        self.head = nn.Conv2d(WIDTHS[0], 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits N x H x W; any size of at least one pixel."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        level = self.down[0](self.stem(2 * padded - 1))
        kept = [level]
        for shrink, stage in zip(self.shrink, self.down[1:], strict=True):
            level = stage(shrink(level))
            kept.append(level)
        for depth in reversed(range(len(self.up))):
            wide = F.interpolate(self.grow[depth](level), scale_factor=2.0, mode="nearest")
            level = self.up[depth](torch.cat((wide, kept[depth]), 1))
        logits = F.interpolate(self.head(level), scale_factor=2.0, mode="bilinear", align_corners=False)
        return logits[:, 0, :height, :width]


class Stage(nn.Module):
    """Two 3 x 3 convolutions with group normalisation and a residual connection."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(4, width) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        """N x inputs x H x W -> N x width x H x W."""
        start = self.first(features)
        out: Tensor = start + self.second(F.silu(self.norms[0](start)))
        return F.silu(self.norms[1](out))


def _steps() -> list[tuple[int, int]]:
    return list(itertools.pairwise(WIDTHS))


class WarpFlaw(HeatMean):
    """Places that look melted or pulled out of shape, as judged by :class:`WarpNet`; value: mean of the map.

    Trained on smooth random displacements planted in icons and drawings; it knows nothing of anatomy.
    """

    fingerprint = "warp_flaw/1"

    def __init__(self, weights: Path = WEIGHTS) -> None:
        self.net = WarpNet()
        try:
            self.net.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
        except FileNotFoundError as error:
            raise InputError(f"{weights} is missing; train it: python -m trainers.pretrain warp") from error
        self.net.eval().requires_grad_(False)

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        self.net.to(images.device, images.dtype)
        heat: Tensor = self.net(images).sigmoid()
        return heat
