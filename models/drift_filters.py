"""Filters that see a shift or a stretch of the energy axis, and nothing that the model explains.

Poisson score test: a spectrum x expected as lam tells a shift by sum((x - lam) t / lam), t the derivative of lam by
the shift, and a gain likewise. Here t / lam is taken from the mean spectrum and made orthogonal to every eigenspectrum.
Then any mixture of them, so any phase at any position, gives zero without being computed, and the test of a block is
two projections of its summed counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.signal import savgol_filter

from models.axis import Axis
from models.base import Float64
from models.noise import NoiseModel
from models.preprocess import shrink_spectrum

N_FIXED = 10
_FLOOR = 0.1
_DEGREE = 4
_FEWEST_COUNTS = 5.0
_EXPLAINED = 0.5
_LINE_BINS = 2
"""Bins on either side of a line's middle that it is in: one full width at half maximum."""


@dataclass(frozen=True)
class Readings:
    """What the filters say of sums of spectra, each with a leading shape (...).

    Attributes
    ----------
    filtered : ndarray, (..., 2)
        Filtered counts; their expectation is `response @ (shift, gain)`.
    covariance, response : ndarray, (..., 2, 2)
        Covariance of `filtered`, and its derivative by shift and gain.
    exposure : ndarray, (...)
        Variance summed over channels (counts, for Poisson).
    scores : ndarray, (..., K)
        Composition: scores of the eigenspectra.
    """

    filtered: Float64
    covariance: Float64
    response: Float64
    exposure: Float64
    scores: Float64

    @classmethod
    def of(cls, columns: Float64) -> Readings:
        """Take columns (..., 10 + K) apart, which add up over spectra."""
        shape = (*columns.shape[:-1], 2, 2)
        filtered, covariance, response = columns[..., :2], columns[..., [2, 3, 3, 4]], columns[..., 5:9]
        exposure, scores = columns[..., 9], columns[..., N_FIXED:]
        return cls(filtered, covariance.reshape(shape), response.reshape(shape), exposure, scores)


def shows_drift(axis: Axis) -> bool:
    """Whether there are channels between both ends of the axis, where a derivative would be that of the cut."""
    return axis.size > 4 * _half_window(axis)


def _half_window(axis: Axis) -> int:
    return max(2, round(axis.peak_width_channels() / 4))


