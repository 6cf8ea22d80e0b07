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
from models.kernels import bin_events, read_rows, scan_bins, scan_sparse
from models.noise import NoiseModel

_WIDTH_FWHM = 1.2
_STEPS = 4
_FLOOR = 0.1
_FEW_VALUES = 48


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

    def bins(self, spectra: Counts) -> Float32:
        """Bin sums (n, total_bins) of spectra (n, D)."""
        if isinstance(spectra, sparse.csr_array):
            parts = (spectra.data, spectra.indices, spectra.indptr)
            return bin_events(*parts, self.step, self.total_bins)
        return read_rows(spectra, self.step, self.total_bins)[3]

    def sums(self, bins: Float32) -> Float32:
        """Window sums (n, n_windows) of bin sums (n, total_bins)."""
        out = bins[:, : self.n_windows].copy()
        for k in range(1, self.n_bins):
            out += bins[:, k : k + self.n_windows]
        return out


@dataclass(frozen=True)
class ScanTest:
    """The test against one published basis.

    Attributes
    ----------
    model : ndarray of float32, (n_windows, K)
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
        # One count more than was seen: a window that was empty so far expects a little.
        summed = windows.sums(windows.bins(total[None, :]))[0] + (1.0 if noise.is_poisson else 0.0)
        model = np.ascontiguousarray(windows.sums(windows.bins(eigenspectra)).T)
        return cls(windows, noise, model, (summed / max(exposure, 1.0)).astype(np.float32))

    def __call__(
        self,
        spectra: Counts,
        scores: Float32,
        exposure: Float64,
        visits: NDArray[Any],
        bins: Float32 | None = None,
        background: Float32 | None = None,
    ) -> tuple[Float32, NDArray[np.int64]]:
        """Anomaly score (n,) and the window (n,) where it is largest.

        Parameters
        ----------
        spectra : (n, D)
            Counts in float32.
        scores : ndarray of float32, (n, K)
            Scores whose product with the eigenspectra is the expected spectrum.
        exposure, visits : ndarray, (n,)
            Variance summed over channels (counts, for Poisson), and visits that the counts were collected in.
        bins : ndarray of float32, (n, total_bins), optional
            Bin sums of dense spectra, where they are known already.
        background : ndarray of float32, (n, D), optional
            Expected besides.
        """
        windows, floor = self.windows, (_FLOOR * exposure).astype(np.float32)
        counting = self.noise.is_poisson and background is None
        if counting and isinstance(spectra, sparse.csr_array) and _are_few(spectra):
            shape = (windows.step, windows.n_bins, windows.total_bins)
            parts = (spectra.data, spectra.indices, spectra.indptr)
            score, window = scan_sparse(*parts, shape, scores, self.model, floor, self.mean)
            return score, window
        expected = scores @ self.model.T
        if background is not None:
            expected += windows.sums(windows.bins(background))
        found = windows.bins(spectra) if bins is None else bins
        if not self.noise.is_poisson:
            return self._gaussian(windows.sums(found), expected, visits)
        score, window = scan_bins(found, windows.n_bins, expected, floor, self.mean)
        return score, window

    def _gaussian(self, found: Float32, expected: Float32, visits: NDArray[Any]) -> tuple[Float32, NDArray[np.int64]]:
        """Half the squared excess in standard deviations of the window."""
        width = self.windows.width
        base = width * (self.noise.read_sigma**2 - self.noise.gain * self.noise.offset)
        variance = self.noise.gain * expected + np.asarray(visits, dtype=np.float32)[:, None] * np.float32(base)
        least = np.float32(max(width * self.noise.read_sigma**2, self.noise.gain, 1e-12))
        excess = np.maximum(found - expected, 0.0)
        ratio = excess * excess / (2.0 * np.maximum(variance, least))
        window = np.argmax(ratio, axis=1)
        return np.asarray(ratio[np.arange(len(window)), window], dtype=np.float32), window


def _are_few(spectra: sparse.csr_array) -> bool:
    """Whether it pays to look only at windows that hold counts."""
    return bool(spectra.nnz < _FEW_VALUES * spectra.shape[0])
