"""What changes under the beam while a scan runs: damage, drift, contamination, a detector that fails."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from simulator.charging import Charging
from simulator.detector import Emitters
from simulator.sample import Specimen

Floats = NDArray[np.float64]
NotNegative = Annotated[float, Field(ge=0)]
Channels = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...],
    BeforeValidator(lambda v: v if isinstance(v, list | tuple) else (v,)),
]
RENEW_CHANNELS = 0.02
"""Spectra are moved along the axis in steps of this: a fiftieth of a channel cannot be seen."""


class Effects(BaseModel):
    """Each on its own switch; times are seconds of measuring, doses seconds of dwell.

    Parameters
    ----------
    shift_per_s, gain_per_s : float
        Drift of the energy axis: offset in its units, and gain as a fraction.
    stage_y_per_s, stage_x_per_s : float
        Drift of the specimen in positions.
    damage_s : float
        Dwell after which a `damaged` phase is down to 1/e; what is lost becomes `damaged_into`, or nothing.
    damaged, damaged_into : str
        Names of phases.
    contamination_per_s : float
        Growth of the phase `contaminant` with dwell.
    segment_fails_s, segment_share : float
        When a part of the detector fails, and which share of the counts it had.
    dwell_changes_s, dwell_factor : float
        When the real dwell changes without notice, and by which factor.
    bleach_s : float
        Dwell after which the fluorescence of a Raman specimen is down to 1/e.
    cosmic_per_s, cosmic_counts : float
        Cosmic rays that hit the camera, and their mean height in counts.
    charging_per_s, charging_decay_s : float
        Rate of the sudden jumps of a specimen that charges up, and the dwell after which one is down to 1/e.
    charging_positions, charging_shift : float
        Standard deviation of a jump of the stage, in positions along y and x, and of the energy axis in its units.
        The axis follows message by message.
    dead, hot : list of int
        Channels that count nothing, and channels that count `hot_per_s` whatever comes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    shift_per_s: float = 0.0
    gain_per_s: float = 0.0
    stage_y_per_s: float = 0.0
    stage_x_per_s: float = 0.0
    damage_s: Annotated[float, Field(gt=0)] | None = None
    damaged: str | None = None
    damaged_into: str | None = None
    contamination_per_s: NotNegative = 0.0
    contaminant: str | None = None
    segment_fails_s: NotNegative | None = None
    segment_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    dwell_changes_s: NotNegative | None = None
    dwell_factor: Annotated[float, Field(gt=0)] = 0.5
    bleach_s: Annotated[float, Field(gt=0)] | None = None
    cosmic_per_s: NotNegative = 0.0
    cosmic_counts: Annotated[float, Field(gt=0)] = 2000.0
    charging_per_s: NotNegative = 0.0
    charging_decay_s: Annotated[float, Field(gt=0)] = 1.0
    charging_positions: NotNegative = 0.0
    charging_shift: NotNegative = 0.0
    dead: Channels = ()
    hot: Channels = ()
    hot_per_s: NotNegative = 100.0

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.damage_s is None) != (self.damaged is None):
            raise ValueError("damage needs both damage_s and the phase that is damaged")
        if (self.contamination_per_s > 0) != (self.contaminant is not None):
            raise ValueError("contamination needs both contamination_per_s and the contaminant")
        if (self.charging_per_s > 0) != (max(self.charging_positions, self.charging_shift) > 0):
            raise ValueError("charging needs both charging_per_s and charging_positions or charging_shift")
        return self


