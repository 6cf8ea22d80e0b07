"""The histories of a stream's groups of spectra side by side, and what they show together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.axis import Axis
from models.base import Float64
from models.drift_filters import DriftFilters
from models.drift_history import Contrast, DriftHistory, inverse_2x2
from models.noise import NoiseModel


class GroupedHistory:
    """Segments of a stream, each the sums of some spectra by group; as `DriftHistory` of each, all with one clock.

    Each group is seen through filters of its own: what a shift does to the mean of all phases is, of the counts of one,
    not the best that can be looked for.

    Parameters
    ----------
    axis : Axis
    noise : NoiseModel
    n_groups : int
    """

    def __init__(self, axis: Axis, noise: NoiseModel, n_groups: int) -> None:
        self._axis, self._noise = axis, noise
        self._groups = [DriftHistory(axis.size) for _ in range(n_groups)]

    @property
    def size(self) -> int:
        """Segments."""
        return self._groups[0].size

    @property
    def era(self) -> int:
        """First segment since the last change."""
        return self._groups[0].era

    def add(self, summed: Float64, n_spectra: Float64, undone: Float64) -> None:
        """Append a segment: summed counts (G, D) of numbers (G,) of spectra, with this shift and gain taken out."""
        for history, counts, n in zip(self._groups, summed, n_spectra.tolist(), strict=True):
            history.add(counts, n, undone)

    def reread(self, eigenspectra: NDArray[np.floating], total: Float64, n_spectra: float, learnt: Float64) -> None:
        """Read all segments anew, as `DriftMonitor.rebase` is told."""
        whole = DriftFilters.build(eigenspectra, total, n_spectra, self._axis, self._noise)
        for history in self._groups:
            summed, n = history.total()
            filters = whole
            if len(self._groups) > 1 and summed.sum() > 0:
                filters = DriftFilters.build(eigenspectra, summed, n, self._axis, self._noise)
            history.reread(filters, learnt)

    def begin_era(self, at: int) -> None:
        """As `DriftHistory.begin_era`."""
        for history in self._groups:
            history.begin_era(at)

    def n_spectra(self, first: int, last: int) -> float:
        """Spectra in segments `first` to `last` (half-open)."""
        return sum(history.n_spectra(first, last) for history in self._groups)

    def best_split(self, splits: NDArray[np.int64]) -> tuple[int, float]:
        """First segment of the later part for which it differs most from the earlier part of the era, and how much.

        The statistic is chi-squared of two degrees of freedom.
        """
        parts = [history.split(splits) for history in self._groups]
        score, information = (np.sum([part[i] for part in parts], axis=0) for i in (0, 1))
        statistic = (score * (inverse_2x2(information) @ score[:, :, None])[:, :, 0]).sum(axis=1)
        best = int(np.argmax(statistic))
        return int(splits[best]), float(statistic[best])

    def contrast(self, first: int, split: int) -> Contrast | None:
        """Segments from `split` on against those from `first` to `split`, group by group; None where none can tell."""
        found = [history.contrast(first, split) for history in self._groups]
        told = [contrast for contrast in found if contrast is not None]
        return Contrast.of_all(told) if told else None
