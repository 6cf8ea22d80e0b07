"""The end of a series: all stored counts are fitted once more, and every position is tested by what that gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.base import Basis, Pieces
from models.published import empty_basis

if TYPE_CHECKING:
    from models.learnt import LearntState
    from models.linear import LinearEngine

_MAX_REFITS = 4
_ENOUGH = 0.75
"""Of everything that was measured, which has to be stored for a fit of what is stored to be the better one."""


def finish_engine(engine: LinearEngine) -> Pieces[Basis]:
    """Refit from all stored counts, re-project and re-test every position; the final basis (`LinearEngine.finish`).

    Which positions teach follows from the test, and the test from the fit: they take turns until nothing changes any
    more. Between two fits only what is near a decision is tested again, and everything in the end.
    """
    learner, score_map = engine._learner, engine._map
    learner.flush()
    engine._protection.suspects.settle()
    if score_map.published is None:
        return empty_basis(engine.n_channels)
    measured = score_map.measured
    stored = measured[score_map.store.complete(measured)]
    exposure = score_map.exposure(stored, engine.noise)
    yield
    learner.measure_reach(score_map.store, stored, exposure)
    yield
    if exposure.sum() < _ENOUGH * score_map.exposure(measured, engine.noise).sum():
        state = learner.state(first=True)
        if state is not None:
            engine._publish(state)
            yield from _retest(engine, stored)
    else:
        state = yield from _fitted(engine, stored)
    if state is not None:
        engine._adopt(state, measured, engine._version, None)
    return score_map.basis()


def _fitted(engine: LinearEngine, stored: NDArray[np.int64]) -> Pieces[LearntState | None]:
    """Fit what is stored, without what is held back, until the same is held back; None where nothing can be fitted."""
    learner, score_map = engine._learner, engine._map
    counted = learner.counted_moment(score_map.store, stored, score_map.exposure(stored, engine.noise))
    for number in range(_MAX_REFITS):
        held = engine.held
        teach = stored[~(held | engine._forgetting.outdated)[stored]]
        exposure = score_map.exposure(teach, engine.noise)
        if not (exposure > 0).any():
            return None
        state = learner.refit(score_map.store, teach, exposure, counted)
        engine._publish(state)
        yield
        yield from _retest(engine, stored, only_close=number > 0)
        if np.array_equal(held, engine.held):
            break
    if number > 0:
        yield from _retest(engine, stored)
    return state


def _retest(engine: LinearEngine, stored: NDArray[np.int64], *, only_close: bool = False) -> Pieces[None]:
    published, learner = engine._map.published, engine._learner
    if published is not None and stored.size:
        guessed = learner.noise_is_guessed
        yield from engine._protection.retest(
            published, stored, guessed, learner.rows_at_once, only_close and not guessed
        )
