"""One scan as the sender describes it: where each spectrum lies, which were seen, and the books."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.intervals import IntervalSet
from streamer.placed import Placed
from streamer.wire import AxisMap, Block, Events, Header, HeaderMap, WireError

HUGE = 1e12
"""No detector counts that in one channel; squares of it still fit into float32 arithmetic."""


@dataclass
class Books:
    """What happened to every spectrum of a series, each counted once."""

    received: int = 0
    processed: int = 0
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)


class Scan:
    """Places blocks and keeps the books of one series.

    Parameters
    ----------
    header : Header
    """

    def __init__(self, header: Header) -> None:
        self.header: HeaderMap = header.map
        self.positions = header.positions
        self.axis: AxisMap = header.map.axis
        self.n_positions = int(np.prod(header.map.nav_shape))
        self.n_channels = header.map.axis.n_channels
        self.books = Books()
        self.frames = IntervalSet()
        self._overflow = IntervalSet()
        self._n_sent: int | None = None
        self._n_sent_heard = 0
        self.raster_order = True

    def place(self, block: Block, received_ns: int) -> Placed | None:
        """Check a block against the header and place it.

        Returns
        -------
        Placed or None
            None for a repeat of what was received before.

        Raises
        ------
        WireError
            With reason ``invalid`` where the block contradicts the header.
        """
        self._check(block)
        index = self._index(block)
        first, stop = block.map.frame, block.map.frame + block.n
        known = self.frames.covered(first, stop)
        replace = block.map.revision == "replace"
        if known == block.n and not replace:
            return None
        unseen = self._unseen(first, stop) if known and not replace else None
        counted = self.frames.add(first, stop)
        self.books.received += counted
        if block.map.axis is not None:
            self.axis = block.map.axis
        self.raster_order &= block.index is None and block.map.index is None
        dwell_s, last_pass = self._dwell(block), self._last_pass(block)
        placed = Placed(index, block.counts, dwell_s, replace, counted, received_ns, last_pass)
        return placed if unseen is None else placed.only(unseen)

    def _unseen(self, first: int, stop: int) -> NDArray[np.bool_]:
        keep = np.zeros(stop - first, dtype=bool)
        for a, b in self.frames.missing(first, stop):
            keep[a - first : b - first] = True
        return keep

    def _check(self, block: Block) -> None:
        if block.map.axis is not None and block.map.axis.n_channels != self.n_channels:
            raise WireError(
                "invalid", f"corrected axis has {block.map.axis.n_channels} channels, not {self.n_channels}"
            )
        counts = block.counts
        if isinstance(counts, Events):
            if counts.channels.size and int(counts.channels.max()) >= self.n_channels:
                raise WireError("invalid", f"an event in channel {counts.channels.max()} of {self.n_channels}")
            return
        if counts.shape[1] != self.n_channels:
            raise WireError("invalid", f"spectra of {counts.shape[1]} channels, the axis has {self.n_channels}")
        if counts.dtype.kind != "u":
            self._check_values(counts)

    def _check_values(self, counts: NDArray[Any]) -> None:
        lo, hi = float(counts.min()), float(counts.max())
        if not (lo > -HUGE and hi < HUGE):  # also false for NaN, which min and max propagate
            raise WireError("invalid", f"counts from {lo:g} to {hi:g}: not finite, or more than {HUGE:g}")
        noise = self.header.noise
        if lo < 0 and noise is not None and noise.model == "poisson":
            raise WireError("invalid", f"negative counts ({lo:g}), but the header says the noise is poisson")

    def _index(self, block: Block) -> NDArray[np.uint32]:
        if block.index is not None:
            if int(block.index.max()) >= self.n_positions:
                raise WireError(
                    "invalid", f"index {block.index.max()} is past the last of {self.n_positions} positions"
                )
            return block.index
        frames = np.arange(block.map.frame, block.map.frame + block.n, dtype=np.int64)
        start = block.map.index
        if isinstance(start, int):
            # A block across the end of a pass is placed by its frame numbers, where those agree with its index.
            wraps = start == block.map.frame % self.n_positions
            if start >= self.n_positions or (start + block.n > self.n_positions and not wraps):
                raise WireError(
                    "invalid", f"index {start} with {block.n} spectra is past the last of {self.n_positions}"
                )
            frames += start - block.map.frame
        return (frames % self.n_positions).astype(np.uint32)

    def _dwell(self, block: Block) -> NDArray[np.float32]:
        said = block.map.dwell_s
        if isinstance(said, list):
            return np.asarray(said, dtype=np.float32)
        value = said if said is not None else self.header.dwell_s
        return np.full(block.n, np.nan if value is None else value, dtype=np.float32)

    def _last_pass(self, block: Block) -> int:
        said = block.map.passes
        if said is None:
            return (block.map.frame + block.n - 1) // self.n_positions
        return said[-1] if isinstance(said, list) and said else int(said) if isinstance(said, int) else 0

    def overflowed(self, frame: int, n: int) -> None:
        """Remember spectra that the full inbox dropped."""
        self._overflow.add(frame, frame + n)

    def heard(self, n_sent: int | None) -> None:
        """Note a heartbeat's `n_sent`."""
        self._n_sent_heard = max(self._n_sent_heard, n_sent or 0)

    def ended(self, n_sent: int | None) -> None:
        """Note the `n_sent` of a series_end."""
        self._n_sent = n_sent

    @property
    def n_sent(self) -> int:
        """Spectra sent, as far as known: never less than were received."""
        if self._n_sent is not None:
            return max(self._n_sent, self.books.received)
        return max(self._n_sent_heard, self.frames.stop)

    def lost(self) -> dict[str, int]:
        """Spectra sent and not received, by reason; complete once the series has ended."""
        missing = self.n_sent - self.books.received
        dropped = sum(b - a - self.frames.covered(a, b) for a, b in self._overflow)
        overflow = min(dropped, missing)
        reasons = {"gap": missing - overflow, "overflow": overflow}
        return {reason: n for reason, n in reasons.items() if n}

    def lost_positions(self) -> NDArray[np.int64]:
        """Positions of the frames that are missing so far; none where the sender names positions itself."""
        if not self.raster_order:
            return np.empty(0, dtype=np.int64)
        missing = self.frames.missing(0, max(self.frames.stop, self.n_sent))
        ranges = [np.arange(a, min(b, a + self.n_positions)) for a, b in missing]
        if not ranges:
            return np.empty(0, dtype=np.int64)
        return np.unique(np.concatenate(ranges) % self.n_positions)

    def report(self) -> dict[str, Any]:
        """Return the books as the end of a series publishes them."""
        books = self.books
        less = self._n_sent is not None and self._n_sent < books.received
        return {
            "n_sent": self.n_sent,
            **({"n_sent_claimed": self._n_sent} if less else {}),
            "received": books.received,
            "processed": books.processed,
            "lost": self.lost(),
            "rejected": dict(books.rejected),
            "duplicates": books.duplicates,
        }
