"""The axis of a spectrum: channels to energies (or losses, angles, shifts) and back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from models.base import Float64

_SI_EV = {"ev": 1.0, "kev": 1e3, "mev": 1e-3}
_FWHM_MN_KA_EV = 130.0


@dataclass(frozen=True)
class Axis:
    """A monotonic axis of D channels, by offset and scale or by a list of values.

    Parameters
    ----------
    name, units : str
        For instance 'Energy' and 'keV'.
    size : int
        Number of channels, D.
    offset, scale : float
        Value of channel 0 and step, in `units`; ignored where `listed` is given.
    listed : tuple of float
        The D values of an axis that is not uniform, strictly rising or strictly falling.

    Raises
    ------
    ValueError
        If the size is not positive, the scale is zero, or the listed values are not D monotonic numbers.
    """

    name: str
    units: str
    size: int
    offset: float = 0.0
    scale: float = 1.0
    listed: tuple[float, ...] | None = None
    values: Float64 = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"an axis needs at least one channel, not {self.size}")
        object.__setattr__(self, "values", self._checked_values())

    def _checked_values(self) -> Float64:
        if self.listed is None:
            if not np.isfinite([self.offset, self.scale]).all() or self.scale == 0:
                raise ValueError(f"axis offset {self.offset} and scale {self.scale} are not usable")
            return self.offset + self.scale * np.arange(self.size, dtype=np.float64)
        values = np.asarray(self.listed, dtype=np.float64)
        steps = np.diff(values)
        if values.shape != (self.size,) or not np.isfinite(values).all():
            raise ValueError(f"an axis of {self.size} channels needs as many finite values, not {values.size}")
        if not (np.all(steps > 0) or np.all(steps < 0)):
            raise ValueError("axis values must rise or fall strictly")
        return values

    def to_channel(self, value: float) -> float:
        """Channel (fractional, may lie outside) at an axis value; listed axes are interpolated and clipped."""
        if self.listed is None:
            return float((value - self.offset) / self.scale)
        order = slice(None) if self.size == 1 or self.values[1] > self.values[0] else slice(None, None, -1)
        channels = np.arange(self.size, dtype=np.float64)
        return float(np.interp(value, self.values[order], channels[order]))

    def channel_range(self, lo: float, hi: float) -> tuple[int, int]:
        """Half-open channel range (i0, i1) whose axis values lie in [lo, hi], clipped; empty as (i, i)."""
        low, high = min(lo, hi), max(lo, hi)
        inside = np.flatnonzero((self.values >= low) & (self.values <= high))
        if inside.size:
            return int(inside[0]), int(inside[-1]) + 1
        i = int(np.clip(np.ceil(self.to_channel(low)), 0, self.size))
        return i, i

    def peak_width_channels(self) -> float:
        """Width of a typical peak in channels (FWHM).

        For X-ray axes (electronvolts, 2 to 100 keV long, steps of 1 to 50 eV) the width of Mn K-alpha in a silicon
        drift detector; for others, where the header tells nothing, a two-hundredth of the axis, at least 3.
        """
        ev = _SI_EV.get(self.units.strip().lower())
        if ev is not None and self.size > 1:
            step_ev = abs(self.values[-1] - self.values[0]) * ev / (self.size - 1)
            if 1.0 <= step_ev <= 50.0 and 2e3 <= step_ev * self.size <= 1e5:
                return float(_FWHM_MN_KA_EV / step_ev)
        return max(3.0, self.size / 200)
