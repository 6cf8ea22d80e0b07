"""Characteristic X-ray lines and continuum that fast electrons excite in a thin film.

Energies, yields, branching ratios and Coster-Kronig probabilities come from xraydb (Elam, Ravel & Sieber,
Radiat. Phys. Chem. 63 (2002) 121).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xraydb
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ELECTRON_REST_KEV = 510.99895
BETHE_CM2_KEV2 = 6.5138e-20
"""pi e^4 in cm^2 keV^2 (Gaussian units): 1 keV cm times the classical electron radius, squared, times pi."""
SHELL_ELECTRONS = {"K": 2, "L1": 2, "L2": 2, "L3": 4, "M1": 2, "M2": 2, "M3": 4, "M4": 4, "M5": 6}
BETHE_PARAMETERS = {"K": (0.90, 0.65), "L": (0.75, 0.60), "M": (0.75, 0.60)}
"""b and c of Powell, Rev. Mod. Phys. 48 (1976) 33; his L values serve for M, where he gives none."""
KRAMERS_CM2 = 16 * math.pi / (3 * math.sqrt(3)) * 7.9408e-26 / 137.036
"""16 pi / (3 sqrt 3) alpha r_e^2."""


@dataclass(frozen=True, eq=False)
class Lines:
    """Lines of one element: energies in keV and production cross sections in cm^2 per atom, f8[L] each."""

    element: str
    labels: tuple[str, ...]
    energies_kev: Floats
    cross_sections_cm2: Floats


def beta_squared(beam_kev: float) -> float:
    """Return (v/c)^2 of electrons of kinetic energy `beam_kev`."""
    return 1 - (1 + beam_kev / ELECTRON_REST_KEV) ** -2


def ionisation_cross_section_cm2(shell: str, edge_kev: float, beam_kev: float) -> float:
    """Return the Bethe cross section for emptying a shell, in cm^2 per atom; 0 below the edge.

    Relativistic form: Williams & Carter, Transmission Electron Microscopy (2009), eq. 4.1.
    """
    b, c = BETHE_PARAMETERS[shell[0]]
    beta2 = beta_squared(beam_kev)
    speed_kev = 0.5 * ELECTRON_REST_KEV * beta2
    if speed_kev * c <= edge_kev:
        return 0.0
    bracket = math.log(c * speed_kev / edge_kev) - math.log(1 - beta2) - beta2
    return BETHE_CM2_KEV2 * SHELL_ELECTRONS[shell] * b / (speed_kev * edge_kev) * bracket


def vacancies_cm2(element: str, beam_kev: float) -> dict[str, float]:
    """Return cross sections for vacancies of K, L and M subshells, after Coster-Kronig transfer."""
    edges = {s: e for s, e in xraydb.xray_edges(element).items() if s in SHELL_ELECTRONS and e.energy > 10}
    found = {s: ionisation_cross_section_cm2(s, e.energy / 1e3, beam_kev) for s, e in edges.items()}
    for shell in sorted(found):
        for lower in sorted(found):
            if lower[0] == shell[0] and lower > shell:
                found[lower] += found[shell] * _coster_kronig(element, shell, lower)
    return found


def _coster_kronig(element: str, initial: str, final: str) -> float:
    # Transfers in steps happen by themselves: shells are visited from the innermost outwards.
    return float(xraydb.ck_probability(element, initial, final, total=False) or 0.0)


def _branching(element: str) -> dict[str, float]:
    """Return the share of each line in the radiation of its shell.

    The tables give K-beta of the elements before argon as if their 3p shell were full; here it has the share that
    the 3p electrons there are can fill (Al 1 of 6 to Cl 5 of 6), and K-alpha the rest.
    """
    shares = {label: float(line.intensity) for label, line in xraydb.xray_lines(element).items()}
    filled = min(max((xraydb.atomic_number(element) - 12) / 6, 0.0), 1.0)
    whole = sum(share for label, share in shares.items() if label[0] == "K")
    found = {label: share * (filled if label.startswith("Kb") else 1.0) for label, share in shares.items()}
    left = sum(share for label, share in found.items() if label[0] == "K")
    return {label: share * (whole / left if label[0] == "K" else 1.0) for label, share in found.items()}


@lru_cache(maxsize=256)
def emission_lines(element: str, beam_kev: float, min_kev: float = 0.1) -> Lines:
    """Return the lines of an element under a beam.

    Parameters
    ----------
    element : str
        Symbol.
    beam_kev : float
        Energy of the beam's electrons.
    min_kev : float
        Lines below this are left out.

    Raises
    ------
    ValueError
        Where xraydb does not know the element.
    """
    vacancies = vacancies_cm2(element, beam_kev)
    yields = {s: e.fyield for s, e in xraydb.xray_edges(element).items()}
    labels, energies, strengths = [], [], []
    branching = _branching(element)
    for label, line in xraydb.xray_lines(element).items():
        # "M4,5" lines (Mz) are listed for two shells at once: the first stands for both.
        shell = line.initial_level.split(",")[0]
        if shell in vacancies and line.energy >= 1e3 * min_kev:
            labels.append(label)
            energies.append(line.energy / 1e3)
            strengths.append(vacancies[shell] * yields[shell] * branching[label])
    return Lines(element, tuple(labels), np.array(energies), np.array(strengths))


def bremsstrahlung_cm2_per_kev(atomic_number: int, energies_kev: Floats, beam_kev: float) -> Floats:
    """Return Kramers' continuum of a thin target, cm^2 per keV and atom, f8[n]; 0 above the beam's energy.

    d sigma / dE = 16 pi / (3 sqrt 3) alpha r_e^2 Z^2 / (beta^2 E) (Kramers, Phil. Mag. 46 (1923) 836).
    """
    energies = np.asarray(energies_kev, dtype=np.float64)
    inside = (energies > 0) & (energies < beam_kev)
    safe = np.where(inside, energies, 1.0)
    return np.where(inside, KRAMERS_CM2 * atomic_number**2 / (beta_squared(beam_kev) * safe), 0.0)


@lru_cache(maxsize=256)
def _mu_table(element: str) -> tuple[Floats, Floats]:
    # One look-up of the database on a fine logarithmic grid: the tables themselves are splines in log-log.
    energies = np.geomspace(0.1, 120.0, 4096)
    return energies, np.asarray(xraydb.mu_elam(element, 1e3 * energies))


def mass_attenuation_cm2_g(mass_fractions: dict[str, float], energies_kev: Floats) -> Floats:
    """Return the mass attenuation coefficient of a mixture in cm^2/g, f8[n].

    Below 0.1 keV, where the tables end, the value at 0.1 keV stands.
    """
    total = np.zeros(np.shape(energies_kev))
    for element, fraction in mass_fractions.items():
        grid, mu = _mu_table(element)
        total += fraction * np.exp(np.interp(energies_kev, grid, np.log(mu)))
    return total
