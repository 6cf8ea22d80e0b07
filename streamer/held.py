"""Messages of series whose turn has not come: kept, within a limit, until it does."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from streamer.wire.items import Arrived


@dataclass(frozen=True)
class Waiting:
    """A message of a series that is not open."""

    series: str
    item: Arrived
    is_header: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all its parts."""
        return sum(memoryview(p).nbytes for p in self.item.parts)


class Held:
    """Keeps them in their order."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self._nbytes = 0

    def add(self, waiting: Waiting, limit_bytes: int) -> list[Waiting]:
        """Keep a message; return what gives way for it, the oldest first, headers last."""
        self._waiting.append(waiting)
        self._nbytes += waiting.nbytes
        gone: list[Waiting] = []
        while self._nbytes > limit_bytes:
            gone.append(next((w for w in self._waiting if not w.is_header), self._waiting[0]))
            self._remove(gone[-1])
        return gone

    def _remove(self, waiting: Waiting) -> None:
        self._waiting.remove(waiting)
        self._nbytes -= waiting.nbytes

    def knows(self, series: str) -> bool:
        """Whether anything of a series is held."""
        return any(w.series == series for w in self._waiting)

    def has_header(self, series: str) -> bool:
        """Whether the header of a series is held."""
        return any(w.is_header and w.series == series for w in self._waiting)

    @property
    def last_announced(self) -> str | None:
        """Name of the series whose header was held last."""
        return next((w.series for w in reversed(self._waiting) if w.is_header), None)

    def next_header(self) -> Waiting | None:
        """Take out the header that has waited longest."""
        found = next((w for w in self._waiting if w.is_header), None)
        if found is not None:
            self._remove(found)
        return found

    def take(self, series: str) -> list[Arrived]:
        """Take out everything of a series; return all but its headers."""
        mine = [w for w in self._waiting if w.series == series]
        for waiting in mine:
            self._remove(waiting)
        return [w.item for w in mine if not w.is_header]
