"""Train the zoo's detector of local warps on planted ones: pairs of one picture, sound and with a place warped.

Both of a pair are resampled, turned and spoilt alike, and the sound one is moved gently as well, so that neither the
content nor the trace of resampling tells them apart: what is left is the shape of contours.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from pixeval.images import read_image
from pixeval.metrics.filters import gaussian
from pixeval.metrics.warp_flaw import CELL, WarpNet, contour_measurements, presence
from pixeval.validation.clean_images import TILE
from pixeval.validation.drawn_images import drawn_image
from pixeval.validation.flaw_effects import blur, noise
from pixeval.validation.jpeg_code import jpeg_coded
from pixeval.zoo import BUNDLED
from pixeval.zoo.icons import load_icons
from trainers.pretrain.fit import Fit, fit

SIDE = 128
PHOTOGRAPHS = ("astronaut", "coffee", "motorcycle_left", "brick", "gravel", "moon", "ihc")
"""Of scikit-image; they are in the tuning set of ``pixeval validate``."""
DRAWINGS = 400
"""Drawings made by rule for training; seeds from 10,000 on, apart from those of ``pixeval validate``."""
ELSEWHERE = 0.3
"""Weight of sound places against those that are warped in the other one of the pair."""


@dataclass(frozen=True)
class Material:
    """What is warped; nothing of it is in the images that ``pixeval validate`` reports on."""

    photographs: list[Tensor]
    """3 x H x W each, in several sizes."""
    icons: Tensor
    """N x 3 x 128 x 128, 8-bit."""
    drawings: Tensor
    samples: Tensor

    @classmethod
    @cache
    def bundled(cls) -> "Material":
        """Photographs in three sizes, icons of even rows, drawings by rule, the first samples of the U-Net."""
        folder = Path(str(resources.files("skimage"))) / "data"
        photographs = []
        for name in PHOTOGRAPHS:
            whole = read_image(folder / f"{name}.png")[None]
            photographs += [F.avg_pool2d(whole, k)[0] for k in (1, 2, 3) if min(whole.shape[-2:]) // k >= SIDE]
        sheet = read_image(BUNDLED["zoo:unet"] / "samples.webp")
        tiles = [sheet[:, p // 8 * TILE :, p % 8 * TILE :][:, :TILE, :TILE] for p in range(32)]
        icons = torch.from_numpy(load_icons("train").images[::2].copy()).permute(0, 3, 1, 2)
        drawings = torch.stack([drawn_image(10_000 + k, SIDE) for k in range(DRAWINGS)])
        return cls(photographs, icons, drawings, torch.stack(tiles))


def train_warp(settings: Fit, batch: int = 8, device: str = "cpu") -> WarpNet:
    """Train on ``batch`` pairs a step and return the averaged network."""
    torch.manual_seed(settings.seed)
    net = WarpNet().to(device)
    material = Material.bundled()

    def loss(generator: torch.Generator, progress: float) -> dict[str, Tensor]:
        pairs = [pair(material, generator, progress) for _ in range(batch)]
        images, target, weight = (torch.cat(part).to(device) for part in zip(*pairs, strict=True))
        with torch.no_grad():
            measured = contour_measurements(images)
        logits = net(measured).float()
        cross = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum") / weight.sum()
        flawed, sound = (((logits.sigmoid() * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)))[k::2] for k in (0, 1))
        above = (flawed[:, None] > sound).float().mean()
        return {"loss": cross, "ranked": above, "apart": (flawed - sound).mean()}

    return fit(net, loss, settings)


def pair(material: Material, generator: torch.Generator, progress: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """One picture warped and sound: 2 x 3 x SIDE x SIDE, the warped cells 2 x 1 x SIDE / 4 x SIDE / 4, their weights.

    Training starts with strong warps only; from its middle (``progress`` 0.5) on they have every strength.
    """
    clean = picture(material, generator)
    cover = _ellipse(clean, generator)
    least = 2.5 + 3.5 * max(0.0, 1 - 2 * progress)
    pixels = least * (9 / least) ** _uniform(generator)
    gentle = _field(24.0, 3.0 * _uniform(generator), generator)
    strong = _field(6.0, pixels, generator)
    flawed, sound = _moved(clean, gentle + cover * strong), _moved(clean, gentle)
    state = generator.get_state()
    both = []
    for image in (flawed, sound):
        generator.set_state(state)
        both.append(_degraded(image, generator).clamp(0, 1))
    images = (torch.cat(both) * 255).round() / 255
    inside = F.avg_pool2d((cover > 0.5).float(), CELL)
    rim = (F.avg_pool2d(cover, CELL) > 0.02).float() * (inside < 0.95)
    structure = F.avg_pool2d(presence(images), CELL)
    target = torch.cat(((inside >= 0.95).float(), torch.zeros_like(inside)))
    weight = (structure + 0.02) * (ELSEWHERE + (1 - ELSEWHERE) * inside) * (1 - rim)
    return images, target, weight


def picture(material: Material, generator: torch.Generator) -> Tensor:
    """1 x 3 x SIDE x SIDE: of a photograph, icons, an icon on a drawing, a drawing, samples; turned at random."""
    kind = _uniform(generator)
    if kind < 0.4:
        whole = material.photographs[_below(len(material.photographs), generator)]
        top, left = (_below(side - SIDE + 1, generator) for side in whole.shape[-2:])
        found = whole[None, :, top : top + SIDE, left : left + SIDE]
    elif kind < 0.6:
        rows = torch.randint(len(material.icons), (4,), generator=generator)
        found = _sheet(material.icons[rows].float() / 255)
    elif kind < 0.75:
        icon = material.icons[_below(len(material.icons), generator)][None].float() / 255
        drawing = material.drawings[_below(len(material.drawings), generator)][None]
        paper = gaussian(icon.amin(1, keepdim=True).clamp(0.85, 0.97), 0.7)
        found = drawing + ((0.97 - paper) / 0.12).clamp(0, 1) * (icon - drawing)
    elif kind < 0.9:
        found = material.drawings[_below(len(material.drawings), generator)][None]
    else:
        rows = torch.randint(len(material.samples), (4,), generator=generator)
        found = _sheet(material.samples[rows]) if _uniform(generator) < 0.7 else material.samples[rows[:1]]
    found = torch.rot90(found, _below(4, generator), (2, 3))
    found = found.flip(3) if _uniform(generator) < 0.5 else found
    found = 1 - found if _uniform(generator) < 0.3 else found
    return _turned(found[:, torch.randperm(3, generator=generator)], generator)


def _sheet(four: Tensor) -> Tensor:
    small = F.interpolate(four, (SIDE // 2, SIDE // 2), mode="bicubic", antialias=True).clamp(0, 1)
    return torch.cat([torch.cat([small[0], small[1]], 2), torch.cat([small[2], small[3]], 2)], 1)[None]


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _below(end: int, generator: torch.Generator) -> int:
    return int(torch.randint(end, (), generator=generator))


def _turned(image: Tensor, generator: torch.Generator) -> Tensor:
    """Turned, scaled and moved as a whole by a little."""
    turn, scale, down, right = (2 * torch.rand(4, generator=generator) - 1).tolist()
    angle, size = 0.3 * turn, 0.95 + 0.2 * scale
    cos, sin = (f(torch.tensor(angle)).item() / size for f in (torch.cos, torch.sin))
    matrix = torch.tensor([[[cos, -sin, 0.1 * right], [sin, cos, 0.1 * down]]])
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)


def _ellipse(image: Tensor, generator: torch.Generator) -> Tensor:
    """A soft ellipse of a sixth to a half of the image, 1 x 1 x H x W: the one of four with most structure."""
    structure = presence(image)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    best, most = torch.zeros_like(structure), -1.0
    for _ in range(4):
        y, x, a, b = torch.rand(4, generator=generator).tolist()
        y, x = (SIDE * (0.2 + 0.6 * place) for place in (y, x))
        distance = torch.hypot((columns - x) / (28 + 24 * a), (rows - y) / (28 + 24 * b))
        cover = ((1.05 - distance) / 0.15).clamp(0, 1)[None, None]
        held = float((structure * cover).sum() / cover.sum())
        if held > most:
            best, most = cover, held
    return best


def _field(grain: float, pixels: float, generator: torch.Generator) -> Tensor:
    """A smooth random displacement, 1 x 2 x SIDE x SIDE in pixels, of ``pixels`` root mean square."""
    field = gaussian(torch.randn(2, 1, SIDE, SIDE, generator=generator), grain)
    return (field / field.square().mean().sqrt() * pixels / 2**0.5).transpose(0, 1)


def _moved(image: Tensor, field: Tensor) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    grid = torch.stack(((2 * (columns + field[0, 0]) + 1) / SIDE - 1, (2 * (rows + field[0, 1]) + 1) / SIDE - 1), -1)
    return F.grid_sample(image, grid[None], padding_mode="reflection", align_corners=False)


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
