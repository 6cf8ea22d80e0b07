"""What changed in the books of a series since they were looked at last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_NUMBERS: Final = ("received", "processed", "duplicates")


class BooksDelta:
    """Turns books that start anew with each series into numbers that only grow."""

    def __init__(self) -> None:
        self._series: str | None = None
        self._seen: dict[str, int] = {}

    def take(self, series: str | None, books: Mapping[str, Any]) -> dict[str, int]:
        """Return the growth of each number since the last call; rejected ones as ``rejected/<reason>``."""
        if series != self._series:
            self._series, self._seen = series, {}
        now = {k: int(books[k]) for k in _NUMBERS}
        now |= {f"rejected/{reason}": int(n) for reason, n in books["rejected"].items()}
        change = {k: max(0, n - self._seen.get(k, 0)) for k, n in now.items()}
        self._seen = now
        return change
