"""Whether a network that learnt during the scan may follow the one in use, and whether it has to give its place back.

Both predict the one half of a spectrum's counts from the other; the difference of their errors is free of bias
(Neufeld et al., arXiv 2301.07276). The positions of the trial are never given to whoever learns (`models.reservoir`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.base import Float64
from models.inference import TrainedNetwork
from models.linear import LinearEngine
from models.seen import Metric, Seen, Tally, compare

LEAST: Final = 64
_ERRORS: Final = 2.0
_MEMORY: Final = 256


class Trial:
    """Squared error of one network less that of another, per channel: raw counts have 1.

    Parameters
    ----------
    champion, challenger : TrainedNetwork
    seed : int
        Of the coin that splits spectra.
    memory : int
        So many of the latest spectra count.
    """

    def __init__(
        self, champion: TrainedNetwork, challenger: TrainedNetwork, seed: int = 0, memory: int = _MEMORY
    ) -> None:
        self.champion, self.challenger = champion, challenger
        self._rng = np.random.default_rng(seed)
        self._lead = Tally(memory)

    def judge(self, engine: LinearEngine, index: NDArray[Any]) -> None:
        """Compare the two on the accumulated counts of positions."""
        score_map, published = engine.score_map, engine.score_map.published
        index = index[(score_map.visits[index] > 0) & score_map.store.complete(index)]
        if published is None or not index.size:
            return
        weight = Metric.of(published).weight
        seen = Seen.of(score_map.store.rows(index), score_map.visits[index], engine.noise)
        half, other = seen.halves(np.arange(index.size), self._rng)
        exposure = np.maximum(half.exposure(published).reshape(2, -1).mean(axis=0), 1e-12)
        new, old = (half.counted(half.by(n).spectra) for n in (self.challenger, self.champion))
        better = compare(other, new, old, weight)[1].reshape(2, -1).sum(axis=0)
        self._lead.add(0.5 * better / exposure / weight.size)

    @property
    def n(self) -> int:
        """Spectra that were judged."""
        return self._lead.n

    @property
    def values(self) -> Float64:
        """Differences that count."""
        return self._lead.values

    @property
    def mean(self) -> float:
        """By how much the challenger's error is lower."""
        return float(self.values.mean()) if self.n else 0.0

    @property
    def standard_error(self) -> float:
        """Of `mean`; infinite where it cannot be known."""
        return float(self.values.std(ddof=1) / np.sqrt(self.values.size)) if self.n > 1 else float("inf")

    @property
    def is_better(self) -> bool:
        """Whether the challenger's error is lower by two standard errors."""
        return self.n >= LEAST and self.mean > _ERRORS * self.standard_error

    @property
    def is_worse(self) -> bool:
        """Whether it is higher by two standard errors."""
        return self.n >= LEAST and -self.mean > _ERRORS * self.standard_error
