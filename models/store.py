"""Counts of every position, added up over all visits, in the smaller of two layouts and within a memory limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Counts, Float32, Float64, rises
from models.segments import Rows, SegmentLog, by_number, narrowest, read_logs

_BLOCK = 256
_PARTS = 16
_GIVEN_UP = (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15)
"""Parts of the map in the order in which they are given up, but for the last: what is left lies evenly over the map."""


class CountStore:
    """Accumulated counts (n_positions, n_channels): a log of sparse segments, or dense blocks of narrow integers.

    Sparse data (few non-zero channels) is appended to a log of (channel, count) segments, chained per position; dense
    data lies in blocks of 256 positions, each in the narrowest type that holds it. A position may have both.

    Every 16th block of positions belongs to the same part of the map. At the limit one part after the other is given
    up: its counts are forgotten, later ones are not kept, and its positions are not complete any more, while all others
    stay complete. Each part is a sample of the map, so that what can be fitted at the end is one of it all.

    Parameters
    ----------
    n_positions, n_channels : int
        Size of the scan and of a spectrum.
    limit_bytes : int
        Memory that counts may take.
    """

    def __init__(self, n_positions: int, n_channels: int, limit_bytes: int = 4 << 30) -> None:
        self._shape = (n_positions, n_channels)
        self._limit = limit_bytes
        self._complete = np.ones(n_positions, dtype=np.bool_)
        self._blocks: list[NDArray[Any] | None] = [None] * (-(-n_positions // _BLOCK))
        self._block_bytes = 0
        self._head = np.full(n_positions, -1, dtype=np.int64)
        self._logs = [SegmentLog(n_channels) for _ in range(_PARTS)]
        block = np.arange(len(self._blocks))
        # Moved on from row to row of blocks, so that no column of the map is of one part.
        self._part_of_block = ((block + 5 * (block // _PARTS)) % _PARTS).astype(np.int8)
        self._part = np.repeat(self._part_of_block, _BLOCK)[:n_positions]
        self._gone = np.zeros(_PARTS, dtype=np.bool_)
        self.leaving: Callable[[NDArray[np.int64]], None] | None = None
        """Told which positions will not be complete any more, while they still are."""
        self._to_give_up = [p for p in _GIVEN_UP if p in self._part_of_block][:-1]

    @property
    def n_positions(self) -> int:
        """Positions of the scan, P."""
        return self._shape[0]

    @property
    def n_channels(self) -> int:
        """Channels of a spectrum, D."""
        return self._shape[1]

    @property
    def bytes_used(self) -> int:
        """Memory held for counts."""
        return self._block_bytes + sum(log.bytes_used for log in self._logs)

    def complete(self, index: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of these positions hold every count they were given."""
        return np.asarray(self._complete[index])

    def add(self, index: NDArray[Any], counts: Counts, replace: bool = False) -> None:
        """Add spectra (n, D) at positions (n,), a position as often as it comes; `replace` clears what was there."""
        if replace:
            self.clear(index)
        if isinstance(counts, sparse.csr_array):
            self._add_sparse(index, counts)
        else:
            self._add_dense(index, counts)

    def clear(self, index: NDArray[Any]) -> None:
        """Forget the counts of positions."""
        self._head[index] = -1
        self._complete[index] = ~self._gone[self._part[index]]
        for number, rows in _by_block(index):
            block = self._blocks[number]
            if block is not None:
                block[index[rows] % _BLOCK] = 0

    def _add_sparse(self, index: NDArray[Any], counts: sparse.csr_array) -> None:
        if rises(index):
            rows = Rows.of(counts)
            for part, run in _runs(self._part[index]):
                self._append(part, index[run], rows.slice(run))
            return
        for part, some in by_number(self._part[index]):
            # A position that comes several times in one block: one round for each time.
            for once in _rounds(index[some]):
                take = some[once]
                self._append(part, index[take], Rows.of(counts if take.size == index.size else counts[take]))

    def _append(self, part: int, index: NDArray[Any], rows: Rows) -> None:
        if self._gone[part] or not self._has_room(part, self._logs[part].cost(rows)):
            self._complete[index] = False
            return
        self._head[index] = self._logs[part].append(rows, self._head[index])

    def _has_room(self, part: int, cost: int) -> bool:
        """Whether so many bytes can be added to a part; others, or itself, are given up for them."""
        while self.bytes_used + cost > self._limit and not self._gone[part]:
            if not self._to_give_up:
                return False
            self._give_up(self._to_give_up.pop(0))
        return not self._gone[part]

    def _give_up(self, part: int) -> None:
        positions = np.flatnonzero(self._part == part)
        if self.leaving is not None:
            self.leaving(positions)
        self._gone[part] = True
        self._head[positions], self._complete[positions] = -1, False
        self._logs[part] = SegmentLog(self.n_channels)
        for number in np.flatnonzero(self._part_of_block == part):
            block, self._blocks[number] = self._blocks[number], None
            self._block_bytes -= 0 if block is None else block.nbytes

    def _add_dense(self, index: NDArray[Any], counts: NDArray[Any]) -> None:
        for number, rows in _by_block(index):
            for some in _rounds(index[rows]):
                take = rows[some]
                part = counts if take.size == index.size else counts[take]
                self._add_to_block(number, index[take], part)

    def _add_to_block(self, number: int, index: NDArray[Any], counts: NDArray[Any]) -> None:
        local, block = index % _BLOCK, self._blocks[number]
        held = None if block is None else block[local]
        need = narrowest(counts, held)
        if block is None or block.dtype != np.promote_types(block.dtype, need):
            block = self._grown(number, block, need)
            if block is None:
                self._complete[index] = False
                return
        if held is None:
            block[local] = counts
        else:
            block[local] = np.add(held, counts, dtype=block.dtype, casting="unsafe")

    def _grown(self, number: int, block: NDArray[Any] | None, need: np.dtype[Any]) -> NDArray[Any] | None:
        """A wider (or a first) block, or None where memory is at its limit."""
        size = min(_BLOCK, self._shape[0] - number * _BLOCK)
        dtype = need if block is None else np.promote_types(block.dtype, need)
        dtype = np.dtype(np.float32) if dtype.kind == "f" else dtype
        cost = size * self.n_channels * dtype.itemsize - (0 if block is None else block.nbytes)
        if not self._has_room(int(self._part_of_block[number]), cost):
            return None
        grown = np.zeros((size, self.n_channels), dtype=dtype)
        if block is not None:
            grown[:] = block
        self._blocks[number] = grown
        self._block_bytes += cost
        return grown

    def rows(self, index: NDArray[Any]) -> Counts:
        """Accumulated counts (n, D) at positions as a model takes them."""
        return self.gross(index)

    def gross(self, index: NDArray[Any]) -> Counts:
        """Accumulated counts (n, D) at positions: CSR where all lie in the log, else dense float32."""
        log = self._logs_at(index)
        touched = [(block, r) for n, r in _by_block(index) if (block := self._blocks[n]) is not None]
        if not touched:
            return log
        if log.nnz:
            out = log.toarray()
            for block, rows in touched:
                out[rows] += block[index[rows] % _BLOCK]
            return out
        # Where nothing has to be added, each number is written once.
        whole = sum(rows.size for _, rows in touched) == index.size
        out = (np.empty if whole else np.zeros)((index.size, self.n_channels), dtype=np.float32)
        for block, rows in touched:
            at, where = index[rows] % _BLOCK, _as_slice(rows)
            out[where] = block[_as_slice(at)]
        return out

    def _logs_at(self, index: NDArray[Any]) -> sparse.csr_array:
        """What lies in the logs at positions (n, D), float32."""
        return read_logs(self._logs, self._part[index], self._head[index])

    def background(self, index: NDArray[Any]) -> Float32 | None:
        """What `rows` leaves out of the counts of positions, (n, D); nothing here."""
        return None

    def chunks(self, index: NDArray[Any], size: int) -> Iterator[tuple[NDArray[Any], Counts]]:
        """Positions and their accumulated counts, `size` at a time."""
        for first in range(0, index.size, size):
            part = index[first : first + size]
            yield part, self.rows(part)

    def arrays(self, index: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Accumulated counts of positions as plain arrays, in the narrowest type that holds them."""
        counts = self.gross(index)
        if not isinstance(counts, sparse.csr_array):
            return {"counts": _narrowed(counts)}
        counts.sum_duplicates()
        return {"values": _narrowed(counts.data), "channels": counts.indices, "indptr": counts.indptr}

    def merge(self, index: NDArray[Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Add counts of positions (n,), each once, from such arrays; `complete` (n,) says which are all there."""
        complete = np.asarray(arrays["complete"])
        if "counts" in arrays:
            counts: Counts = np.asarray(arrays["counts"])
        else:
            parts = (arrays["values"], arrays["channels"], arrays["indptr"])
            counts = sparse.csr_array(parts, shape=(index.size, self.n_channels))
        if index.size:
            self.add(index, counts)
        self._complete[index[~complete]] = False

    def window_sums(self, index: NDArray[Any], lo: int, hi: int) -> Float64:
        """Counts in channels lo to hi (half-open) at positions, (n,)."""
        out = np.empty(index.size)
        for first in range(0, index.size, 4096):
            part = self._logs_at(index[first : first + 4096])
            inside = (part.indices >= lo) & (part.indices < hi)
            summed = np.concatenate([[0.0], np.cumsum(part.data * inside, dtype=np.float64)])
            out[first : first + 4096] = np.diff(summed[part.indptr])
        for number, rows in _by_block(index):
            block = self._blocks[number]
            if block is not None:
                out[rows] += block[index[rows] % _BLOCK, lo:hi].sum(axis=1, dtype=np.float64)
        return out


def _narrowed(counts: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers in the narrowest type that holds them."""
    if counts.dtype.kind == "f" and bool(np.all(counts == np.rint(counts))):
        counts = counts.astype(np.int64)
    return counts.astype(narrowest(counts)) if counts.size else counts


def _as_slice(rows: NDArray[Any]) -> NDArray[Any] | slice:
    """Rows that follow on one another as a slice, which is not copied."""
    if rows.size and int(rows[-1]) - int(rows[0]) + 1 == rows.size and bool(np.all(np.diff(rows) == 1)):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _by_block(index: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Block numbers, and which of the positions lie in each, in order."""
    return by_number(index.astype(np.int64) // _BLOCK)


def _runs(number: NDArray[Any]) -> Iterator[tuple[int, slice]]:
    """Runs of equal numbers, in order."""
    ends = np.append(np.flatnonzero(number[1:] != number[:-1]) + 1, number.size).tolist()
    for first, last in zip([0, *ends], ends, strict=False):
        if first < last:
            yield int(number[first]), slice(first, last)


def _rounds(index: NDArray[Any]) -> Iterator[NDArray[np.int64]]:
    """Rows of a block such that no position comes twice in a round: first visits, second visits and so on."""
    rows = np.arange(index.size)
    if rises(index):
        yield rows
        return
    while rows.size:
        _, first = np.unique(index[rows], return_index=True)
        if first.size == rows.size:
            yield rows
            return
        first.sort()
        yield rows[first]
        rows = np.delete(rows, first)
