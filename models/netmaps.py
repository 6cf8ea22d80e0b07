"""Backgrounds of denoised spectra, found when there is time: better than those of single noisy visits, and harmless."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.background import Background
from models.base import Float32

_CHUNK = 16
_ROWS = 1024


class Backgrounds:
    """The background of each position's denoised spectrum, at the knots; NaN where it was not found yet.

    Parameters
    ----------
    n_positions : int
    background : Background
    denoise : callable
        Gives the denoised spectra (n, m) of positions (n,).
    """

    def __init__(
        self, n_positions: int, background: Background, denoise: Callable[[NDArray[np.int64]], Float32]
    ) -> None:
        self._background, self._denoise = background, denoise
        self._values: Float32 = np.full((n_positions, background.knots.at.size), np.nan, dtype=np.float32)
        self._stale = np.ones(n_positions, dtype=np.bool_)
        self.waiting = False
        """Whether some may be out of date."""

    @property
    def nbytes(self) -> int:
        """Memory of the map."""
        return self._values.nbytes

    @property
    def shapes(self) -> Float32:
        """Spectra (M, m) whose sums the backgrounds are."""
        return self._background.knots.matrix

    def touch(self, index: NDArray[Any] | None = None) -> None:
        """The denoised spectra of these positions, or of all, have changed."""
        self._stale[slice(None) if index is None else index] = True
        self.waiting = True

    def work(self, measured: NDArray[np.int64]) -> bool:
        """Find some that are not up to date, in a few milliseconds; False when none was left."""
        waiting = measured[self._stale[measured]][:_CHUNK]
        self._find(waiting)
        self.waiting = bool(waiting.size)
        return self.waiting

    def at(self, index: NDArray[Any], refresh: bool) -> Float32:
        """Coefficients (n, M) of positions; brought up to date first where that is cheap, or asked for."""
        if refresh or self._background.is_cheap:
            waiting = index[self._stale[index]]
            for first in range(0, waiting.size, _ROWS):
                self._find(waiting[first : first + _ROWS])
        return np.asarray(self._values[index])

    def _find(self, index: NDArray[np.int64]) -> None:
        if index.size:
            self._values[index] = self._background.find(self._denoise(index))
            self._stale[index] = False
