"""How far noise reaches where scaling by rows and channels leaves it uneven.

Scaling by 1/sqrt(g h) gives every count unit variance only where the expected counts are a product of a row and a
channel factor. Phases of different composition are not: the lines of a minor phase are noisier than the mean spectrum
says, and the noise reaches past the Marchenko-Pastur edge. Its true reach is measured on a matrix of the same variance
profile and no signal: the square root of every count with a random sign, whose variance is the count itself. (Random
sign flips for heteroscedastic noise: Hong, Sheng and Dobriban 2020, arXiv 2012.02985; for Poisson counts the square
root stands for the unknown residual.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from models.base import Float32, Float64
from models.pca import ScaledRows
from models.preprocess import Scaling

_LEAST = 32
_SPACE = 40
_TOLERANCE = 3e-3
# What one draw may lack of the largest, where there are too few to tell their spread.
_LUCK = 1.02
_MOST_DRAWS, _DRAWN_VALUES = 5, 8_000_000
Block: TypeAlias = Float32 | sparse.csr_array


def noise_reach(blocks: Iterable[tuple[Block, Float64]], scaling: Scaling) -> float:
    """Largest eigenvalue of pure noise in these spectra over the one that Marchenko and Pastur expect, at least 1.

    A few rare bright rows carry noise eigenvectors of their own, whose strength is a matter of luck (some per cent):
    of several draws (of fewer the more counts there are) the mean and three standard deviations count, for the largest
    of five is exceeded by one noise in six.

    Parameters
    ----------
    blocks : iterable
        Blocks of Poisson counts (n, D) in float32 with the squared row weights (n,) of the fit.
    """
    given = list(blocks)
    n, size = sum(squared.size for _, squared in given), scaling.n_groups
    if min(n, size) < _LEAST:
        return 1.0
    values = sum(block.nnz if isinstance(block, sparse.csr_array) else block.size for block, _ in given)
    draws = int(np.clip(_DRAWN_VALUES / max(values, 1), 1, _MOST_DRAWS))
    rng = np.random.default_rng(0)
    found = np.array([_largest(given, scaling, rng) for _ in range(draws)])
    top = _LUCK * found.max() if draws < 3 else max(found.max(), found.mean() + 3.0 * found.std(ddof=1))
    return max(1.0, float(top / (n * (1.0 + np.sqrt(scaling.n_effective / n)) ** 2)))


def _largest(given: list[tuple[Block, Float64]], scaling: Scaling, rng: np.random.Generator) -> float:
    noise = [ScaledRows((_flipped(block, rng),), np.sqrt(squared), scaling) for block, squared in given]
    size = scaling.n_groups
    moment = LinearOperator((size, size), matvec=lambda v: _moment_times(noise, v), dtype=np.float64)
    start = rng.standard_normal(size)
    values = eigsh(moment, k=1, v0=start, ncv=min(_SPACE, size), tol=_TOLERANCE, return_eigenvectors=False)
    return float(values[0])


def _moment_times(noise: list[ScaledRows], vector: Float64) -> Float64:
    column = vector.reshape(-1, 1).astype(np.float32)
    return np.asarray(np.sum([rows.back(rows.times(column)) for rows in noise], axis=0), dtype=np.float64).ravel()


def _flipped(block: Block, rng: np.random.Generator) -> Block:
    """Square roots of counts, each that is not zero with a random sign: the same for dense and sparse spectra."""
    if isinstance(block, sparse.csr_array):
        whole = block.copy()
        whole.sum_duplicates()
        return sparse.csr_array((_signed_roots(whole.data, rng), whole.indices, whole.indptr), shape=whole.shape)
    roots = np.maximum(block, 0.0)
    lit = block != 0
    roots[lit] = _signed_roots(block[lit], rng)
    return roots


def _signed_roots(counts: Float32, rng: np.random.Generator) -> Float32:
    roots = np.sqrt(np.maximum(counts, 0.0), dtype=np.float32)
    bits = np.unpackbits(np.frombuffer(rng.bytes(-(-roots.size // 8)), dtype=np.uint8), count=roots.size)
    roots *= 2.0 * bits.astype(np.float32) - 1.0
    return roots
