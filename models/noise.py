"""Noise of a detector: var = gain * (mean - offset) + read^2, given or estimated from the first spectra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Counts, Float64
from models.rank import noise_edge, noise_quantile

_POISSON_TOLERANCE = 0.2
_MAX_ROWS, _MAX_CHANNELS, _MAX_RANK = 256, 1024, 32
_BINS = 24
_RESOLUTION, _LEAST_LEVEL = 1e-6, 1e-3
_SURE, _LOWEST = 3.0, 0.01
_SIXTH = 15.0
"""Sixth moment of a normal law of unit variance."""


@dataclass(frozen=True)
class NoiseModel:
    """Variance of one visit's counts in one channel, gain * (mean - offset) + read_sigma^2.

    `kind` is 'poisson' (gain 1, offset 0, no read noise) or 'poisson_gaussian'.
    """

    kind: Literal["poisson", "poisson_gaussian"] = "poisson"
    gain: float = 1.0
    offset: float = 0.0
    read_sigma: float = 0.0

    def __post_init__(self) -> None:
        if self.gain < 0 or self.read_sigma < 0 or not np.isfinite([self.gain, self.offset, self.read_sigma]).all():
            raise ValueError(f"gain {self.gain} and read_sigma {self.read_sigma} must be finite and not negative")

    @property
    def is_poisson(self) -> bool:
        """True where counts are independent events."""
        return self.kind == "poisson"

    def variance(self, mean: NDArray[Any]) -> Float64:
        """Variance in each channel at a mean of one visit, counts squared, not negative."""
        return np.asarray(np.maximum(self.gain * (mean - self.offset) + self.read_sigma**2, 0.0), dtype=np.float64)

    def row_variance(self, total: NDArray[Any], visits: NDArray[Any] | float, n_channels: int) -> Float64:
        """Variance of whole spectra summed over channels: total counts (n,) that took `visits` visits."""
        base = n_channels * (self.read_sigma**2 - self.gain * self.offset)
        return np.asarray(np.maximum(self.gain * total + visits * base, 0.0), dtype=np.float64)


POISSON = NoiseModel()


def estimate_noise(spectra: Counts) -> NoiseModel:
    """Estimate the noise from spectra (n, D) of single visits, by the residuals of a low-rank fit.

    The rank comes from the bulk of the singular values (its median is the noise, Gavish & Donoho 2014), so that no
    gain has to be known beforehand; residual variance is then regressed on the fitted mean. It tells gain and the sum
    read^2 - gain * offset; a negative sum is read as offset, a positive one as read noise. What of it is which can be
    seen in the skewness, which only counted quanta have, where there are enough spectra to be sure of it.
    Integers without negatives whose bulk noise is that of counts within 20 % are called Poisson.
    """
    rows = _thin(spectra)
    counts_like = bool(rows.size) and bool(np.all(rows >= 0)) and bool(np.all(rows == np.rint(rows)))
    lit = rows[rows.sum(axis=1) != 0] if counts_like else rows
    if lit.shape[0] < 4 or lit.shape[1] < 4 or not lit.any():
        return POISSON if counts_like else NoiseModel("poisson_gaussian", 0.0, 0.0, max(_spread(rows), _least(rows)))
    summed, width = _sum_channels(lit, counts_like)
    mean = np.abs(summed).mean(axis=0)
    fit, variance, _, dispersion = _low_rank_residual(summed, mean)
    if counts_like and abs(dispersion - 1.0) < _POISSON_TOLERANCE:
        return POISSON
    gain, constant = _regress(fit, variance)
    # Over an offset, bright channels are noisier than their mean says: what was fitted there is noise.
    level = gain * mean + constant
    fit, variance, third, _ = _low_rank_residual(summed, np.maximum(level, _LEAST_LEVEL * level.mean()))
    gain, constant = _regress(fit, variance)
    least = _least(rows)
    if gain * float(np.abs(rows).max()) <= least**2:
        gain = 0.0
    offset = _offset(fit, third, gain, constant) if gain > 0 else 0.0
    read2 = max((constant + gain * offset) / width, 0.0)
    return NoiseModel("poisson_gaussian", gain, offset / width, max(float(np.sqrt(read2)), least))


def _offset(fit: Float64, third: Float64, gain: float, constant: float) -> float:
    """Offset from third central moments (n, D) at fitted means, gain^2 (mean - offset), if it is surely not the least.

    The least is what leaves no read noise, or none at all. Outliers, whose moments are too large, lead to that; noise
    without any skewness to the lowest level that there is.
    """
    least = max(0.0, -constant / gain)
    weight = 1.0 / np.maximum(gain * fit + constant, _LEAST_LEVEL * np.abs(gain * fit + constant).mean() + 1e-300) ** 3
    total = float(weight.sum())
    found = float((weight * (fit - third / gain**2)).sum()) / total
    sure = found - least > _SURE * np.sqrt(_SIXTH / total) / gain**2
    return max(least, min(found, float(np.quantile(fit, _LOWEST)))) if sure else least


def _least(rows: Float64) -> float:
    """Noise of spectra (n, D) that seem to have none: what single precision, in which they are fitted, tells apart."""
    return _RESOLUTION * float(np.sqrt(np.mean(rows**2))) if rows.size else 0.0


def _thin(spectra: Counts) -> Float64:
    """At most 256 spectra, evenly taken, dense."""
    step = max(1, -(-spectra.shape[0] // _MAX_ROWS))
    part = spectra[::step]
    return np.asarray(part.toarray() if isinstance(part, sparse.csr_array) else part, dtype=np.float64)


def _spread(rows: Float64) -> float:
    """Standard deviation of single channels from differences of neighbouring channels, at least a tiny number."""
    steps = np.diff(rows, axis=1) if rows.size and rows.shape[1] > 1 else np.zeros(1)
    return max(float(np.median(np.abs(steps)) / 0.6745 / np.sqrt(2)), 1e-6)


def _sum_channels(rows: Float64, counts_like: bool) -> tuple[Float64, int]:
    """Channels that say something, and how many each is the sum of.

    Sparse counts are summed over neighbours, which leaves variance over mean as it is; other data are thinned out.
    """
    step = 1
    if counts_like:
        step = int(np.clip(np.ceil(1.0 / max(rows.mean(), 1e-3)), 1, max(1, rows.shape[1] // 32)))
        step = max(step, -(-rows.shape[1] // _MAX_CHANNELS))
        n = rows.shape[1] // step
        rows = rows[:, : n * step].reshape(rows.shape[0], n, step).sum(axis=2)
    else:
        rows = rows[:, :: max(1, -(-rows.shape[1] // _MAX_CHANNELS))]
    live = rows.std(axis=0) > 0
    return (rows[:, live] if live.any() else rows), step


def _low_rank_residual(rows: Float64, level: Float64) -> tuple[Float64, Float64, Float64, float]:
    """Fitted mean (n, D), residual to the second and the third power (n, D), the bulk's variance over a level (D,).

    Powers are corrected for leverage.
    """
    n, d = rows.shape
    scale = np.sqrt(np.maximum(level, 1e-12))
    u, s, vt = np.linalg.svd(rows / scale, full_matrices=False)
    noise = float(np.median(s**2)) / (n * noise_quantile(0.5, d, n))
    rank = int(np.clip(np.count_nonzero(s**2 > noise * noise_edge(d, n) * n), 1, min(_MAX_RANK, s.size // 2)))
    u, vt = u[:, :rank], vt[:rank]
    fit = (u * s[:rank]) @ vt * scale
    freedom = np.maximum(np.outer(1.0 - (u**2).sum(axis=1), 1.0 - (vt**2).sum(axis=0)), 0.1)
    left = rows - fit
    return fit, left**2 / freedom, (left / freedom) ** 3, noise


def _regress(fit: Float64, variance: Float64) -> tuple[float, float]:
    """Gain and constant of variance against mean, by bins of equal numbers, weighted by 1/variance^2, gain >= 0."""
    order = np.argsort(fit, axis=None)
    # No more bins than values: a scan of one position has a handful at first.
    bins = min(_BINS, order.size)
    x, y = (np.array([b.mean() for b in np.array_split(a.ravel()[order], bins)]) for a in (fit, variance))
    level = np.maximum(y, 1e-3 * y.mean() + 1e-300)
    design = np.stack([x, np.ones_like(x)], axis=1) / level[:, None]
    gain, constant = np.linalg.lstsq(design, y / level, rcond=None)[0]
    if gain <= 0:
        return 0.0, float(np.average(y, weights=1 / level))
    return float(gain), float(constant)
