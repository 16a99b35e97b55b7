"""Sign-flip permutation tests over whole clusters."""

import numpy as np
from scipy.special import gammaln

from pixeval.stats.clusters import Array, Keys, cluster_sums, codes_of

FLIPS = 20_000
EXACT_CLUSTERS = 14
"""Up to this many clusters the test runs over all 2^n assignments."""
EXACT_TOTAL = 4_000_000
"""Largest total of whole-numbered sums whose exact distribution is worked out."""
FLIPPED_AT_ONCE = 1_000_000


def sign_flip_p(differences: "Array | list[float] | list[int]", clusters: Keys | None = None, seed: int = 0) -> float:
    """Two-sided p of "positive and negative differences are equally likely", by flipping signs of whole clusters.

    Exact where the sums of the clusters are whole numbers (votes), as their distribution is a convolution of
    binomials, and over all assignments for at most 14 clusters that are not zero. Otherwise from 20,000 random
    assignments with the observed one counted in, so never below 1/20,001. 1.0 when there is nothing to tell apart.
    """
    array = np.asarray(differences, dtype=np.float64)
    codes = np.arange(array.size) if clusters is None else codes_of(clusters, array.size)
    sums, _ = cluster_sums(array, codes) if array.size else (array, array)
    sums = np.abs(sums[sums != 0]) * np.sign(sums[sums != 0])
    if sums.size == 0:
        return 1.0
    # The tolerance makes sums that are equal but for rounding count as equal.
    observed = abs(float(sums.sum())) * (1 - 1e-12)
    if sums.size <= EXACT_CLUSTERS:
        bits = (np.arange(2**sums.size)[:, None] >> np.arange(sums.size)) & 1
        return float((np.abs((bits * 2 - 1) @ sums) >= observed).mean())
    sizes = np.abs(sums)
    if (sizes == np.rint(sizes)).all() and sizes.sum() <= EXACT_TOTAL:
        return _exact_p(sizes.astype(np.int64), observed)
    return _random_p(sums, observed, seed)


def _exact_p(sizes: "np.typing.NDArray[np.int64]", observed: float) -> float:
    """By the distribution of the sum of the clusters whose sign is positive."""
    pmf = np.ones(1)
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        own = np.zeros(int(size) * int(count) + 1)
        own[:: int(size)] = _fair(int(count))
        length = len(pmf) + len(own) - 1
        pmf = np.maximum(np.fft.irfft(np.fft.rfft(pmf, length) * np.fft.rfft(own, length), length), 0)
    total = len(pmf) - 1
    extreme = np.abs(2 * np.arange(total + 1) - total) >= observed
    least = 2.0 ** (1 - len(sizes)) if len(sizes) < 1000 else 0.0  # both ends of the distribution
    # Sums by Fourier transform are good to some 1e-15 of the whole, so smaller tails are not told apart.
    return float(min(1.0, max(pmf[extreme].sum(), least, 1e-13)))


def _fair(n: int) -> Array:
    """Chances of 0 to n heads in n throws of a fair coin."""
    heads = np.arange(n + 1)
    chances: Array = np.exp(gammaln(n + 1) - gammaln(heads + 1) - gammaln(n - heads + 1) - n * np.log(2))
    return chances


def _random_p(sums: Array, observed: float, seed: int) -> float:
    rng = np.random.default_rng(seed)
    extreme, chunk = 0, max(8, FLIPPED_AT_ONCE // sums.size // 8 * 8)
    for start in range(0, FLIPS, chunk):
        rows = min(chunk, FLIPS - start)
        bits = np.unpackbits(rng.integers(0, 256, size=(rows, -(-sums.size // 8)), dtype=np.uint8), axis=1)
        flipped = 2 * (bits[:, : sums.size].astype(np.float64) @ sums) - sums.sum()
        extreme += int((np.abs(flipped) >= observed).sum())
    return (1 + extreme) / (1 + FLIPS)
