"""Offline-quality fit from stored counts: leading eigenvectors of their second moment by subspace iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Float64
from models.moments import Moments
from models.pca import Rows, orthonormal
from models.preprocess import Scaling, column_sums
from models.store import CountStore

_SMALL = 768
_MAX_SWEEPS = 12
_TOLERANCE = 2e-3


def fit_components(
    blocks: Callable[[], Iterable[Rows]], n_groups: int, start: Float64, keep: int
) -> tuple[Float64, Float64]:
    """Leading eigenvectors (m, k) and eigenvalues (k,) of the sum of y'y over all blocks.

    Parameters
    ----------
    blocks : callable
        Gives the blocks anew for each sweep.
    n_groups : int
        Scaled channels, m; up to 768 the moment itself is formed, which is exact.
    start : ndarray, (m, k0)
        Warm start, any columns; filled up to `keep` by fixed random ones.
    """
    if n_groups <= _SMALL:
        moment = np.zeros((n_groups, n_groups))
        for rows in blocks():
            y = rows.dense().astype(np.float64)
            moment += y.T @ y
        return _leading(moment, keep)

    def times(vectors: Float64) -> Float64:
        image = np.zeros_like(vectors)
        for rows in blocks():
            image += rows.back(rows.times(vectors.astype(np.float32)))
        return image

    return _iterate(times, _filled(start, n_groups, keep))


class CountedMoment:
    """Second moment of the accumulated counts of positions, which may change by a few positions between two fits.

    Worth it while counts are few: the data is read once, and every sweep is a product with a small matrix.

    Parameters
    ----------
    store : CountStore
        Where the counts are.
    squared_weight : ndarray of float64, (P,)
        Squared row weight of each position.
    """

    def __init__(self, store: CountStore, squared_weight: Float64) -> None:
        self._store, self._weight = store, squared_weight
        self._inside = np.zeros(squared_weight.size, dtype=np.bool_)
        self._moment = Moments(store.n_channels, 0)
        self.total: Float64 = np.zeros(store.n_channels)
        self.profile: Float64 = np.zeros(store.n_channels)

    def cover(self, index: NDArray[Any], rows: int) -> None:
        """Make it the moment of exactly these positions, read `rows` at a time."""
        wanted = np.zeros_like(self._inside)
        wanted[index] = True
        for sign, positions in ((1.0, wanted & ~self._inside), (-1.0, self._inside & ~wanted)):
            for part, counts in self._store.chunks(np.flatnonzero(positions), rows):
                block = sparse.csr_array(counts)
                weight = sign * self._weight[part]
                self._moment.add(block, weight)
                self.total += sign * column_sums(block)
                self.profile += block.T @ weight
        self._inside = wanted

    def components(self, scaling: Scaling, start: Float64, keep: int) -> tuple[Float64, Float64]:
        """As `fit_components`, in this scaling."""

        def times(vectors: Float64) -> Float64:
            return scaling.merge(self._moment.times(scaling.projector(vectors)))

        if scaling.n_groups <= _SMALL:
            return _leading(times(np.eye(scaling.n_groups)), keep)
        return _iterate(times, _filled(start, scaling.n_groups, keep))


def _iterate(times: Callable[[Float64], Float64], vectors: Float64) -> tuple[Float64, Float64]:
    """Subspace iteration from these vectors (m, k) until the stronger half of the eigenvalues has settled."""
    values = np.zeros(0)
    for _ in range(_MAX_SWEEPS):
        image = times(vectors)
        before = values
        values, small = _ritz(vectors, image)
        settled = before.size == values.size and _settled(before, values)
        vectors = vectors @ small if settled else orthonormal(image @ small)
        if settled or not values.size:
            break
    return vectors[:, : values.size], values


def _leading(moment: Float64, keep: int) -> tuple[Float64, Float64]:
    values, vectors = np.linalg.eigh(moment)
    values, vectors = values[::-1][:keep], vectors[:, ::-1][:, :keep]
    n = int(np.count_nonzero(values > 1e-9 * max(values[0], 1e-300)))
    return vectors[:, :n], values[:n]


def _filled(start: Float64, n_groups: int, keep: int) -> Float64:
    fill = np.random.default_rng(0).standard_normal((n_groups, max(keep - start.shape[1], 0)))
    q, _ = np.linalg.qr(np.concatenate([start[:, :keep], fill / np.sqrt(n_groups)], axis=1))
    return np.asarray(q[:, : min(keep, n_groups)])


def _ritz(vectors: Float64, image: Float64) -> tuple[Float64, Float64]:
    small = vectors.T @ image
    values, rotation = np.linalg.eigh((small + small.T) / 2)
    values, rotation = values[::-1], rotation[:, ::-1]
    n = int(np.count_nonzero(values > 1e-9 * values[0])) if values[0] > 0 else 0
    return values[:n], rotation[:, :n]


def _settled(before: Float64, after: Float64) -> bool:
    """Whether the upper half of the eigenvalues has stopped growing (the rest is noise, which never settles)."""
    half = max(1, after.size // 2)
    return bool(np.all(after[:half] - before[:half] <= _TOLERANCE * after[:half]))
