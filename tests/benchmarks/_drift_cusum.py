"""Textbook CUSUMs of shift and of gain, to stand beside the joint test in the benchmark of drift."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.drift_filters import Readings

Float = NDArray[np.float64]


@dataclass
class Cusums:
    """Two-sided CUSUMs of shift alone and of gain alone, on filtered counts in units of their standard error."""

    k: float = 0.5
    h: float = 10.0
    _up: Float = field(default_factory=lambda: np.zeros(2))
    _down: Float = field(default_factory=lambda: np.zeros(2))

    def add(self, readings: Readings) -> bool:
        z = (readings.filtered / np.sqrt(np.diagonal(readings.covariance, axis1=-2, axis2=-1)))[0]
        self._up = np.maximum(0.0, self._up + z - self.k)
        self._down = np.maximum(0.0, self._down - z - self.k)
        return bool(max(self._up.max(), self._down.max()) > self.h)
