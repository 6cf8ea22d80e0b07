"""Offline-quality fit from stored counts: leading eigenvectors of their second moment by subspace iteration."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from models.base import Float64
from models.pca import Rows, orthonormal

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
        return _exact(blocks(), n_groups, keep)
    vectors = _filled(start, n_groups, keep)
    values = np.zeros(0)
    for _ in range(_MAX_SWEEPS):
        image = np.zeros_like(vectors)
        for rows in blocks():
            image += rows.back(rows.times(vectors))
        before = values
        values, small = _ritz(vectors, image)
        settled = before.size == values.size and _settled(before, values)
        vectors = vectors @ small if settled else orthonormal(image @ small)
        if settled or not values.size:
            break
    return vectors[:, : values.size], values


def _exact(blocks: Iterable[Rows], n_groups: int, keep: int) -> tuple[Float64, Float64]:
    moment = np.zeros((n_groups, n_groups))
    for rows in blocks:
        y = rows.dense()
        moment += y.T @ y
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
