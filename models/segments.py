"""Append-only log of sparse spectra, read by position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.kernels import copy_ranges

_LEAST_PAGE, _PAGE = 1 << 14, 1 << 20


def narrowest(counts: NDArray[Any], held: NDArray[Any] | None = None) -> np.dtype[Any]:
    """Narrowest type that holds counts added to what is `held`; float32 for measured floats."""
    if counts.dtype.kind == "f" or (held is not None and held.dtype.kind == "f"):
        return np.dtype(np.float32)
    high, low = _range(counts)
    if held is not None:
        more, less = _range(held)
        high, low = high + more, low + less
    if low >= 0:
        return np.min_scalar_type(high)
    return np.promote_types(np.min_scalar_type(low), np.min_scalar_type(-max(high, 1)))


def _range(counts: NDArray[Any]) -> tuple[int, int]:
    """Largest value and one that none is below: 0 for what has no sign, which need not be looked for."""
    if not counts.size:
        return 0, 0
    return int(counts.max()), 0 if counts.dtype.kind == "u" else int(counts.min())


class Rows(NamedTuple):
    """Sparse spectra as CSR keeps them: values and channels of all, and where each spectrum ends (n + 1,)."""

    values: NDArray[Any]
    channels: NDArray[Any]
    indptr: NDArray[Any]

    @classmethod
    def of(cls, counts: sparse.csr_array) -> Rows:
        """Of CSR spectra, without a copy."""
        return cls(counts.data, counts.indices, counts.indptr)

    def slice(self, some: slice) -> Rows:
        """Spectra that follow one another, without a copy: scipy takes longer to slice than they take to be stored."""
        indptr = self.indptr[some.start : some.stop + 1]
        inside = slice(int(indptr[0]), int(indptr[-1]))
        return Rows(self.values[inside], self.channels[inside], indptr - indptr[0])

    @property
    def n(self) -> int:
        """How many spectra."""
        return int(self.indptr.size) - 1


class SegmentLog:
    """Sparse spectra one after the other in pages; each segment knows the earlier one of its position.

    Pages are never moved, so that growing takes no longer late in a scan than early; each page keeps its counts in the
    narrowest integers that hold them (or float32). A new page is a quarter of what there is, within bounds. Segments
    that nothing refers to any more are not freed.
    """

    def __init__(self, n_channels: int) -> None:
        self.n_channels = n_channels
        self._channel_type = np.dtype(np.uint16 if n_channels <= 1 << 16 else np.uint32)
        self._channels: list[NDArray[Any]] = []
        self._counts: list[NDArray[Any]] = []
        self._filled = 0
        self._size = self._page_bytes = 0
        self._n_segments = 0
        self._table = np.empty((0, 4), dtype=np.int32)  # page, start, length, previous segment

    @property
    def bytes_used(self) -> int:
        """Memory of pages and table."""
        return int(self._page_bytes + self._table.nbytes)

    def cost(self, rows: Rows) -> int:
        """Bytes that appending would add."""
        dtype, nnz = narrowest(rows.values), rows.values.size
        table = 16 * (_capacity(self._n_segments + rows.n, len(self._table)) - len(self._table))
        if self._fits(nnz):
            wider = np.promote_types(self._counts[-1].dtype, dtype).itemsize - self._counts[-1].itemsize
            return int(table + wider * self._counts[-1].size)
        return int(table + self._page_size(nnz) * (self._channel_type.itemsize + dtype.itemsize))

    def _page_size(self, nnz: int) -> int:
        return max(min(_PAGE, max(_LEAST_PAGE, self._size // 4)), nnz)

    def _fits(self, nnz: int) -> bool:
        return bool(self._channels) and self._filled + nnz <= self._channels[-1].size

    def append(self, rows: Rows, previous: NDArray[np.int64]) -> NDArray[np.int64]:
        """Add one segment for each row (n,), chained to `previous` (-1: none); returns the new segments' numbers."""
        n, nnz = rows.n, int(rows.indptr[-1])
        self._reserve(nnz, n, narrowest(rows.values))
        first, at = self._n_segments, self._filled
        self._channels[-1][at : at + nnz] = rows.channels[:nnz]
        self._counts[-1][at : at + nnz] = rows.values[:nnz]
        table = self._table[first : first + n]
        table[:, 0] = len(self._channels) - 1
        table[:, 1] = at + rows.indptr[:-1]
        table[:, 2] = np.diff(rows.indptr)
        table[:, 3] = previous
        self._filled, self._n_segments = at + nnz, first + n
        return np.arange(first, first + n)

    def _reserve(self, nnz: int, n: int, dtype: np.dtype[Any]) -> None:
        if not self._fits(nnz):
            size = self._page_size(nnz)
            self._channels.append(np.empty(size, dtype=self._channel_type))
            self._counts.append(np.empty(size, dtype=dtype))
            self._page_bytes += self._channels[-1].nbytes + self._counts[-1].nbytes
            self._filled, self._size = 0, self._size + size
        narrow = self._counts[-1]
        self._counts[-1] = narrow.astype(np.promote_types(narrow.dtype, dtype), copy=False)
        self._page_bytes += self._counts[-1].nbytes - narrow.nbytes
        capacity = _capacity(self._n_segments + n, len(self._table))
        if capacity > len(self._table):
            table = np.empty((capacity, 4), dtype=np.int32)
            table[: len(self._table)] = self._table
            self._table = table

    def _copy(self, page: NDArray[np.int64], where: NDArray[np.int64], target: Rows) -> None:
        """Copy pieces `where` (m, 3) (start, length, where to) of pages (m,)."""
        for number, here in by_number(page):
            start, length, to = np.ascontiguousarray(where[here].T)
            copy_ranges(self._channels[number], start, length, to, target.channels)
            copy_ranges(self._counts[number], start, length, to, target.values)

    def _chains(self, heads: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row number and segment of everything reachable from the heads, by row."""
        rows, owners, segments = np.arange(heads.size), [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        while True:
            alive = heads >= 0
            rows, heads = rows[alive], heads[alive]
            if not rows.size:
                break
            owners.append(rows)
            segments.append(heads)
            heads = self._table[heads, 3]
        owner, segment = np.concatenate(owners), np.concatenate(segments)
        order = np.argsort(owner, kind="stable")
        return owner[order], segment[order]


def read_logs(logs: Sequence[SegmentLog], part: NDArray[Any], heads: NDArray[np.int64]) -> sparse.csr_array:
    """Accumulated rows (n, D), float32, from the newest segments (n,) of positions, each in one of the logs.

    Channels may repeat.
    """
    found = []
    for number, rows in by_number(part):
        owner, segment = logs[number]._chains(heads[rows])
        found.append((logs[number], rows[owner], logs[number]._table[segment].astype(np.int64)))
    owner = np.concatenate([rows for _, rows, _ in found]) if found else np.zeros(0, dtype=np.int64)
    length = np.concatenate([table[:, 2] for _, _, table in found]) if found else owner
    order = np.argsort(owner, kind="stable")
    to = np.zeros_like(length)
    to[order[1:]] = np.cumsum(length[order])[:-1]
    indptr = np.zeros(heads.size + 1, dtype=np.int64)
    np.cumsum(np.bincount(owner, length, minlength=heads.size), out=indptr[1:])
    target = Rows(np.empty(indptr[-1], dtype=np.float32), np.empty(indptr[-1], dtype=np.int32), indptr)
    first = 0
    for log, rows, table in found:
        where = np.stack([table[:, 1], table[:, 2], to[first : first + rows.size]], axis=1)
        log._copy(table[:, 0], where, target)
        first += rows.size
    index_type = np.int32 if indptr[-1] < 2**31 else np.int64
    shape = (heads.size, logs[0].n_channels)
    return sparse.csr_array((target.values, target.channels, indptr.astype(index_type)), shape=shape)


def by_number(number: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Which rows have each number that there is, in order."""
    if not number.size:
        return
    if number.size == 1 or (number[0] == number[-1] and bool(np.all(number == number[0]))):
        yield int(number[0]), np.arange(number.size)
        return
    order = np.argsort(number, kind="stable")
    found, first = np.unique(number[order], return_index=True)
    yield from zip(found.tolist(), np.split(order, first[1:]), strict=True)


def _capacity(need: int, have: int) -> int:
    return have if need <= have else max(need + need // 2, 1024)
