"""Local warps and melted structure: fixed measurements of contours, judged by a small network trained on warps."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from pixeval.errors import InputError
from pixeval.metrics.filters import gaussian, luma, sobel
from pixeval.metrics.flaw_heat import STEP, gradient_magnitude, ramp

WEIGHTS = Path(__file__).resolve().parents[1] / "zoo" / "warp" / "model.safetensors"
SCALES = (1.0, 2.0, 4.0)
"""Sigmas in pixels at which contours are measured."""
CHANNELS = 5 * len(SCALES) + 1
WIDTH = 48
DILATIONS = (1, 2, 4, 2, 1)
CELL = 4
"""Pixels a side of the places that the network judges."""


def contour_measurements(images: Tensor) -> Tensor:
    """N x 3 x H x W -> N x 16 x ceil(H / 2) x ceil(W / 2), each about in [-1, 1] and independent of contrast.

    Per scale: direction of the contour as cosine and sine of twice its angle and how clearly there is one; its
    curvature, signed and not; and once how much structure there is. What resampling does to the finest detail is
    smoothed away first, so that it cannot serve as a sign of a warp.
    """
    grey = luma(images)
    found = []
    for sigma in SCALES:
        smooth = gaussian(grey, sigma)
        down, across = sobel(smooth)
        power = down.square() + across.square()
        usual = gaussian(power, 3 * sigma) + (0.5 * STEP) ** 2
        strength = (power / (power + usual)).sqrt()
        curvature = torch.tanh(sigma * _curvature(down, across, power))
        found += [
            (across.square() - down.square()) / (power + usual),
            2 * down * across / (power + usual),
            strength,
            curvature * strength,
            curvature.abs() * strength,
        ]
    found.append(2 * presence(images) - 1)
    return F.avg_pool2d(torch.cat(found, 1), 2, ceil_mode=True, count_include_pad=False)


def _curvature(down: Tensor, across: Tensor, power: Tensor) -> Tensor:
    """Of the level lines, in 1 / pixel: the divergence of the direction of the gradient."""
    length = (power + (0.25 * STEP) ** 2).sqrt()
    return sobel(down / length)[0] + sobel(across / length)[1]


def presence(images: Tensor) -> Tensor:
    """N x 1 x H x W in [0, 1]: where there is structure that could be warped."""
    return ramp(gaussian(gradient_magnitude(gaussian(luma(images), 1.0)), 5.0), 0.75 * STEP, 4 * STEP)


class WarpNet(nn.Module):
    """Contour measurements to logits, one per cell of 4 pixels; sees about 90 pixels around (0.13 M parameters)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, 32, 3, padding=1)
        self.shrink = nn.Conv2d(32, WIDTH, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(Block(dilation) for dilation in DILATIONS)
        self.head = nn.Conv2d(WIDTH, 1, 1)

    def forward(self, measurements: Tensor) -> Tensor:
        """N x 16 x h x w -> N x 1 x ceil(h / 2) x ceil(w / 2)."""
        out = F.silu(self.shrink(F.silu(self.first(measurements))))
        for block in self.blocks:
            out = block(out)
        logits: Tensor = self.head(out)
        return logits


class Block(nn.Module):
    """A dilated 3 x 3 and a 1 x 1 convolution beside a short cut, normalised over the channels of each place."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.wide = nn.Conv2d(WIDTH, WIDTH, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        """N x 48 x h x w -> the same."""
        normed = self.norm(features.movedim(1, -1)).movedim(-1, 1)
        out: Tensor = features + self.mix(F.silu(self.wide(normed)))
        return out


class WarpFlaw:
    """Structure that looks melted or pulled out of shape, where there is structure, as judged by :class:`WarpNet`.

    Trained on smooth random displacements planted in photographs, icons and drawings; it knows nothing of anatomy.
    Value: mean over places weighted by the presence of structure; where this fills less than a fifth of the image, the
    value falls with it.
    """

    fingerprint = "warp_flaw/2"
    least = 0.2

    def __init__(self, weights: Path = WEIGHTS) -> None:
        self.net = WarpNet()
        try:
            self.net.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
        except FileNotFoundError as error:
            raise InputError(f"{weights} is missing; train it: python -m trainers.pretrain warp") from error
        self.net.eval().requires_grad_(False)

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """N values in [0, 1]; higher is worse."""
        weight = presence(images)
        return self.heatmap(images).flatten(1).mean(1) / weight.flatten(1).mean(1).clamp_min(self.least)

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        self.net.to(images.device, images.dtype)
        heat = self.net(contour_measurements(images)).sigmoid()
        height, width = images.shape[-2:]
        wide = F.interpolate(heat, scale_factor=float(CELL), mode="bilinear")[..., :height, :width]
        return (wide * presence(images)).squeeze(1)
