"""Blocks of spectra as the learner takes them together: float32, dense or CSR."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Float32, Float64, as_dense
from models.kernels import csr_back, csr_times, power_events, power_rows

Block: TypeAlias = Float32 | sparse.csr_array


def times(block: Block, matrix: Float32) -> Float32:
    """Spectra in float32 @ matrix, (n, k)."""
    if isinstance(block, sparse.csr_array):
        return csr_times(*event_parts(block), np.ascontiguousarray(matrix, dtype=np.float32))
    return np.asarray(block @ matrix)


def back(block: Block, scores: Float32) -> Float32:
    """Spectra in float32, transposed, @ scores, (D, k)."""
    if isinstance(block, sparse.csr_array):
        return csr_back(*event_parts(block), np.ascontiguousarray(scores, dtype=np.float32), block.shape[1])
    return np.asarray(block.T @ scores)


def power(block: Block, starts: NDArray[np.int64], weight: Float64) -> Float64:
    """Weighted squared norm (n,) of spectra in float32, summed over groups of channels.

    Parameters
    ----------
    starts : ndarray of int64, (m,)
        First channel of each group.
    weight : ndarray of float64, (m,)
    """
    if not isinstance(block, sparse.csr_array):
        return power_rows(block, starts, weight)
    group = np.repeat(np.arange(starts.size), np.diff(starts, append=block.shape[1]))
    return power_events(*event_parts(block), group, weight)


def weighted_sum(blocks: list[Block], squared: Float64) -> Float64:
    """Sum of spectra (D,) with these weights over all blocks."""
    out: Float64 = np.zeros(blocks[0].shape[1])
    first = 0
    for block in blocks:
        out += back(block, squared[first : first + block.shape[0], None].astype(np.float32))[:, 0]
        first += block.shape[0]
    return out


def as_csr(block: Block) -> sparse.csr_array:
    """A block as CSR."""
    return block if isinstance(block, sparse.csr_array) else sparse.csr_array(block)


def event_parts(block: sparse.csr_array) -> tuple[Float32, NDArray[np.uint32], NDArray[np.uint32]]:
    """Values, channels and row pointer of CSR spectra in float32, as compiled loops take them."""
    return block.data, _unsigned(block.indices), _unsigned(block.indptr)


def _unsigned(index: NDArray[Any]) -> NDArray[np.uint32]:
    """Indices that are not negative, without a copy where they are as wide."""
    return index.view(np.uint32) if index.dtype == np.int32 else index.astype(np.uint32)


def gathered(blocks: list[Block]) -> list[Block]:
    """The same spectra in few blocks: many small ones are put together, sparse and dense apart never mixed."""
    if len(blocks) <= 8:
        return blocks
    if all(isinstance(b, sparse.csr_array) for b in blocks):
        return [sparse.csr_array(sparse.vstack(blocks, format="csr"))]
    return [np.concatenate([as_dense(b) for b in blocks])]