class Weather:
    """Applies effects to a specimen, visit after visit.

    Parameters
    ----------
    effects : Effects
    specimen : Specimen
    seed : int
        Of the jumps of charging.

    Raises
    ------
    ValueError
        Where effects name a phase or channel that the specimen has not.
    """

    def __init__(self, effects: Effects, specimen: Specimen, seed: int = 0) -> None:
        self.effects, self._specimen = effects, specimen
        for name in (effects.damaged, effects.damaged_into, effects.contaminant):
            if name is not None and name not in specimen.phases:
                raise ValueError(f"no phase {name!r}: the specimen has {', '.join(specimen.phases)}")
        if max((*effects.dead, *effects.hot), default=0) >= specimen.axis.size:
            raise ValueError(f"a dead or hot channel is outside {specimen.axis.size}")
        self._members = specimen.endmembers
        if effects.bleach_s is not None:
            if specimen.bleaching is None:
                raise ValueError(f"{specimen.name} has no fluorescence that could bleach")
            # What bleaches is drawn by itself: it fades while the rest of the phase stays.
            self._members = np.concatenate([specimen.endmembers - specimen.bleaching, specimen.bleaching])
        sigmas = np.array([effects.charging_positions, effects.charging_positions, effects.charging_shift])
        self._charging = (
            Charging(effects.charging_per_s, sigmas, effects.charging_decay_s, seed) if effects.charging_per_s else None
        )
        self.time_s = 0.0
        self._spent_s = np.zeros(specimen.n_positions)
        self._moved = (0.0, 0.0)
        self.emitters = self._emitters(0.0, 0.0)

    def rates(self, positions: NDArray[np.uint32], dwell_s: Floats, dose_per_s: float) -> Floats:
        """Return expected abundances of n visits in counts, f8[n, M], and let their time pass.

        M is twice the number of the specimen's end-members where they bleach, and one more where channels are hot.
        """
        ends_s = self.time_s + np.cumsum(dwell_s)
        middle_s = ends_s - dwell_s / 2
        jumped = np.zeros((len(middle_s), 3)) if self._charging is None else self._charging.at(middle_s)
        half = len(middle_s) // 2
        self._follow(float(middle_s[half]), float(jumped[half, 2]))
        there = self._drifted(positions, middle_s, jumped)
        shares = self._damaged(self._specimen.abundances[there], there, dwell_s)
        if self.effects.bleach_s is not None:
            left = np.exp(-(self._spent_s[there] + dwell_s / 2) / self.effects.bleach_s)
            shares = np.concatenate([shares, shares * left[:, None]], axis=1)
        np.add.at(self._spent_s, there, dwell_s)
        self.time_s = float(ends_s[-1])
        rates = shares * (dose_per_s * dwell_s * self._sensitivity(middle_s))[:, None]
        if self.effects.hot:
            rates = np.column_stack([rates, self.effects.hot_per_s * len(self.effects.hot) * dwell_s])
        return rates

    def _sensitivity(self, t_s: Floats) -> Floats:
        factor = np.ones(len(t_s))
        if self.effects.segment_fails_s is not None:
            factor[t_s >= self.effects.segment_fails_s] *= 1 - self.effects.segment_share
        if self.effects.dwell_changes_s is not None:
            factor[t_s >= self.effects.dwell_changes_s] *= self.effects.dwell_factor
        return factor

    def _drifted(self, positions: NDArray[np.uint32], t_s: Floats, jumped: Floats) -> NDArray[np.int64]:
        ny, nx = self._specimen.nav_shape
        y, x = np.divmod(positions.astype(np.int64), nx)
        y = np.clip(y + np.rint(self.effects.stage_y_per_s * t_s + jumped[:, 0]).astype(np.int64), 0, ny - 1)
        x = np.clip(x + np.rint(self.effects.stage_x_per_s * t_s + jumped[:, 1]).astype(np.int64), 0, nx - 1)
        return np.asarray(y * nx + x)

    def _damaged(self, shares: Floats, there: NDArray[np.int64], dwell_s: Floats) -> Floats:
        dose_s = self._spent_s[there] + dwell_s / 2
        names = self._specimen.phases
        shares = shares.copy()
        if self.effects.damage_s is not None and self.effects.damaged is not None:
            k = names.index(self.effects.damaged)
            lost = shares[:, k] * -np.expm1(-dose_s / self.effects.damage_s)
            shares[:, k] -= lost
            if self.effects.damaged_into is not None:
                shares[:, names.index(self.effects.damaged_into)] += lost
        if self.effects.contaminant is not None:
            shares[:, names.index(self.effects.contaminant)] += self.effects.contamination_per_s * dose_s
        return shares

    def _follow(self, t_s: float, jumped: float) -> None:
        """Move the end-members along the axis once that can be seen."""
        shift, gain = self.effects.shift_per_s * t_s + jumped, self.effects.gain_per_s * t_s
        values, step = self._specimen.axis.values, abs(self._specimen.axis.scale)
        largest = float(np.abs(values).max())
        moved = abs(shift - self._moved[0]) + abs(gain - self._moved[1]) * largest
        if moved > RENEW_CHANNELS * step:
            self.emitters = self._emitters(shift, gain)
            self._moved = (shift, gain)

    def _emitters(self, shift: float, gain: float) -> Emitters:
        spectra, values = self._members.copy(), self._specimen.axis.values
        if shift != 0 or gain != 0:
            # What belongs at v is recorded at (1 + gain) v + shift.
            at = (values - shift) / (1 + gain)
            rising = values if values[-1] > values[0] else values[::-1]
            for k, row in enumerate(self._members):
                ordered = row if rising is values else row[::-1]
                spectra[k] = np.interp(at, rising, ordered, left=0.0, right=0.0) / (1 + gain)
        spectra[:, list(self.effects.dead)] = 0.0
        if self.effects.hot:
            extra = np.zeros((1, len(values)))
            extra[0, list(self.effects.hot)] = 1.0 / len(self.effects.hot)
            spectra = np.concatenate([spectra, extra])
        return Emitters(spectra)
