"""XRD specimens: crystals by lattice and structure, and glasses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from simulator.axis import Axis
from simulator.physics.xrd import Crystal, Site, amorphous, pattern
from simulator.techniques.base import Described, EndMembers, Phase

Positive = Annotated[float, Field(gt=0)]


class SiteFile(Described):
    """An atom at fractional coordinates."""

    atom: str
    place: tuple[float, float, float] = (0.0, 0.0, 0.0)
    occupancy: Annotated[float, Field(gt=0, le=1)] = 1.0
    b_iso_a2: Annotated[float, Field(ge=0)] = 0.5


class XrdPhase(Phase):
    """A phase: a crystal, a glass, or both; `yields` scales its pattern against the other phases."""

    lattice_a: tuple[Positive, Positive, Positive] | None = None
    angles_deg: tuple[Positive, Positive, Positive] = (90.0, 90.0, 90.0)
    centring: Literal["P", "I", "F", "C"] = "P"
    sites: list[SiteFile] = Field(default_factory=list)
    strain: float = 0.0
    texture: Positive = 1.0
    texture_axis: tuple[int, int, int] = (0, 0, 1)
    amorphous_deg: tuple[Positive, Positive] | None = None
    yields: Positive = 1.0

    def crystal(self) -> Crystal | None:
        """Return the crystal as physics takes it."""
        if self.lattice_a is None:
            return None
        sites = [Site(**s.model_dump()) for s in self.sites]
        return Crystal(
            self.lattice_a, sites, self.angles_deg, self.centring, self.strain, self.texture, self.texture_axis
        )


class XrdConditions(Described):
    """Radiation and diffractometer; `background` is its share of the counts, falling with angle."""

    wavelength_a: Positive = 1.540593
    caglioti: tuple[float, float, float] = (0.01, -0.005, 0.01)
    eta: Annotated[float, Field(ge=0, le=1)] = 0.5
    background: Annotated[float, Field(ge=0, lt=1)] = 0.3


class Xrd:
    """Powder diffraction."""

    name = "xrd"
    axis_name = "Two theta"
    units = "deg"
    phase = XrdPhase
    conditions = XrdConditions

    def endmembers(self, phases: list[Phase], conditions: Described, axis: Axis) -> EndMembers:
        """Return expected patterns; crystals keep their relative intensities, |F|^2 per cell volume squared."""
        if not isinstance(conditions, XrdConditions):
            raise TypeError("conditions of another technique")
        if axis.values.min() < 0 or axis.edges.max() >= 180:
            raise ValueError("the angle two theta lies between 0 and 180 degrees")
        found = [p for p in phases if isinstance(p, XrdPhase)]
        bragg = np.array([self._bragg(p, conditions, axis) for p in found])
        crystalline = bragg.sum(axis=1)
        typical = crystalline[crystalline > 0].mean() if np.any(crystalline > 0) else 1.0
        air = np.exp(-axis.values / 40.0)
        share = conditions.background / (1 - conditions.background)
        spectra = []
        for phase, lines in zip(found, bragg, strict=True):
            glass = np.zeros(axis.size)
            if phase.amorphous_deg is not None:
                glass = amorphous(axis.values, *phase.amorphous_deg)
                glass *= typical / glass.sum()
            spectra.append(phase.yields * (lines + glass) + share * typical * air / air.sum())
        return EndMembers(np.array(spectra))

    def metadata(self, conditions: Described) -> dict[str, Any]:
        """Return that HyperSpy has no type of signal for it."""
        return {"signal_type": ""}

    @staticmethod
    def _bragg(phase: XrdPhase, conditions: XrdConditions, axis: Axis) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        crystal = phase.crystal()
        if crystal is None:
            return np.zeros(axis.size)
        lines = pattern(crystal, axis.values, conditions.wavelength_a, conditions.caglioti, conditions.eta)
        return np.asarray(lines, dtype=np.float64).reshape(axis.size)
