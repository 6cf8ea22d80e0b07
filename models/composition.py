"""What a spectrum is made of, whatever its brightness: scores per unit of signal, with their known noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import Float32, Float64
from models.noise import NoiseModel
from models.shrink import ScoreShrinkage

_FAINTEST = 1e-6


@dataclass(frozen=True)
class CompositionSpace:
    """Coordinates (d,) of spectra of unit sum under one basis, and the noise of a spectrum there.

    A raw score r of a spectrum of net signal u (its counts, less the detector's offset) is u t plus noise. All t lie in
    the plane t . s = 1, s the sums of the eigenspectra, because every spectrum of unit sum does; coordinates are those
    within that plane, t = foot + axes z. Brightness drops out, and mixtures of two spectra lie on a line between them.

    Attributes
    ----------
    foot : ndarray, (K,)
        Point of the plane nearest to the origin.
    axes : ndarray, (K, d)
        Orthonormal directions in the plane, d = K - 1.
    shot : float
        Share of a spectrum's variance that comes with its signal; the rest is spread evenly over channels.
    pairs : ndarray, (K + 1, K, K)
        Sum over channels of p p' times each eigenspectrum, and (last) times 1 / D, p the projector's rows.
    centre, unpull : ndarray, (K,) and (K, K)
        Spectra that the basis was fitted on are too far from the centre (`ScoreShrinkage.pull`); this takes them back.
    """

    foot: Float64
    axes: Float64
    shot: float
    pairs: Float64
    centre: Float64
    unpull: Float64

    @property
    def n_axes(self) -> int:
        """Dimensions, d."""
        return int(self.axes.shape[1])

    @classmethod
    def of_basis(
        cls, eigenspectra: Float32, projector: Float32, shrinkage: ScoreShrinkage, shot: float = 1.0
    ) -> CompositionSpace:
        """Space of a basis: eigenspectra (K, D) in counts and projector (D, K), both of components alone."""
        k, n_channels = eigenspectra.shape
        sums = eigenspectra.sum(axis=1, dtype=np.float64)
        foot = sums / max(float(sums @ sums), 1e-300)
        full, _ = np.linalg.qr(np.concatenate([sums[:, None], np.eye(k)], axis=1))
        products = (projector[:, :, None] * projector[:, None, :]).reshape(n_channels, k * k)
        weights = np.concatenate([eigenspectra, np.full((1, n_channels), 1.0 / n_channels, np.float32)])
        pairs = np.asarray(weights @ products, dtype=np.float64).reshape(k + 1, k, k)
        unpull = (shrinkage.axes / shrinkage.pull) @ shrinkage.axes.T
        return cls(foot, full[:, 1:k], shot, pairs, shrinkage.centre, unpull)

    def coordinates(self, raw: Float32, signal: Float64) -> Float64:
        """Coordinates (n, d) of raw scores (n, K), free of offset, of spectra with this net signal (n,)."""
        away = raw / np.maximum(signal, _FAINTEST)[:, None] - self.centre
        return np.asarray((away @ self.unpull + (self.centre - self.foot)) @ self.axes, dtype=np.float64)

    def lift(self, z: Float64) -> Float64:
        """Scores per unit of signal (n, K) of coordinates (n, d)."""
        return self.foot + z @ self.axes.T

    def noise(self, z: Float64) -> Float64:
        """Covariance (..., d, d) of the coordinates of a spectrum at z (..., d), times its exposure.

        By the delta method on t = r / u: each channel's noise moves r by its projector row p, and u by 1, so that the
        covariance is the sum of its variance times (p - t)(p - t)'. For Poisson counts of spectrum q it is the sum of
        q p p' less t t', which is the unit matrix only for spectra like the mean: a line of a rare element is noisier.
        """
        t = self.lift(z)
        weight = np.concatenate([self.shot * t, np.full((*t.shape[:-1], 1), 1.0 - self.shot)], axis=-1)
        second = np.tensordot(weight, self.pairs, axes=1)
        # The first moment of p under the signal is t itself (the projector inverts the basis).
        covariance = second - t[..., :, None] * t[..., None, :] * self.shot
        # Pull makes both signal and noise longer, the noise by its root.
        inside = self.axes.T @ covariance @ self.unpull @ self.axes
        values, vectors = np.linalg.eigh((inside + inside.swapaxes(-1, -2)) / 2)
        # A spectrum with negative counts (an extrapolated end) has no noise of its own: keep it near that of the mean.
        return np.asarray((vectors * np.maximum(values, 0.05)[..., None, :]) @ vectors.swapaxes(-1, -2))


def net_signal(totals: Float64, visits: NDArray[np.uint32], noise: NoiseModel, n_channels: int) -> Float64:
    """Counts (n,) less the detector's offset, over all channels."""
    return np.asarray(totals - visits * (noise.offset * n_channels), dtype=np.float64)


def exposure_of(signal: Float64, variance: Float64) -> Float64:
    """Measurements of unit variance that spectra are worth (n,): signal squared over variance; counts, if Poisson.

    `variance` (n,) is summed over channels.
    """
    squared = np.maximum(signal, 0.0) ** 2
    return np.asarray(np.divide(squared, variance, out=np.zeros_like(squared), where=variance > 0))
