"""Accumulated counts of positions whose background was found visit by visit and is kept beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import Counts, Float32, add_at, as_dense
from models.store import CountStore


class NetStore(CountStore):
    """Keeps counts as they were measured, and gives them net of background.

    Parameters
    ----------
    n_positions, n_channels, limit_bytes : int
        As of `CountStore`; the coefficients of the backgrounds count as memory too.
    shapes : ndarray of float32, (M, D)
        Spectra whose sums the backgrounds are.
    """

    def __init__(self, n_positions: int, n_channels: int, limit_bytes: int, shapes: Float32) -> None:
        self._added: Float32 = np.zeros((n_positions, len(shapes)), dtype=np.float32)
        self._shapes = shapes
        super().__init__(n_positions, n_channels, limit_bytes)

    @property
    def bytes_used(self) -> int:
        """Memory held for counts and backgrounds."""
        return super().bytes_used + self._added.nbytes

    def clear(self, index: NDArray[Any]) -> None:
        """Forget counts and backgrounds of positions."""
        super().clear(index)
        self._added[index] = 0.0

    def add_background(self, index: NDArray[Any], added: Float32) -> None:
        """Add the coefficients (n, M) of visits, besides their counts."""
        add_at(self._added, index, added)

    def background(self, index: NDArray[Any]) -> Float32 | None:
        """What `rows` leaves out of the counts of positions, (n, D)."""
        return np.asarray(self._added[index] @ self._shapes)

    def rows(self, index: NDArray[Any]) -> Counts:
        """Accumulated net counts (n, D) at positions, dense float32."""
        return np.asarray(as_dense(self.gross(index)) - self._added[index] @ self._shapes, dtype=np.float32)

    def arrays(self, index: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Accumulated counts as they were measured, and the coefficients of their backgrounds."""
        return super().arrays(index) | {"added": self._added[index]}

    def merge(self, index: NDArray[Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Add counts and backgrounds of positions (n,) from such arrays."""
        super().merge(index, arrays)
        self._added[index] += arrays["added"]

    def background_sums(self, index: NDArray[Any], sums: Float32) -> Float32:
        """Backgrounds (n,) of positions summed over channels, from such sums (M,) of the shapes."""
        return np.asarray(self._added[index] @ sums)
