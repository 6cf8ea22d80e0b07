"""Flagged positions: which of them are to be tested again, and which must wait until the scan has shown what they are.

In its first pass a scan comes upon one phase after the other, and the first spectra of each are as unlike everything
before as those of a rare one. What tells them apart is what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.novelty import Positions, crowd_size

_LINES = 3
_AT_ONCE, _IN_TURN = 256, 32


@dataclass(frozen=True)
class Reviewed:
    """Positions of flagged spectra that were tested again.

    Attributes
    ----------
    cleared : ndarray of int
        Those that are no anomaly (any more).
    released : ndarray of int
        Those that had been kept from teaching, and are so no more: of those, and of crowds of like ones.
    confirmed : ndarray of int
        Those whose flags need not wait any more.
    """

    cleared: Positions
    released: Positions
    confirmed: Positions


class Suspects:
    """Flagged positions of a scan.

    A flag waits for as many spectra as would on average bring another one like it, if as many were still to come as
    are structure (`models.novelty.crowd_size`) and nobody knew where; but for no more than three lines of a square
    scan, where neighbours are alike. It does not wait once as many spectra came as there are positions.

    Parameters
    ----------
    n_positions : int
    """

    def __init__(self, n_positions: int) -> None:
        self._patience = min(n_positions // crowd_size(), _LINES * isqrt(n_positions))
        self._since = np.full(n_positions, -1, dtype=np.int64)
        self._waits = np.zeros(n_positions, dtype=np.bool_)
        self._next = 0
        self.n_seen = 0
        """Spectra that came in all."""

    def add(self, index: NDArray[Any], taught: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Take flagged positions (n,), and which of them taught all the same; which have to wait (n,)."""
        waits = taught | (self.n_seen <= self._since.size)
        self._since[index], self._waits[index] = self.n_seen, waits
        return waits

    def settled(self, positions: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether flags of positions (n,) do not wait."""
        return np.asarray(~self._waits[positions])

    @property
    def ripe(self) -> Positions:
        """Positions that have waited for long enough, rising."""
        waiting = np.flatnonzero(self._waits)
        if self.n_seen >= self._since.size:
            return waiting
        return waiting[self.n_seen - self._since[waiting] >= self._patience]

    def to_review(self, allowed: Callable[[Positions], NDArray[np.bool_]]) -> Positions:
        """Those to be tested again now, rising: what has waited for long enough, and some of the others in turn.

        Parameters
        ----------
        allowed : callable
            Tells which of some positions (n,) can be tested.
        """
        suspects = np.flatnonzero(self._since >= 0)
        suspects = suspects[allowed(suspects)]
        first = int(np.searchsorted(suspects, self._next))
        some = suspects[first : first + _IN_TURN]
        self._next = int(some[-1]) + 1 if first + some.size < suspects.size else 0
        ripe = np.intersect1d(self.ripe, suspects, assume_unique=True)
        return np.union1d(ripe[:_AT_ONCE], some)

    def clear(self, positions: Positions) -> None:
        """These are no anomalies."""
        self._since[positions] = -1
        self._waits[positions] = False

    def settle(self) -> None:
        """Let no flag wait any more: nothing further comes."""
        self._waits[:] = False

    def confirm(self, positions: Positions) -> Positions:
        """Let flags of positions wait no more where they have for long enough; those that do not."""
        confirmed = np.intersect1d(positions, self.ripe, assume_unique=True)
        self._waits[confirmed] = False
        return confirmed
