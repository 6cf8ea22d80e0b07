"""What a scan could do that knows the phases: a bound for the closed-loop benchmark, without pipeline or instrument.

Phases, their spectra and how often they and their mixtures occur are known; where they are is not. Each position has
the exact posterior probability of the pure phases and of mixtures of two in fixed places between them, from its own
counts. What a scan that has to learn its phases does worse than this is the price of learning.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from models.base import Float64
from models.dwell import Budget, Limits, allocate
from models.information import chernoff_informations
from models.prospects import prospects
from models.sampling import inpainted
from models.stopping import misclassified_area
from simulator.raster import sparse_order
from simulator.sample import Specimen

KnownMode = Literal["uniform", "adaptive", "oracle"]
MOST_DOSE = 40
"""Planned dwells in the mean after which a scan is given up."""
_PLACES, _PURE, _RARE = 20, 0.98, 1e-4
_SURE, _OPEN = 0.4, 0.03
_ROUND = 0.05
"""Part of a planned pass that is measured between two looks of an adaptive scan."""


@dataclass
class Known:
    """Positions (P,) of a specimen, how much each has had, and what is known of it.

    Attributes
    ----------
    counts : float
        In a planned dwell of a position; dwells are in planned dwells.
    """

    specimen: Specimen
    counts: float
    seed: int

    def __post_init__(self) -> None:
        shares = self.specimen._shares()
        self._rng = np.random.default_rng(self.seed)
        self.truth = self.specimen.phase_map().ravel()
        self.spent: Float64 = np.zeros(self.truth.size)
        self._rates = self.counts * self.specimen.expected()
        whole = self.specimen.endmembers.sum(axis=1, keepdims=True)
        shapes = self.specimen.endmembers / whole
        m = len(shapes)
        pairs = list(combinations(range(m), 2))
        place = (np.arange(_PLACES) + 0.5) / _PLACES
        mixed = [s * shapes[j] + (1.0 - s) * shapes[i] for i, j in pairs for s in place]
        self._first = np.concatenate([np.arange(m), [j if s > 0.5 else i for i, j in pairs for s in place]])
        self._n_phases = m
        spectra = np.maximum(np.concatenate([shapes, np.reshape(mixed, (-1, shapes.shape[1]))]), 1e-12)
        self._logs = np.log(spectra).T
        self._log_odds: Float64 = np.tile(np.log(self._prior(shares, pairs)), (self.truth.size, 1))
        self._information = chernoff_informations(shapes) * float(self._rates.sum(axis=1).mean())

    def _prior(self, shares: Float64, pairs: list[tuple[int, int]]) -> Float64:
        pure = (shares > _PURE).mean(axis=0)
        two = np.sort(np.argsort(shares, axis=1)[:, -2:], axis=1)
        between = shares.max(axis=1) <= _PURE
        mixed = [np.mean(between & (two == pair).all(axis=1)) / _PLACES for pair in pairs]
        prior = np.maximum(np.concatenate([pure, np.repeat(mixed, _PLACES)]), _RARE / _PLACES)
        return np.asarray(prior / prior.sum())

    def measure(self, dwell: Float64) -> None:
        """Measure all positions (P,) for so many planned dwells."""
        at = np.flatnonzero(dwell > 0)
        self._log_odds[at] += self._rng.poisson(dwell[at, None] * self._rates[at]) @ self._logs
        self.spent[at] += dwell[at]
        self._look(at)

    def _look(self, at: NDArray[np.int64]) -> None:
        posterior = np.exp(self._log_odds[at] - self._log_odds[at].max(axis=1, keepdims=True))
        posterior /= posterior.sum(axis=1, keepdims=True)
        dominant = np.stack([posterior[:, self._first == k].sum(axis=1) for k in range(self._n_phases)], axis=1)
        if at.size == self.truth.size:
            self.error, self.mixed = np.zeros((2, at.size))
            self.label, self.rate = np.zeros(at.size, dtype=np.int64), np.zeros(at.size)
        order = np.argsort(dominant, axis=1)
        self.label[at] = order[:, -1]
        self.error[at] = 1.0 - dominant.max(axis=1)
        self.mixed[at] = posterior[:, self._n_phases :].sum(axis=1)
        self.rate[at] = self._information[order[:, -1], order[:, -2]]

    @property
    def dose(self) -> float:
        """Counts a position so far."""
        return float(self.spent.mean()) * self.counts

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Which positions are called by a wrong phase."""
        return np.asarray(self.label != self.truth)


