"""Luma, padding and small linear filters that several metrics share; all differentiable and batched."""

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA_WEIGHTS = (0.2125, 0.7154, 0.0721)
"""BT.709 rounded as in scikit-image, so that its functions serve as references."""


def luma(images: Tensor) -> Tensor:
    """N x 3 x H x W -> N x 1 x H x W, BT.709 weights on the stored (gamma-encoded) values, in [0, 1]."""
    weights = images.new_tensor(LUMA_WEIGHTS).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def pad_symmetric(planes: Tensor, rows: int, columns: int) -> Tensor:
    """Pad by mirroring with the border pixel repeated (``d c b a | a b c d``), for any amount of padding."""
    height, width = planes.shape[-2:]
    return planes[..., _mirrored(height, rows, planes), :][..., _mirrored(width, columns, planes)]


def _mirrored(size: int, amount: int, like: Tensor) -> Tensor:
    index = torch.arange(-amount, size + amount, device=like.device) % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def correlate(planes: Tensor, kernel: Tensor) -> Tensor:
    """Correlate N x 1 x H x W with a 2-D kernel of odd sides, symmetric borders, same size."""
    rows, columns = kernel.shape
    padded = pad_symmetric(planes, rows // 2, columns // 2)
    return F.conv2d(padded, kernel.to(padded).view(1, 1, rows, columns))


def box(planes: Tensor, size: int) -> Tensor:
    """Mean over ``size`` x ``size`` windows (odd), symmetric borders, same size."""
    return box_rows(box_columns(planes, size), size)


def box_rows(planes: Tensor, size: int) -> Tensor:
    """Mean over ``size`` pixels down the rows."""
    return F.avg_pool2d(pad_symmetric(planes, size // 2, 0), (size, 1), stride=1)


def box_columns(planes: Tensor, size: int) -> Tensor:
    """Mean over ``size`` pixels along the columns."""
    return F.avg_pool2d(pad_symmetric(planes, 0, size // 2), (1, size), stride=1)


def gaussian(planes: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, cut off at three sigma, symmetric borders, same size."""
    radius = max(1, round(3 * sigma))
    steps = torch.arange(-radius, radius + 1, dtype=planes.dtype, device=planes.device)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    return correlate(correlate(planes, kernel.view(1, -1)), kernel.view(-1, 1))


def sobel(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives down the rows and along the columns, in value per pixel."""
    smooth, edge = planes.new_tensor([0.25, 0.5, 0.25]), planes.new_tensor([-0.5, 0.0, 0.5])
    return correlate(planes, torch.outer(edge, smooth)), correlate(planes, torch.outer(smooth, edge))
