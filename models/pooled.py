"""Whether sums of neighbours differ in composition where single spectra do not show it yet.

What lies beside one another is mostly of one phase. Sums over n neighbours have n times the counts, and there are n
times fewer of them: a contrast that covers whole tiles stands root n times higher above the edge of the noise there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.anomaly import ScanWindows
from models.base import Float64
from models.dwell import tiles
from models.linear import LinearEngine
from models.phase_sample import spread_out
from models.preprocess import as_float32
from models.rank import spike_strength

_SIDE, _MOST_TILES = 4, 256
_FEWEST_COUNTS = 5.0
_CHANCE = 3.3
"""Quantile of the Tracy-Widom law (order 1) that chance exceeds once in a thousand."""


def pooled_contrast(engine: LinearEngine, nav_shape: tuple[int, int] | None, peak_channels: float) -> float:
    """Variance of composition between tiles of the map, for each count; 0 where chance explains it.

    Parameters
    ----------
    nav_shape : tuple of int, optional
        Of the grid; without one, positions that follow one another are neighbours.
    peak_channels : float
        Width of a peak, in channels.
    """
    n = engine.n_positions
    number = np.arange(n) // _SIDE**2 if nav_shape is None else tiles(nav_shape, _SIDE)
    usable = (engine.visits > 0) & ~engine.held & engine.score_map.store.complete(np.arange(n))
    some = spread_out(int(number.max()) + 1, _MOST_TILES)
    at = np.flatnonzero(usable & np.isin(number, some))
    if at.size < 2 * _SIDE**2 or not engine.noise.is_poisson:
        return 0.0
    at = at[np.argsort(number[at], kind="stable")]
    starts = np.flatnonzero(np.diff(number[at], prepend=-1))
    width = max(1, round(peak_channels))
    binned = _binned(engine, at, width)
    return contrast(np.add.reduceat(binned, starts, axis=0))


def _binned(engine: LinearEngine, at: NDArray[np.int64], width: int) -> Float64:
    """Counts (n, bins) of positions, piece by piece: spectra take much room."""
    windows, store = ScanWindows(engine.n_channels, width, 1), engine.score_map.store
    pieces = [windows.bins(as_float32(store.rows(at[first : first + 256]))) for first in range(0, at.size, 256)]
    return np.concatenate(pieces).astype(np.float64)


def contrast(sums: Float64) -> float:
    """Variance of composition between spectra (n, D), for each count; 0 where chance explains it.

    The largest eigenvalue of the counts beyond those that one composition lets expect, in units of their noise, is held
    against the law of Tracy and Widom (Johnstone, Ann. Statist. 29 (2001) 295).
    """
    lit = sums.sum(axis=1) > 0
    if not lit.any():
        return 0.0
    sums = _merged(sums[lit], _FEWEST_COUNTS)
    n, d = len(sums) - 1, sums.shape[1] - 1
    if n < 2 or d < 2:
        return 0.0
    total = sums.sum(axis=1, keepdims=True)
    expected = total * (sums.sum(axis=0) / sums.sum())
    largest = float(np.linalg.norm((sums - expected) / np.sqrt(expected), 2) ** 2)
    root_n, root_d = np.sqrt(n - 1.0), np.sqrt(d)
    chance = (root_n + root_d) ** 2 + _CHANCE * (root_n + root_d) * (1.0 / root_n + 1.0 / root_d) ** (1.0 / 3.0)
    if largest <= chance:
        return 0.0
    return float(spike_strength(np.array([largest / n]), d / n)[0] / np.mean(total))


def _merged(sums: Float64, fewest: float) -> Float64:
    """Channels with few counts put together with those after them, until each has so many in the mean."""
    filled = np.cumsum(sums.mean(axis=0)) // fewest
    return np.asarray(np.add.reduceat(sums, np.flatnonzero(np.diff(filled, prepend=-1.0)), axis=1))
