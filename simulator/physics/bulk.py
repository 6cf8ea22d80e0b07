"""What a beam makes in a thick specimen: how deep, how often, and what of it comes out.

The XPP model of Pouchou & Pichoir, in Heinrich & Newbury (eds.), Electron Probe Quantitation (1991), 31; their
deceleration, backscattering and depth distribution. Generation is integrated over the electrons' way through all
energies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xraydb
from numpy.typing import NDArray

from simulator.physics.bremsstrahlung import radiated_cm2_per_kev
from simulator.physics.lines import AVOGADRO, ionisation_cross_section_cm2, subshell_edges_kev, with_coster_kronig

Floats = NDArray[np.float64]

SLOWING_STEPS = 32
"""Points of the Gauss-Legendre quadrature over an electron's energies."""
CONTINUUM_EXPONENT = 0.86
"""Fall of the cross section with overvoltage that is taken for the depth of the continuum: that of K shells."""


@dataclass(frozen=True, eq=False)
class Target:
    """A homogeneous solid by mass fractions, which add up to 1."""

    composition: Mapping[str, float]

    def _mean(self, values: Mapping[str, float]) -> float:
        return sum(fraction * values[e] for e, fraction in self.composition.items())

    @property
    def electrons_per_mass(self) -> float:
        """Sum of mass fraction times Z / A."""
        return self._mean({e: xraydb.atomic_number(e) / xraydb.atomic_mass(e) for e in self.composition})

    @property
    def ionisation_potential_kev(self) -> float:
        """Mean ionisation potential J (their eqs. 6 and 7)."""
        logs = {}
        for e in self.composition:
            z = xraydb.atomic_number(e)
            j = 1e-3 * z * (10.04 + 8.25 * math.exp(-z / 11.22))
            logs[e] = z / xraydb.atomic_mass(e) * math.log(j)
        return math.exp(self._mean(logs) / self.electrons_per_mass)

    @property
    def mean_z(self) -> float:
        """Mean atomic number for scattering, (sum of fraction times sqrt Z) squared (their appendix 1)."""
        return self._mean({e: math.sqrt(xraydb.atomic_number(e)) for e in self.composition}) ** 2

    @property
    def backscattered(self) -> float:
        """Share of the electrons that are scattered back (their appendix 1)."""
        return 1.75e-3 * self.mean_z + 0.37 * -math.expm1(-0.015 * self.mean_z**1.3)

    def slowing(self) -> tuple[Floats, Floats]:
        """Return the three D and P of their eq. 8: 1 / (dE / d rho s) = J / M times the sum of D (E / J)^P."""
        j = self.ionisation_potential_kev
        return np.array([6.6e-6, 1.12e-5 * (1.35 - 0.45 * j * j), 2.2e-6 / j]), np.array([0.78, 0.1, 0.25 * j - 0.5])


def stopping_power_kev_cm2_g(target: Target, energies_kev: Floats) -> Floats:
    """Return the energy that electrons lose, in keV for each g/cm^2 of their way (their eq. 5), f8[...]."""
    j = target.ionisation_potential_kev
    d, p = target.slowing()
    lost = ((np.asarray(energies_kev)[..., None] / j) ** p * d).sum(axis=-1)
    return np.asarray(target.electrons_per_mass / j / lost)


def backscatter_factor(target: Target, overvoltage: Floats | float) -> Floats:
    """Return the share of what would be made without electrons that leave the specimen (their appendix 1)."""
    u, eta = np.asarray(overvoltage, dtype=np.float64), target.backscattered
    mean_energy = 0.595 + eta / 3.7 + eta**4.55
    q = (2 * mean_energy - 1) / (1 - mean_energy)
    kept = (u - 1 - (1 - u ** -(1 + q)) / (1 + q)) / ((2 + q) * (1 + u * (np.log(u) - 1)))
    return np.asarray(1 - eta * mean_energy * (1 - kept))


@dataclass(frozen=True, eq=False)
class DepthDistribution:
    """phi(rho z) = A exp(-a rho z) + (B rho z + phi0 - A) exp(-b rho z), and its area, each a float or f8[...]."""

    surface: Floats
    A: Floats
    a: Floats
    B: Floats
    b: Floats
    area: Floats

    def at(self, depth_g_cm2: Floats) -> Floats:
        """Return phi(rho z)."""
        rising = self.B * depth_g_cm2 + self.surface - self.A
        return np.asarray(self.A * np.exp(-self.a * depth_g_cm2) + rising * np.exp(-self.b * depth_g_cm2))

    def leaving(self, chi_cm2_g: Floats) -> Floats:
        """Return the share of photons that leave, chi being mass attenuation over the sine of the take-off angle."""
        slower = self.b + chi_cm2_g
        made = self.surface + self.B / slower - self.A * (self.a - self.b) / (self.a + chi_cm2_g)
        return np.asarray(made / slower / self.area)


