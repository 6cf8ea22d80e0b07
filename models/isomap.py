"""Coordinates along a curved sheet of spectra, and spectra at the nodes of a grid on it."""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path
from scipy.spatial.distance import cdist

from models.base import Float64

_NEIGHBOURS = 8
_STIFFNESS = 1e-3


def isomap(points: Float64, k: int) -> Float64:
    """Coordinates (n, K), each from -1 to 1, whose distances are those of points (n, r) along the sheet they lie on.

    Paths lead from neighbour to neighbour (Tenenbaum, de Silva, Langford 2000); a minimum spanning tree joins what
    neighbours alone would not. Classical scaling of the paths' lengths.
    """
    apart = cdist(points, points)
    near = np.argsort(apart, axis=1)[:, : _NEIGHBOURS + 1]
    rows = np.repeat(np.arange(len(points)), near.shape[1])
    graph = csr_array((apart[rows, near.ravel()], (rows, near.ravel())), shape=apart.shape)
    graph = graph.maximum(csr_array(minimum_spanning_tree(apart)))
    squared = shortest_path(graph, directed=False) ** 2
    squared -= squared.mean(axis=0)
    squared -= squared.mean(axis=1, keepdims=True)
    size, axes = np.linalg.eigh(-0.5 * squared)
    at = axes[:, ::-1][:, :k] * np.sqrt(np.maximum(size[::-1][:k], 0.0))
    low, high = at.min(axis=0), at.max(axis=0)
    return np.asarray(2.0 * (at - low) / np.maximum(high - low, 1e-12) - 1.0)


def grid(side: int, k: int) -> Float64:
    """Nodes (side^K, K) of a grid from -1 to 1 along each of K coordinates."""
    return np.array(list(product(np.linspace(-1.0, 1.0, side), repeat=k)))


def at_nodes(spectra: Float64, share: Float64, side: int, k: int) -> Float64:
    """Spectra (side^K, D) at the nodes of a grid: least squares of spectra (n, D) that are weighted means of them.

    Parameters
    ----------
    share : ndarray, (n, side^K)
        Weights. Nodes that nothing lies near are found by the smallest second differences along the grid.
    """
    bend, same = np.diff(np.eye(side), n=2, axis=0), np.eye(side)
    stiff = np.zeros((side**k, side**k))
    for axis in range(k):
        along: Float64 = np.ones((1, 1))
        for other in range(k):
            along = np.kron(along, bend if other == axis else same).astype(np.float64)
        stiff += along.T @ along
    # A trace of the identity, for grids so short that nothing bends.
    stiff += 1e-6 * np.eye(side**k)
    return np.asarray(np.linalg.solve(share.T @ share + _STIFFNESS * stiff, share.T @ spectra))
