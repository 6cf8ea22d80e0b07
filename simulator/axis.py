"""The spectral axis of an instrument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Axis:
    """Channel centres `values` f8[D], strictly increasing or decreasing, in `units`."""

    name: str
    units: str
    values: Floats

    @classmethod
    def linear(cls, name: str, units: str, start: float, stop: float, channels: int) -> Axis:
        """Divide `start` to `stop` into equal channels: channel 0 is centred on `start`."""
        scale = (stop - start) / channels
        return cls(name, units, start + scale * np.arange(channels, dtype=np.float64))

    @property
    def size(self) -> int:
        """Number of channels D."""
        return len(self.values)

    @property
    def scale(self) -> float:
        """Mean width of a channel in `units`."""
        if self.size < 2:
            return 1.0
        return float((self.values[-1] - self.values[0]) / (self.size - 1))

    @property
    def edges(self) -> Floats:
        """Borders of the channels, f8[D + 1]; those at the ends mirror their neighbours."""
        if self.size < 2:
            return np.array([self.values[0] - 0.5, self.values[0] + 0.5])
        inner = 0.5 * (self.values[1:] + self.values[:-1])
        first, last = 2 * self.values[0] - inner[0], 2 * self.values[-1] - inner[-1]
        return np.concatenate([[first], inner, [last]])

    @property
    def is_linear(self) -> bool:
        """Whether offset and scale say everything."""
        ideal = self.values[0] + self.scale * np.arange(self.size)
        return bool(np.all(np.abs(ideal - self.values) <= 1e-6 * abs(self.scale)))

    def to_map(self) -> dict[str, Any]:
        """Return the axis as the header of a series has it."""
        head: dict[str, Any] = {"name": self.name, "units": self.units}
        if self.is_linear:
            return head | {"size": self.size, "offset": float(self.values[0]), "scale": self.scale}
        return head | {"values": self.values.tolist()}
