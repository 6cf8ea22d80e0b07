"""Shrinkage of scores: the least-squares guess of a spectrum's composition, given how noisy it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit

from models.base import Float32, Float64
from models.rank import spike_strength

_BRIGHT = 8.0


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
    def _single(self) -> tuple[Float32, Float32, Float32, Float32, Float32]:
        """Axes, centre, signal and pull in single precision, and a pull of 1."""
        axes, centre, signal, pull = (a.astype(np.float32) for a in (self.axes, self.centre, self.signal, self.pull))
        return np.ascontiguousarray(axes), centre, signal, pull, np.ones_like(pull)

    def apply(self, raw: Float32, exposure: Float64, fitted: bool = True) -> Float32:
        """Shrunk scores (n, K) in the units of the raw ones, 0 where there is no exposure."""
        axes, centre, signal, pull, one = self._single
        return np.asarray(_shrunk(raw, exposure, axes, centre, signal, pull if fitted else one))

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


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _shrunk(raw: Float32, exposure: Float64, axes: Float32, centre: Float32, signal: Float32, pull: Float32) -> Float32:
    """Shrunk scores (n, K); compiled, for a single spectrum would spend ten times as long in numpy's calls."""
    n, k = raw.shape
    one, scores, along = np.float32(1.0), np.empty((n, k), np.float32), np.empty(k, np.float32)
    for i in range(n):
        height = np.float32(max(exposure[i], 0.0))
        along[:] = 0.0
        for j in range(k):
            away = raw[i, j] - height * centre[j]
            for m in range(k):
                along[m] += away * axes[j, m]
        for m in range(k):
            known = height * signal[m]
            along[m] *= known / ((known + one) * pull[m])
        for j in range(k):
            total = np.float32(0.0)
            for m in range(k):
                total += axes[j, m] * along[m]
            scores[i, j] = total + height * centre[j]
    return scores


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
