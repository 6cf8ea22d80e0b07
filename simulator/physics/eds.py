"""EDS of a thin film and of a bulk: expected counts per incident electron."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import xraydb
from numpy.typing import NDArray

from simulator.axis import Axis
from simulator.physics.bremsstrahlung import radiated_cm2_per_kev_sr
from simulator.physics.bulk import (
    Target,
    continuum_per_kev,
    depth_distribution,
    shell_exponent,
    vacancies_per_electron,
)
from simulator.physics.lines import (
    AVOGADRO,
    emission_lines,
    mass_attenuation_cm2_g,
    radiation,
    subshell_edges_kev,
)
from simulator.physics.silicon import SiliconDetector, efficiency, respond, with_sum_peaks

Floats = NDArray[np.float64]

ELECTRONS_PER_NA_S = 1e-9 / 1.602176634e-19
CONTINUUM_STEP_KEV = 0.01
STRAY_CONTINUUM = 1.6
"""Continuum of holder, grid and column as a share of a thin film's own.

Stray radiation adds to the film's bremsstrahlung (Wong & Egerton, Proc. Microscopy and Microanalysis 1995, 600). Its
size is measured on two real maps, of which the film alone gives 1.1 (four-quadrant detector) and 2.2 (older
instrument) times too little continuum beside the K lines of iron and nickel. A bulk needs none.
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
        Above the film: the beam comes down, what is detected flies up.
    stray_continuum : float
        Continuum from elsewhere, as a share of the film's.
    """
    detector = detector or SiliconDetector()
    grid = _continuum_grid(axis, beam_kev)
    energies, photons = [grid], [np.zeros_like(grid)]
    for element, fraction in composition.items():
        atoms_cm2 = AVOGADRO / xraydb.atomic_mass(element) * fraction * mass_thickness_g_cm2
        lines = emission_lines(element, beam_kev)
        energies.append(lines.energies_kev)
        photons.append(atoms_cm2 * lines.strengths)
        angle_deg = 90 + detector.take_off_deg
        continuum = radiated_cm2_per_kev_sr(xraydb.atomic_number(element), grid, beam_kev, angle_deg)
        # As if it were the same in all directions: only one is looked at.
        photons[0] += (1 + stray_continuum) * atoms_cm2 * 4 * math.pi * continuum * CONTINUUM_STEP_KEV
    return _detected(
        np.concatenate(energies),
        np.concatenate(photons),
        lambda e: self_absorption(_chi_cm2_g(composition, e, detector) * mass_thickness_g_cm2),
        axis,
        detector,
    )


def bulk_spectrum(
    composition: Mapping[str, float],
    axis: Axis,
    *,
    beam_kev: float = 20.0,
    detector: SiliconDetector | None = None,
) -> Floats:
    """Return expected counts per incident electron of a specimen thicker than the electrons' range, f8[D].

    Lines and continuum are made down to where the electrons stop, and absorbed on the way out. Fluorescence that
    they excite in turn is left out: it adds a few per cent to lines just above another element's edge.

    Parameters
    ----------
    composition : map of element to mass fraction, adding up to 1
    axis : Axis
        Energies in keV, increasing.
    beam_kev : float
    detector : SiliconDetector, optional
    """
    detector, target = detector or SiliconDetector(), Target(dict(composition))
    grid = _continuum_grid(axis, beam_kev)
    continuum = continuum_per_kev(target, grid, beam_kev, _chi_cm2_g(composition, grid, detector))
    energies, photons = [grid], [continuum * CONTINUUM_STEP_KEV]
    for element in composition:
        lines = radiation(element, vacancies_per_electron(element, target, beam_kev))
        edges = subshell_edges_kev(element)
        chi = _chi_cm2_g(composition, lines.energies_kev, detector)
        depths = {s: depth_distribution(target, beam_kev, edges[s], shell_exponent(element, s)) for s in lines.shells}
        leaving = [float(depths[s].leaving(c)) for s, c in zip(lines.shells, chi, strict=True)]
        energies.append(lines.energies_kev)
        photons.append(lines.strengths * np.array(leaving))
    return _detected(np.concatenate(energies), np.concatenate(photons), np.ones_like, axis, detector)


def _continuum_grid(axis: Axis, beam_kev: float) -> Floats:
    # Up to 30 % beyond the axis: escape peaks and tails come from there.
    return np.arange(0.1, min(beam_kev, 1.3 * float(axis.edges[-1])), CONTINUUM_STEP_KEV)


def _chi_cm2_g(composition: Mapping[str, float], energies_kev: Floats, detector: SiliconDetector) -> Floats:
    """Return mass attenuation over the sine of the take-off angle, f8[n]."""
    return mass_attenuation_cm2_g(dict(composition), energies_kev) / math.sin(math.radians(detector.take_off_deg))


def _detected(
    energies_kev: Floats, photons: Floats, leaving: Callable[[Floats], Floats], axis: Axis, detector: SiliconDetector
) -> Floats:
    """Return the spectrum of photons sent out in all directions, of which a share leaves the specimen, f8[D]."""
    seen = efficiency(detector, energies_kev) * detector.solid_angle_sr / (4 * math.pi)
    return respond(detector, energies_kev, photons * leaving(energies_kev) * seen, axis.edges)


def record(per_electron: Floats, current_na: float, axis: Axis, detector: SiliconDetector) -> tuple[Floats, float]:
    """Return the spectrum with sum peaks, and the input rate in counts a second, at a beam current."""
    rate_hz = float(per_electron.sum()) * current_na * ELECTRONS_PER_NA_S
    pile_up = rate_hz * detector.pair_resolution_s
    if pile_up > 0.2:
        raise ValueError(f"{rate_hz:.3g} counts/s pile up too often for the first order: lower the current")
    return with_sum_peaks(per_electron, float(axis.values[0]) / axis.scale, pile_up), rate_hz
