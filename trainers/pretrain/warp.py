"""Train the zoo's detector of local warps on planted ones: icons and drawings, each warped in a few places.

A warp resamples, and a network could take the trace of resampling for the flaw; so every image is resampled as a whole
first, and is blurred, coded or made noisy as a whole afterwards, in the flawed and the sound places alike.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from pixeval.metrics.filters import gaussian
from pixeval.metrics.warp_flaw import WarpNet
from pixeval.validation.drawn_images import drawn_image
from pixeval.validation.flaw_effects import blur, noise, warped
from pixeval.validation.jpeg_code import jpeg_coded
from pixeval.zoo.icons import load_icons
from trainers.pretrain.fit import Fit, fit

SIDE = 128
CROP = 80
"""Side of the training images, cut where there is something to see: half of an icon is paper, which teaches nothing."""
DRAWINGS = 400
"""Drawings made by rule for training; seeds from 10,000 on, apart from those of ``pixeval validate``."""
VISIBLE = 2 / 255
"""Places of a warp that changed nothing beyond this are neither flawed nor sound to the loss."""


def train_warp(settings: Fit, batch: int = 32, device: str = "cpu") -> WarpNet:
    """Train and return the averaged network."""
    torch.manual_seed(settings.seed)
    net = WarpNet().to(device)
    icons = torch.from_numpy(load_icons("train").images).permute(0, 3, 1, 2)
    drawings = torch.stack([drawn_image(10_000 + k, SIDE) for k in range(DRAWINGS)])

    def loss(generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        examples = [example(icons, drawings, generator, progress) for _ in range(batch)]
        images, target, weight = (torch.cat(part).to(device) for part in zip(*examples, strict=True))
        logits = net(images).float()
        cross = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum") / weight.sum()
        heat = logits.sigmoid() * weight
        overlap = 2 * (heat * target).sum() / (heat.sum() + (target * weight).sum()).clamp_min(1.0)
        right = ((logits > 0) == (target > 0.5)).float() * weight
        return {
            "loss": cross + 0.5 * (1 - overlap),
            "cross": cross,
            "dice": overlap,
            "right": right.sum() / weight.sum(),
        }

    return fit(net, loss, settings)


def example(
    icons: Tensor, drawings: Tensor, generator: torch.Generator, progress: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """One image 1 x 3 x CROP x CROP with up to two warped places, the places 1 x CROP x CROP, and each pixel's weight.

    Training starts with strong warps only; from its middle (``progress`` 0.5) on they have every strength. What came of
    it so far is in docs/experiments/warp.md.
    """
    clean = _detailed(_resampled(_picture(icons, drawings, generator), generator), generator)
    cover = torch.zeros_like(clean[:, :1])
    for _ in range(int(torch.randint(0, 3, (), generator=generator))):
        cover = torch.maximum(cover, _blob(clean, generator))
    least = 1.5 + 5.5 * max(0.0, 1 - 2 * progress)
    pixels = least * (9 / least) ** float(torch.rand((), generator=generator))
    flawed = clean + cover * (warped(clean, pixels, generator) - clean)
    changed = gaussian((flawed - clean).abs().amax(1, keepdim=True), 2.0) > VISIBLE
    target = (cover > 0.5) & changed
    # the rim of a place, and what a warp left as it was, say nothing
    unclear = ((cover > 0.02) & ~target).float()
    return _degraded(flawed, generator).clamp(0, 1), target[:, 0].float(), 1 - unclear[:, 0]


def _detailed(image: Tensor, generator: torch.Generator) -> Tensor:
    """Of three random crops the one with the most edges."""
    crops = []
    for _ in range(3):
        top, left = torch.randint(0, SIDE - CROP + 1, (2,), generator=generator).tolist()
        crops.append(image[..., top : top + CROP, left : left + CROP])
    return max(crops, key=lambda crop: float((crop.diff(dim=-1).abs() > 0.1).float().mean()))


def _picture(icons: Tensor, drawings: Tensor, generator: torch.Generator) -> Tensor:
    """An icon on white, a drawing, or an icon on a drawing."""
    kind = float(torch.rand((), generator=generator))
    drawing = drawings[int(torch.randint(len(drawings), (), generator=generator))][None]
    if kind < 0.35:
        return drawing
    icon = icons[int(torch.randint(len(icons), (), generator=generator))][None].float() / 255
    if float(torch.rand((), generator=generator)) < 0.5:
        icon = icon.flip(3)
    if kind < 0.7:
        return icon
    paper = gaussian(icon.amin(1, keepdim=True).clamp(0.85, 0.97), 0.7)
    solid = ((0.97 - paper) / 0.12).clamp(0, 1)
    return drawing + solid * (icon - drawing)


def _resampled(image: Tensor, generator: torch.Generator) -> Tensor:
    """Turned, scaled and moved as a whole by a little, with the interpolation that the warp uses."""
    turn, scale, down, right = (2 * torch.rand(4, generator=generator) - 1).tolist()
    angle, size = 0.3 * turn, 0.9 + 0.2 * scale
    cos, sin = (f(torch.tensor(angle)).item() / size for f in (torch.cos, torch.sin))
    matrix = torch.tensor([[[cos, -sin, 0.1 * right], [sin, cos, 0.1 * down]]])
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)


def _blob(image: Tensor, generator: torch.Generator) -> Tensor:
    """A soft ellipse, 1 x 1 x H x W in [0, 1]."""
    height, width = image.shape[-2:]
    y, x, a, b, turn = torch.rand(5, generator=generator).tolist()
    rows, columns = torch.meshgrid(torch.arange(height) - y * height, torch.arange(width) - x * width, indexing="ij")
    angle = torch.tensor(3.1416 * turn)
    along = columns * angle.cos() + rows * angle.sin()
    aside = rows * angle.cos() - columns * angle.sin()
    distance = torch.hypot(along / (12 + 24 * a), aside / (12 + 24 * b))
    return ((1.1 - distance) / 0.2).clamp(0, 1)[None, None]


def _degraded(image: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images as a whole blurred, coded or noisy."""
    kind, amount = torch.rand(2, generator=generator).tolist()
    if kind < 0.2:
        return blur(image, 0.5 + 1.5 * amount, generator)
    if kind < 0.35:
        return jpeg_coded(image, 30 + 60 * amount)
    if kind < 0.5:
        return noise(image, 2 + 10 * amount, generator)
    return image


def save_warp(net: WarpNet, folder: Path) -> Path:
    """Write the weights as fp16 safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "model.safetensors"
    partial = folder / "model.safetensors.partial"
    save_file({name: tensor.half().cpu().contiguous() for name, tensor in net.state_dict().items()}, partial)
    partial.replace(target)
    return target
