"""EDS of a thin film: expected counts per incident electron."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import xraydb
from numpy.typing import NDArray

from simulator.axis import Axis
from simulator.physics.lines import bremsstrahlung_cm2_per_kev, emission_lines, mass_attenuation_cm2_g
from simulator.physics.silicon import SiliconDetector, efficiency, respond, with_sum_peaks

Floats = NDArray[np.float64]

AVOGADRO = 6.02214076e23
ELECTRONS_PER_NA_S = 1e-9 / 1.602176634e-19
CONTINUUM_STEP_KEV = 0.01
STRAY_CONTINUUM = 0.75
"""Continuum of holder, grid and column as a share of the film's own.

Stray radiation adds to the film's bremsstrahlung (Wong & Egerton, Proc. Microscopy and Microanalysis 1995, 600). Its
size is measured on two real maps, of which the film alone gives 0.4 (four-quadrant detector) and 1.2 (older
instrument) times too little continuum from 9 to 13 keV beside the K lines of iron and nickel.
"""


def mass_fractions(atomic_fractions: Mapping[str, float]) -> dict[str, float]:
    """Turn atomic into mass fractions; neither need be normalised."""
    masses = {e: f * float(xraydb.atomic_mass(e)) for e, f in atomic_fractions.items()}
    total = sum(masses.values())
    return {e: m / total for e, m in masses.items()}


def self_absorption(chi: Floats) -> Floats:
    """Return (1 - exp(-chi))/chi: the share of photons made evenly over the depth that leave the film."""
    small = chi < 1e-8
    safe = np.where(small, 1.0, chi)
    return np.where(small, 1 - chi / 2, -np.expm1(-safe) / safe)


def thin_film_spectrum(
    composition: Mapping[str, float],
    mass_thickness_g_cm2: float,
    axis: Axis,
    *,
    beam_kev: float = 200.0,
    detector: SiliconDetector | None = None,
    stray_continuum: float = STRAY_CONTINUUM,
) -> Floats:
    """Return expected counts per incident electron, f8[D].

    Parameters
    ----------
    composition : map of element to mass fraction
    mass_thickness_g_cm2 : float
        Density times thickness.
    axis : Axis
        Energies in keV, increasing.
    beam_kev : float
    detector : SiliconDetector, optional
    stray_continuum : float
        Continuum from elsewhere, as a share of the film's.
    """
    detector = detector or SiliconDetector()
    energies, photons = _photons(composition, mass_thickness_g_cm2, axis, beam_kev, 1 + stray_continuum)
    total_mu = mass_attenuation_cm2_g(dict(composition), energies)
    path = mass_thickness_g_cm2 / math.sin(math.radians(detector.take_off_deg))
    leaving = photons * self_absorption(total_mu * path)
    detected = leaving * efficiency(detector, energies) * detector.solid_angle_sr / (4 * math.pi)
    return respond(detector, energies, detected, axis.edges)


def _photons(
    composition: Mapping[str, float], mass_thickness_g_cm2: float, axis: Axis, beam_kev: float, continuum_times: float
) -> tuple[Floats, Floats]:
    """Return energies (keV) and photons per electron of all lines and of the continuum in steps."""
    # Up to 30 % beyond the axis: escape peaks and tails come from there.
    top = min(beam_kev, 1.3 * float(axis.edges[-1]))
    grid = np.arange(0.1, top, CONTINUUM_STEP_KEV)
    energies, photons = [grid], [np.zeros_like(grid)]
    for element, fraction in composition.items():
        atoms_cm2 = AVOGADRO / xraydb.atomic_mass(element) * fraction * mass_thickness_g_cm2
        lines = emission_lines(element, beam_kev)
        energies.append(lines.energies_kev)
        photons.append(atoms_cm2 * lines.cross_sections_cm2)
        continuum = bremsstrahlung_cm2_per_kev(xraydb.atomic_number(element), grid, beam_kev)
        photons[0] += continuum_times * atoms_cm2 * continuum * CONTINUUM_STEP_KEV
    return np.concatenate(energies), np.concatenate(photons)


def record(per_electron: Floats, current_na: float, axis: Axis, detector: SiliconDetector) -> tuple[Floats, float]:
    """Return the spectrum with sum peaks, and the input rate in counts a second, at a beam current."""
    rate_hz = float(per_electron.sum()) * current_na * ELECTRONS_PER_NA_S
    pile_up = rate_hz * detector.pair_resolution_s
    if pile_up > 0.2:
        raise ValueError(f"{rate_hz:.3g} counts/s pile up too often for the first order: lower the current")
    return with_sum_peaks(per_electron, float(axis.values[0]) / axis.scale, pile_up), rate_hz
