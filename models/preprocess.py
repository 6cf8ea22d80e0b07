"""Scaling that makes the noise white: Poisson (Keenan & Kotula 2004) or gain, offset and read noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.ndimage import uniform_filter1d

from models.base import Counts, Float32, Float64
from models.kernels import group_starts
from models.noise import NoiseModel

_MIN_GROUP_COUNTS = 30.0
_PRIOR_COUNTS = 10.0
_EXACT_FLOAT32 = 2.0**24


@dataclass(frozen=True)
class Scaling:
    """Channel weights and groups: y = sum over a group of x / (scale * sqrt(row variance)), of unit variance.

    Attributes
    ----------
    starts : ndarray of int64, (m,)
        First channel of each group of merged neighbours.
    group : ndarray of int64, (D,)
        Group of each channel.
    scale : ndarray of float64, (m,)
        Square root of the group's share of a spectrum's variance; 0 where a group is dead.
    share : ndarray of float64, (D,)
        Share of each channel in its group.
    """

    starts: NDArray[np.int64]
    group: NDArray[np.int64]
    scale: Float64
    share: Float64

    @property
    def n_channels(self) -> int:
        """Channels, D."""
        return int(self.group.size)

    @property
    def n_groups(self) -> int:
        """Groups, m."""
        return int(self.starts.size)

    @property
    def n_effective(self) -> int:
        """Groups that are alive: the D of the noise edge."""
        return int(np.count_nonzero(self.scale))

    @cached_property
    def inverse(self) -> Float64:
        """1 / scale, 0 for dead groups, (m,)."""
        return np.divide(1.0, self.scale, out=np.zeros_like(self.scale), where=self.scale > 0)

    @cached_property
    def _inverse32(self) -> Float32:
        return self.inverse.astype(np.float32)[:, None]

    @property
    def weight(self) -> Float64:
        """1 / share of a spectrum's variance that a channel's group has, (D,); 0 for dead groups."""
        return np.asarray((self.inverse**2)[self.group])

    def projector(self, vectors: NDArray[Any]) -> Float32:
        """Matrix (D, K) that takes counts to raw scores, from scaled vectors (m, K)."""
        weights = vectors.astype(np.float32, copy=False) * self._inverse32
        return np.asarray(weights[self.group] if self.n_groups < self.n_channels else weights)

    def eigenspectra(self, vectors: NDArray[Any]) -> Float32:
        """Spectra (K, D) in counts, from scaled vectors (m, K)."""
        spread = (vectors * self.scale[:, None])[self.group] * self.share[:, None]
        return np.ascontiguousarray(spread.T, dtype=np.float32)

    def moved(self, vectors: NDArray[Any], new: Scaling) -> Float64:
        """Scaled vectors (m, K) of this scaling as columns of another, (m', K)."""
        return new.merge((vectors * self.scale[:, None])[self.group] * self.share[:, None])

    def merge(self, spectra: NDArray[Any]) -> Float64:
        """Scaled columns (m, K) from columns (D, K) in counts."""
        merged = np.asarray(spectra, dtype=np.float64)
        if self.n_groups < self.n_channels:
            merged = np.add.reduceat(merged, self.starts, axis=0)
        return np.asarray(merged * self.inverse[:, None], dtype=np.float64)

    def merge32(self, spectra: Float32) -> Float32:
        """`merge` in single precision, for the hot path."""
        merged = np.add.reduceat(spectra, self.starts, axis=0) if self.n_groups < self.n_channels else spectra
        return np.asarray(merged * self._inverse32)


def make_scaling(
    mean: NDArray[Any], n_spectra: float, noise: NoiseModel, peak_width: float, profile: Float64 | None = None
) -> Scaling:
    """Scaling for a mean spectrum (D,) over `n_spectra` visits.

    Poisson counts: the mean is shrunk to its local mean over one peak width (a gamma prior worth 10 counts), and
    neighbours are merged until each group has 30 counts in all; without that, single counts pass for components.

    Parameters
    ----------
    profile : ndarray, (D,), optional
        Sum of the spectra with the squared row weights of the fit. Scaled by it, every channel has unit variance over
        those rows (the column half of biwhitening: Landa, Zhang and Kluger 2022, arXiv 2103.13840); by the mean of
        unequally bright phases, the lines of the dark ones are too noisy by up to their ratio.
    """
    mean = np.asarray(mean, dtype=np.float64)
    if noise.read_sigma == 0 and noise.offset == 0 and noise.gain > 0 and bool(np.all(mean >= 0)):
        return _counting_scaling(mean * n_spectra / noise.gain, peak_width, profile)
    variance = noise.variance(mean)
    # A channel's mean may fall below the offset by chance; its noise is then the smallest that any live one has.
    variance = np.maximum(variance, 1e-3 * variance.mean())
    total = variance.sum()
    size = mean.size
    scale = np.sqrt(variance / total) if total > 0 else np.zeros(size)
    each = np.arange(size, dtype=np.int64)
    return Scaling(each, each, scale, np.ones(size))


def _counting_scaling(total: Float64, peak_width: float, profile: Float64 | None) -> Scaling:
    shape = total if profile is None or not profile.sum() > 0 else profile * (total.sum() / profile.sum())
    smooth = shrink_spectrum(shape, peak_width)
    starts, group = merge_channels(total)
    weight = np.add.reduceat(smooth, starts)
    scale = np.sqrt(weight / weight.sum()) if weight.sum() > 0 else np.zeros(starts.size)
    share = np.divide(smooth, weight[group], out=np.zeros_like(smooth), where=weight[group] > 0)
    return Scaling(starts, group, scale, share)


def shrink_spectrum(total: Float64, peak_width: float) -> Float64:
    """Total spectrum (D,) drawn towards its local mean over one peak width: exact for many counts, smooth for few."""
    local = uniform_filter1d(total, max(1, round(peak_width)), mode="nearest")
    prior = np.divide(_PRIOR_COUNTS, local, out=np.zeros_like(local), where=local > 1e-12)
    return np.where(local > 1e-12, (total + _PRIOR_COUNTS) / (1.0 + prior), 0.0)


def merge_channels(
    total: Float64, min_counts: float = _MIN_GROUP_COUNTS
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Merge neighbours until each group holds `min_counts`: first channels (m,), group of each channel (D,)."""
    first = group_starts(np.ascontiguousarray(total, dtype=np.float64), min_counts)
    group = np.zeros(total.size, dtype=np.int64)
    group[first[1:]] = 1
    return first, np.cumsum(group)


def row_weights(variance: Float64, typical: float, clip: float) -> Float64:
    """Squared row weights (n,) of second moments: 1 / variance, less for spectra over `clip` times the typical one.

    A bright spectrum carries its information in proportion to its counts, but a few must not own the model.
    """
    ceiling = clip * typical if typical > 0 else np.inf
    safe = np.where(variance > 0, variance, 1.0)
    return np.where(variance > 0, np.minimum(1.0, ceiling / safe) / safe, 0.0)


def as_float32(spectra: Counts) -> Float32 | sparse.csr_array:
    """Counts as float32 in the same layout; dense ones contiguous, copied only if they have to be."""
    if isinstance(spectra, sparse.csr_array):
        return spectra.astype(np.float32, copy=False)
    return np.ascontiguousarray(spectra, dtype=np.float32)


def csr_rows(
    values: NDArray[Any], channels: NDArray[np.int32], indptr: NDArray[np.int32], n_channels: int
) -> sparse.csr_array:
    """CSR spectra (n, D) of these parts."""
    return sparse.csr_array((values, channels, indptr), shape=(indptr.size - 1, n_channels))


def row_sums(spectra: Counts) -> Float64:
    """Total counts (n,) of float32 spectra (n, D); exact for counts below 2^24 a spectrum."""
    if isinstance(spectra, sparse.csr_array):
        return np.asarray(spectra @ np.ones(spectra.shape[1]), dtype=np.float64)
    total = np.asarray(spectra @ np.ones(spectra.shape[1], dtype=np.float32), dtype=np.float64)
    if total.size and float(np.abs(total).max()) >= _EXACT_FLOAT32:
        total = spectra.sum(axis=1, dtype=np.float64)
    return total


def column_sums(spectra: Counts) -> Float64:
    """Summed counts (D,) of float32 spectra (n, D); exact for counts below 2^24 a channel."""
    if isinstance(spectra, sparse.csr_array):
        summed = np.bincount(spectra.indices, spectra.data, minlength=spectra.shape[1])
        return np.asarray(summed, dtype=np.float64)
    return np.asarray(np.ones(spectra.shape[0], dtype=np.float32) @ spectra, dtype=np.float64)
