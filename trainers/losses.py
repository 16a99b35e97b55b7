"""The losses of pixel-space post-training (Zhang et al., arXiv 2409.17565) on latents, as pure functions of tensors.

Numbers in parentheses are the paper's equations. Every function returns float32 values per sample, of shape (N,);
the caller averages over the batch. Distances of images are in :mod:`trainers.pixel_losses`, preferences in
:mod:`trainers.preference_losses`.

**Reduction.** The paper writes a squared norm and does not say whether it is summed. Here it is the mean over the
elements of a sample, so that latent and pixel errors, and images of different sizes, have comparable magnitudes.
"""

from torch import Tensor


def latent_sft(eps_hat: Tensor, eps: Tensor) -> Tensor:
    """(1): squared error of the predicted noise, N x C x H x W -> (N,)."""
    return mean_square(eps_hat - eps)


def renoised(z_t: Tensor, s: Tensor, eps_hat: Tensor, eps: Tensor) -> Tensor:
    """The second argument of D in (2): ``a z + s eps_hat``, for every parametrisation, in float32.

    It is the *noisy* latent with the true noise replaced by the predicted one, not the predicted clean latent.
    ``z_t = a z + s eps`` itself is the first argument.

    Args:
        z_t: noisy latent, N x C x H x W.
        s: noise coefficient, N x 1 x 1 x 1.
        eps_hat: predicted noise.
        eps: true noise.
    """
    return z_t.float() + s.float() * (eps_hat.float() - eps.float())


def latent_zt(s: Tensor, eps_hat: Tensor, eps: Tensor) -> Tensor:
    """The matched control of (2): the same difference of noisy latents, without the decoder.

    (2) weighs noise levels by s^2 relative to (1). What this control gains is due to the weights, not to pixels.
    """
    return mean_square(s.float() * (eps_hat.float() - eps.float()))


def min_snr_weight(a: Tensor, s: Tensor, gamma: float) -> Tensor:
    """Weight of (1) by min-SNR-gamma (Hang et al., arXiv 2303.09556): ``min(SNR, gamma) / SNR`` with SNR = a^2 / s^2.

    The paper's weights are min(SNR, gamma) for the error of x0, min(SNR, gamma) / SNR for that of eps and
    min(SNR, gamma) / (SNR + 1) for that of v; in terms of (1), the error of eps, these are one and the same, and it
    holds for flow models too.

    Args:
        a: of ``z_t = a z + s eps``, any shape.
        s: of the same shape.
        gamma: above 0; 5 in the paper.
    """
    return (gamma * s.square() / a.square()).clamp(max=1)


def weighted_sum(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """(3), with lambda as ``weight``; and (7), with mu: two losses (two separate log-sigmoids in (7)), added."""
    return first + weight * second


def mean_square(difference: Tensor) -> Tensor:
    """N x ... -> (N,), float32: mean over the elements of each sample."""
    return difference.float().square().flatten(1).mean(1)
