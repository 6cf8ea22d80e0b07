"""When a new version of the model is published. Pure: the time comes with the ticks."""

from __future__ import annotations

from dataclasses import dataclass

from models.linear import LinearEngine
from streamer.decisions import NS_PER_S

_SHARE = 8
_LATEST_NS = 2 * NS_PER_S
_PREPARE_NS = NS_PER_S // 10


@dataclass
class PromotionSchedule:
    """A model settles as it learns: later versions bring less, and each one holds up a few results.

    Parameters
    ----------
    opened_ns : int
        When the series began.
    """

    opened_ns: int
    _promoted_ns: int | None = None
    _prepared_ns: int | None = None

    def is_due(self, engine: LinearEngine, t_ns: int, least_s: float) -> bool:
        """Whether to promote now; idle time, where there is any, is used to prepare it first."""
        if engine.basis is not None and engine.basis.rank > 0:
            last = self.opened_ns if self._promoted_ns is None else self._promoted_ns
            pause_ns = min((t_ns - self.opened_ns) // _SHARE, _LATEST_NS)
            if t_ns - last < max(least_s * NS_PER_S, pause_ns) or not self._is_prepared(engine, t_ns):
                return False
        self._promoted_ns, self._prepared_ns = t_ns, None
        return True

    def _is_prepared(self, engine: LinearEngine, t_ns: int) -> bool:
        if self._prepared_ns is None:
            self._prepared_ns = t_ns
            engine.prepare()
        return engine.prepared or t_ns - self._prepared_ns >= _PREPARE_NS
