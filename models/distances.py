"""How far spectra are from the model, as multivariate statistics has it: T2 within it, squared residuals outside.

They are shown beside the scan test (`models.anomaly`), which finds what they average away: a rare peak is a few counts
in a few of a thousand channels. All are given over their own limit, so that 1 is the threshold of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, gammainccinv

from models.base import Float32, Float64
from models.novelty import Positions
from models.published import Published
from models.scoremap import ScoreMap

_LEAST = 1e-12
_VALUES = 1 << 18


@dataclass(frozen=True)
class Residual:
    """Residuals (n, D) of spectra as measured, with the moments of the noise that is expected in them.

    Attributes
    ----------
    residual, variance : ndarray of float64, (n, D)
    fourth : ndarray of float64, (n, D)
        Fourth cumulant of the noise: counts make squares scatter more than Gaussian noise of their variance.
    kept : ndarray, (n, K)
        How much of the noise along each axis of the scores the fit has taken away.
    exposure : ndarray, (n,)
    """

    residual: Float64
    variance: Float64
    fourth: Float64
    kept: Float64
    exposure: Float64

    @classmethod
    def of(
        cls, published: Published, spectra: Float32, background: Float32 | None, raw: Float32, visits: Float64
    ) -> Residual:
        """Of dense spectra (n, D) as measured, with the background that the model leaves out, raw scores (n, K)."""
        noise = published.test.noise
        exposure = noise.row_variance(spectra.sum(axis=1, dtype=np.float64), visits, spectra.shape[1])
        expected = (published.shrinkage.apply(raw, exposure) @ published.eigenspectra).astype(np.float64)
        if background is not None:
            expected += background
        counted = noise.gain * np.maximum(expected - visits[:, None] * noise.offset, 0.0)
        variance = counted + visits[:, None] * noise.read_sigma**2
        kept = published.shrinkage.kept(exposure)
        return cls(spectra - expected, variance, noise.gain**2 * counted, kept, exposure)


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


def q(published: Published, found: Residual, rate: float) -> Float32:
    """Q or squared prediction error (n,): the squared residual in units of the model's noise, over its limit.

    Jackson and Mudholkar, Technometrics 21 (1979) 341, in the scaled and merged channels that the model is fitted in.
    """
    scaling = published.scaling
    weight = scaling.inverse**2 / np.maximum(found.exposure, _LEAST)[:, None]

    def merged(values: Float64) -> Float64:
        whole = scaling.n_groups == scaling.n_channels
        return values if whole else np.add.reduceat(values, scaling.starts, axis=1)

    squared = (merged(found.residual) ** 2 * weight).sum(axis=1)
    variance = merged(found.variance) * weight
    mean = variance.sum(axis=1) - found.kept.sum(axis=1)
    spread = (2.0 * variance**2 + merged(found.fourth) * weight**2).sum(axis=1)
    return _over_limit(squared, mean, spread, rate)


def reconstruction_error(published: Published, found: Residual, rate: float) -> Float32:
    """Squared residual in counts (n,), summed over channels, over its limit."""
    squared = (found.residual**2).sum(axis=1)
    size = ((published.shrinkage.axes.T @ published.eigenspectra) ** 2).sum(axis=1)
    mean = found.variance.sum(axis=1) - found.exposure * (found.kept @ size)
    spread = (2.0 * found.variance**2 + found.fourth).sum(axis=1)
    return _over_limit(squared, mean, spread, rate)


def _over_limit(squared: Float64, mean: Float64, spread: Float64, rate: float) -> Float32:
    """Sums of squares (n,) over what a share `rate` of them exceeds, by g chi-squared of like mean and variance (n,).

    Box, Ann. Math. Stat. 25 (1954) 290.
    """
    mean, spread = np.maximum(mean, _LEAST), np.maximum(spread, _LEAST)
    limit = spread / mean * gammainccinv(mean**2 / spread, rate)
    return np.asarray(np.divide(squared, limit, out=np.full_like(squared, np.nan), where=limit > 0), dtype=np.float32)


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
    for first in range(0, rows.size, step):
        part = rows[first : first + step]
        at = index[part]
        background = scores.store.background(at)
        spectra = scores.counts(at) if background is None else scores.counts(at) + background
        visits = scores.visits[at].astype(np.float64)
        residual = Residual.of(published, spectra, background, scores.raw(at), visits)
        found[0, part], found[1, part] = q(published, residual, rate), reconstruction_error(published, residual, rate)
    return found[0], found[1]
