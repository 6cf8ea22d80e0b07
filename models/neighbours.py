"""Positions beside others on the grid of a scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def neighbours(positions: NDArray[np.int64], shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions that share a side with these, and for each which row of `positions` it lies beside.

    Parameters
    ----------
    positions : ndarray, (n,)
        Flat C-order indices into `shape`.
    """
    place = np.stack(np.unravel_index(positions, shape), axis=1)
    found, owner = [], []
    for axis, size in enumerate(shape):
        for step in (-1, 1):
            at = place[:, axis] + step
            rows = np.flatnonzero((at >= 0) & (at < size))
            beside = place[rows]
            beside[:, axis] = at[rows]
            found.append(np.ravel_multi_index(tuple(beside.T), shape))
            owner.append(rows)
    return np.concatenate(found).astype(np.int64), np.concatenate(owner)


def patches(
    positions: NDArray[np.int64], shape: tuple[int, ...], reach: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions at most `reach` steps from these along every axis, themselves too, and of which row each is near.

    Parameters
    ----------
    positions : ndarray, (n,)
        Flat C-order indices into `shape`.
    """
    return boxes(np.stack(np.unravel_index(positions, shape), axis=1), range(-reach, reach + 1), shape)


def boxes(
    corners: NDArray[np.int64], steps: range, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions at these steps along every axis from corners (n, d), inside `shape`, and of which corner each is."""
    offsets = np.stack(np.meshgrid(*[np.asarray(steps)] * len(shape), indexing="ij"), axis=-1)
    place = corners[:, None] + offsets.reshape(-1, len(shape))
    inside = ((place >= 0) & (place < shape)).all(axis=2)
    owner = np.nonzero(inside)[0]
    return np.ravel_multi_index(tuple(place[inside].T), shape).astype(np.int64), owner
