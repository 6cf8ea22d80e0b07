"""Anomaly score of single spectra: a likelihood ratio scanned over windows of one peak width.

Poisson (Kulldorff 1997): T = max over windows of n ln(n/b) - (n - b), 0 where n <= b. With a gain g, an offset o and
read noise s, (x - o)/g + s^2/g^2 is very nearly Poisson (Snyder et al., J. Opt. Soc. Am. A 10 (1993) 1014), so the same
ratio serves; without a counted part it is z^2 / 2 for an excess of z standard deviations. The expectation b is itself
estimated, from scores whose noise is known, and is allowed for by a profile likelihood (kernels). All need only sums
over windows, so b comes from the scores without any spectrum being reconstructed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import xlogy
from scipy.stats import poisson

from models.base import Counts, Float32, Float64
from models.blocks import event_parts
from models.kernels import bin_events, read_rows
from models.noise import NoiseModel
from models.scan_kernels import scan_bins, scan_sparse
from models.shrink import ScoreShrinkage

PEAK_WIDTHS = 1.2
"""Width of a window over that of a peak."""
_STEPS = 4
_FLOOR = 0.1
_FEW_VALUES = 48
_MOST_QUANTA = 1e5
_INSIDE = 0.84


@dataclass(frozen=True)
class ScanWindows:
    """Overlapping windows of `n_bins` bins of `step` channels each, moved on bin by bin."""

    n_channels: int
    step: int
    n_bins: int

    @classmethod
    def for_peaks(cls, n_channels: int, fwhm_channels: float) -> ScanWindows:
        """Windows of about 1.2 FWHM, moved by a quarter of that."""
        width = min(max(1, round(PEAK_WIDTHS * fwhm_channels)), n_channels)
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
        ranges = np.empty((window.size, 2), dtype=np.int64)
        np.multiply(window, self.step, out=ranges[:, 0])
        np.minimum(ranges[:, 0] + self.n_bins * self.step, self.n_channels, out=ranges[:, 1])
        return ranges

    def bins(self, spectra: Counts) -> Float32:
        """Bin sums (n, total_bins) of spectra (n, D)."""
        if isinstance(spectra, sparse.csr_array):
            return bin_events(*event_parts(spectra), self.step, self.total_bins)
        return read_rows(spectra, self.step, self.total_bins)[3]

    def sums(self, bins: Float32) -> Float32:
        """Window sums (n, n_windows) of bin sums (n, total_bins)."""
        out = bins[:, : self.n_windows].copy()
        for k in range(1, self.n_bins):
            out += bins[:, k : k + self.n_windows]
        return out


@dataclass(frozen=True)
class ScanTest:
    """The test against one published basis. It counts in quanta: counts over gain, of unit variance to their mean.

    Attributes
    ----------
    model : ndarray of float32, (n_windows, K)
        Window sums of the eigenspectra.
    base : ndarray of float32, (total_bins,)
        What a visit adds to each bin beyond its counts: read noise, less the offset.
    mean : ndarray of float32, (n_windows,)
        Mean of the window of a spectrum of unit exposure.
    shrinkage : ScoreShrinkage
        How scores are estimated.
    """

    windows: ScanWindows
    noise: NoiseModel
    model: Float32
    base: Float32
    mean: Float32
    shrinkage: ScoreShrinkage

    @classmethod
    def build(
        cls,
        windows: ScanWindows,
        noise: NoiseModel,
        eigenspectra: Float32,
        shrinkage: ScoreShrinkage,
        total: Float64,
        exposure: float,
    ) -> ScanTest:
        """Test from eigenspectra (K, D) and the summed spectrum (D,) of everything, which had this exposure in all."""
        gain = _gain(noise)
        model = np.ascontiguousarray(windows.sums(windows.bins(eigenspectra)).T) / np.float32(gain)
        base = np.diff(np.minimum(np.arange(windows.total_bins + 1) * windows.step, windows.n_channels))
        base = (base * (noise.read_sigma**2 / gain - noise.offset) / gain).astype(np.float32)
        # Visits follow from the exposure, whose share that is not of counts each brings anew.
        spent = gain * float(total.sum())
        visits = (exposure - spent) / (gain**2 * float(base.sum())) if base.any() else 0.0
        summed = windows.sums((windows.bins(total[None, :]) / gain + max(visits, 0.0) * base).astype(np.float32))[0]
        # One count more than was seen: a window that was empty so far expects a little.
        mean = np.maximum(summed + 1.0, 0.0) * gain**2 / max(exposure, 1.0)
        return cls(windows, noise, model, base, mean.astype(np.float32), shrinkage)

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
        windows, floor = self.windows, self._floor(exposure)
        counting = self.noise.is_poisson and background is None
        if counting and isinstance(spectra, sparse.csr_array) and _are_few(spectra):
            shape = (windows.step, windows.n_bins, windows.total_bins)
            parts = event_parts(spectra)
            score, window = scan_sparse(*parts, shape, scores, self.model, floor, self.mean, self._spread(exposure))
            return score, window
        found, more = self._quanta(spectra, visits, bins, background)
        if _is_gaussian(self.noise):
            variance = self._read_variance(visits) + floor[:, None] * self._spread(exposure)
            return _gaussian(windows.sums(found), scores @ self.model.T + more, variance)
        turned = self._turned
        score, window = scan_bins(
            found, windows.n_bins, scores, turned, more, floor, self.mean, self._spread(exposure)
        )  # fmt: skip
        return score, window

    def unrest(
        self,
        spectra: Counts,
        scores: Float32,
        exposure: Float64,
        visits: NDArray[Any],
        background: Float32 | None = None,
    ) -> Float64:
        """Squared excess of windows over their variance, averaged over windows (n,): 1 in ideal noise.

        A window counts the less the fewer quanta it expects, so that none is ruled by a single one.
        """
        found, more = self._quanta(spectra, visits, None, background)
        expected = scores @ self.model.T
        if more.size:
            expected += more
        if _is_gaussian(self.noise):
            variance = self._read_variance(visits)
        else:
            variance = np.maximum(expected, self._floor(exposure)[:, None] * self.mean) + np.float32(1.0)
        return np.asarray(((self.windows.sums(found) - expected) ** 2 / variance).mean(axis=1), dtype=np.float64)

    def power(self, share: float, exposure: float, false_alarm: float) -> float:
        """Probability that a spectrum is flagged of which this share is one line that nothing else has.

        For nine of ten places that the line may have. The threshold is a bound by Chernoff for each of the windows
        that do not overlap, together no more often passed than `false_alarm`. 0 where counts are not Poisson.
        """
        if not self.noise.is_poisson:
            return 0.0
        quanta = exposure / _gain(self.noise) ** 2
        b = max((1.0 - share) * quanta * float(np.quantile(self.mean, 0.9)), 1e-9)
        threshold = np.log(max(self.windows.total_bins / self.windows.n_bins, 1.0) / false_alarm)
        n = np.arange(np.ceil(b), np.ceil(b) + 64.0 + 8.0 * b + 4.0 * threshold)
        passes = (n > b) & (xlogy(n, n / b) - (n - b) >= threshold)
        return float(poisson.sf(n[np.argmax(passes)] - 1.0, b + _INSIDE * share * quanta)) if passes.any() else 0.0

    def _floor(self, exposure: Float64) -> Float32:
        return (_FLOOR / _gain(self.noise) ** 2 * exposure).astype(np.float32)

    @cached_property
    def _along(self) -> Float64:
        """Squared window sums along the axes of the compositions, (n_windows, K)."""
        return np.asarray((self.model.astype(np.float64) @ self.shrinkage.axes) ** 2)

    def _spread(self, exposure: Float64) -> Float32:
        """Variance (n_windows,) that the noise of the scores gives the expected windows, for unit floor.

        The noise of raw scores has the variance of the exposure in every direction; what shrinkage leaves of it is
        taken from the median exposure.
        """
        # The median of one takes a tenth of the time that a single spectrum has.
        typical = float(np.median(exposure) if exposure.size > 1 else exposure.sum())
        known = self.shrinkage.signal * (typical if exposure.size else 1.0)
        spread = self._along @ (known / (known + 1.0)) ** 2
        return np.asarray(spread * _gain(self.noise) ** 2 / _FLOOR, dtype=np.float32)

    @cached_property
    def _turned(self) -> Float32:
        """The model by components, (K, n_windows)."""
        return np.ascontiguousarray(self.model.T)

    def _quanta(
        self, spectra: Counts, visits: NDArray[Any], bins: Float32 | None, background: Float32 | None
    ) -> tuple[Float32, Float32]:
        """Found quanta in bins (n, total_bins), and those expected in windows beyond the scores (n or 0, n_windows)."""
        found = self.windows.bins(spectra) if bins is None else bins
        gain, more = np.float32(_gain(self.noise)), np.zeros((0, self.windows.n_windows), dtype=np.float32)
        if background is not None:
            more = self.windows.sums(self.windows.bins(background)) / gain
        if not self.noise.is_poisson:
            each = np.asarray(visits, dtype=np.float32)[:, None] * self.base
            found, summed = found / gain + each, self.windows.sums(each)
            more = more + summed if more.size else summed
        return found, more

    def _read_variance(self, visits: NDArray[Any]) -> Float32:
        """Variance (n, 1) of window sums where it does not depend on the signal."""
        least = max(self.windows.width * self.noise.read_sigma**2, 1e-12)
        return (np.asarray(visits, dtype=np.float32) * np.float32(least))[:, None]


def _gaussian(found: Float32, expected: Float32, variance: Float32) -> tuple[Float32, NDArray[np.int64]]:
    """Half the squared excess in standard deviations, variance (n, n_windows)."""
    excess = np.maximum(found - expected, 0.0)
    ratio = excess * excess / (2.0 * variance)
    window = np.argmax(ratio, axis=1)
    return np.asarray(ratio[np.arange(len(window)), window], dtype=np.float32), window


def _is_gaussian(noise: NoiseModel) -> bool:
    """Whether the counted part of the noise does not matter."""
    return noise.read_sigma**2 > _MOST_QUANTA * noise.gain**2 or noise.gain <= 0


def _gain(noise: NoiseModel) -> float:
    """Counts of a quantum; 1 where there are none."""
    return 1.0 if _is_gaussian(noise) else noise.gain


def _are_few(spectra: sparse.csr_array) -> bool:
    """Whether it pays to look only at windows that hold counts."""
    return bool(spectra.nnz < _FEW_VALUES * spectra.shape[0])
