"""XPS specimens: core levels with chemical shifts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import xraydb
from numpy.typing import NDArray
from pydantic import Field

from simulator.axis import Axis
from simulator.physics.xps import binding_energy_ev, core_line, shirley, tougaard
from simulator.techniques.base import Described, EndMembers, Phase

Positive = Annotated[float, Field(gt=0)]


class LevelFile(Described):
    """A core level by element and shell (W, N7 is W 4f 7/2), shifted from its tabulated energy."""

    element: str
    level: str
    shift_ev: float = 0.0
    area: Positive = 1.0
    asymmetry: Annotated[float, Field(ge=0, lt=0.5)] = 0.0


class XpsPhase(Phase):
    """A surface phase."""

    levels: Annotated[list[LevelFile], Field(min_length=1)]
    yields: Positive = 1.0


class XpsConditions(Described):
    """The analyser: resolution, kind of background, and the flat background as a share of the peak area."""

    resolution_ev: Positive = 0.5
    background: Literal["shirley", "tougaard"] = "shirley"
    loss_per_ev: Annotated[float, Field(ge=0)] = 0.02
    flat: Annotated[float, Field(ge=0)] = 0.3


class Xps:
    """X-ray photoelectron spectroscopy."""

    name = "xps"
    axis_name = "Binding energy"
    units = "eV"
    phase = XpsPhase
    conditions = XpsConditions

    def endmembers(self, phases: list[Phase], conditions: Described, axis: Axis) -> EndMembers:
        """Return expected spectra, area for area."""
        if not isinstance(conditions, XpsConditions):
            raise TypeError("conditions of another technique")
        return EndMembers(np.array([self._one(p, conditions, axis) for p in phases if isinstance(p, XpsPhase)]))

    def metadata(self, conditions: Described) -> dict[str, Any]:
        """Return that HyperSpy has no type of signal for it."""
        return {"signal_type": ""}

    @staticmethod
    def _one(phase: XpsPhase, conditions: XpsConditions, axis: Axis) -> NDArray[np.float64]:
        peaks = np.zeros(axis.size)
        for level in phase.levels:
            centre_ev = binding_energy_ev(level.element, level.level) + level.shift_ev
            width_ev = float(xraydb.core_width(level.element, level.level))
            line = core_line(axis.values, centre_ev, width_ev, conditions.resolution_ev, level.asymmetry)
            peaks += level.area * line
        behind = tougaard(peaks, axis.values)
        if conditions.background == "shirley":
            behind = shirley(peaks, axis.values, conditions.loss_per_ev)
        flat = conditions.flat * peaks.sum() / axis.size
        return np.asarray(phase.yields * (peaks + behind + flat))
