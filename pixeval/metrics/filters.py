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
    return _mirrored(_mirrored(planes, rows, -2), columns, -1)


def _mirrored(planes: Tensor, amount: int, dim: int) -> Tensor:
    size = planes.shape[dim]
    if amount == 0:
        return planes
    if amount <= size:
        first, last = planes.narrow(dim, 0, amount), planes.narrow(dim, size - amount, amount)
        return torch.cat((first.flip(dim), planes, last.flip(dim)), dim)
    index = torch.arange(-amount, size + amount, device=planes.device) % (2 * size)
    return planes.index_select(dim, torch.minimum(index, 2 * size - 1 - index))


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
    return _running_sum(pad_symmetric(planes, size // 2, 0), size, -2) / size


def box_columns(planes: Tensor, size: int) -> Tensor:
    """Mean over ``size`` pixels along the columns."""
    return _running_sum(pad_symmetric(planes, 0, size // 2), size, -1) / size


def _running_sum(planes: Tensor, size: int, dim: int) -> Tensor:
    """Sums over windows, put together from windows of 1, 2, 4, ...: pooling would take time with the size."""
    length = planes.shape[dim] - size + 1
    total, start, span, power = None, 0, 1, planes
    while span <= size:
        if size & span:
            piece = power.narrow(dim, start, length)
            total = piece if total is None else total + piece
            start += span
        doubled = power.shape[dim] - span
        if 2 * span <= size:
            power = power.narrow(dim, 0, doubled) + power.narrow(dim, span, doubled)
        span *= 2
    assert total is not None
    return total


def spread(planes: Tensor, radius: int) -> Tensor:
    """Greatest value within ``radius`` rows and columns, same size; what lies outside of the image does not count."""
    return _running_max(_running_max(pad_symmetric(planes, radius, radius), 2 * radius + 1, -1), 2 * radius + 1, -2)


def _running_max(planes: Tensor, size: int, dim: int) -> Tensor:
    span = 1
    while span < size:
        step = min(span, size - span)
        rest = planes.shape[dim] - step
        planes = torch.maximum(planes.narrow(dim, 0, rest), planes.narrow(dim, step, rest))
        span += step
    return planes


def gaussian(planes: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, cut off at three sigma, symmetric borders, same size."""
    radius = max(1, round(3 * sigma))
    steps = torch.arange(-radius, radius + 1, dtype=planes.dtype, device=planes.device)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    across = along_columns(pad_symmetric(planes, 0, radius), kernel).transpose(-1, -2)
    return along_columns(pad_symmetric(across, 0, radius), kernel).transpose(-1, -2).contiguous()


def along_columns(padded: Tensor, kernel: Tensor) -> Tensor:
    """Correlate each row with a kernel, without padding, so that rows get shorter.

    Blocks of 32 results as one matrix product, far faster than a convolution.
    """
    block, taps = 32, len(kernel)
    width = padded.shape[-1] - taps + 1
    filled = F.pad(padded, (0, -width % block))
    lag = torch.arange(block + taps - 1, device=kernel.device)[:, None] - torch.arange(block, device=kernel.device)
    banded = torch.where((lag >= 0) & (lag < taps), kernel[lag.clamp(0, taps - 1)], 0)
    blocks = filled.unfold(-1, block + taps - 1, block)
    # as one flat product; with more dimensions torch falls back to many small ones
    found = blocks.reshape(-1, block + taps - 1) @ banded
    return found.view(*padded.shape[:-1], -1)[..., :width]


def sobel(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives down the rows and along the columns, in value per pixel."""
    padded = pad_symmetric(planes, 1, 1)
    down = (padded[..., 2:, :] - padded[..., :-2, :]) / 2
    across = (padded[..., 2:] - padded[..., :-2]) / 2
    down = down[..., 1:-1] / 2 + (down[..., :-2] + down[..., 2:]) / 4
    return down, across[..., 1:-1, :] / 2 + (across[..., :-2, :] + across[..., 2:, :]) / 4
