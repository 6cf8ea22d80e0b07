"""Blocks of spectra as the learner takes them together: float32, dense or CSR."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Float32, Float64, as_dense

Block: TypeAlias = Float32 | sparse.csr_array


def weighted_sum(blocks: list[Block], squared: Float64) -> Float64:
    """Sum of spectra (D,) with these weights over all blocks."""
    out: Float64 = np.zeros(blocks[0].shape[1])
    first = 0
    for block in blocks:
        out += block.T @ squared[first : first + block.shape[0]].astype(np.float32)
        first += block.shape[0]
    return out


def as_csr(block: Block) -> sparse.csr_array:
    """A block as CSR."""
    return block if isinstance(block, sparse.csr_array) else sparse.csr_array(block)


def event_parts(block: sparse.csr_array) -> tuple[Float32, NDArray[np.uint32], NDArray[np.uint32]]:
    """Values, channels and row pointer of CSR spectra in float32, as compiled loops take them."""
    return block.data, block.indices.astype(np.uint32), block.indptr.astype(np.uint32)


def gathered(blocks: list[Block]) -> list[Block]:
    """The same spectra in few blocks: many small ones are put together, sparse and dense apart never mixed."""
    if len(blocks) <= 8:
        return blocks
    if all(isinstance(b, sparse.csr_array) for b in blocks):
        return [sparse.csr_array(sparse.vstack(blocks, format="csr"))]
    return [np.concatenate([as_dense(b) for b in blocks])]
