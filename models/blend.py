"""How much of a network's prediction to take beside the linear model's: stacking (Wolpert 1992; Breiman 1996).

What is shown is L + w (N - L). The weight w that predicts an independent measurement B of the same best is a straight
regression, w = sum (N - L)(B - L) / sum (N - L)^2: 0 where the network adds nothing, 1 where the linear model does. The
errors of the two have little to do with each other (the one has learnt from this scan alone, the other from all but
this scan), so that both together are nearly always better than either.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from models.base import Float64
from models.seen import NORMAL, quartiles

LEAST_JUDGED: Final = 24
_MEMORY: Final = 256
_FAR: Final = 3.0


class Blend:
    """Weight of one of two predictions, from spectra on which both were judged.

    Parameters
    ----------
    memory : int
        So many of the latest spectra count.
    """

    def __init__(self, memory: int = _MEMORY) -> None:
        self._distance, self._gain = np.zeros(memory), np.zeros(memory)
        self.n = 0
        self._known = (0, 0.0)

    def add(self, distance: Float64, gain: Float64) -> None:
        """Take |N - L|^2 (n,) and (N - L) . (B - L) (n,) of further spectra, each in the same unit."""
        at = np.arange(self.n, self.n + distance.size) % self._distance.size
        self._distance[at], self._gain[at] = distance, gain
        self.n += distance.size

    def age(self, keep: int) -> None:
        """Forget all but so many of the latest spectra: the two are no longer what they were."""
        kept = np.arange(max(self.n - min(keep, self._distance.size), 0), self.n) % self._distance.size
        for values in (self._distance, self._gain):
            values[: kept.size] = values[kept]
        self.n = kept.size
        self._known = 0, 0.0

    @property
    def is_known(self) -> bool:
        """Whether enough was judged."""
        return self.n >= LEAST_JUDGED

    @property
    def plain(self) -> tuple[float, float]:
        """The weight that regression gives, without bounds, and its standard error; (0, inf) without data.

        Spectra on which the two are much farther apart than on most are left out: a phase that only one of them knows
        says nothing of the others.
        """
        distance, gain = self._distance[: self.n], self._gain[: self.n]
        if not distance.any():
            return 0.0, float("inf")
        root = np.cbrt(distance)
        low, middle, high = quartiles(root)
        usual = root <= middle + _FAR * (high - low) / NORMAL
        distance, gain = distance[usual], gain[usual]
        total = float(distance.sum())
        weight = float(gain.sum()) / total
        return weight, float(np.sqrt(((gain - weight * distance) ** 2).sum())) / total

    @property
    def weight(self) -> float:
        """The weight to use, from 0 to 1: shrunk by what is only chance in it (positive-part James & Stein 1961)."""
        if not self.is_known:
            return 0.0
        if self._known[0] != self.n:
            weight, error = self.plain
            self._known = self.n, min(1.0, max(0.0, weight - error**2 / weight)) if weight > 0 else 0.0
        return self._known[1]
