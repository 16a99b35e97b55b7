"""Too much of the same: places that repeat each other, and places without anything in them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from pixeval.metrics.filters import box, gaussian, luma, pad_symmetric, sobel, spread
from pixeval.metrics.flaw_heat import STEP, HeatMean, gradient_magnitude


class RepetitionFlaw(HeatMean):
    """Cloned regions: places that recur elsewhere in the image by a plain shift.

    Windows of 7 pixels around corners and spots are compared with each other (copy-move detection by key points, cf.
    Amerini et al. 2011). Three or more pairs that agree, at one and the same shift of at least 16 pixels, make their
    surroundings hot, if one in seven of all pairs at that shift does: on a lattice few of many agree. What resembles
    its own neighbourhood, as stripes and fine grids do, is left out: regular texture is no clone. Turned, mirrored and
    rescaled copies are not found, and strong recompression hides copies. The value is the share of the image that was
    copied or is a copy.
    """

    fingerprint = "repetition_flaw/3"
    window = 7
    density = 1 / 42
    """Most key points per pixel; of large images ``most``."""
    most = 2000
    nearest = 16
    pairs = 3
    share = 0.15

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        # thresholds decide here: the same in every precision, and for every image alone
        grey = luma(images.float())
        return torch.stack([self._one(plane[None]) for plane in grey]).to(images)

    def _one(self, grey: Tensor) -> Tensor:
        """1 x 1 x H x W -> H x W, 0 or 1."""
        rows, columns = self._key_points(grey)
        marks = torch.zeros_like(grey)
        if len(rows) > self.pairs:
            found = self._cloned(grey, rows, columns)
            marks[..., rows[found], columns[found]] = 1
            if len(found):
                # gaps between key points are filled
                marks = -spread(-spread(marks, 12), 6)
        return marks[0, 0]

    def _key_points(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns of extrema of a band-pass that have structure in two directions, the strongest first."""
        soft = gaussian(grey, 1.0)
        spots = (box(soft, 5) - soft).abs()
        corners = _corner_strength(soft)
        inside = torch.zeros_like(spots)
        reach = self.window // 2
        inside[..., reach:-reach, reach:-reach] = 1
        kept = (spots == spread(spots, 1)) & (spots > 0.25 * STEP) & (corners > 0.4 * STEP) & (inside > 0)
        number = min(self.most, int(grey.numel() * self.density), int(kept.sum()))
        best = torch.where(kept, corners, 0).flatten().topk(number).indices
        return best // grey.shape[-1], best % grey.shape[-1]

    def _cloned(self, grey: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Indices of the key points that were copied or are copies, some more than once."""
        windows = self._windows(grey, rows, columns)
        lengths = windows.norm(dim=1)
        windows = windows / lengths.clamp_min(1e-6)[:, None]
        alike = windows @ windows.T
        first, second = torch.where(alike.triu(1) > 0.9)
        alike = alike[first, second]
        down, across = rows[second] - rows[first], columns[second] - columns[first]
        distance = torch.maximum(down.abs(), across.abs())
        regular = torch.zeros_like(lengths, dtype=torch.bool)
        periodic = (alike > 0.95) & (distance >= 5) & (distance < self.nearest)
        regular[first[periodic]] = regular[second[periodic]] = True
        deviations = lengths / self.window / STEP
        one, other = deviations[first], deviations[second]
        # rounding to 8 bits sets copies of faint structure farther apart
        enough = alike > 0.99 - 0.25 / torch.minimum(one, other).square()
        enough &= ((one - other).abs() < 0.5 + 0.1 * torch.minimum(one, other)) & (distance >= self.nearest)
        enough &= ~(regular[first] | regular[second])
        first, second = first[enough], second[enough]
        shifts = _shifts(rows, columns, first, second, grey.shape[-1])
        every = torch.triu_indices(len(rows), len(rows), 1, device=grey.device)
        possible = torch.bincount(_shifts(rows, columns, every[0], every[1], grey.shape[-1]))
        number = torch.bincount(shifts)[shifts]
        agreed = (number >= self.pairs) & (number >= self.share * possible[shifts])
        return torch.cat((first[agreed], second[agreed]))

    def _windows(self, grey: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """K x 49: the windows around key points, without their means."""
        reach = torch.arange(self.window, device=grey.device) - self.window // 2
        found = grey[0, 0][rows[:, None, None] + reach[:, None], columns[:, None, None] + reach].flatten(1)
        return found - found.mean(1, keepdim=True)


def _shifts(rows: Tensor, columns: Tensor, first: Tensor, second: Tensor, width: int) -> Tensor:
    """A number for the shift of each pair of key points; a shift and its opposite are one."""
    down, across = rows[second] - rows[first], columns[second] - columns[first]
    sign = torch.where((down < 0) | ((down == 0) & (across < 0)), -1, 1)
    return sign * down * 2 * width + sign * across + width


def _corner_strength(grey: Tensor) -> Tensor:
    """Root mean square slope in the direction of least slope, in windows of 9 pixels (cf. Shi and Tomasi 1994)."""
    down, across = sobel(grey)
    a, b, c = (box(product, 9) for product in (down.square(), down * across, across.square()))
    smaller = (a + c) / 2 - ((a - c).square() / 4 + b.square()).sqrt()
    return smaller.clamp_min(0).sqrt()


class BlankFlaw(HeatMean):
    """Emptiness: the share of the image far from anything, 1 for a blank image.

    Far means more than an eighth of the shorter side away from a gradient of a few levels per pixel, so that the
    margins of an icon on white count little. All other flaw metrics are about 0 on an empty image; tuning a model
    against them alone rewards empty images, and this one shows it.
    """

    fingerprint = "blank_flaw/1"
    half = 2 * STEP

    def heatmap(self, images: Tensor) -> Tensor:
        """N x H x W in [0, 1]."""
        edges = gradient_magnitude(gaussian(luma(images), 1.0)).square()
        presence = edges / (edges + self.half**2)
        reach = max(1, min(images.shape[-2:]) // 8)
        rows = F.max_pool2d(pad_symmetric(presence, reach, 0), (2 * reach + 1, 1), 1)
        return 1 - F.max_pool2d(pad_symmetric(rows, 0, reach), (1, 2 * reach + 1), 1).squeeze(1)
