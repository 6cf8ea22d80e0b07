"""Spectra of a recording of the daemon, summed position by position."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from simulator.playback import recorded_messages
from streamer.wire import AxisMap, Block, Events, Header, WireError, decode


def recorded_spectra(path: Path) -> dict[str, Any]:
    """Return the summed counts of each position (n, D), CSR where they came as events, with what the header said.

    Keys are those of `simulator.training.measured`. What could not be read then is left out.

    Raises
    ------
    ValueError
        Where the recording has no header, or no spectra.
    """
    header, axis, sums = None, None, None
    for message in _readable(path):
        if isinstance(message, Header):
            if header is None:
                header, axis = message, message.map.axis
                sums = _Sums(int(np.prod(header.map.nav_shape)), header.map.axis.n_channels)
        elif sums is not None:
            axis = message.map.axis or axis
            sums.add(message)
    if header is None or axis is None or sums is None or not sums.n_visits:
        raise ValueError(f"{path.name} holds no spectra")
    noise, shape = header.map.noise, tuple(header.map.nav_shape)
    return {
        "name": path.parent.name, "title": str((header.map.metadata or {}).get("title", "")), "spectra": sums.total(),
        "expected": False, "axis": _axis(axis), "technique": header.map.technique,
        "noise": None if noise is None else noise.model_dump(), "nav_shape": shape, "counts": sums.mean_counts(),
    }  # fmt: skip


def _readable(path: Path) -> Iterator[Header | Block]:
    with path.open("rb") as file:
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for record in recorded_messages(memoryview(buffer)):
        try:
            message = decode(record.parts)
        except WireError:
            continue
        if isinstance(message, Header | Block):
            yield message


class _Sums:
    """Counts of n positions, summed over visits."""

    def __init__(self, n: int, n_channels: int) -> None:
        self._shape = (n, n_channels)
        self._dense: NDArray[np.float64] | None = None
        self._events: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self.n_visits = 0

    def add(self, block: Block) -> None:
        """Add a block, where it fits the scan."""
        index = self._index(block)
        counts = block.counts
        if isinstance(counts, Events):
            if counts.channels.size and int(counts.channels.max()) >= self._shape[1]:
                return
            self._events.append((np.repeat(index, np.diff(counts.offsets)), counts.channels.astype(np.int64)))
        elif counts.shape[1] == self._shape[1]:
            if self._dense is None:
                self._dense = np.zeros(self._shape)
            np.add.at(self._dense, index, counts)
        self.n_visits += block.n

    def _index(self, block: Block) -> NDArray[np.int64]:
        if block.index is not None:
            return block.index.astype(np.int64) % self._shape[0]
        first = block.map.index if isinstance(block.map.index, int) else block.map.frame
        return (first + np.arange(block.n, dtype=np.int64)) % self._shape[0]

    def total(self) -> Any:
        """Return the sums, (n, D)."""
        if self._dense is None:
            rows, channels = (np.concatenate(parts) for parts in zip(*self._events, strict=True))
            return sp.coo_array((np.ones(rows.size, dtype=np.int64), (rows, channels)), shape=self._shape).tocsr()
        for rows, channels in self._events:
            np.add.at(self._dense, (rows, channels), 1.0)
        return self._dense

    def mean_counts(self) -> float:
        """Return the mean sum of a position."""
        dense = 0.0 if self._dense is None else float(self._dense.sum())
        return (dense + sum(rows.size for rows, _ in self._events)) / self._shape[0]


def _axis(axis: AxisMap) -> dict[str, Any]:
    return axis.model_dump(exclude_none=True)
