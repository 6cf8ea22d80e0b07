"""Offline-quality fit from stored counts: leading eigenvectors of their second moment by a block Krylov space.

Each further block costs a pass over the counts. Keeping all blocks (block Lanczos: Golub and Underwood 1977) takes a
third of the passes that a subspace iteration takes from the same start.
"""

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

_SMALL_MOMENT, _SMALL = 768, 512
_MAX_SWEEPS = 8
_LEAST_BLOCK = 12
_TOLERANCE = 3e-3


def fit_components(
    blocks: Callable[[], Iterable[Rows]], n_groups: int, start: Float64, keep: int, level: float = 0.0
) -> tuple[Float64, Float64]:
    """Leading eigenvectors (m, k) and eigenvalues (k,) of the sum of y'y over all blocks.

    Parameters
    ----------
    blocks : callable
        Gives the blocks anew for each sweep.
    n_groups : int
        Scaled channels, m; up to 512 the moment itself is formed, which is exact.
    start : ndarray, (m, k0)
        Warm start, any columns; where they are fewer than `keep`, the space grows from fewer vectors.
    level : float
        Eigenvalues above it have to be right, and which they are; the stronger half of `keep` where it is 0.
    """
    if n_groups <= _SMALL:
        moment = np.zeros((n_groups, n_groups))
        for rows in blocks():
            y = rows.dense()
            moment += y.T @ y
        return _leading(moment, keep)

    def times(vectors: Float64) -> Float64:
        image = np.zeros_like(vectors)
        for rows in blocks():
            image += rows.back(rows.times(vectors.astype(np.float32)))
        return image

    return _krylov(times, _filled(start, n_groups, min(keep, max(start.shape[1], _LEAST_BLOCK))), keep, level)


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

    def components(self, scaling: Scaling, start: Float64, keep: int, level: float = 0.0) -> tuple[Float64, Float64]:
        """As `fit_components`, in this scaling."""

        def times(vectors: Float64) -> Float64:
            return scaling.merge(self._moment.times(scaling.projector(vectors)))

        if scaling.n_groups <= _SMALL_MOMENT:
            return _leading(times(np.eye(scaling.n_groups)), keep)
        return _krylov(times, _filled(start, scaling.n_groups, keep), keep, level)


def _krylov(times: Callable[[Float64], Float64], block: Float64, keep: int, level: float) -> tuple[Float64, Float64]:
    """Leading Ritz vectors (m, k) and values (k,) in the span of a block, its image, the image of that and so on."""
    space, images, values = block[:, :0], block[:, :0], np.zeros(0)
    while True:
        before = values
        space, images = np.concatenate([space, block], axis=1), np.concatenate([images, times(block)], axis=1)
        values, small = _ritz(space, images)
        vectors = space @ small[:, :keep]
        left = images @ small[:, :keep] - vectors * values[:keep]
        done = space.shape[1] >= _MAX_SWEEPS * block.shape[1] or not values.size
        if done or (values.size >= keep and _settled(before, values, (left**2).sum(axis=0), level)):
            return vectors, values[:keep]
        block = _beyond(space, left[:, : block.shape[1]])
        if not block.shape[1]:
            return vectors, values[:keep]


def _beyond(space: Float64, columns: Float64) -> Float64:
    """Orthonormal basis of what columns have outside a space, which is taken out twice against rounding."""
    for _ in range(2):
        columns = orthonormal(columns - space @ (space.T @ columns))
    return columns


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


def _settled(before: Float64, values: Float64, left: Float64, level: float) -> bool:
    """Whether the Ritz vectors that matter would gain next to nothing, beside the noise, by another sweep.

    What is left of their images (k,), squared, over the distance to the rest of the spectrum is what they may gain. The
    next value must not be about to rise above the level.
    """
    matter = int(np.count_nonzero(values[: left.size] > level)) if level else max(1, left.size // 2)
    if matter >= min(left.size, before.size):
        return False
    noise = values[matter]
    if level and 2.0 * noise - before[matter] > level:
        return False
    gap = np.maximum(values[:matter] - noise, 1e-3 * values[:matter])
    return bool(np.all(left[:matter] <= _TOLERANCE * (level or noise) * gap))
