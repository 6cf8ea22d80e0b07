"""Old scores in a new basis: rotated when they are read, so that a new basis costs the same on a map of any size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import Float32

_MOST = 64


class Turns:
    """Which basis the stored scores of each position are in, and the product of rotations from there to the present.

    Parameters
    ----------
    n_positions : int
        Size of the scan; positions without scores are in no basis.
    """

    def __init__(self, n_positions: int) -> None:
        self._basis = np.full(n_positions, -1, dtype=np.int32)
        self._to_present: dict[int, Float32] = {}
        self._present = 0

    def settle(self, index: NDArray[Any]) -> None:
        """Scores of these positions are in the present basis, or there are none yet."""
        self._basis[index] = self._present

    def apply(self, scores: Float32, index: NDArray[Any]) -> None:
        """Take the rows of positions in `scores` (P, K_max) to the present basis, where they are in an earlier one."""
        basis = self._basis[index]
        stale = (basis != self._present) & (basis >= 0)
        if not np.count_nonzero(stale):
            return
        basis, index = basis[stale], index[stale]
        for number in np.unique(basis).tolist():
            turn, rows = self._to_present[number], index[basis == number]
            old, new = turn.shape
            scores[rows, :new] = scores[rows, :old] @ turn
        self._basis[index] = self._present

    def add(self, scores: Float32, turn: Float32) -> None:
        """A new basis: `turn` (K, K') takes scores of the present one to it."""
        self._to_present = {number: earlier @ turn for number, earlier in self._to_present.items()}
        self._to_present[self._present] = turn
        self._present += 1
        if len(self._to_present) > _MOST:
            self._retire(scores)

    def _retire(self, scores: Float32) -> None:
        """Forget bases that no position is in; if there are none, take the positions of the least used one over."""
        first = self._present - min(self._to_present)
        held = np.bincount(self._present - self._basis[self._basis >= 0], minlength=first + 1)
        used = {number: int(held[self._present - number]) for number in self._to_present}
        least = min(used, key=lambda number: used[number])
        self.apply(scores, np.flatnonzero(self._basis == least))
        used[least] = 0
        self._to_present = {number: turn for number, turn in self._to_present.items() if used[number]}
