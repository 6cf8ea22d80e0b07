"""Positions to learn from and to judge by while a scan runs: as many of each phase, and none that is flagged."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.linear import LinearEngine

_ONE_IN: Final = 5
_MULTIPLIER: Final = 2654435761


def judges(index: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether positions (n,) are kept for judging: one in five, scattered, the same ones for ever."""
    mixed = (np.asarray(index, dtype=np.uint64) * np.uint64(_MULTIPLIER)) & np.uint64(0xFFFFFFFF)
    return np.asarray((mixed >> np.uint64(16)) % np.uint64(_ONE_IN) == 0)


def draw(
    engine: LinearEngine, label: NDArray[np.int32] | None, n: int, *, judged: bool, seed: int = 0
) -> NDArray[np.int64]:
    """Draw up to n positions of which the counts are known, as many of each phase as can be had.

    Parameters
    ----------
    engine : LinearEngine
    label : ndarray, (P,), optional
        Phase of each position, -1 where it is not known: that is one more.
    judged : bool
        Positions kept for judging, or all others.
    """
    score_map = engine.score_map
    index = score_map.measured
    index = index[judges(index) == judged]
    clean = ~(engine.p_value[index] <= engine.config.false_alarm) & ~engine.held[index]
    index = index[clean & score_map.store.complete(index) & (score_map.totals[index] > 1.0)]
    rng = np.random.default_rng(seed)
    index = rng.permutation(index)
    if label is None or index.size <= n:
        return index[:n]
    return np.concatenate([index[rows] for rows in _alike(label[index], n)])


def _alike(label: NDArray[Any], n: int) -> list[NDArray[np.int64]]:
    """Rows of each label, together n: what a small one does not use, the others share."""
    groups = sorted((np.flatnonzero(label == value) for value in np.unique(label)), key=len)
    taken, left = [], n
    for number, rows in enumerate(groups):
        taken.append(rows[: left // (len(groups) - number)])
        left -= taken[-1].size
    return taken


def quanta(engine: LinearEngine, index: NDArray[Any]) -> NDArray[np.float32]:
    """Accumulated quanta (n, D) of positions."""
    counts = engine.score_map.counts(index)
    noise = engine.noise
    if noise.is_poisson:
        return counts
    offset = (engine.visits[index] * noise.offset).astype(np.float32)
    return np.asarray((counts - offset[:, None]) / np.float32(noise.gain))
