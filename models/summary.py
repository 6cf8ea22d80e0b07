"""What the status shows of a linear engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from models.rank import smallest_visible_phase_px

if TYPE_CHECKING:
    from models.linear import LinearEngine


_GROWN = 1.1


class Summary:
    """Summaries of one engine; what takes milliseconds to estimate is estimated again when it may have changed."""

    def __init__(self) -> None:
        self._error: dict[str, Any] | None = None
        self._of = (-1, False)
        self._until = 0.0

    def of(self, engine: LinearEngine) -> dict[str, Any]:
        """Noise, counts a spectrum, kind of tracker, memory, errors, ranks."""
        score_map, learner, noise = engine._map, engine._learner, engine.noise
        measured, published = score_map.measured, score_map.published
        n = max(measured.size, 1)
        exposure = float(score_map.exposure(measured, noise).sum()) / n
        return {
            "noise": {"model": noise.kind, "gain": noise.gain, "offset": noise.offset, "read_sigma": noise.read_sigma},
            "noise_estimated": learner.noise_estimated,
            "counts_per_spectrum": float(engine.totals.sum() / n),
            "engine": learner.engine,
            "store_bytes": score_map.store.bytes_used,
            "exact_positions": int(np.count_nonzero(engine.exact)),
            "held_positions": int(np.count_nonzero(engine.held)),
            "changes": engine.changes,
            "smallest_visible_phase_px": smallest_visible_phase_px(engine.n_channels, n, 0.25 * exposure),
            "dispersion": engine._protection.pool.dispersion,
            "ranks": published.rank_criteria() if published is not None else {},
            "live_error": self._live_error(engine),
        }

    def _live_error(self, engine: LinearEngine) -> dict[str, Any] | None:
        state, visits = (engine.revision, engine._finished), engine._map.n_visits
        if state != self._of or visits >= self._until:
            error = engine.live_error()
            self._error = None if error is None else error.told()
            self._of, self._until = state, _GROWN * visits
        return self._error
