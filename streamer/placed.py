"""Spectra with their positions, and many small blocks of them made one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from streamer.wire import Events

JOINED_ROWS: Final = 256
"""Small dense blocks are joined up to this many spectra."""
JOINED_EVENTS: Final = 1 << 16
"""Blocks in list mode are joined up to this many single counts (and spectra)."""


@dataclass(frozen=True)
class Placed:
    """Spectra that are new to the scan, with their positions.

    Parameters
    ----------
    index : u4[n]
        Flat positions.
    counts : (n, D) array, or Events
        Read-only views of the message.
    dwell_s : f4[n]
        NaN where nobody said.
    replace : bool
        The counts take the place of what the position has.
    counted : int
        How many count as received (0 for a revision of frames that were counted before).
    received_ns : int
    last_pass : int
        Pass of the last one.
    """

    index: NDArray[np.uint32]
    counts: NDArray[Any] | Events
    dwell_s: NDArray[np.float32]
    replace: bool
    counted: int
    received_ns: int
    last_pass: int = 0

    @property
    def size(self) -> int:
        """What joining costs: spectra, or single counts where there are more of them."""
        return max(self.index.size, self.counts.channels.size) if isinstance(self.counts, Events) else self.index.size

    def totals(self) -> NDArray[Any]:
        """Counts of each spectrum in all, (n,)."""
        counts = self.counts
        return np.diff(counts.offsets) if isinstance(counts, Events) else counts.sum(axis=1, dtype=np.float64)

    def only(self, keep: NDArray[np.bool_]) -> Placed:
        """Return the spectra that `keep` (n,) says."""
        counts = self.counts.only(keep) if isinstance(self.counts, Events) else self.counts[keep]
        return replace(self, index=self.index[keep], counts=counts, dwell_s=self.dwell_s[keep])

    def joins(self, other: Placed) -> bool:
        """Whether both can be taken as one block: a position that is replaced keeps the order it came in."""
        if self.replace or other.replace:
            return False
        mine, its = self.counts, other.counts
        if isinstance(mine, Events) or isinstance(its, Events):
            return isinstance(mine, Events) and isinstance(its, Events)
        return mine.dtype == its.dtype


def groups(pending: list[Placed]) -> list[list[Placed]]:
    """Join small blocks of one kind; a large dense block stays alone, so that it need not be copied."""
    groups: list[list[Placed]] = []
    held = 0
    for placed in pending:
        most = JOINED_EVENTS if isinstance(placed.counts, Events) else JOINED_ROWS
        if groups and groups[-1][-1].joins(placed) and held + placed.size <= most:
            groups[-1].append(placed)
            held += placed.size
        else:
            groups.append([placed])
            held = placed.size
    return groups


def join(group: list[Placed], n_channels: int) -> tuple[NDArray[np.intp], Any, NDArray[np.float32]]:
    """Return index, counts (n, D) and dwell of a group as one block: an array, or CSR in float32.

    The index is as numpy wants it: with other integers, taking and adding take twice as long.
    """
    index = _joined([p.index for p in group]).astype(np.intp)
    dwell_s = _joined([p.dwell_s for p in group])
    events = [p.counts for p in group if isinstance(p.counts, Events)]
    if not events:
        return index, _joined([p.counts for p in group if not isinstance(p.counts, Events)]), dwell_s
    channels = _joined([e.channels for e in events])
    indptr = np.zeros(index.size + 1, dtype=np.int32)
    np.cumsum(_joined([np.diff(e.offsets) for e in events]), out=indptr[1:])
    ones = np.ones(channels.size, dtype=np.float32)
    return index, csr_array((ones, channels.astype(np.int32), indptr), shape=(index.size, n_channels)), dwell_s


def _joined(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