def depth_distribution(target: Target, beam_kev: float, edge_kev: Floats | float, exponent: float) -> DepthDistribution:
    """Return where photons of an edge (or edges, f8[...]) below the beam's energy are made (XPP).

    Parameters
    ----------
    exponent : float
        m of the cross section ln U / U^m, see `shell_exponent`.
    """
    u, z, eta = beam_kev / np.asarray(edge_kev, dtype=np.float64), target.mean_z, target.backscattered
    area = backscatter_factor(target, u) * _path_per_cross_section(target, beam_kev, u, exponent)
    surface = 1 + 3.3 * (1 - u ** (2.3 * eta - 2)) * eta**1.2
    y = 0.2 + z / 200
    steepness = 1 + (1 + 1.3 * math.log(z)) * np.log1p(y * (1 - u**-0.42)) / math.log1p(y)
    mean_depth = area / np.maximum(steepness, surface)
    b = math.sqrt(2) * (1 + np.sqrt(np.maximum(1 - mean_depth * surface / area, 0.0))) / mean_depth
    g = 0.22 * math.log(4 * z) * (1 - 2 * np.exp(-z * (u - 1) / 15))
    h = 1 - 10 * (1 - 1 / (1 + u / 10)) / z**2
    slope = np.minimum(g * h**4, 0.9 * b * mean_depth**2 * (b - 2 * surface / area)) * area / mean_depth**2
    a = (slope + b * (2 * surface - b * area)) / (b * area * (2 - b * mean_depth) - surface)
    apart = (a - b) / b
    apart = np.where(np.abs(apart) < 1e-6, 1e-6, apart)
    B = (b**2 * area * (1 + apart) - slope - surface * b * (2 + apart)) / apart
    A = (B / b + surface - b * area) * (1 + apart) / apart
    return DepthDistribution(surface, A, b * (1 + apart), B, b, area)


def _path_per_cross_section(target: Target, beam_kev: float, u: Floats, exponent: float) -> Floats:
    """Return the integral of the cross section over the way, in its value at the beam's energy (their eqs. 11, 13)."""
    d, p = target.slowing()
    t = 1 + p - exponent
    v = beam_kev / target.ionisation_potential_kev
    wide = u[..., None]
    terms = d * (v / wide) ** p * (t * wide**t * np.log(wide) - wide**t + 1) / t**2
    path = u / (v * target.electrons_per_mass) * terms.sum(axis=-1)
    return np.asarray(path * u**exponent * (beam_kev / u) ** 2 / np.log(u))


def shell_exponent(element: str, shell: str) -> float:
    """Return m of the cross section ln U / U^m of a shell, a number (their eq. 10)."""
    if shell == "K":
        return 0.86 + 0.12 * math.exp(-((xraydb.atomic_number(element) / 5) ** 2))
    return 0.82 if shell[0] == "L" else 0.78


def _way(target: Target, beam_kev: float, down_to_kev: Floats) -> tuple[Floats, Floats]:
    """Return energies on an electron's way, f8[..., s], and the way spent at each, g/cm^2."""
    nodes, weights = np.polynomial.legendre.leggauss(SLOWING_STEPS)
    low = np.asarray(down_to_kev, dtype=np.float64)[..., None]
    energies = 0.5 * (beam_kev + low) + 0.5 * (beam_kev - low) * nodes
    return energies, 0.5 * (beam_kev - low) * weights / stopping_power_kev_cm2_g(target, energies)


def vacancies_per_electron(element: str, target: Target, beam_kev: float) -> dict[str, float]:
    """Return vacancies of the subshells of an element of the target, after Coster-Kronig transfer."""
    atoms_per_g = AVOGADRO / xraydb.atomic_mass(element) * target.composition[element]
    found = {}
    for shell, edge_kev in subshell_edges_kev(element).items():
        if edge_kev < beam_kev:
            energies, way = _way(target, beam_kev, np.asarray(edge_kev))
            cross_sections = ionisation_cross_section_cm2(shell, edge_kev, energies)
            made = atoms_per_g * float((cross_sections * way).sum())
            found[shell] = made * float(backscatter_factor(target, beam_kev / edge_kev))
    return with_coster_kronig(element, found)


def continuum_per_kev(target: Target, energies_kev: Floats, beam_kev: float, chi_cm2_g: Floats) -> Floats:
    """Return photons of the continuum that leave per electron and keV, over all directions, f8[n].

    In a thick specimen electrons fly in all directions: the continuum is taken as isotropic.

    Parameters
    ----------
    energies_kev : f8[n]
    chi_cm2_g : f8[n]
        As for `DepthDistribution.leaving`.
    """
    # XPP has no depth for what takes all the energy of an electron.
    reached = np.minimum(energies_kev, 0.995 * beam_kev)
    depths = depth_distribution(target, beam_kev, reached, CONTINUUM_EXPONENT)
    energies, way = _way(target, beam_kev, reached)
    made = np.zeros(len(energies_kev))
    for element, fraction in target.composition.items():
        atoms_per_g = AVOGADRO / xraydb.atomic_mass(element) * fraction
        radiated = radiated_cm2_per_kev(xraydb.atomic_number(element), reached[:, None], energies)
        made += atoms_per_g * (radiated * way).sum(axis=-1)
    kept = made * backscatter_factor(target, beam_kev / reached) * depths.leaving(chi_cm2_g)
    return np.where(energies_kev < beam_kev, kept, 0.0)
