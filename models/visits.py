"""A block of visits as the linear engine reads it: once over the counts, everything that is needed of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.anomaly import ScanWindows
from models.base import Counts, Float32, Float64, Index
from models.kernels import nonzero_rows, read_rows
from models.preprocess import column_sums, csr_rows, row_sums

_SPARSE_BELOW = 0.05
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
        Bin sums, where the block is dense.
    """

    stored: Counts
    block: Float32 | sparse.csr_array
    total: Float64
    channels: Float64
    bins: Float32 | None = None

    @property
    def n_values(self) -> int:
        """Non-zero channels if sparse, all if dense."""
        return int(self.block.nnz if isinstance(self.block, sparse.csr_array) else self.block.size)

    def subset(self, rows: NDArray[np.bool_]) -> Visits:
        """Some of the visits (for learning; without bins)."""
        block = self.block[rows]
        return Visits(block, block, self.total[rows], column_sums(block))


def read_visits(counts: Counts, windows: ScanWindows) -> Visits:
    """Read counts of any numeric type, which are left as they are; dense ones that are mostly zeros become CSR."""
    if not isinstance(counts, sparse.csr_array):
        counts = np.ascontiguousarray(counts)
        probe = counts[:: max(1, counts.shape[0] // _FEW_ROWS)]
        if not counts.size or np.count_nonzero(probe) >= _SPARSE_BELOW * probe.size:
            return Visits(counts, *read_rows(counts, windows.step, windows.total_bins))
        stored = csr_rows(*nonzero_rows(counts), counts.shape[1])
        if counts.shape[0] <= _FEW_ROWS:
            return Visits(stored, *read_rows(counts, windows.step, windows.total_bins))
        return _sparse_visits(stored)
    return _sparse_visits(counts)


def _sparse_visits(stored: sparse.csr_array) -> Visits:
    channels, indptr = stored.indices.astype(np.int32), stored.indptr.astype(np.int32)
    block = csr_rows(stored.data.astype(np.float32), channels, indptr, stored.shape[1])
    return Visits(stored, block, row_sums(block), column_sums(block))


def last_of_each(index: Index, counts: Counts) -> tuple[Index, Counts]:
    """Return only the last spectrum of each position."""
    _, last = np.unique(index[::-1], return_index=True)
    if last.size == index.size:
        return index, counts
    keep = np.sort(index.size - 1 - last)
    return index[keep], counts[keep]
