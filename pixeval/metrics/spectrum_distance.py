"""How far the power spectra of two sets lie apart, by radial band; the features are the spectrum encoder's."""

from torch import Tensor

from pixeval.metrics.distribution import SetDistance


class SpectrumDistance(SetDistance):
    """Mean over the bands of the absolute difference of the sets' mean power, in dB. At least 0, lower is better."""

    fingerprint = "spectrum_distance/1"
    least = 2

    def by_band(self, features: Tensor, reference: Tensor) -> Tensor:
        """Excess of the judged set's power in each band, in dB; from low to high frequency."""
        return features.double().cpu().mean(0) - reference.double().cpu().mean(0)

    def resampled(self, features: Tensor, reference: Tensor, counts: Tensor) -> Tensor:
        weights = counts.double().cpu() / counts.double().cpu().sum(1, keepdim=True)
        difference = weights @ features.double().cpu() - reference.double().cpu().mean(0)
        found: Tensor = difference.abs().mean(1)
        return found
