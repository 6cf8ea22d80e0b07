"""A block of visits as the linear engine reads it: once over the counts, everything that is needed of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.anomaly import ScanWindows
from models.base import Counts, Float32, Float64, Index, as_dense
from models.blocks import event_parts
from models.kernels import nonzero_rows, read_rows, sum_events
from models.preprocess import column_sums, csr_rows

_SPARSE_BELOW, _THIN_BELOW = 0.05, 0.2
_FEW_ROWS = 4


@dataclass(frozen=True)
class Visits:
    """Spectra of single visits (n, D).

    Attributes
    ----------
    stored : Counts
        In the type they came in, CSR where most channels are empty.
    block : float32, (n, D)
        The same in float32, owned by nobody else; dense or CSR.
    total, channels : ndarray of float64, (n,) and (D,)
        Sums over channels and over spectra.
    bins : ndarray of float32, (n, total_bins), optional
        Bin sums, where the spectra came dense.
    background : ndarray of float32, (n, D), optional
        What was subtracted from the block. Sums and bins are those of the counts before: their noise is what it was.
    """

    stored: Counts
    block: Float32 | sparse.csr_array
    total: Float64
    channels: Float64
    bins: Float32 | None = None
    background: Float32 | None = None

    @property
    def gross(self) -> Float32 | sparse.csr_array:
        """The block with what was subtracted from it."""
        return self.block if self.background is None else self.block + self.background

    @property
    def n_values(self) -> int:
        """Non-zero channels if they are kept sparse, all if dense."""
        return int(self.stored.nnz if isinstance(self.stored, sparse.csr_array) else self.stored.size)

    def subset(self, rows: NDArray[np.bool_]) -> Visits:
        """Some of the visits (for learning; without bins)."""
        block = self.block[rows]
        if self.background is None:
            return Visits(block, block, self.total[rows], column_sums(block))
        background = self.background[rows]
        return Visits(block, block, self.total[rows], column_sums(block + background), background=background)

    def net_of(self, background: Float32, windows: ScanWindows) -> Visits:
        """The same visits with a background (n, D) subtracted."""
        gross = np.asarray(as_dense(self.block))
        bins = windows.bins(gross) if self.bins is None else self.bins
        return Visits(self.stored, gross - background, self.total, self.channels, bins, background)


def _filling(counts: NDArray[Any]) -> float:
    """Part of the channels of dense counts (n, D) that are not zero, by a few of the spectra; 1 of none."""
    probe = counts[:: max(1, counts.shape[0] // _FEW_ROWS)]
    return float(np.count_nonzero(probe) / probe.size) if probe.size else 1.0


def compact(counts: Counts) -> Counts:
    """Counts as they are kept: CSR where most channels are empty."""
    if isinstance(counts, sparse.csr_array):
        return counts
    counts = np.ascontiguousarray(counts)
    return csr_rows(*nonzero_rows(counts), counts.shape[1]) if _filling(counts) < _SPARSE_BELOW else counts


def read_visits(counts: Counts, windows: ScanWindows) -> Visits:
    """Read counts of any numeric type, which are left as they are; dense ones that are mostly zeros become CSR.

    Those that are so to a lesser degree are smaller as they came, but are sooner worked with as CSR.
    """
    if isinstance(counts, sparse.csr_array):
        return _sparse_visits(counts, counts)
    counts = np.ascontiguousarray(counts)
    filling = _filling(counts)
    few = counts.shape[0] <= _FEW_ROWS
    if filling >= (_SPARSE_BELOW if few else _THIN_BELOW):
        return Visits(counts, *read_rows(counts, windows.step, windows.total_bins))
    thin = csr_rows(*nonzero_rows(counts), counts.shape[1])
    if few:
        return Visits(thin, *read_rows(counts, windows.step, windows.total_bins))
    if filling < _SPARSE_BELOW:
        return _sparse_visits(thin, thin)
    read = _sparse_visits(counts, thin)
    return replace(read, bins=windows.bins(read.block))


def _sparse_visits(stored: Counts, counts: sparse.csr_array) -> Visits:
    channels, indptr = (part.astype(np.int32, copy=False) for part in (counts.indices, counts.indptr))
    block = csr_rows(counts.data.astype(np.float32), channels, indptr, counts.shape[1])
    return Visits(stored, block, *sum_events(*event_parts(block), block.shape[1]))


def last_of_each(index: Index, counts: Counts) -> tuple[Index, Counts]:
    """Return only the last spectrum of each position."""
    _, last = np.unique(index[::-1], return_index=True)
    if last.size == index.size:
        return index, counts
    keep = np.sort(index.size - 1 - last)
    return index[keep], counts[keep]
