"""Features that were accepted as known: what they explain is no anomaly, and which positions have them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.base import Float32, Float64, Index
from models.grouping import Group
from models.novelty import Positions

_LEAST_PART = 0.2
"""Of the abundance that the group had, for a position to have the feature at all."""
_ALIKE = 0.7
"""Cosine of the angle between pooled residuals of one feature: of some ten counts each it is .8."""
_SIGMA = 5.0
"""A template is fitted to every position of a map: chance alone gives none in a million."""


class Accepted:
    """Accepted features, and the positions that have them.

    Parameters
    ----------
    n_positions, n_channels : int

    Attributes
    ----------
    member : ndarray of int, (P,)
        Which feature a position has, -1 for none.
    part : ndarray of float32, (P,)
        How much of it, 1 as in its group.
    spectra : ndarray of float32, (G, D)
        Each feature for unit exposure.
    """

    def __init__(self, n_positions: int, n_channels: int) -> None:
        self.member: NDArray[np.int16] = np.full(n_positions, -1, dtype=np.int16)
        self.part: Float32 = np.zeros(n_positions, dtype=np.float32)
        self.spectra: Float32 = np.zeros((0, n_channels), dtype=np.float32)
        self._cursor = n_positions

    def __len__(self) -> int:
        return len(self.spectra)

    def add(self, group: Group, exposure: float) -> int:
        """Take a group, whose positions were exposed so much in all; the number of its feature."""
        number = len(self)
        unit = group.spectrum / np.float32(max(exposure, 1e-12))
        self.spectra = np.concatenate([self.spectra, unit[None, :]])
        self.join(group.positions, np.full(group.positions.size, number), 1.0)
        self._cursor = 0
        return number

    def positions(self, number: int, least: float = 0.0) -> Positions:
        """Positions that have at least such a part of a feature, rising."""
        return np.flatnonzero((self.member == number) & (self.part >= least))

    def join(self, index: Index | Positions, number: NDArray[np.int64], part: Float64 | float) -> None:
        """Note that positions (n,) have a part (n,) of a feature (n,); -1 changes nothing."""
        if not len(self):
            return
        rows = np.flatnonzero(number >= 0)
        self.member[index[rows]] = number[rows]
        self.part[index[rows]] = part if isinstance(part, float) else part[rows]

    def alike(self, spectrum: Float32) -> int:
        """Number of the feature that a spectrum (D,) has the shape of, -1 for none."""
        size = np.linalg.norm(self.spectra, axis=1) * np.linalg.norm(spectrum)
        shared = np.divide(self.spectra @ spectrum, size, out=np.zeros(len(self)), where=size > 0)
        return int(shared.argmax()) if len(self) and shared.max() > _ALIKE else -1

    @property
    def sweeping(self) -> bool:
        """Whether positions have not been looked at since a feature was accepted."""
        return self._cursor < self.member.size

    def next_positions(self, n: int) -> Positions:
        """The next positions to look at."""
        first, self._cursor = self._cursor, min(self._cursor + n, self.member.size)
        return np.arange(first, self._cursor)

    def parts(self, residual: Float32, variance: Float64, exposure: Float64) -> tuple[Float64, Float64]:
        """Abundance of each feature in spectra (n, G), 1 as in its group, and over how many standard errors.

        Parameters
        ----------
        residual, variance : ndarray, (n, D)
            What the components do not explain, and the noise variance of what they do.
        exposure : ndarray, (n,)
        """
        spectra = self.spectra.astype(np.float64)
        spread = np.maximum(variance, 1e-12)
        height = np.maximum(exposure, 1e-12)[:, None]
        along = ((residual / spread) @ spectra.T) * height
        # Its own counts are noise as well: without them a single count in an empty channel would be proof.
        own = np.stack([(s**2 / (spread + height * np.maximum(s, 0.0))).sum(axis=1) for s in spectra], axis=1)
        weight = ((1.0 / spread) @ (spectra**2).T) * height**2
        part = along / np.maximum(weight, 1e-300)
        return part, part * np.sqrt(own) * height

    def found_in(self, residual: Float32, variance: Float64, exposure: Float64) -> tuple[NDArray[np.int64], Float64]:
        """Which feature (n,) spectra clearly have, -1 for none, and the part (n,) of it."""
        part, sigma = self.parts(residual, variance, exposure)
        best = np.argmax(sigma, axis=1)
        rows = np.arange(len(best))
        clear = (sigma[rows, best] > _SIGMA) & (part[rows, best] > _LEAST_PART)
        return np.where(clear, best, -1), part[rows, best]