def known_scan(
    specimen: Specimen, seed: int, mode: KnownMode, counts: float, least: float, first: float = 1.0
) -> list[tuple[float, float]]:
    """Counts a position and error of the phase map, until no more than `least` of the area is called wrongly.

    Parameters
    ----------
    counts : float
        In a planned dwell.
    first : float
        Dwell of the first pass, in planned ones.
    """
    known, points = Known(specimen, counts, seed), list[tuple[float, float]]()
    n, dwell = known.truth.size, np.full(known.truth.size, first)
    limits = Limits(0.25, 50.0)
    while True:
        known.measure(dwell)
        points.append((known.dose, float(known.wrong.mean())))
        if points[-1][1] <= least or known.dose > MOST_DOSE * counts:
            return points
        if mode == "uniform":
            dwell = np.full(n, max(0.25, 0.05 * float(known.spent.mean())))
        elif mode == "oracle":
            dwell = np.where(known.wrong, 0.25, 0.0)
        else:
            some = prospects(
                np.where(known.error > 0.1 * least, known.error, 0.0), known.mixed, known.rate, known.spent
            )
            dwell = allocate(some, known.spent, Budget(_ROUND * n), limits)
            if not dwell.any():
                return points


def known_sparse(
    specimen: Specimen, seed: int, share: float, counts: float, objects: list[NDArray[np.int64]]
) -> tuple[float, float, float]:
    """Sparse scan that looks for the rarest phase: a share of the positions, then the neighbours of what is found.

    Positions are measured on until each may be wrong by three in a hundred.

    Returns
    -------
    float, float, float
        Counts a position, error of the map that is filled from the nearest ones, part of the objects that are found.
    """
    known = Known(specimen, counts, seed)
    shape, n = specimen.nav_shape, known.truth.size
    rarest = int(known.truth[objects[0][0]])
    known.measure(np.full(n, 1e-9))
    known.spent[:] = 0.0
    dwell = np.zeros(n)
    dwell[sparse_order(shape, share, seed=seed)] = 1.0
    while dwell.any():
        known.measure(dwell)
        seen = known.spent > 0
        found = (seen & (known.label == rarest) & (known.error < _SURE)).reshape(shape)
        beside = binary_dilation(found, np.ones((3, 3))).ravel() & ~seen
        dwell = np.where(seen & (known.error > _OPEN), 0.5, beside.astype(np.float64))
    measured = np.flatnonzero(known.spent > 0)
    posterior = np.eye(len(specimen.phases))[known.label[measured]]
    label = inpainted(posterior, measured, shape).label
    part = float(np.mean([np.mean(label[o] == rarest) >= 0.5 for o in objects]))
    return known.dose, float(np.mean(label != known.truth)), part


def known_stop(specimen: Specimen, seed: int, target: float, risk: float, counts: float) -> tuple[float, float, float]:
    """Uniform scan, stopped where the area called wrongly is below a target but for a risk.

    Returns
    -------
    float, float, float
        Counts a position at the stop and at the earliest stop, and error at the stop.
    """
    known = Known(specimen, counts, seed)
    n, earliest, dwell = known.truth.size, float("nan"), 1.0
    while True:
        known.measure(np.full(n, dwell))
        error = float(known.wrong.mean())
        if not np.isfinite(earliest) and error <= target:
            earliest = known.dose
        if misclassified_area(known.error, n, risk)[1] <= target:
            return known.dose, earliest if np.isfinite(earliest) else known.dose, error
        dwell = max(0.05, 0.02 * float(known.spent.mean()))
