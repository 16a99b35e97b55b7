"""Radial power spectra as features, so that sets can be compared by them as by any encoder's."""

import torch
from torch import Tensor

from pixeval.metrics.filters import luma
from pixeval.metrics.spectrum import power, radius

BANDS = 16
"""Rings of equal width up to 0.5 cycles per pixel; ring b has its middle at (b + 0.5) / 32."""
FLOOR = 1e-12
"""What flat images have in every ring: -120 dB."""


class SpectrumEncoder:
    """Mean power of luma in each ring in dB, as :class:`pixeval.protocols.Encoder`.

    Relative to white noise of variance 1, whatever the size of the image. Images below 32 pixels a side have empty
    rings, which are not a number.
    """

    fingerprint = f"spectrum-{BANDS}/1"

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)

    @property
    def device(self) -> torch.device:
        """Where the features come out."""
        return self._device

    def __call__(self, images: Tensor) -> Tensor:
        """N x 3 x H x W in [0, 1] -> N x 16 float32, in dB."""
        planes = luma(images.to(self._device).float())
        height, width = planes.shape[-2:]
        rings = (radius(height, width, planes) * 2 * BANDS).ceil().long().flatten() - 1
        kept = (rings >= 0) & (rings < BANDS)
        members = torch.nn.functional.one_hot(rings.clamp(0, BANDS - 1), BANDS) * kept[:, None]
        members = members.to(planes)
        # the Hann window keeps 3/8 of the energy along each axis
        spectrum = power(planes).flatten(1) / (height * width * (3 / 8) ** 2)
        return 10 * torch.log10((spectrum @ members / members.sum(0)).clamp_min(FLOOR))
