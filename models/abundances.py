"""How much of each end-member a spectrum is: shares that are not negative and sum to one, with their errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.base import Float64
from models.composition import CompositionSpace
from models.phase_mixture import FAINTEST, whitening


@dataclass(frozen=True)
class LinearUnmixing:
    """Least squares of compositions as mixtures of corners, under the noise of their mean.

    Corners whose share would be negative are left out one by one, the worst first (fully constrained least squares;
    Heinz and Chang, IEEE Trans. Geosci. Remote Sens. 39 (2001) 529).

    Attributes
    ----------
    space : CompositionSpace
    corners : ndarray, (M, d)
        At least two, M <= d + 1.
    """

    space: CompositionSpace
    corners: Float64
    _maps: dict[bytes, tuple[Float64, Float64]] = field(default_factory=dict, repr=False)

    @cached_property
    def white(self) -> Float64:
        """Takes noise at the centre, at unit exposure, to the unit matrix, (d, d)."""
        return whitening(self.space.noise(self.corners.mean(axis=0)))

    @cached_property
    def _error(self) -> Float64:
        """Variance (M, M) of each share (columns) at unit exposure in a spectrum that is one corner (rows)."""
        slope, _ = self._map(np.ones(len(self.corners), dtype=np.bool_))
        noise = np.stack([self.space.noise(corner) for corner in self.corners])
        return np.asarray(np.einsum("im,kij,jm->km", slope, noise, slope))

    @cached_property
    def off(self) -> Float64:
        """Whitened axes off the hull of the corners, (d, d - M + 1)."""
        steps = (self.corners[1:] - self.corners[0]) @ self.white.T
        axes, _ = np.linalg.qr(steps.T, mode="complete")
        return np.asarray(axes[:, len(steps) :])

    def _map(self, support: NDArray[np.bool_]) -> tuple[Float64, Float64]:
        """Shares of some corners as slope (d, M) and constant (M,)."""
        key = support.tobytes()
        if key not in self._maps:
            rows = np.flatnonzero(support)
            slope, constant = np.zeros((self.corners.shape[1], len(support))), np.zeros(len(support))
            origin = self.corners[rows[0]]
            steps = (self.corners[rows[1:]] - origin) @ self.white.T
            others = self.white.T @ np.linalg.pinv(steps)
            slope[:, rows[1:]], slope[:, rows[0]] = others, -others.sum(axis=1)
            constant[rows[0]] = 1.0
            self._maps[key] = slope, constant - origin @ slope
        return self._maps[key]

    def shares(self, z: Float64) -> Float64:
        """Shares (n, M) of coordinates (n, d)."""
        m = len(self.corners)
        out, support = np.empty((len(z), m)), np.ones((len(z), m), dtype=np.bool_)
        waiting = np.arange(len(z))
        while waiting.size:
            patterns, which = _patterns(support[waiting])
            for k, pattern in enumerate(patterns):
                rows = waiting[which == k]
                slope, constant = self._map(pattern)
                out[rows] = z[rows] @ slope + constant
            lowest = out[waiting].argmin(axis=1)
            negative = out[waiting, lowest] < 0.0
            waiting = waiting[negative]
            support[waiting, lowest[negative]] = False
        return out

    def errors(self, shares: Float64, exposure: Float64) -> Float64:
        """Standard errors (n, M) of shares, as if none were bounded: what noise alone does to them."""
        # Which of the end-members each count came from is chance, too.
        variance = shares @ self._error + self.space.shot * shares * (1.0 - shares)
        return np.asarray(np.sqrt(variance / np.maximum(exposure, FAINTEST)[:, None]))

    @cached_property
    def _wide(self) -> tuple[Float64, Float64]:
        """Axes (d, d) along which both noise and a simplex evenly filled are diagonal, and the variances of that (d,).

        Of coordinates less the mean corner; m corners about their mean have 1 / (m (m + 1)) of their scatter.
        """
        m = len(self.corners)
        away = (self.corners - self.corners.mean(axis=0)) @ self.white.T
        values, vectors = np.linalg.eigh(away.T @ away / (m * (m + 1)))
        return self.white.T @ vectors, np.maximum(values, 0.0)

    def among(self, z: Float64, exposure: Float64) -> tuple[Float64, Float64]:
        """Coordinates (n, d) most likely by noise and by what a simplex evenly filled has, and errors of shares (n, M).

        The linear estimate of least expected squared error (Wiener), whose errors are those left: a spectrum of a few
        counts is expected near the middle, one of many where it was measured.
        """
        axes, variance = self._wide
        centre, exposure = self.corners.mean(axis=0), np.maximum(exposure, FAINTEST)[:, None]
        believed = variance * exposure / (1.0 + variance * exposure)
        back = np.linalg.inv(axes)
        slope, _ = self._map(np.ones(len(self.corners), dtype=np.bool_))
        left = believed / exposure @ (back @ slope) ** 2
        return centre + (z - centre) @ axes * believed @ back, np.sqrt(left)

    def residual(self, z: Float64) -> Float64:
        """What no mixture of the corners explains, in units of noise at unit exposure, (n, d - M + 1)."""
        return np.asarray((z - self.corners[0]) @ self.white.T @ self.off)


def _patterns(support: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Different rows of support (n, M), and which of them each row is."""
    code = support @ (1 << np.arange(support.shape[1]))
    _, first, which = np.unique(code, return_index=True, return_inverse=True)
    return support[first], which
