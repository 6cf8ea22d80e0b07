"""How far spectra are from the model, as multivariate statistics has it: T2 within it, squared residuals outside.

They are shown beside the scan test (`models.anomaly`), which finds what they average away: a rare peak is a few counts
in a few of a thousand channels. All are given over their own limit, so that 1 is the threshold of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, gammainccinv

from models.base import Float32, Float64
from models.blocks import Block, power, times
from models.novelty import Positions
from models.preprocess import as_float32
from models.published import Published
from models.scoremap import ScoreMap

_LEAST = 1e-12
_VALUES = 1 << 20


def t2(published: Published, raw: Float32, exposure: Float64, rate: float) -> Float32:
    """Hotelling's T2 (n,) of raw scores (n, K) of spectra that the basis was fitted on, over its limit.

    The squared distance from the mean composition in units of what it is along each axis on average (Hotelling 1931),
    over the quantile of chi-squared that a share `rate` of normal compositions exceeds; NaN where there is no exposure.
    """
    shrinkage = published.shrinkage
    h = np.maximum(exposure, 0.0)[:, None]
    along = (raw - h * shrinkage.centre) @ shrinkage.axes
    axes = np.flatnonzero(shrinkage.signal > 0)
    typical = h * (1.0 + h * shrinkage.signal[axes]) * shrinkage.pull[axes]
    squared = np.divide(along[:, axes] ** 2, typical, out=np.full(typical.shape, np.nan), where=h > 0).sum(axis=1)
    return np.asarray(squared / max(float(chdtri(max(axes.size, 1), rate)), _LEAST), dtype=np.float32)


class Distances:
    """Q (squared prediction error) and reconstruction error of spectra under one version, each over its limit.

    Q is the squared residual in units of the model's noise, in the scaled and merged channels that the model is fitted
    in (Jackson and Mudholkar, Technometrics 21 (1979) 341), the other in counts and channels as they are. All that is
    known of a limit is linear or quadratic in the scores, so that spectra are read once, and sparse ones stay sparse.

    Parameters
    ----------
    published : Published
    rate : float
        Share of spectra that chance lifts over each limit.
    """

    def __init__(self, published: Published, rate: float) -> None:
        self._published, self._rate = published, rate
        scaling, shrinkage = published.scaling, published.shrinkage
        each = np.arange(scaling.n_channels)
        self._scaled = _Metric.of(published, scaling.starts, scaling.inverse**2)
        self._plain = _Metric.of(published, each, np.ones(each.size))
        self._size = ((shrinkage.axes.T @ published.eigenspectra) ** 2).sum(axis=1)

    def of(self, counts: Block, background: Float32 | None, raw: Float32, visits: Float64) -> tuple[Float32, Float32]:
        """Q and reconstruction error (n,).

        Parameters
        ----------
        counts : (n, D)
            Accumulated counts in float32, dense or CSR, without the background.
        background : ndarray of float32, (n, D), optional
            What the model leaves out of the spectra as measured.
        raw : ndarray of float32, (n, K)
            Their raw scores.
        visits : ndarray of float64, (n,)
        """
        noise, shrinkage = self._published.test.noise, self._published.shrinkage
        total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        if background is not None:
            total += background.sum(axis=1, dtype=np.float64)
        exposure = noise.row_variance(total, visits, counts.shape[1])
        scores, kept = shrinkage.apply(raw, exposure).astype(np.float64), shrinkage.kept(exposure)
        scaled, plain = (m.sums(counts, background, scores, visits, noise.gain) for m in (self._scaled, self._plain))
        h = np.maximum(exposure, _LEAST)
        q = _over_limit(scaled.squared / h, scaled.variance / h - kept.sum(axis=1), scaled.spread / h**2, self._rate)
        mean = plain.variance - exposure * (kept @ self._size)
        return q, _over_limit(plain.squared, mean, plain.spread, self._rate)


@dataclass(frozen=True)
class _Sums:
    """Sums over groups of channels, all (n,).

    Attributes
    ----------
    squared, variance, spread : ndarray of float64, (n,)
        Weighted squared residual, the mean of that of noise, and its variance: counts, whose fourth cumulant is not 0,
        make squares scatter more than Gaussian noise of their variance.
    """

    squared: Float64
    variance: Float64
    spread: Float64


@dataclass(frozen=True)
class _Metric:
    """Squares of what is expected, summed over groups of channels with weights (m,), as forms in the scores.

    Attributes
    ----------
    starts, channels : ndarray of int64, (m,)
        First channel of each group, and how many it has.
    expected : ndarray of float64, (K, m)
        Eigenspectra, in counts.
    noise, fourth : ndarray of float64, (K + 1, m)
        Variance and fourth cumulant of the noise for each score, and for each visit.
    """

    starts: NDArray[np.int64]
    channels: NDArray[np.int64]
    weight: Float64
    expected: Float64
    noise: Float64
    fourth: Float64

    @classmethod
    def of(cls, published: Published, starts: NDArray[np.int64], weight: Float64) -> _Metric:
        """Of groups of channels that begin at `starts`."""
        model, spectra = published.test.noise, published.eigenspectra
        expected = np.add.reduceat(spectra.astype(np.float64), starts, axis=1)
        channels = np.diff(starts, append=spectra.shape[1])
        counted = np.vstack([model.gain * expected, -model.gain * model.offset * channels])
        noise = counted.copy()
        noise[-1] += model.read_sigma**2 * channels
        return cls(starts, channels, weight, expected, noise, model.gain**2 * counted)

    def sums(self, counts: Block, background: Float32 | None, scores: Float64, visits: Float64, gain: float) -> _Sums:
        """Of spectra with these scores (n, K)."""
        w, all_scores = self.weight, np.column_stack([scores, visits])
        squared = power(counts, self.starts, w) + _form(scores, self._squares)
        squared -= 2.0 * (times(counts, self._projector).astype(np.float64) * scores).sum(axis=1)
        variance = all_scores @ (self.noise @ w)
        spread = 2.0 * _form(all_scores, self._noise_squares) + all_scores @ (self.fourth @ w**2)
        if background is not None:
            variance += gain * self._along(background, w[None])[:, 0]
            more = self._along(background, np.vstack([4.0 * gain * self.noise * w**2, gain**3 * w**2]))
            spread += (more * np.column_stack([all_scores, np.ones(len(visits))])).sum(axis=1)
            spread += 2.0 * gain**2 * power(background, self.starts, w**2)
        return _Sums(squared, variance, spread)

    @cached_property
    def _squares(self) -> Float64:
        return np.asarray((self.expected * self.weight) @ self.expected.T)

    @cached_property
    def _noise_squares(self) -> Float64:
        return np.asarray((self.noise * self.weight**2) @ self.noise.T)

    @cached_property
    def _projector(self) -> Float32:
        return self._of_channels(self.expected * self.weight)

    def _along(self, block: Block, of_groups: Float64) -> Float64:
        """Spectra (n, D), summed over groups, times (k, m)."""
        return times(block, self._of_channels(of_groups)).astype(np.float64)

    def _of_channels(self, of_groups: Float64) -> Float32:
        """What groups have (k, m), for each channel (D, k)."""
        of_channels = np.repeat(of_groups, self.channels, axis=1)
        return np.ascontiguousarray(of_channels.T, dtype=np.float32)


def _form(scores: Float64, matrix: Float64) -> Float64:
    """Quadratic form (n,) of rows (n, k)."""
    return np.asarray(((scores @ matrix) * scores).sum(axis=1))


def _over_limit(squared: Float64, mean: Float64, spread: Float64, rate: float) -> Float32:
    """Sums of squares (n,) over what a share `rate` of them exceeds, by g chi-squared of like mean and variance (n,).

    Box, Ann. Math. Stat. 25 (1954) 290.
    """
    mean, spread = np.maximum(mean, _LEAST), np.maximum(spread, _LEAST)
    limit = spread / mean * gammainccinv(mean**2 / spread, rate)
    over = np.divide(squared, limit, out=np.full_like(squared, np.nan), where=limit > 0)
    largest = np.finfo(np.float32).max
    return np.asarray(np.clip(over, -largest, largest), dtype=np.float32)


def t2_of(scores: ScoreMap, index: Positions, rate: float) -> Float32:
    """T2 (n,) of the accumulated counts of positions; NaN where nothing was measured."""
    published = scores.published
    if published is None:
        return np.full(index.size, np.nan, dtype=np.float32)
    exposure = scores.exposure(index, published.test.noise) * (scores.visits[index] > 0)
    return t2(published, scores.raw(index), exposure, rate)


def distances_of(scores: ScoreMap, index: Positions, rate: float) -> tuple[Float32, Float32]:
    """Q and reconstruction error (n,) of the accumulated counts of positions; NaN where they are not all stored."""
    found = np.full((2, index.size), np.nan, dtype=np.float32)
    published, step = scores.published, max(1, _VALUES // scores.n_channels)
    rows = np.flatnonzero((scores.visits[index] > 0) & scores.store.complete(index))
    if published is None:
        return found[0], found[1]
    distances = Distances(published, rate)
    for first in range(0, rows.size, step):
        part = rows[first : first + step]
        at = index[part]
        counts, background = as_float32(scores.store.rows(at)), scores.store.background(at)
        visits = scores.visits[at].astype(np.float64)
        found[0, part], found[1, part] = distances.of(counts, background, scores.raw(at), visits)
    return found[0], found[1]
