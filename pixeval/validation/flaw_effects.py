"""What each flaw does to an image: pure functions of 1 x 3 x H x W, an amount and a generator."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import gaussian, luma, pad_symmetric
from pixeval.metrics.flaw_heat import STEP, gradient_magnitude
from pixeval.validation.jpeg_code import jpeg_coded


def blur(image: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Gaussian blur."""
    return _each(image, sigma)


def noise(image: Tensor, levels: float, generator: torch.Generator) -> Tensor:
    """White Gaussian noise, independent in the channels."""
    return image + levels * STEP * torch.randn(image.shape, generator=generator)


def banding(image: Tensor, levels: float, generator: torch.Generator) -> Tensor:
    """Too few levels, after the grain of smooth places has been lost."""
    slope = gradient_magnitude(gaussian(luma(image), 1.5))
    even = torch.exp(-(slope / (5 * STEP)).square())
    return ((image + even * (_each(image, 2.0) - image)) / (levels * STEP)).round() * levels * STEP


def latent_grid(image: Tensor, levels: float, generator: torch.Generator) -> Tensor:
    """Cells of 8 pixels with offsets of their own and a line where they meet."""
    return image + levels * STEP * _cells(image, 8, generator)


def patch_grid(image: Tensor, levels: float, generator: torch.Generator) -> Tensor:
    """Cells of 16 pixels with offsets of their own and a line where they meet."""
    return image + levels * STEP * _cells(image, 16, generator)


