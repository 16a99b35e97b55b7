"""What JPEG coding does to an image, as a function of tensors: the lossy steps of ITU-T T.81 only."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.grid_flaws import BLOCK, dct_basis

LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Annex K.1."""
CHROMA_TABLE = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))
"""Upper left quarter of Annex K.2; the rest is 99."""


def jpeg_coded(images: Tensor, quality: float, row: int = 0, column: int = 0) -> Tensor:
    """Code and decode N x 3 x H x W in [0, 1] with 4:2:0 chroma, tables scaled as libjpeg does.

    Args:
        quality: 1 (worst) to 100.
        row: where the blocks start, 0 to 15; others than 0 give what a crop of a coded image has.
        column: likewise across.
    """
    height, width = images.shape[-2:]
    below, right = -(height + row) % 16, -(width + column) % 16
    padded = F.pad(images, (column, right, row, below), mode="replicate") * 255
    red, green, blue = padded.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack(((blue - luma) / 1.772, (red - luma) / 1.402), 1)
    luma = _quantised((luma - 128)[:, None], _scaled(torch.tensor(LUMA_TABLE), quality))[:, 0] + 128
    halved = _quantised(F.avg_pool2d(chroma, 2), _scaled(_chroma_table(), quality))
    wide = F.interpolate(halved, scale_factor=2, mode="bilinear", align_corners=False)
    cb, cr = wide.unbind(1)
    green = luma - (0.114 * 1.772 * cb + 0.299 * 1.402 * cr) / 0.587
    decoded = torch.stack((luma + 1.402 * cr, green, luma + 1.772 * cb), 1) / 255
    return decoded[..., row : row + height, column : column + width].clamp(0, 1)


def _chroma_table() -> Tensor:
    table = torch.full((BLOCK, BLOCK), 99)
    table[:4, :4] = torch.tensor(CHROMA_TABLE)
    return table


def _scaled(table: Tensor, quality: float) -> Tensor:
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    return ((table * scale + 50) / 100).floor().clamp(1, 255)


def _quantised(planes: Tensor, table: Tensor) -> Tensor:
    n, channels, height, width = planes.shape
    basis, steps = dct_basis().to(planes), table.to(planes)
    blocks = planes.view(n, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    restored = basis.T @ ((basis @ blocks @ basis.T / steps).round() * steps) @ basis
    return restored.transpose(3, 4).reshape(planes.shape)
