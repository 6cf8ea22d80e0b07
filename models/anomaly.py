"""Anomaly score of single spectra: a likelihood ratio scanned over windows of one peak width.

Poisson (Kulldorff 1997): T = max over windows of n ln(n/b) - (n - b), 0 where n <= b. Its Gaussian counterpart is
z^2 / 2 for an excess of z standard deviations. Both need only sums over windows, so b comes from the scores without any
spectrum being reconstructed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Counts, Float32, Float64
from models.noise import NoiseModel

_WIDTH_FWHM = 1.2
_STEPS = 4
_FLOOR = 0.1


@dataclass(frozen=True)
class ScanWindows:
    """Overlapping windows of `n_bins` bins of `step` channels each, moved on bin by bin."""

    n_channels: int
    step: int
    n_bins: int

    @classmethod
    def for_peaks(cls, n_channels: int, fwhm_channels: float) -> ScanWindows:
        """Windows of about 1.2 FWHM, moved by a quarter of that."""
        width = min(max(1, round(_WIDTH_FWHM * fwhm_channels)), n_channels)
        step = max(1, round(width / _STEPS))
        return cls(n_channels, step, max(1, min(round(width / step), -(-n_channels // step))))

    @property
    def width(self) -> int:
        """Channels of a window."""
        return self.step * self.n_bins

    @property
    def total_bins(self) -> int:
        """Bins of a spectrum; the last may be short."""
        return -(-self.n_channels // self.step)

    @property
    def n_windows(self) -> int:
        """Windows of a spectrum."""
        return self.total_bins - self.n_bins + 1

    def ranges(self, window: NDArray[np.int64]) -> NDArray[np.int64]:
        """Half-open channel ranges (n, 2) of windows (n,)."""
        first = window * self.step
        return np.stack([first, np.minimum(first + self.n_bins * self.step, self.n_channels)], axis=1)

    def sums(self, spectra: Counts) -> Float32:
        """Window sums (n, n_windows) of spectra (n, D)."""
        bins = self._binned(spectra)
        out = bins[:, : self.n_windows].copy()
        for k in range(1, self.n_bins):
            out += bins[:, k : k + self.n_windows]
        return out

    def _binned(self, spectra: Counts) -> Float32:
        n, total = spectra.shape[0], self.total_bins
        if isinstance(spectra, sparse.csr_array):
            row = np.repeat(np.arange(n) * total, np.diff(spectra.indptr))
            flat = np.bincount(row + spectra.indices // self.step, spectra.data, minlength=n * total)
            return flat.reshape(n, total).astype(np.float32)
        if self.step == 1:
            return np.asarray(spectra, dtype=np.float32)
        out = np.zeros((n, total), dtype=np.float32)
        for k in range(self.step):
            column = spectra[:, k :: self.step]
            out[:, : column.shape[1]] += column
        return out


@dataclass(frozen=True)
class ScanTest:
    """The test against one published basis.

    Attributes
    ----------
    model : ndarray of float32, (K, n_windows)
        Window sums of the eigenspectra.
    mean : ndarray of float32, (n_windows,)
        Window sums of the mean spectrum of unit exposure.
    """

    windows: ScanWindows
    noise: NoiseModel
    model: Float32
    mean: Float32

    @classmethod
    def build(
        cls, windows: ScanWindows, noise: NoiseModel, eigenspectra: Float32, total: Float64, exposure: float
    ) -> ScanTest:
        """Test from eigenspectra (K, D) and the summed spectrum (D,) of everything, which had this exposure in all."""
        summed = windows.sums(total[None, :])[0] + (1.0 if noise.is_poisson else 0.0)
        return cls(windows, noise, windows.sums(eigenspectra), (summed / max(exposure, 1.0)).astype(np.float32))

    def __call__(
        self, spectra: Counts, scores: Float32, exposure: Float64, visits: NDArray[Any]
    ) -> tuple[Float32, NDArray[np.int64]]:
        """Anomaly score (n,) and the window (n,) where it is largest.

        Parameters
        ----------
        spectra : (n, D)
            Counts.
        scores : ndarray of float32, (n, K)
            Scores whose product with the eigenspectra is the expected spectrum.
        exposure, visits : ndarray, (n,)
            Variance summed over channels (counts, for Poisson), and visits that the counts were collected in.
        """
        found = self.windows.sums(spectra)
        expected = scores @ self.model
        floor = np.multiply.outer((_FLOOR * exposure).astype(np.float32), self.mean)
        if self.noise.is_poisson:
            ratio = _poisson_ratio(found, np.maximum(expected, floor))
        else:
            ratio = self._gaussian_ratio(found, expected, visits)
        window = np.argmax(ratio, axis=1)
        return ratio[np.arange(len(window)), window], window

    def _gaussian_ratio(self, found: Float32, expected: Float32, visits: NDArray[Any]) -> Float32:
        width = self.windows.width
        base = width * (self.noise.read_sigma**2 - self.noise.gain * self.noise.offset)
        variance = self.noise.gain * expected + np.asarray(visits, dtype=np.float32)[:, None] * np.float32(base)
        least = np.float32(max(width * self.noise.read_sigma**2, self.noise.gain, 1e-12))
        excess = np.maximum(found - expected, 0.0)
        return np.asarray(excess * excess / (2.0 * np.maximum(variance, least)), dtype=np.float32)


def _poisson_ratio(found: Float32, expected: Float32) -> Float32:
    """n ln(n/b) - (n - b) where n > b, else 0."""
    safe = np.maximum(expected, np.float32(1e-9))
    above = np.maximum(found, safe)
    return np.asarray(above * np.log(above / safe) - (above - safe), dtype=np.float32)
