"""What changed in the books of a series since they were looked at last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class BooksDelta:
    """Turns numbers that start anew with each series into ones that only grow."""

    def __init__(self) -> None:
        self._series: str | None = None
        self._seen = (0, 0)

    def take(self, series: str | None, books: Mapping[str, Any]) -> tuple[int, int]:
        """Return how many more spectra were received and processed than at the last call."""
        if series != self._series:
            self._series, self._seen = series, (0, 0)
        now = int(books["received"]), int(books["processed"])
        received, processed = (max(0, n - before) for n, before in zip(now, self._seen, strict=True))
        self._seen = now
        return received, processed


def in_words(books: Mapping[str, Any]) -> str:
    """What a series came to, in one line."""
    lost = ", ".join(f"{n} {reason}" for reason, n in books["lost"].items()) or "none"
    text = f"{books['n_sent']} sent, {books['processed']} processed, lost: {lost}"
    return f"{text}, {books['exit_status']}"
