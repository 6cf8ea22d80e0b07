"""How often chance alone gives a score: weighted draws, and a generalised Pareto law where they end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.base import Float32, Float64

_STEP, _TOP = 0.02, 40.0
_LEAST_DRAWS = 64.0
_MOST_GROUPS = 4


@dataclass(frozen=True)
class ParetoTail:
    """Generalised Pareto law of scores above `start`, which a share `above` of all exceeds."""

    start: float
    above: float
    scale: float
    shape: float

    @classmethod
    def fit(cls, score: Float64, weight: Float64, start: float) -> ParetoTail:
        """Fit to weighted draws by probability-weighted moments (Hosking and Wallis, Technometrics 29 (1987) 339).

        The shape is kept between 0, an exponential law, and 0.2: a law with an end would call what lies beyond
        impossible, and heavier ones than this do not come from likelihood ratios.
        """
        total = float(weight.sum())
        keep = score >= start
        order = np.argsort(score[keep])
        over, share = score[keep][order] - start, weight[keep][order]
        mass = float(share.sum())
        if not mass > 0 or not over.max() > 0:
            return cls(start, mass / total if total > 0 else 0.0, 1.0, 0.0)
        share = share / mass
        below = np.cumsum(share) - 0.5 * share
        mean = float(share @ over)
        upper = float(share @ (over * (1.0 - below)))
        shape = float(np.clip(2.0 - mean / max(mean - 2.0 * upper, 1e-12), 0.0, 0.2))
        return cls(start, mass / total, mean * (1.0 - shape), shape)

    def survival(self, score: Float64) -> Float64:
        """Chance of a score at least this high (n,), for scores of `start` or more."""
        return np.asarray([_survival_of(s, self.start, self.above, self.scale, self.shape) for s in score.tolist()])


@dataclass(frozen=True)
class NullTail:
    """p-values of scores, for spectra in groups of like exposure.

    Attributes
    ----------
    edges : ndarray, (G - 1,)
        Exposures between the groups.
    table : ndarray, (G, T)
        Share of chance scores at or above each multiple of 0.02, as if one draw more had been there: the conformal
        p-value (Bates et al., Ann. Stat. 51 (2023) 149) of weighted draws.
    tails : tuple of ParetoTail
        What takes over where a group has too few draws.
    """

    edges: Float64
    table: Float64
    tails: tuple[ParetoTail, ...]

    @classmethod
    def fit(cls, score: NDArray[np.floating], weight: Float64, exposure: Float64) -> NullTail:
        """From scores (n,) of draws with these weights and exposures."""
        score = np.asarray(score, dtype=np.float64)
        edges = _edges(exposure, weight)
        group = np.searchsorted(edges, exposure, side="right")
        tables, tails = [], []
        for number in range(edges.size + 1):
            here = group == number
            table, start = _survival(score[here], weight[here])
            tables.append(table)
            tails.append(ParetoTail.fit(score[here], weight[here], start))
        return cls(edges, np.stack(tables), tuple(tails))

    def p_value(self, score: Float32, exposure: Float64) -> Float64:
        """Chance (n,) of a score at least this high for a spectrum of this exposure."""
        return np.asarray(_p_values(score, exposure, self.edges, self.table, self._laws))

    @cached_property
    def _laws(self) -> Float64:
        """Start, share above, scale and shape of each tail, (G, 4)."""
        return np.array([(tail.start, tail.above, tail.scale, tail.shape) for tail in self.tails])


@njit(cache=True, nogil=True)
def _survival_of(score: float, start: float, above: float, scale: float, shape: float) -> float:
    """Chance of a score at least this high under a generalised Pareto law above its start."""
    over = max(score - start, 0.0) / scale
    if shape < 1e-6:
        return float(above * math.exp(-over))
    return float(above * math.exp(-math.log1p(shape * over) / shape))


@njit(cache=True, nogil=True)
def _p_values(score: Float32, exposure: Float64, edges: Float64, table: Float64, laws: Float64) -> Float64:
    """p-values (n,) from the table, or by the law of the group where a score is beyond its start."""
    found = np.empty(score.size)
    for i in range(score.size):
        value = float(score[i])
        group = 0
        while group < edges.size and exposure[i] >= edges[group]:
            group += 1
        start, above, scale, shape = laws[group]
        if value > start and above > 0.0:
            p = _survival_of(value, start, above, scale, shape)
        else:
            # What is no number is no more than chance gives.
            p = table[group, int(min(value / _STEP, table.shape[1] - 1.0)) if value > 0.0 else 0]
        found[i] = min(max(p, 1e-300), 1.0)
    return found


def _edges(exposure: Float64, weight: Float64) -> Float64:
    """Exposures that cut draws into groups of equal weight: one for each octave that most of them span."""
    order = np.argsort(exposure)
    share = np.cumsum(weight[order]) / weight.sum()

    def level(part: Float64 | float) -> Float64:
        return np.asarray(exposure[order][np.minimum(np.searchsorted(share, part), order.size - 1)])

    low, high = float(level(0.05)), float(level(0.95))
    n = int(np.clip(np.rint(np.log2(max(high, 1e-12) / max(low, 1e-12))) if high > low > 0 else 1, 1, _MOST_GROUPS))
    edges = np.unique(level(np.arange(1, n) / n))
    return np.asarray(edges[edges > exposure.min()])


def _survival(score: Float64, weight: Float64) -> tuple[Float64, float]:
    """Table of the share at or above each step, and the score above which too few draws tell it."""
    size = round(_TOP / _STEP) + 1
    step = np.minimum(score / _STEP, size - 1).astype(np.int64)
    above = np.cumsum(np.bincount(step, weight, minlength=size)[::-1])[::-1]
    squares = np.cumsum(np.bincount(step, weight**2, minlength=size)[::-1])[::-1]
    n = np.divide(above**2, squares, out=np.zeros(size), where=squares > 0)
    enough = n >= min(_LEAST_DRAWS, score.size / 4)
    start = float(np.flatnonzero(enough)[-1] * _STEP) if enough.any() else 0.0
    raised = above / weight.sum() * (1.0 + 1.0 / np.maximum(n, 1.0))
    return np.minimum(raised, 1.0), start
