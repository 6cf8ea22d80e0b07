"""How well a phase map foresees its own errors, told by what became of earlier maps of the same scan.

A map's probabilities of being wrong rest on its phases, which are themselves learnt from few counts: early in a scan
more is wrong than they say. With more counts, positions that were called wrongly are called otherwise. So what an
earlier map got wrong is counted by the present one, which is much surer: a position that has the same label now was
wrong then with the present doubt, one that has another with one minus that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.base import Float32

_PART, _STEP = 0.7, 1.1
_LATELY = 0.9
_WORTH = 16.0
"""Errors that it is worth to know beforehand that maps foresee theirs: of scans that go well, what earlier maps got
wrong beyond what they foresaw is chance, and says nothing of the present one (correlation .1 in 36 scans)."""

FACTOR_ERROR = 0.1
"""Standard error of what maps foresee of their errors, beyond chance: it is all that counts in a large map."""
_UNCHECKED, _COVERED = 2.5, 0.9
"""Errors over foreseen ones where no earlier map has answered yet, and the part of the positions that it has to have:
in first passes of 80 x 80 positions, borders taken for pure were wrong up to 2.6 times as often as foreseen."""


class Foresight:
    """Maps of a scan at growing doses; only those are kept that are still wanted."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, NDArray[np.int32], Float32]] = []

    def wants(self, dose: float) -> bool:
        """Whether there is so much more dose than with the last map that another is worth its place."""
        return not self._kept or dose >= _STEP * self._kept[-1][0]

    def note(self, dose: float, label: NDArray[np.int32], doubt: Float32) -> None:
        """Remember the labels (P,), -1 where there is none, and doubts (P,) of a map, where it is wanted."""
        if not self.wants(dose):
            return
        self._kept.append((dose, label.copy(), doubt.copy()))
        while len(self._kept) > 1 and self._kept[1][0] <= _PART * dose:
            del self._kept[0]

    def factor(self, dose: float, label: NDArray[np.int32], doubt: Float32) -> float:
        """Errors over those foreseen, of earlier maps as the present one sees them.

        At least 1: a map that was better than it said may have been lucky. The map of nine tenths of the dose answers
        for everything, phases that it did not have included: as long as new ones come, others may. The map of about two
        thirds answers for its own phases only: it has been known since that there are others.
        """
        lately = self._errors(_LATELY * dose, label, doubt, every=True)
        before = self._errors(_PART * dose, label, doubt, every=False)
        return max(1.0, *((found + _WORTH) / (foreseen + _WORTH) for found, foreseen in (lately, before)))

    def unchecked(self, dose: float, label: NDArray[np.int32]) -> float:
        """Errors over those foreseen of a map of all positions (P,) that has to do without an earlier one; else 1."""
        earlier = [then for at, then, _ in self._kept if at <= _PART * dose]
        covered = earlier and np.count_nonzero(earlier[-1] >= 0) >= _COVERED * np.count_nonzero(label >= 0)
        return 1.0 if covered else _UNCHECKED

    def _errors(self, until: float, label: NDArray[np.int32], doubt: Float32, *, every: bool) -> tuple[float, float]:
        """Errors of the last map until a dose, found by the present one and foreseen; none where there is no map."""
        maps = [(then, its) for at, then, its in self._kept if at <= until]
        if not maps:
            return 0.0, 0.0
        then, its = maps[-1]
        both = (then >= 0) & (label >= 0)
        had = np.unique(then[both])
        if not every:
            both &= np.isin(label, had) & (had.size > 1)
        wrong = np.where(then == label, doubt, 1.0 - doubt)
        found, foreseen = (float(e[both].sum(dtype=np.float64)) for e in (wrong, its))
        return found, foreseen
