"""Raman specimens: bands on fluorescence."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from simulator.axis import Axis
from simulator.physics.raman import band, fluorescence
from simulator.techniques.base import Described, EndMembers, Phase

Positive = Annotated[float, Field(gt=0)]


class BandFile(Described):
    """A Raman band."""

    centre_cm1: Positive
    width_cm1: Positive
    area: Positive = 1.0


class RamanPhase(Phase):
    """A phase: bands, and fluorescence as an area beside them."""

    bands: list[BandFile] = Field(default_factory=list)
    fluorescence: Annotated[float, Field(ge=0)] = 0.0
    yields: Positive = 1.0


class RamanConditions(Described):
    """Spectrometer and fluorescence: `fluorescence_cm1` is its centre and width."""

    resolution_cm1: Positive = 4.0
    fluorescence_cm1: tuple[float, Positive] = (1800.0, 2500.0)
    flat: Annotated[float, Field(ge=0)] = 0.05


class Raman:
    """Raman spectroscopy."""

    name = "raman"
    axis_name = "Raman shift"
    units = "1/cm"
    phase = RamanPhase
    conditions = RamanConditions

    def endmembers(self, phases: list[Phase], conditions: Described, axis: Axis) -> EndMembers:
        """Return expected spectra, area for area."""
        if not isinstance(conditions, RamanConditions):
            raise TypeError("conditions of another technique")
        found = [p for p in phases if isinstance(p, RamanPhase)]
        bleaching = np.array([self._fluorescence(p, conditions, axis) for p in found])
        return EndMembers(np.array([self._one(p, conditions, axis) for p in found]), bleaching=bleaching)

    def metadata(self, conditions: Described) -> dict[str, Any]:
        """Return that HyperSpy has no type of signal for it."""
        return {"signal_type": ""}

    @staticmethod
    def _fluorescence(phase: RamanPhase, conditions: RamanConditions, axis: Axis) -> NDArray[np.float64]:
        hump = fluorescence(axis.values, *conditions.fluorescence_cm1)
        return np.asarray(phase.yields * phase.fluorescence * hump)

    @classmethod
    def _one(cls, phase: RamanPhase, conditions: RamanConditions, axis: Axis) -> NDArray[np.float64]:
        total = np.zeros(axis.size)
        for one in phase.bands:
            total += one.area * band(axis.values, one.centre_cm1, one.width_cm1, conditions.resolution_cm1)
        # A detector never sees nothing: a phase without bands still has stray light.
        flat = conditions.flat / (axis.size * abs(axis.scale))
        return np.asarray(phase.yields * (total + flat)) + cls._fluorescence(phase, conditions, axis)
