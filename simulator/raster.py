"""In which order a scan visits its positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["raster", "serpentine", "random"]
ORDERS: tuple[Order, ...] = ("raster", "serpentine", "random")
Index = NDArray[np.uint32]


def scan_order(
    nav_shape: Sequence[int],
    order: Order = "raster",
    *,
    region: tuple[int, int, int, int] | None = None,
    seed: int = 0,
) -> Index:
    """Return flat positions in the order of one pass, u4[m].

    Parameters
    ----------
    nav_shape : 1 to 3 numbers
        Of the whole map; the last varies fastest.
    order : {"raster", "serpentine", "random"}
        Serpentine reverses every other line.
    region : (y0, x0, ny, nx), optional
        A sub-scan of a two-dimensional map.
    seed : int
        For the random order.

    Raises
    ------
    ValueError
        Where the region does not lie inside the map.
    """
    grid = np.arange(int(np.prod(nav_shape)), dtype=np.uint32).reshape(-1, int(nav_shape[-1]))
    if region is not None:
        y0, x0, ny, nx = region
        inside = len(nav_shape) == 2 and min(y0, x0) >= 0 and min(ny, nx) > 0
        if not inside or y0 + ny > grid.shape[0] or x0 + nx > grid.shape[1]:
            raise ValueError(f"region {list(region)} does not lie inside a map of {list(nav_shape)}")
        grid = grid[y0 : y0 + ny, x0 : x0 + nx]
    if order == "serpentine":
        grid = grid.copy()
        grid[1::2] = grid[1::2, ::-1]
    flat = np.ascontiguousarray(grid).reshape(-1)
    if order == "random":
        return np.random.Generator(np.random.Philox(seed)).permutation(flat)
    return flat


def sparse_order(nav_shape: Sequence[int], share: float, *, seed: int = 0) -> Index:
    """Return about a share of the positions of a two-dimensional map in raster order: a random one of each square cell.

    Raises
    ------
    ValueError
        Where the share is not between 0 and 1, or the map has not two dimensions.
    """
    if not 0 < share <= 1 or len(nav_shape) != 2:
        raise ValueError(f"a share of {share:g} of a map of {list(nav_shape)} cannot be chosen")
    rng = np.random.Generator(np.random.Philox(seed))
    ny, nx = (max(1, round(n * share**0.5)) for n in nav_shape)
    y_edges, x_edges = np.linspace(0, nav_shape[0], ny + 1), np.linspace(0, nav_shape[1], nx + 1)
    y = np.floor(y_edges[:-1, None] + rng.random((ny, nx)) * np.diff(y_edges)[:, None]).astype(np.int64)
    x = np.floor(x_edges[None, :-1] + rng.random((ny, nx)) * np.diff(x_edges)[None, :]).astype(np.int64)
    return np.unique(y * nav_shape[1] + x).astype(np.uint32)
