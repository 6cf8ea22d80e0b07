"""What it takes to tell phases apart: Chernoff information and Kullback-Leibler divergence of Poisson spectra."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from models.base import Float64

_GRID = np.linspace(0.02, 0.98, 49)
_LEAST_SHARE = 1e-9


@dataclass(frozen=True)
class Ceiling:
    """What adaptive dwell can save on the two phases that are hardest to tell apart.

    Attributes
    ----------
    pair : (int, int)
    chernoff, divergence : float
        Chernoff information, and the smaller Kullback-Leibler divergence, of the pair for unit exposure.
    """

    pair: tuple[int, int]
    chernoff: float
    divergence: float

    @property
    def ratio(self) -> float:
        """Exposure of a fixed dwell over that of a sequential test for the same small error; 4 for near pairs."""
        return self.divergence / self.chernoff if self.chernoff > 0 else float("nan")

    def fixed_exposure(self, error: float) -> float:
        """Exposure for this error at a fixed dwell, to first order in the logarithm of the error."""
        return float(np.log(1.0 / error) / self.chernoff)

    def sequential_exposure(self, error: float) -> float:
        """Mean exposure for this error where counting stops as soon as a position is decided."""
        return float(np.log(1.0 / error) / self.divergence)


def divergences(endmembers: NDArray[np.floating]) -> Float64:
    """Kullback-Leibler divergence (M, M) of each row's phase from each column's, of rates (M, D) for unit exposure."""
    rates = _positive(endmembers)
    logs = np.log(rates)
    total = rates.sum(axis=1)
    own = xlogy(rates, rates).sum(axis=1)
    return np.asarray(np.maximum(own[:, None] - rates @ logs.T - total[:, None] + total, 0.0))


def chernoff_informations(endmembers: NDArray[np.floating]) -> Float64:
    """Chernoff information (M, M) of all pairs of rates (M, D) for unit exposure, 0 on the diagonal.

    The largest of sum(s p + (1 - s) q - p^s q^(1 - s)) over s between 0 and 1.
    """
    rates = _positive(endmembers)
    m, total = len(rates), rates.sum(axis=1)
    best = np.zeros((m, m))
    for s in _GRID:
        mixed = s * total[:, None] + (1.0 - s) * total - rates**s @ (rates ** (1.0 - s)).T
        np.maximum(best, mixed, out=best)
    # What is largest at s for one order of a pair is so at 1 - s for the other, which a symmetric grid has as well.
    return np.asarray(best * (1.0 - np.eye(m)))


def hardest_pair(endmembers: NDArray[np.floating]) -> Ceiling:
    """The pair of phases with the least Chernoff information.

    Raises
    ------
    ValueError
        Where there are fewer than two phases.
    """
    m = len(endmembers)
    if m < 2:
        raise ValueError(f"{m} phase has no pair that could be told apart")
    information = chernoff_informations(endmembers)
    rows, columns = np.triu_indices(m, 1)
    worst = int(np.argmin(information[rows, columns]))
    i, j = int(rows[worst]), int(columns[worst])
    both = divergences(endmembers)
    return Ceiling((i, j), float(information[i, j]), float(min(both[i, j], both[j, i])))


def _positive(endmembers: NDArray[np.floating]) -> Float64:
    """Rates without zeros, which would be infinitely telling."""
    rates = np.asarray(endmembers, dtype=np.float64)
    return np.asarray(np.maximum(rates, _LEAST_SHARE * rates.mean()))
