"""Normalisation of spectra: to their total counts, their highest peak, their spread, or each channel to its range."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.base import Float64

Normalisation = Literal["none", "total", "peak", "snv", "minmax"]


def row_scale(net: NDArray[Any], kind: Normalisation) -> tuple[Float64, Float64]:
    """What is taken off each spectrum (n, m), and what it is then divided by, (n,) each; 1 where that would be nothing.

    Parameters
    ----------
    kind : str
        'total' counts, the highest channel ('peak'), or mean and standard deviation over channels ('snv').
    """
    level = np.zeros(net.shape[0])
    if kind == "total":
        scale = net.sum(axis=1, dtype=np.float64)
    elif kind == "peak":
        scale = net.max(axis=1).astype(np.float64)
    else:
        level, scale = net.mean(axis=1, dtype=np.float64), net.std(axis=1, dtype=np.float64)
    return level, np.where(scale > 0, scale, 1.0)


class ChannelRange:
    """Takes each channel to 0..1 by its least and largest value in the first spectra it sees.

    A channel that does not vary there is left as it is.
    """

    def __init__(self) -> None:
        self._low: Float64 | None = None
        self._span: Float64 = np.ones(0)

    def apply(self, spectra: NDArray[Any]) -> Float64:
        """Normalised spectra (n, m)."""
        if self._low is None:
            if not len(spectra):
                return np.asarray(spectra, dtype=np.float64)
            low, span = spectra.min(axis=0), np.ptp(spectra, axis=0).astype(np.float64)
            flat = span <= 0
            self._low, self._span = np.where(flat, 0.0, low), np.where(flat, 1.0, span)
        return (spectra - self._low) / self._span

    def undo(self, spectra: NDArray[Any]) -> Float64:
        """Spectra (n, m) from normalised ones."""
        return np.asarray(spectra, dtype=np.float64) if self._low is None else spectra * self._span + self._low
