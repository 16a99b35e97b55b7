"""How many different images a set holds; needs no reference."""

import torch
from torch import Tensor

from pixeval.metrics.distribution import SetDistance


class VendiScore(SetDistance):
    """Effective number of different images: exp of the entropy of the eigenvalues of the cosine similarities over n
    (Friedman and Dieng 2023).

    From 1 (all alike) to n (all at right angles), higher is more diverse, of good and bad images alike. Grows with n.
    """

    fingerprint = "vendi_score/1"
    least = 2

    def resampled(self, features: Tensor, reference: Tensor, counts: Tensor) -> Tensor:
        """``reference`` is not looked at."""
        x, w = torch.nn.functional.normalize(features.double().cpu(), dim=1), counts.double().cpu()
        return torch.stack([_effective(x, draw / draw.sum()) for draw in w])


def _effective(unit: Tensor, weights: Tensor) -> Tensor:
    # rows are at most the smaller of images and dimensions: both products have the same eigenvalues but for zeros
    scaled = unit * weights.sqrt()[:, None]
    matrix = scaled.T @ scaled if scaled.shape[0] > scaled.shape[1] else scaled @ scaled.T
    values = torch.linalg.eigvalsh(matrix).clamp_min(0)
    number: Tensor = torch.special.entr(values).sum().exp()
    return number
