"""When a new version of the model is published, and what is done without idle time. Pure: no clock is read."""

from __future__ import annotations

from dataclasses import dataclass

from models.linear import LinearEngine
from streamer.decisions import NS_PER_S

_SHARE = 8
_LATEST_NS = 2 * NS_PER_S
_PREPARE_NS = NS_PER_S // 10
_OF_A_SPECTRUM, _OF_A_PIECE, _OF_A_FIRST_PIECE, _FIRST_PIECES = 512, 1 << 21, 1 << 19, 384
_MOST_OWED = 1 << 23


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


@dataclass
class LeastShare:
    """Pieces of background work that are done though there is no idle time: some 5 % of what processing costs.

    Processing a spectrum costs about as much as so many channels more, a piece as much as forty spectra. The first
    pieces come four times as often, for decisions wait until phases were looked for once.
    """

    _owed: int = 0
    _done: int = 0

    def processed(self, n_spectra: int, n_channels: int) -> None:
        """Note what was processed."""
        self._owed = min(self._owed + n_spectra * (n_channels + _OF_A_SPECTRUM), _MOST_OWED)

    def rested(self) -> None:
        """Note that there was idle time: nothing is owed."""
        self._owed = 0

    def due(self) -> int:
        """Return how many pieces are owed now, and count them as done."""
        each = _OF_A_FIRST_PIECE if self._done < _FIRST_PIECES else _OF_A_PIECE
        pieces, self._owed = divmod(self._owed, each)
        self._done += pieces
        return pieces
