"""Specimens that change: old spectra count for less with every pass, or the model starts anew when a change is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import Float32, Index
from models.change import ChangeWatch, Seen, score_change, score_variance
from models.learner import Learner
from models.linear_config import LinearConfig
from models.scoremap import ScoreMap
from models.visits import Visits


class Forgetting:
    """What the linear engine forgets, and when.

    Nothing within a pass. With a factor below 1, what the model has learnt counts for less at each new pass. At a
    change the model forgets the specimen (not the noise of the detector), and the counts of each position give way to
    those of its next visit: counts of two specimens do not add up.

    Parameters
    ----------
    config : LinearConfig
    learner : Learner
    score_map : ScoreMap
    clear : callable
        Takes positions (n,) whose counts are to be given up.
    """

    def __init__(
        self, config: LinearConfig, learner: Learner, score_map: ScoreMap, clear: Callable[[NDArray[Any]], None]
    ) -> None:
        self._config, self._learner, self._map, self._clear = config, learner, score_map, clear
        self._watch: ChangeWatch | None = None
        self._pass = 0
        self.changes = 0
        """How often the specimen was found to have changed."""
        self.outdated: NDArray[np.bool_] = np.zeros(score_map.n_positions, dtype=np.bool_)
        """Positions whose counts are from before the last change, (P,)."""

    @property
    def is_active(self) -> bool:
        """Whether anything is ever forgotten."""
        return self._config.forget < 1.0 or self._config.reset_on_change

    def see(self, index: Index, visits: Visits, raw: Float32, anomaly: Float32, earlier_anomaly: Float32) -> None:
        """Take visits (n,) before they are added to what their positions have."""
        before = self._map.visits[index]
        if self._config.reset_on_change and self._has_changed(index, visits, raw, anomaly, earlier_anomaly):
            self._restart()
        number = int(np.median(before)) if before.size else 0
        if number > self._pass:
            if self._config.forget < 1.0:
                self._learner.forget(self._config.forget ** (number - self._pass))
            self._pass = number
        stale = np.unique(index[self.outdated[index]]).astype(np.int64)
        if stale.size:
            self._clear(stale)
            self.outdated[stale] = False

    def _restart(self) -> None:
        self._learner.restart()
        self.outdated[self._map.measured] = True
        self.changes += 1
        self._watch, self._pass = None, 0

    def _has_changed(
        self, index: Index, visits: Visits, raw: Float32, anomaly: Float32, earlier_anomaly: Float32
    ) -> bool:
        published, learner = self._map.published, self._learner
        rows = np.flatnonzero((self._map.visits[index] > 0) & ~self.outdated[index])
        if published is None or not raw.shape[1] or not rows.size or not learner.is_settled:
            return False
        # Scores from an earlier basis know nothing of what came into the model later.
        self._map.reproject(np.unique(index[rows][~self._map.exact[index[rows]]]))
        rows = rows[self._map.exact[index[rows]]]
        if self._watch is None:
            self._watch = ChangeWatch(self._map.n_positions, learner.noise_is_guessed)
        noise = learner.noise
        at = index[rows]
        exposure = noise.row_variance(visits.total[rows], 1.0, self._map.n_channels)
        earlier = self._map.exposure(at, noise)
        lit = (exposure > 0) & (earlier > 0)
        rows, at, exposure, earlier = rows[lit], at[lit], exposure[lit], earlier[lit]
        variance = score_variance(published, visits.gross[rows], noise, self._map.n_channels)
        offset = noise.offset if visits.background is None else 0.0
        seen = Seen(raw[rows], exposure, variance, self._map.raw(at), earlier, self._map.visits[at], offset)
        return self._watch.add(score_change(published, seen), anomaly[rows], earlier_anomaly[rows])