def _cells(image: Tensor, period: int, generator: torch.Generator) -> Tensor:
    """1 x 1 x H x W; half of the variance in offsets, the rest in lines."""
    height, width = image.shape[-2:]
    offsets = 0.7 * torch.randn(1, 1, -(-height // period), -(-width // period), generator=generator)
    wide = offsets.repeat_interleave(period, 2).repeat_interleave(period, 3)[..., :height, :width]
    on_row = (torch.arange(height) % period == 0)[:, None]
    on_column = (torch.arange(width) % period == 0)[None]
    sign = 1 if float(torch.rand((), generator=generator)) < 0.5 else -1
    return wide + sign * 0.7 * (on_row | on_column).float()


def vivid(image: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Chroma multiplied by 1 + ``amount``, cut off at the gamut."""
    grey = luma(image)
    return (grey + (image - grey) * (1 + amount)).clamp(0, 1)


def jpeg(image: Tensor, quality: float, generator: torch.Generator) -> Tensor:
    """JPEG whose blocks start anywhere, as after a crop."""
    row, column = torch.randint(0, 16, (2,), generator=generator).tolist()
    return jpeg_coded(image, quality, row, column)


def checkerboard(image: Tensor, levels: float, generator: torch.Generator) -> Tensor:
    """Period two across, down, or both."""
    height, width = image.shape[-2:]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    kind = int(torch.randint(0, 3, (), generator=generator))
    at = (rows + columns, rows.expand(-1, width), columns.expand(height, -1))[kind]
    return image + levels * STEP * (1 - 2 * (at % 2)).float()


def ringing(image: Tensor, gain: float, generator: torch.Generator) -> Tensor:
    """A narrow band somewhere in 0.15 to 0.27 cycles per pixel amplified, so that edges echo for a few periods."""
    height, width = image.shape[-2:]
    padded = pad_symmetric(image, 16, 16)
    rows, columns = torch.fft.fftfreq(height + 32)[:, None], torch.fft.rfftfreq(width + 32)[None]
    centre = 0.15 + 0.12 * float(torch.rand((), generator=generator))
    band = torch.exp(-0.5 * ((torch.hypot(rows, columns) - centre) / 0.03).square())
    echoed: Tensor = torch.fft.irfft2(torch.fft.rfft2(padded) * (1 + gain * band), s=padded.shape[-2:])
    return echoed[..., 16:-16, 16:-16]


def clipped(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Exposure so high, or so low, that ``share`` of the values that were inside the range are cut off."""
    bright = float(torch.rand((), generator=generator)) < 0.5
    turned = image if bright else 1 - image
    inside = turned[(turned < 0.97) & (turned > 0.03)]
    if inside.numel() == 0:
        return image
    limit = (
        inside.quantile(1 - share) if inside.numel() < 2**23 else inside[:: inside.numel() // 2**20].quantile(1 - share)
    )
    lifted = (turned / limit).clamp(0, 1)
    return lifted if bright else 1 - lifted


def bleeding(image: Tensor, smear: float, generator: torch.Generator) -> Tensor:
    """Chroma blurred along a direction of its own and moved by half as much; luma stays."""
    angle = math.pi * float(torch.rand((), generator=generator))
    grey = luma(image)
    chroma = _each(image - grey, 0.5 * smear)
    height, width = image.shape[-2:]
    taps = range(-2, 3)
    moved = sum(
        _sampled(
            chroma,
            smear * (0.5 + 0.5 * tap) * math.sin(angle) / height,
            smear * (0.5 + 0.5 * tap) * math.cos(angle) / width,
        )
        for tap in taps
    )
    assert isinstance(moved, Tensor)
    return grey + moved / len(taps)


def warped(image: Tensor, pixels: float, generator: torch.Generator) -> Tensor:
    """Structure melted: a random smooth displacement of about 8 pixels' grain and ``pixels`` root mean square."""
    height, width = image.shape[-2:]
    field = torch.randn(2, 1, height, width, generator=generator)
    field = gaussian(field, 6.0)
    field = field / field.square().mean().sqrt() * pixels / math.sqrt(2)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack(((2 * (columns + field[0, 0]) + 1) / width - 1, (2 * (rows + field[1, 0]) + 1) / height - 1), -1)
    return F.grid_sample(image, grid[None], padding_mode="reflection", align_corners=False)


def seam(image: Tensor, levels: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A jump along a line across the image that fades out within about 25 pixels; the mask is 5 pixels wide."""
    upright = float(torch.rand((), generator=generator)) < 0.5
    turned = image if upright else image.transpose(-1, -2)
    height, width = turned.shape[-2:]
    at = int(width * (0.2 + 0.6 * float(torch.rand((), generator=generator))))
    tint = 0.7 + 0.3 * torch.rand(1, 3, 1, 1, generator=generator)
    profile = gaussian(torch.randn(1, 1, 1, height, generator=generator), height / 6).transpose(-1, -2)
    profile = 1 + 0.4 * profile / profile.abs().amax().clamp_min(1e-6)
    distance = (torch.arange(width) - at).float()
    fading = torch.where(distance >= 0, torch.exp(-distance / 12), -torch.exp((distance + 1) / 12)) / 2
    sign = 1 if float(torch.rand((), generator=generator)) < 0.5 else -1
    flawed = turned + sign * levels * STEP * tint * profile * fading
    mask = ((distance >= -3) & (distance <= 2)).float().expand(1, 1, height, width)
    return (flawed, mask) if upright else (flawed.transpose(-1, -2), mask.transpose(-1, -2))


def repetition(image: Tensor, copies: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A patch with structure, cloned to random places, each a little brighter or darker; the mask holds all."""
    height, width = image.shape[-2:]
    side = max(16, min(height, width) // 5)
    detail = F.avg_pool2d(gradient_magnitude(luma(image)), side, 1)[0, 0]
    tries = [_corner(detail, generator) for _ in range(12)]
    top, left = max(tries, key=lambda place: float(detail[place]))
    patch = image[..., top : top + side, left : left + side]
    flawed, mask = image.clone(), torch.zeros_like(image[:, :1])
    mask[..., top : top + side, left : left + side] = 1
    cover = F.avg_pool2d(F.pad(torch.ones(1, 1, side - 4, side - 4), (4, 4, 4, 4)), 5, 1)
    for _ in range(int(copies)):
        row, column = _corner(detail, generator)
        for _ in range(50):
            if not bool(mask[..., row : row + side, column : column + side].any()):
                break
            row, column = _corner(detail, generator)
        window = (..., slice(row, row + side), slice(column, column + side))
        brightness = 0.03 * float(torch.randn((), generator=generator))
        # the source stays whole, so that what is copied is still there
        room = cover * (1 - mask[window])
        flawed[window] = flawed[window] + room * (patch + brightness - flawed[window])
        mask[window] = 1
    return flawed, mask


def erased(image: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """All but an ellipse painted over with the image's median colour; at a share of 1 nothing is left."""
    height, width = image.shape[-2:]
    kept = min(1.0, math.sqrt((1 - share) * 4 / math.pi))
    rows, columns = round(height * kept), round(width * kept)
    detail = gradient_magnitude(luma(image))
    mask = torch.ones_like(image[:, :1])
    if rows and columns:
        held = F.avg_pool2d(detail, (rows, columns), 1)[0, 0]
        top, left = max((_corner(held, generator) for _ in range(12)), key=lambda place: float(held[place]))
        y = (torch.arange(rows) + 0.5) / rows * 2 - 1
        x = (torch.arange(columns) + 0.5) / columns * 2 - 1
        mask[..., top : top + rows, left : left + columns] = (torch.hypot(y[:, None], x[None]) > 1).to(image)
    plain = image.flatten(2).median(2).values[..., None, None]
    return image + mask * (plain - image), mask


def _corner(places: Tensor, generator: torch.Generator) -> tuple[int, int]:
    row, column = torch.rand(2, generator=generator).tolist()
    return int(places.shape[0] * row), int(places.shape[1] * column)


def _each(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of each channel."""
    return gaussian(image.flatten(0, 1)[:, None], sigma).view_as(image)


def _sampled(planes: Tensor, down: float, right: float) -> Tensor:
    """Moved by shares of the height and the width, borders repeated."""
    identity = torch.eye(2, 3)[None].repeat(len(planes), 1, 1)
    identity[:, 0, 2], identity[:, 1, 2] = -2 * right, -2 * down
    grid = F.affine_grid(identity, list(planes.shape), align_corners=False)
    return F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
