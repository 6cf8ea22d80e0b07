"""Shares of known spectra in counts, by their full likelihood, in as few sums of channels as tell as much."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Counts, Float64, as_dense
from models.mixture import share_errors
from models.noise import NoiseModel
from models.share_kernel import fit_rows

_ENOUGH = 0.99


def pooled_channels(spectra: Float64, enough: float = _ENOUGH) -> NDArray[np.int64]:
    """Group (D,) of each channel, such that sums over groups tell `enough` of what channels tell of the amounts.

    Channels in which the spectra (M, D) have the same proportions say the same of a mixture: summing them loses
    nothing. The group that loses most is cut in two until no direction has lost more than it may of its Fisher
    information, at an even mixture. Channels in which nothing is have a group of their own, the last.
    """
    total = spectra.sum(axis=0)
    lit = np.flatnonzero(total > 0)
    point, weight = (spectra[:, lit] / total[lit]).T, total[lit]
    whole = (point.T * weight) @ point
    # What channels do not tell either is not lost.
    root = np.linalg.cholesky(whole + 1e-9 * np.trace(whole) * np.eye(len(whole)))
    point = np.linalg.solve(root, point.T).T
    groups = [np.arange(lit.size)]
    lost = [_scatter(point, weight)]
    while np.linalg.eigvalsh(np.sum(lost, axis=0))[-1] > 1.0 - enough:
        worst = int(np.argmax([np.trace(m) for m in lost]))
        rows, axis = groups[worst], np.linalg.eigh(lost[worst])[1][:, -1]
        along = point[rows] @ axis
        above = along > np.average(along, weights=weight[rows])
        groups[worst : worst + 1] = [rows[~above], rows[above]]
        lost[worst : worst + 1] = [_scatter(point[r], weight[r]) for r in (rows[~above], rows[above])]
    group = np.full(total.size, len(groups))
    for number, rows in enumerate(groups):
        group[lit[rows]] = number
    return group


def _scatter(point: Float64, weight: Float64) -> Float64:
    """Information (M, M) that the sum of channels lacks: their weighted scatter about their mean."""
    away = point - weight @ point / weight.sum()
    return np.asarray((away.T * weight) @ away)


@dataclass(frozen=True)
class ShareFit:
    """Fits spectra of unit sum (M, D) to counts; shares are of the signal."""

    spectra: Float64

    @cached_property
    def _group(self) -> NDArray[np.int64]:
        return pooled_channels(self.spectra)

    @cached_property
    def _sums(self) -> NDArray[np.float32]:
        """Which group each channel is in, as a product with counts wants it, (D, G)."""
        return np.eye(int(self._group.max()) + 1, dtype=np.float32)[self._group]

    @cached_property
    def _sparse_sums(self) -> sparse.csr_array:
        return sparse.csr_array(self._sums)

    def _pooled(self, counts: Counts) -> Float64:
        """Sums (n, G) of groups of channels."""
        if isinstance(counts, sparse.csr_array):
            return as_dense(counts @ self._sparse_sums).astype(np.float64)
        return np.asarray(np.asarray(counts, dtype=np.float32) @ self._sums, dtype=np.float64)

    def fit(self, counts: Counts, noise: NoiseModel, visits: NDArray[Any]) -> tuple[Float64, Float64]:
        """Shares (n, M), not negative and of unit sum, of accumulated counts (n, D), and their standard errors.

        NaN where there is no signal. Gain, offset and read noise are met by an equivalent Poisson variable with a
        pedestal (Snyder et al., J. Opt. Soc. Am. A 12 (1995) 272).
        """
        pooled, size = self._pooled(counts), np.bincount(self._group)
        gain = noise.gain if noise.gain > 0 else 1.0
        times = np.asarray(visits, dtype=np.float64)[:, None]
        pedestal = times * (noise.read_sigma / gain) ** 2 * size
        quanta = np.maximum((pooled - times * noise.offset * size) / gain + pedestal, 0.0)
        unit = np.stack([np.bincount(self._group, row) for row in self.spectra])
        lit = unit.sum(axis=0) > 0
        amounts, covariance = fit_rows(*(np.ascontiguousarray(a[:, lit]) for a in (quanta, unit, pedestal)))
        total = amounts.sum(axis=1, keepdims=True)
        shares = np.divide(amounts, total, out=np.full_like(amounts, np.nan), where=total > 0)
        return shares, share_errors(amounts, covariance)
