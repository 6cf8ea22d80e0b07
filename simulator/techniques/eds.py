"""EDS specimens: phases by composition, and by density and thickness where they are thin."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from simulator.axis import Axis
from simulator.physics.eds import STRAY_CONTINUUM, bulk_spectrum, mass_fractions, record, thin_film_spectrum
from simulator.physics.silicon import SiliconDetector
from simulator.techniques.base import Described, EndMembers, Phase

Floats = NDArray[np.float64]
Positive = Annotated[float, Field(gt=0)]


class EdsPhase(Phase):
    """A phase: `atomic` or `mass` fractions of its elements; density and thickness are those of a film."""

    atomic: dict[str, Positive] | None = None
    mass: dict[str, Positive] | None = None
    density_g_cm3: Positive = 7.9
    thickness_nm: Positive = 60.0

    @model_validator(mode="after")
    def _one_composition(self) -> EdsPhase:
        if (self.atomic is None) == (self.mass is None):
            raise ValueError("give either 'atomic' or 'mass' fractions")
        return self

    def composition(self) -> dict[str, float]:
        """Return normalised mass fractions."""
        if self.atomic is not None:
            return mass_fractions(self.atomic)
        given = self.mass or {}
        return {e: f / sum(given.values()) for e, f in given.items()}


class EdsConditions(Described):
    """The microscope: beam and detector, and whether the specimen is a thin film or thicker than electrons get."""

    geometry: Literal["film", "bulk"] = "film"
    beam_kev: Positive = 200.0
    current_na: Positive = 0.5
    fwhm_mn_ka_ev: Positive = 130.0
    solid_angle_sr: Positive = 0.7
    take_off_deg: Annotated[float, Field(gt=0, le=90)] = 20.0
    dead_time_s: Annotated[float, Field(ge=0)] = 1e-6
    pair_resolution_s: Annotated[float, Field(ge=0)] = 1e-7
    stray_continuum: Annotated[float, Field(ge=0)] = STRAY_CONTINUUM

    def detector(self) -> SiliconDetector:
        """Return the detector as physics takes it."""
        return SiliconDetector(
            fwhm_mn_ka_ev=self.fwhm_mn_ka_ev,
            solid_angle_sr=self.solid_angle_sr,
            take_off_deg=self.take_off_deg,
            dead_time_s=self.dead_time_s,
            pair_resolution_s=self.pair_resolution_s,
        )


class Eds:
    """Energy-dispersive X-ray spectroscopy of thin films and of bulk specimens."""

    name = "eds"
    axis_name = "Energy"
    units = "keV"
    phase = EdsPhase
    conditions = EdsConditions

    def endmembers(self, phases: list[Phase], conditions: Described, axis: Axis) -> EndMembers:
        """Return expected spectra per electron, with sum peaks as each phase alone would have them.

        Pile-up is not linear in the spectrum; taking it phase by phase keeps the truth factored and is exact
        wherever a position has one phase.
        """
        if not isinstance(conditions, EdsConditions):
            raise TypeError("conditions of another technique")
        if axis.scale < 0 or axis.values[-1] <= 0:
            raise ValueError("an axis of photon energies rises, to above 0")
        detector = conditions.detector()
        spectra, rates = [], []
        for phase in phases:
            if not isinstance(phase, EdsPhase):
                raise TypeError("a phase of another technique")
            alone = self._alone(phase, conditions, detector, axis)
            spectrum, rate = record(alone, conditions.current_na, axis, detector)
            spectra.append(spectrum)
            rates.append(rate)
        return EndMembers(np.array(spectra), np.array(rates), detector.dead_time_s)

    def metadata(self, conditions: Described) -> dict[str, Any]:
        """Return signal type, beam and detector as HyperSpy names them."""
        if not isinstance(conditions, EdsConditions):
            raise TypeError("conditions of another technique")
        kind = "SEM" if conditions.geometry == "bulk" else "TEM"
        detector = {
            "elevation_angle": conditions.take_off_deg,
            "azimuth_angle": 0.0,
            "energy_resolution_MnKa": conditions.fwhm_mn_ka_ev,
        }
        instrument = {
            "beam_energy": conditions.beam_kev,
            "beam_current": conditions.current_na,
            "Detector": {"EDS": detector},
        }
        return {"signal_type": f"EDS_{kind}", "Acquisition_instrument": {kind: instrument}}

    @staticmethod
    def _alone(phase: EdsPhase, conditions: EdsConditions, detector: SiliconDetector, axis: Axis) -> Floats:
        """Return the spectrum of a phase without pile-up."""
        beam_kev = conditions.beam_kev
        if conditions.geometry == "bulk":
            if phase.model_fields_set & {"density_g_cm3", "thickness_nm"}:
                raise ValueError(f"phase {phase.name}: a bulk has no thickness, and its density changes nothing")
            return bulk_spectrum(phase.composition(), axis, beam_kev=beam_kev, detector=detector)
        mass_thickness = phase.density_g_cm3 * phase.thickness_nm * 1e-7
        return thin_film_spectrum(
            phase.composition(), mass_thickness, axis, beam_kev=beam_kev, detector=detector,
            stray_continuum=conditions.stray_continuum,
        )  # fmt: skip
