"""Linear engines that saw different positions, or different visits, put together as if one had seen everything.

What an engine knows goes over a wire as plain arrays; `merge` takes them, from wherever they come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.learnt import Arrays, Learnt

if TYPE_CHECKING:
    from models.linear import LinearEngine

_LEARNT, _MAP = "learnt/", "map/"
_ROWS = 4096
_ROUNDS = 3


def arrays_of(engine: LinearEngine) -> Arrays:
    """Everything that an engine learnt and counted: arrays of numbers by name."""
    score_map, held = engine._map, engine._protection.held_back
    index = score_map.measured
    at_held = held.positions
    return {
        "shape": np.array([engine.n_positions, engine.n_channels]),
        "held": at_held,
        "held_window": held.window_of(at_held),
        "anomaly": engine.anomaly[index],
        "p_value": engine.p_value[index],
        "outdated": engine._forgetting.outdated[index],
        "changes": np.array([engine.changes]),
        **_named(_LEARNT, engine._learner.learnt().arrays()),
        **_named(_MAP, score_map.arrays(index)),
    }


def merge_into(engine: LinearEngine, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Let an engine know also what another one knew.

    Counts and visits add up, and what both learnt is put together (`Learnt.merged`) and published. Spectra that either
    held back from teaching are tested again by what both know, and what those teach is published too.

    Raises
    ------
    ValueError
        Where the other engine's scan or spectra are of another size.
    """
    shape = tuple(int(n) for n in arrays["shape"])
    if shape != (engine.n_positions, engine.n_channels):
        raise ValueError(f"a scan of {shape[0]} positions and {shape[1]} channels is another one")
    score_map = engine._map
    index = np.asarray(arrays[f"{_MAP}index"], dtype=np.int64)
    fresh = score_map.visits[index] == 0
    learner = engine._learner
    engine._relearning.give_up()
    learner.merge(Learnt.from_arrays(_below(_LEARNT, arrays), learner.n_kept))
    score_map.merge(_below(_MAP, arrays))
    # The higher score of two visits: neither is later than the other.
    engine.anomaly[index] = np.fmax(engine.anomaly[index], arrays["anomaly"])
    engine.p_value[index] = np.fmin(engine.p_value[index], arrays["p_value"])
    engine._protection.held_back.hold(np.asarray(arrays["held"]), np.asarray(arrays["held_window"]))
    engine._forgetting.outdated[index[fresh & arrays["outdated"]]] = True
    engine._forgetting.changes += int(arrays["changes"][0])
    engine._protection.novelty_due = True
    engine.revision += 1
    for _ in range(_ROUNDS):
        _publish(engine)
        if not _reconsider(engine):
            break


def _publish(engine: LinearEngine) -> None:
    """Publish what both know, with exact scores of everything: shrinkage is fitted to them."""
    state = engine._learner.state(first=True)
    if state is None:
        return
    engine._publish(state)
    score_map = engine._map
    inexact = score_map.measured[~score_map.exact[score_map.measured]]
    for first in range(0, inexact.size, _ROWS):
        score_map.reproject(inexact[first : first + _ROWS])
    engine._adopt(state, score_map.measured, engine.basis.version if engine.basis is not None else 1, None)


def _reconsider(engine: LinearEngine) -> bool:
    """Test what is held back; what is no longer anomalous teaches, and so do crowds: whether there were any.

    What a worker flagged while it had seen little is much of what it knows; a crowd may be of several workers.
    """
    score_map, published, protection = engine._map, engine._map.published, engine._protection
    held = protection.held_back.positions
    held = held[score_map.store.complete(held)]
    read = score_map.reproject(held)
    if published is None or read is None:
        return False
    exposure = score_map.exposure(held, engine.noise)
    scores = published.shrinkage.apply(score_map.raw(held), exposure)
    score = published.test(read[0], scores, exposure, score_map.visits[held], None, read[1])[0]
    score = score / np.float32(protection.pool.dispersion)
    engine.anomaly[held] = np.fmin(engine.anomaly[held], score)
    engine.p_value[held] = np.fmax(engine.p_value[held], protection.pool.p_value(score, exposure))
    released = held[engine.p_value[held] > engine.config.false_alarm]
    protection.held_back.release(released)
    crowds = protection.held_back.release_crowds(engine.config.false_alarm * score_map.n_visits)
    released = np.union1d(released, crowds[score_map.store.complete(crowds)])
    if released.size:
        engine._learner.add(engine._read_stored(released))
        engine._protection.novelty_due = True
    return bool(released.size)


def _named(prefix: str, arrays: Arrays) -> Arrays:
    return {prefix + name: array for name, array in arrays.items()}


def _below(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
