"""Characteristic X-ray lines that fast electrons excite.

Energies, yields, branching ratios and Coster-Kronig probabilities come from xraydb (Elam, Ravel & Sieber,
Radiat. Phys. Chem. 63 (2002) 121).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xraydb
from numpy.typing import NDArray

from simulator.physics.bremsstrahlung import ELECTRON_REST_KEV

Floats = NDArray[np.float64]

AVOGADRO = 6.02214076e23
BOHR_CM = 5.29177e-9
RYDBERG_KEV = 0.013605693
SHELL_ELECTRONS = {"K": 2, "L1": 2, "L2": 2, "L3": 4, "M1": 2, "M2": 2, "M3": 4, "M4": 4, "M5": 6}
K_BETA_Z = (12, 13, 15, 18, 20, 30, 36)
K_BETA_SHARES = (0.0, 0.105, 0.346, 0.771, 0.931, 0.925, 1.0)
"""Which part of the K-beta of xraydb is real at those atomic numbers; see `_branching`."""


@dataclass(frozen=True, eq=False)
class Lines:
    """Lines of one element: energies in keV, shells of the vacancies that they fill, and strengths, f8[L].

    Strengths are photons for what the vacancies were counted in: cm^2 per atom for a film, an electron for a bulk.
    """

    element: str
    labels: tuple[str, ...]
    shells: tuple[str, ...]
    energies_kev: Floats
    strengths: Floats


def beta_squared(beam_kev: float) -> float:
    """Return (v/c)^2 of electrons of kinetic energy `beam_kev`."""
    return 1 - (1 + beam_kev / ELECTRON_REST_KEV) ** -2


def ionisation_cross_section_cm2(shell: str, edge_kev: float, energies_kev: Floats | float) -> Floats:
    """Return the cross section of electrons for emptying a subshell, in cm^2 per atom, f8[...]; 0 below the edge.

    Casnati, Tartari & Baraldi, J. Phys. B 15 (1982) 155, from the edge on to many times its energy; made for K shells
    and taken for L and M by their number of electrons, as the libraries of electron probe analysis do.
    """
    energies = np.asarray(energies_kev, dtype=np.float64)
    u = np.maximum(energies / edge_kev, 1.0)
    j, t = edge_kev / ELECTRON_REST_KEV, u * edge_kev / ELECTRON_REST_KEV
    bound = t * (2 + t) * (1 + j) ** 2
    relativistic = (2 + j) / (2 + t) * ((1 + t) / (1 + j)) ** 2
    relativistic *= ((j + t) * (2 + t) * (1 + j) ** 2 / (bound + j * (2 + j))) ** 1.5
    heavier = (edge_kev / RYDBERG_KEV) ** (-0.0318 + 0.3160 / u - 0.1135 / u**2)
    scale = 10.57 * np.exp(-1.736 / u + 0.317 / u**2) * SHELL_ELECTRONS[shell] * BOHR_CM**2
    return np.asarray(scale * relativistic * heavier * (RYDBERG_KEV / edge_kev) ** 2 * np.log(u) / u)


def subshell_edges_kev(element: str) -> dict[str, float]:
    """Return the edges of an element's K, L and M subshells above 10 eV, in keV."""
    edges = xraydb.xray_edges(element)
    return {s: e.energy / 1e3 for s, e in edges.items() if s in SHELL_ELECTRONS and e.energy > 10}


def vacancies_cm2(element: str, beam_kev: float) -> dict[str, float]:
    """Return cross sections for vacancies of K, L and M subshells, after Coster-Kronig transfer."""
    edges = subshell_edges_kev(element)
    return with_coster_kronig(
        element, {s: float(ionisation_cross_section_cm2(s, e, beam_kev)) for s, e in edges.items()}
    )


def with_coster_kronig(element: str, vacancies: Mapping[str, float]) -> dict[str, float]:
    """Return vacancies as they are when photons fill them: those that moved within their shell count where they are."""
    found = dict(vacancies)
    # Transfers in steps happen by themselves: shells are visited from the innermost outwards.
    for shell in sorted(found):
        for lower in sorted(found):
            if lower[0] == shell[0] and lower > shell:
                moved = xraydb.ck_probability(element, shell, lower, total=False) or 0.0
                found[lower] += found[shell] * float(moved)
    return found


def _branching(element: str) -> dict[str, float]:
    """Return the share of each line in the radiation of its shell.

    xraydb's K lines are a straight line in atomic number, even where there is no 3p electron yet. Against the rates
    of theory and of real spectra its K-beta is too strong up to krypton: twice too strong for sulphur, 8 % for iron.
    It is weakened to the ratios of xraylib (Schoonjans et al., Spectrochim. Acta B 66 (2011) 776), K-alpha has the
    rest.
    """
    shares = {label: float(line.intensity) for label, line in xraydb.xray_lines(element).items()}
    real = float(np.interp(xraydb.atomic_number(element), K_BETA_Z, K_BETA_SHARES))
    ours = {label: share for label, share in shares.items() if label[0] == "K"}
    beta = sum(share for label, share in ours.items() if label.startswith("Kb"))
    alpha = sum(ours.values()) - beta
    # K-beta over K-alpha is what becomes weaker; together they stay what they are.
    to_alpha = (alpha + beta) / (alpha + real * beta) if ours else 1.0
    factors = {label: to_alpha * (real if label.startswith("Kb") else 1.0) for label in ours}
    return {label: share * factors.get(label, 1.0) for label, share in shares.items()}


def radiation(element: str, vacancies: Mapping[str, float], min_kev: float = 0.1) -> Lines:
    """Return the lines that fill vacancies; those below `min_kev` are left out.

    Raises
    ------
    ValueError
        Where xraydb does not know the element.
    """
    yields = {s: e.fyield for s, e in xraydb.xray_edges(element).items()}
    branching = _branching(element)
    labels, shells, energies, strengths = [], [], [], []
    for label, line in xraydb.xray_lines(element).items():
        # "M4,5" lines (Mz) are listed for two shells at once: the first stands for both.
        shell = line.initial_level.split(",")[0]
        if shell in vacancies and line.energy >= 1e3 * min_kev:
            labels.append(label)
            shells.append(shell)
            energies.append(line.energy / 1e3)
            strengths.append(vacancies[shell] * yields[shell] * branching[label])
    return Lines(element, tuple(labels), tuple(shells), np.array(energies), np.array(strengths))


@lru_cache(maxsize=256)
def emission_lines(element: str, beam_kev: float) -> Lines:
    """Return the lines of an element in a thin film under a beam, strengths in cm^2 per atom."""
    return radiation(element, vacancies_cm2(element, beam_kev))


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
