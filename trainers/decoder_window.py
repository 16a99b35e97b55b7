"""Decoding a part of a latent: one window per sample, the same for everything that is compared of this sample.

A decoder's attention and normalisation look at the whole latent, so that a window of a decoded image is not the decoded
window. The pixel error of a window is therefore an error of its own, and both of its arguments must be cut alike: then
it is 0 for a perfect prediction, and its gradient lies within the window. Memory and time of the decoder shrink with
the window's area.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Where N latents are cut, all to the same size."""

    corner: Tensor
    """Row and column of the upper left corner in latent pixels, int64 N x 2, on the CPU."""
    size: tuple[int, int]
    """Height and width in latent pixels."""
    whole: tuple[int, int]
    """Height and width of the latents that are cut."""
    border: int = 0
    """Latent pixels along cuts that are decoded and then left out of the error: what lies beyond them is missing there.
    Along the edges of the image nothing is left out."""

    def rows(self, index: Tensor | None) -> "Window":
        """The windows of some samples; of all for None."""
        if index is None:
            return self
        return Window(self.corner[index.cpu()], self.size, self.whole, self.border)

    def repeat(self, times: int) -> "Window":
        """The same windows for several copies of the N samples, one copy after the other."""
        return Window(self.corner.repeat(times, 1), self.size, self.whole, self.border)

    def cut(self, values: Tensor, factor: int = 1) -> Tensor:
        """N x C x H x W -> N x C x h x w, differentiable.

        Args:
            values: latents, or maps of the images.
            factor: pixels per latent pixel of ``values``.
        """
        height, width = (side * factor for side in self.size)
        corners = (self.corner * factor).tolist()
        return torch.stack([v[:, y : y + height, x : x + width] for v, (y, x) in zip(values, corners, strict=True)])

    def weight(self, factor: int) -> Tensor | None:
        """Weights that leave out the border, N x 1 x h x w with a mean of 1, for the windows decoded to ``factor``
        pixels per latent pixel; None where nothing is left out."""
        if not self.border:
            return None
        height, width = self.size
        kept = torch.ones(len(self.corner), 1, height, width)
        for row, (y, x) in zip(kept, self.corner.tolist(), strict=True):
            if y > 0:
                row[:, : self.border] = 0
            if x > 0:
                row[:, :, : self.border] = 0
            if y + height < self.whole[0]:
                row[:, height - self.border :] = 0
            if x + width < self.whole[1]:
                row[:, :, width - self.border :] = 0
        kept = kept / kept.mean((1, 2, 3), keepdim=True)
        return kept.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def draw_window(n: int, whole: tuple[int, int], side: int, border: int, generator: torch.Generator) -> Window | None:
    """Windows at random for ``n`` samples, uniform over their positions; None where they would be the whole latent.

    Places near an edge of the image lie in fewer windows than those in the middle.

    Args:
        n: how many.
        whole: height and width of the latents.
        side: of the windows in latent pixels; no larger than the latent is.
        border: see :class:`Window`.
        generator: of the draws, two for every sample.
    """
    size = min(side, whole[0]), min(side, whole[1])
    if size == whole:
        return None
    span = torch.tensor([whole[0] - size[0] + 1, whole[1] - size[1] + 1])
    corner = (torch.rand(n, 2, generator=generator, dtype=torch.float64) * span).long()
    return Window(corner, size, whole, border)
