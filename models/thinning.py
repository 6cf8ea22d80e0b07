"""Two independent measurements from one: each count goes by a coin to the one or the other.

For Poisson counts the two are exactly independent; one trains or makes a prediction that the other judges without
clean data (Neufeld et al., arXiv 2301.07276). Other noise is split so that it is uncorrelated, with a Gaussian coin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Counts, Float32, Float64
from models.noise import NoiseModel


def to_quanta(counts: Counts, noise: NoiseModel) -> Counts:
    """Counts in units of what is counted, (counts - offset) / gain; the same object where they are Poisson.

    Raises
    ------
    ValueError
        Where nothing is counted: a gain of 0.
    """
    if noise.is_poisson:
        return counts
    if noise.gain <= 0:
        raise ValueError("noise without a gain does not come from counting: a network cannot be used on it")
    values = np.asarray(counts.toarray() if isinstance(counts, sparse.csr_array) else counts, dtype=np.float32)
    return (values - np.float32(noise.offset)) / np.float32(noise.gain)


def thin(
    quanta: NDArray[Any], share: NDArray[Any] | float, rng: np.random.Generator, read_sigma: float = 0.0
) -> tuple[Float32, Float32]:
    """Split spectra (..., D) into about `share` of them and the rest, both float32.

    Parameters
    ----------
    quanta : ndarray
        Whole numbers are split count by count; others as Gaussian ones of variance quanta + read_sigma^2.
    share : float or ndarray
        Expected share of the first, broadcast against the spectra.
    """
    values = np.asarray(quanta)
    share = np.broadcast_to(np.asarray(share, dtype=np.float64), values.shape)
    if read_sigma == 0 and is_counts(values):
        kept = np.zeros(values.shape, dtype=np.float32)
        lit = values > 0
        kept[lit] = rng.binomial(values[lit].astype(np.int64), share[lit])
    else:
        spread = np.sqrt(share * (1.0 - share) * np.maximum(values + read_sigma**2, 0.0))
        kept = (share * values + spread * rng.standard_normal(values.shape)).astype(np.float32)
    return kept, values.astype(np.float32) - kept


def is_counts(values: NDArray[Any]) -> bool:
    """Whether all values are whole numbers and none is negative."""
    if values.dtype.kind == "u":
        return True
    return bool(np.all(values >= 0)) and (values.dtype.kind == "i" or bool(np.all(values == np.rint(values))))


def thinned_error(
    predicted: NDArray[Any], other: NDArray[Any], mean: NDArray[Any], read_variance: float = 0.0
) -> Float64:
    """Squared error (n,) of predictions (n, D) of the other half's expectation, without knowing it.

    Unbiased: the other half's own variance (its counts, plus `read_variance` in each channel) is taken off. In units of
    counting noise of the mean spectrum (D,), averaged over channels, so that the raw half itself would score 1; single
    spectra can score below 0.
    """
    weight = noise_weight(mean)
    away = (np.asarray(predicted, dtype=np.float64) - other) ** 2 - other - read_variance
    return np.asarray((away * weight).mean(axis=-1), dtype=np.float64)


def squared_error(estimate: NDArray[Any], truth: NDArray[Any]) -> Float64:
    """Squared error (n,) of spectra (n, D) in units of counting noise of the mean truth; raw counts score 1."""
    away = (np.asarray(estimate, dtype=np.float64) - truth) ** 2
    return np.asarray((away * noise_weight(truth.mean(axis=0))).mean(axis=-1), dtype=np.float64)


def noise_weight(mean: NDArray[Any]) -> Float64:
    """1 / counting variance of a mean spectrum (D,); its floor keeps dark channels from deciding."""
    return np.asarray(1.0 / np.maximum(mean, max(1e-3 * float(mean.mean()), 1e-12)), dtype=np.float64)
