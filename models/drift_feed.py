"""Drift of the axis, seen by a linear engine as it learns: the monitor fed with what the engine was taught."""

from __future__ import annotations

import numpy as np

from models.axis import Axis
from models.base import Float64
from models.calibration import Calibration
from models.drift import Drift, DriftMonitor
from models.linear import LinearEngine
from models.published import Published


class DriftFeed:
    """Feeds a `DriftMonitor`.

    The engine sums up what it learns anyway; the difference between two looks is what came in between. Spectra that
    were flagged have not been learnt, and say nothing here.

    Parameters
    ----------
    engine : LinearEngine
    axis : Axis
        As the engine has it.
    """

    def __init__(self, engine: LinearEngine, axis: Axis) -> None:
        self._engine, self._axis = engine, axis
        self._monitor: DriftMonitor | None = None
        self._total: Float64 = np.zeros(axis.size)
        self._n_seen = self._n_replaced = 0
        self._published: Published | None = None

    @property
    def calibration(self) -> Calibration:
        """Shift and gain as far as they are known."""
        return Calibration() if self._monitor is None else self._monitor.calibration

    def look(self, undone: Calibration) -> Drift | None:
        """Test what was learnt since the last look; return the drift where it was found, or is known better now.

        Parameters
        ----------
        undone : Calibration
            What had been taken out of these spectra before they were learnt.
        """
        learner = self._engine._learner
        if learner.n_replaced != self._n_replaced:
            # The difference would be that of two ways to sum up.
            self._total, self._n_seen, self._n_replaced = learner.total.copy(), learner.n_seen, learner.n_replaced
        n = learner.n_seen - self._n_seen
        if not n or learner.noise_is_guessed or not learner.is_settled:
            return None
        monitor = self._monitor = self._monitor or DriftMonitor(self._axis, learner.noise)
        self._rebase(monitor)
        summed, self._total, self._n_seen = learner.total - self._total, learner.total.copy(), learner.n_seen
        return monitor.add(summed, n, undone)

    def close(self, undone: Calibration) -> None:
        """Take what waits to be learnt: spectra to come have something else taken out of them."""
        self._engine._learner.flush()
        self.look(undone)

    def _rebase(self, monitor: DriftMonitor) -> None:
        published, learner = self._engine.score_map.published, self._engine._learner
        if published is None or published is self._published:
            return
        self._published = published
        monitor.rebase(published.eigenspectra, learner.total, learner.n_seen, self._learnt(published))

    def _learnt(self, published: Published) -> Float64:
        """What the eigenspectra were learnt from, (K, K): outer products of scores over exposure."""
        shrinkage = published.shrinkage
        spread = (shrinkage.axes * shrinkage.signal) @ shrinkage.axes.T
        return np.asarray(self._engine._learner.exposure * (np.outer(shrinkage.centre, shrinkage.centre) + spread))
