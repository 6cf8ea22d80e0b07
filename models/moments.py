"""Exact second moments of sparse counts, and their leading components by warm-started subspace iteration."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from models.base import Float32, Float64
from models.kernels import add_pairs
from models.pca import orthonormal
from models.preprocess import Scaling

_ITERATIONS = 2


class Moments:
    """Sum of w x x' over spectra x (D,), from pairs of events: cheap while counts are few, and nothing is cut off.

    Sums of different workers add up, and the channel scaling may change afterwards.

    Parameters
    ----------
    n_channels : int
        D; the matrix takes 4 D^2 bytes.
    keep : int
        Components that `solve` looks for.
    """

    def __init__(self, n_channels: int, keep: int) -> None:
        self._half: Float32 = np.zeros((n_channels, n_channels), dtype=np.float32)
        self._keep = keep
        self._vectors: Float64 | None = None
        self.n_rows = 0.0

    def add(self, counts: sparse.csr_array, squared_weight: Float64) -> None:
        """Add CSR spectra (n, D) in float32 with squared weights (n,)."""
        add_pairs(counts.data, counts.indices, counts.indptr, squared_weight, self._half)
        self.n_rows += counts.shape[0]

    def merge(self, other: Moments) -> None:
        """Add what another worker summed: exact."""
        self._half += other._half
        self.n_rows += other.n_rows

    def times(self, columns: Float32) -> Float32:
        """The moment times columns (D, k)."""
        half = self._half
        diagonal = np.ascontiguousarray(np.diagonal(half))[:, None]
        return np.asarray(half @ columns + half.T @ columns - diagonal * columns, dtype=np.float32)

    def solve(self, scaling: Scaling, iterations: int = _ITERATIONS) -> tuple[Float64, Float64]:
        """Leading vectors (m, k) and summed variances (k,) in a scaling; each call starts from the last result."""
        vectors = self._start(scaling)
        for _ in range(iterations):
            vectors = orthonormal(scaling.merge(self.times(scaling.projector(vectors))))
        image = scaling.merge(self.times(scaling.projector(vectors)))
        small = vectors.T @ image
        values, rotation = np.linalg.eigh((small + small.T) / 2)
        live = int(np.count_nonzero(values > 1e-6 * max(float(values.max(initial=0.0)), 1e-300)))
        order = np.arange(values.size)[::-1][:live]
        vectors = vectors @ rotation[:, order]
        self._vectors = scaling.eigenspectra(vectors).T.astype(np.float64)
        return vectors, values[order]

    def _start(self, scaling: Scaling) -> Float64:
        """The last components in the present scaling, filled up with fixed random columns."""
        k = min(self._keep, scaling.n_groups)
        known = np.zeros((scaling.n_groups, 0)) if self._vectors is None else scaling.merge(self._vectors)
        fill = np.random.default_rng(0).standard_normal((scaling.n_groups, k - min(known.shape[1], k)))
        return orthonormal(np.concatenate([known[:, :k], fill / np.sqrt(scaling.n_groups)], axis=1))
