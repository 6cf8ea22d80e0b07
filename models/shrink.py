"""Shrinkage of scores: the least-squares guess of a spectrum's composition, given how noisy it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from models.base import Float32, Float64
from models.rank import spike_strength

_BRIGHT = 8.0
_ROWS = 4096


@dataclass(frozen=True)
class ScoreShrinkage:
    """Linear shrinkage towards the mean composition, along the principal axes of the compositions.

    A raw score r of a spectrum of exposure h (variance summed over channels: its counts, if they are Poisson) is h t
    plus noise of variance h, t the score per unit of exposure. Over positions t has mean `centre` and, along the
    columns of `axes`, variances `signal`; the best linear estimate shrinks each axis by signal h / (signal h + 1).

    Spectra that the basis was fitted on have pulled it towards their own noise: their scores are too long by
    `pull` = 1 + gamma/theta, theta the signal variance at the mean exposure and gamma = D/N. In the spiked model that
    is the optimal factor sqrt((lam-1-gamma)^2 - 4 gamma)/lam (Gavish & Donoho 2017) over 1 - gamma/theta^2: the same
    for strong components, more for weak ones, whose few positions with much of them the optimum for all would suppress.
    """

    centre: Float64
    axes: Float64
    signal: Float64
    pull: Float64
    strength: Float64
    """Signal variance of each axis at the mean exposure, in units of the noise; 0 below the edge, (K,)."""
    ratio: float
    """Channels over spectra that the basis was fitted on."""

    @cached_property
    def _single(self) -> tuple[Float32, Float32, Float32, Float32]:
        """Axes, centre, signal and pull in single precision."""
        axes, centre, signal, pull = (a.astype(np.float32) for a in (self.axes, self.centre, self.signal, self.pull))
        return axes, centre, signal, pull

    def apply(self, raw: Float32, exposure: Float64, fitted: bool = True) -> Float32:
        """Shrunk scores (n, K) in the units of the raw ones, 0 where there is no exposure."""
        axes, centre, signal, pull = self._single
        pull = pull if fitted else np.ones_like(pull)
        height = np.maximum(exposure, 0.0).astype(np.float32)
        scores = np.empty_like(raw)
        for first in range(0, raw.shape[0], _ROWS):
            part = slice(first, first + _ROWS)
            h = height[part, None]
            along = (raw[part] - h * centre) @ axes
            known = h * signal
            along *= known / ((known + 1.0) * pull)
            np.matmul(along, axes.T, out=scores[part])
            scores[part] += h * centre
        return scores

    def kept(self, exposure: Float64) -> Float64:
        """How much of each axis `apply` keeps of spectra that the basis was fitted on, (n, K)."""
        known = np.maximum(exposure, 0.0)[:, None] * self.signal
        return np.asarray(known / ((known + 1.0) * self.pull))

    def error_variance(self, exposure: Float64, gain: float = 1.0) -> Float64:
        """Expected squared error (n,) of shrunk scores, summed over scores, in the units of the raw ones.

        Two parts: the posterior variance of the composition, and the noise of the exposure itself, which is `gain`
        times a total count of variance h and takes the mean composition with it.
        """
        h = np.maximum(exposure, 0.0)
        known = self.signal * h[:, None]
        composition = h * (known / (known + 1.0)).sum(axis=1)
        return np.asarray(composition + gain**2 * h * float(self.centre @ self.centre), dtype=np.float64)


def fit_shrinkage(
    raw: Float32, exposure: Float64, n_channels: float, n_fitted: float, level: float = 1.0
) -> ScoreShrinkage:
    """Estimate centre, axes and signal from raw scores (n, K) of spectra of these exposures (n,).

    Parameters
    ----------
    n_channels, n_fitted : float
        Channels that count, and spectra the basis was fitted on: gamma = n_channels / n_fitted.
    level : float
        How far noise reaches, over the edge of white noise: what lies within its reach may be no signal at all.
    """
    k = raw.shape[1]
    lit = exposure > 0
    raw64, h = raw[lit].astype(np.float64), exposure[lit]
    if not h.size or k == 0:
        return ScoreShrinkage(np.zeros(k), np.eye(k), np.zeros(k), np.ones(k), np.zeros(k), 0.0)
    weight = np.minimum(h, _BRIGHT * float(np.median(h)))
    per_unit = raw64 / h[:, None]
    centre = (weight @ per_unit) / weight.sum()
    away = (per_unit - centre) * np.sqrt(weight)[:, None]
    noise = float((weight / h).sum())
    values, axes = np.linalg.eigh(away.T @ away / noise)
    gamma = n_channels / max(n_fitted, 1.0)
    theta = level * spike_strength(values / level, gamma)
    pull = 1.0 + np.divide(gamma, theta, out=np.zeros_like(theta), where=theta > 0)
    return ScoreShrinkage(centre, axes, theta * noise / weight.sum(), pull, theta, gamma)
