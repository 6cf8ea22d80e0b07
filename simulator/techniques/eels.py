"""EELS specimens: thin films with plasmons, edges and white lines."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from simulator.axis import Axis
from simulator.physics.eds import mass_fractions
from simulator.physics.eels import Film, WhiteLine, spectrum
from simulator.techniques.base import Described, EndMembers, Phase

Positive = Annotated[float, Field(gt=0)]


class WhiteLineFile(Described):
    """A white line; `strength_ev` is its area over the step of its edge."""

    element: str
    edge: str
    energy_ev: Positive
    width_ev: Positive = 2.0
    strength_ev: Positive


class EelsPhase(Phase):
    """A phase of a thin film."""

    atomic: dict[str, Positive]
    density_g_cm3: Positive
    thickness_nm: Positive = 40.0
    plasmon_ev: Positive
    plasmon_width_ev: Positive = 5.0
    mean_free_path_nm: Positive = 100.0
    white_lines: list[WhiteLineFile] = Field(default_factory=list)

    def film(self) -> Film:
        """Return the phase as physics takes it."""
        lines = [WhiteLine(**w.model_dump()) for w in self.white_lines]
        return Film(
            mass_fractions(self.atomic), self.density_g_cm3, self.thickness_nm, self.plasmon_ev,
            self.plasmon_width_ev, self.mean_free_path_nm, lines,
        )  # fmt: skip


class EelsConditions(Described):
    """Beam and spectrometer."""

    beam_kev: Positive = 200.0
    collection_mrad: Positive = 20.0
    resolution_ev: Positive = 0.8


class Eels:
    """Electron energy-loss spectroscopy of a thin film."""

    name = "eels"
    axis_name = "Energy loss"
    units = "eV"
    phase = EelsPhase
    conditions = EelsConditions

    def endmembers(self, phases: list[Phase], conditions: Described, axis: Axis) -> EndMembers:
        """Return expected spectra per electron."""
        if not isinstance(conditions, EelsConditions):
            raise TypeError("conditions of another technique")
        films = [p.film() for p in phases if isinstance(p, EelsPhase)]
        return EndMembers(np.array([spectrum(f, axis, **conditions.model_dump()) for f in films]))

    def metadata(self, conditions: Described) -> dict[str, Any]:
        """Return signal type, beam and spectrometer as HyperSpy names them."""
        if not isinstance(conditions, EelsConditions):
            raise TypeError("conditions of another technique")
        spectrometer = {"collection_angle": conditions.collection_mrad}
        instrument = {"beam_energy": conditions.beam_kev, "Detector": {"EELS": spectrometer}}
        return {"signal_type": "EELS", "Acquisition_instrument": {"TEM": instrument}}