@dataclass(frozen=True)
class DriftFilters:
    """Filters against one basis.

    Attributes
    ----------
    noise : NoiseModel
    matrix : ndarray, (D, 9 + K)
        Its product with counts: filtered counts, the parts of covariance and response that go with them, scores.
    ground : ndarray, (3,)
        Covariance of the filtered counts of a visit without signal.
    eigenspectra, templates : ndarray, (K, D) and (2, D)
        The basis, and the derivatives of the mean spectrum by shift and gain.
    derivatives : ndarray, (2, K, D)
        Those of the basis.
    weight : ndarray, (D,)
        Of the channels: 1 / noise variance, but 0 where one says nothing.
    bin_width : int
        Channels of a bin of half a peak width.
    """

    noise: NoiseModel
    matrix: Float64
    ground: Float64
    eigenspectra: Float64
    templates: Float64
    derivatives: Float64
    weight: Float64
    bin_width: int

    @classmethod
    def build(
        cls, eigenspectra: NDArray[np.floating], total: Float64, n_spectra: float, axis: Axis, noise: NoiseModel
    ) -> DriftFilters:
        """Filters from eigenspectra (K, D) in counts and the summed spectrum (D,) of `n_spectra` visits."""
        width, half = axis.peak_width_channels(), _half_window(axis)
        spectra, mean = np.asarray(eigenspectra, dtype=np.float64), total / max(n_spectra, 1.0)
        weight = _weight(mean, total, width, noise)
        # At the ends of the axis a derivative would be that of the cut.
        weight[: 2 * half] = weight[-2 * half :] = 0.0
        templates = np.concatenate(_derivatives(mean[None, :], axis, half))
        bin_width = max(1, round(width / 2))
        none: Float64 = np.zeros(0)
        basis = np.stack(_derivatives(spectra, axis, half))
        return cls(noise, none, none, spectra, templates, basis, weight, bin_width)._weighted(weight)

    def _weighted(self, weight: Float64) -> DriftFilters:
        """The same with other weights (D,) of the channels."""
        spectra = self.eigenspectra
        weighted = spectra * weight
        projector = weighted.T @ np.linalg.pinv(weighted @ spectra.T, hermitian=True)
        filters = self.templates * weight
        filters -= (filters @ spectra.T) @ projector.T
        # Templates of different size (a gain in parts, a shift in electronvolts) would spoil the 2 x 2 algebra.
        filters /= np.maximum(np.sqrt((filters**2).sum(axis=1, keepdims=True)), 1e-300)
        products = np.stack([filters[0] ** 2, filters[0] * filters[1], filters[1] ** 2])
        response = np.stack([by @ one for one in filters for by in self.derivatives])
        gain, ground = self.noise.gain, self.noise.read_sigma**2 - self.noise.gain * self.noise.offset
        parts = (filters.T, gain * projector @ (spectra @ products.T), projector @ response.T, projector)
        return replace(self, matrix=np.concatenate(parts, axis=1), ground=ground * products.sum(axis=1), weight=weight)

    def columns(self, summed: Float64, n_spectra: Float64) -> Float64:
        """Readings of sums (m, D) of `n_spectra` (m,) visits, as columns (m, 10 + K) that add up."""
        read = summed @ self.matrix
        covariance = read[:, 2:5] + n_spectra[:, None] * self.ground
        exposure = self.noise.row_variance(summed.sum(axis=1), n_spectra, summed.shape[1])
        return np.concatenate([read[:, :2], covariance, read[:, 5:9], exposure[:, None], read[:, 9:]], axis=1)

    def explains(self, summed: Float64, n_spectra: float, covariance: Float64) -> bool:
        """Whether the covariance (2, 2) that the basis expects of filtered counts is that of counts like these (D,).

        Where next to nothing is counted a basis may have only some of the lines: what it expects is then too little, or
        even negative, and anything would pass for drift.
        """
        counted = self.noise.gain * (summed @ self.matrix[:, :2] ** 2) + n_spectra * self.ground[[0, 2]]
        return bool(np.all(np.diag(covariance) > _EXPLAINED * counted) and np.linalg.det(covariance) > 0)

    def misfit(self, after: Float64, before: Float64, n_after: float, n_before: float) -> tuple[float, int]:
        """How many times more than noise, at least once, two sums (D,) differ by what neither basis nor drift explains.

        The difference per visit in bins of half a peak width, in units of its standard deviation, is fitted with the
        eigenspectra and the derivatives. What is left is averaged in square over all bins, and once more weighted by
        what a bin tells of drift: a line that comes in on the flank of another is in few bins, but in those. The
        larger of the two counts, where it is more than chance. Beside it, the bin of which most is left.
        """
        sums, n = np.stack([after, before]), np.array([[n_after], [n_before]])
        variance = self._binned(self._variance(sums, n))
        usable = (variance > (_FEWEST_COUNTS if self.noise.is_poisson else 0.0)).all(axis=0)
        sigma = np.sqrt((variance / n**2)[:, usable].sum(axis=0))
        difference = self._binned((after / n_after - before / n_before)[None, :])[0, usable] / sigma
        design = (self._binned(np.concatenate([self.eigenspectra, self.templates]))[:, usable] / sigma).T
        if difference.size <= design.shape[1]:
            return 1.0, 0
        directions, sizes, _ = np.linalg.svd(design, full_matrices=False)
        directions = directions[:, sizes > 1e-9 * sizes[0]]
        rest = (difference - directions @ (directions.T @ difference)) ** 2
        freedom = 1.0 - (directions**2).sum(axis=1)
        told = (design[:, -2:] ** 2).sum(axis=0)
        informed = (design[:, -2:] ** 2 / np.maximum(told, 1e-300)).sum(axis=1)
        times = max(1.0, _excess(rest, freedom, np.ones(rest.size)), _excess(rest, freedom, informed))
        return times, int(np.flatnonzero(usable)[np.argmax(rest)])

    def without(self, at: int) -> DriftFilters:
        """Filters that do not look at the line around bin `at`."""
        weight = self.weight.copy()
        first = (at - _LINE_BINS) * self.bin_width
        weight[max(0, first) : first + (2 * _LINE_BINS + 1) * self.bin_width] = 0.0
        return self._weighted(weight)

    def _variance(self, sums: Float64, n: Float64) -> Float64:
        """Variance of each channel (m, D) of sums of n visits (m, 1): from what the basis expects, not from counts."""
        expected = (sums @ self.matrix[:, N_FIXED - 1 :]) @ self.eigenspectra
        return np.asarray(self.noise.gain * (expected - n * self.noise.offset) + n * self.noise.read_sigma**2)

    def _binned(self, spectra: Float64) -> Float64:
        starts = np.arange(0, spectra.shape[1], self.bin_width)
        return np.asarray(np.add.reduceat(np.where(self.weight > 0, spectra, 0.0), starts, axis=1))


def _excess(squares: Float64, freedom: Float64, weight: Float64) -> float:
    """Weighted mean of squares over its expectation; 0 where two standard deviations of chance explain it."""
    expected = float(weight @ freedom)
    chance = np.sqrt(2.0 * float((weight**2) @ freedom)) / max(expected, 1e-300)
    ratio = float(weight @ squares) / max(expected, 1e-300)
    return ratio if ratio > 1.0 + 2.0 * chance else 0.0


def _weight(mean: Float64, total: Float64, width: float, noise: NoiseModel) -> Float64:
    """1 / noise variance of each channel of the mean spectrum (D,); for counts with a floor, 0 where there are none.

    A channel in which hardly anything is expected would let single counts decide: the floor is a tenth of the mean.
    """
    if noise.is_poisson:
        smooth = shrink_spectrum(total, width)
        floored = np.maximum(smooth + _FLOOR * smooth.mean(), 1e-300)
        return np.asarray(np.where(smooth > 0, total.sum() / floored, 0.0))
    variance = noise.variance(mean)
    return np.asarray(1.0 / np.maximum(variance, max(1e-3 * float(variance.mean()), 1e-300)))


def _derivatives(spectra: Float64, axis: Axis, half: int) -> tuple[Float64, Float64]:
    """Derivatives of recorded spectra (m, D) by shift and by gain, at none of either (Savitzky-Golay, quartic).

    What belongs at v is recorded at (1 + gain) v + shift, and a spectrum keeps its counts.
    """
    step = np.gradient(axis.values)
    slope = savgol_filter(spectra, 2 * half + 1, _DEGREE, deriv=1, axis=1) / step
    return -slope, -axis.values * slope - spectra
