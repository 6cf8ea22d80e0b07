"""EELS of a thin film: zero loss, Drude plasmon, core edges from photoabsorption, white lines, plural scattering.

Formulas: R. F. Egerton, Electron Energy-Loss Spectroscopy in the Electron Microscope, 3rd ed. (2011).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import xraydb
from numpy.typing import NDArray
from scipy.special import ndtr

from simulator.axis import Axis
from simulator.physics.bremsstrahlung import ELECTRON_REST_KEV
from simulator.physics.lines import AVOGADRO, BOHR_CM, beta_squared
from simulator.physics.shapes import SIGMA_PER_FWHM, gaussian

Floats = NDArray[np.float64]

RYDBERG_EV = 13.605693
OSCILLATOR_CM2_EV = 1.0976e-16
"""Photoabsorption cross section of one oscillator per eV, pi e^2 h / (m c)."""
CORE_FROM_EV = 50.0
"""Levels bound by more than this are core levels: those above belong to the plasmon."""


@dataclass(frozen=True)
class WhiteLine:
    """A transition to empty d states: `strength_ev` is its area in units of the step of its edge."""

    element: str
    edge: str
    energy_ev: float
    width_ev: float
    strength_ev: float


@dataclass(frozen=True)
class Film:
    """A thin film: mass fractions, density, thickness, plasmon (energy, width), mean free path, white lines."""

    composition: Mapping[str, float]
    density_g_cm3: float
    thickness_nm: float
    plasmon_ev: float
    plasmon_width_ev: float
    mean_free_path_nm: float
    white_lines: Sequence[WhiteLine] = ()


def free_electron_plasmon_ev(density_g_cm3: float, valence: float, atomic_mass: float) -> float:
    """Return the plasmon energy 28.82 eV sqrt(z rho / A) of free electrons (Egerton, eq. 3.41)."""
    return 28.82 * math.sqrt(valence * density_g_cm3 / atomic_mass)


def drude_loss(energies_ev: Floats, plasmon_ev: float, width_ev: float) -> Floats:
    """Return Im(-1/eps) = E G Ep^2 / ((E^2 - Ep^2)^2 + (E G)^2), f8[n], 0 below 0 (Egerton, eq. 3.43).

    Far above the plasmon it falls as E^-3: the power law under the edges.
    """
    e = np.maximum(energies_ev, 0.0)
    bottom = (e**2 - plasmon_ev**2) ** 2 + (e * width_ev) ** 2
    return np.asarray(e * width_ev * plasmon_ev**2 / bottom)


@cache
def first_core_edge_ev(element: str) -> float:
    """Return the lowest core edge in eV, where Chantler's tables have its step; infinite where there is none.

    They have it up to 3 % away from the level's tabulated energy.
    """
    levels = [edge.energy for edge in xraydb.xray_edges(element).values() if edge.energy >= CORE_FROM_EV]
    if not levels:
        return math.inf
    near = np.asarray(xraydb.chantler_energies(element, 0.95 * min(levels), 1.02 * min(levels)))
    return float(near[np.argmax(np.diff(np.log(xraydb.mu_chantler(element, near))))])


def core_cross_section_cm2_ev(element: str, energies_ev: Floats, beam_kev: float, collection_mrad: float) -> Floats:
    """Return d sigma / dE into a collection angle, cm^2 per eV and atom, f8[n]; 0 below the first core edge.

    From photoabsorption (Chantler tables of xraydb) by 4 pi a0^2 R^2 / (T E) df/dE ln(1 + (beta/theta_E)^2),
    Egerton, eq. 3.151 in the dipole region. Below the first edge over `CORE_FROM_EV` the tables describe what valence
    electrons of free atoms absorb; in a solid these make the plasmon.
    """
    first_ev = first_core_edge_ev(element)
    if math.isinf(first_ev):
        return np.zeros(len(energies_ev))
    e = np.maximum(energies_ev, first_ev)
    mu = np.asarray(xraydb.mu_chantler(element, e))
    photo_cm2 = mu * xraydb.atomic_mass(element) / AVOGADRO
    speed_ev = 0.5e3 * ELECTRON_REST_KEV * beta_squared(beam_kev)
    gamma = 1 + beam_kev / ELECTRON_REST_KEV
    theta_e = e / (2 * gamma * speed_ev)
    angles = np.log1p((collection_mrad * 1e-3 / theta_e) ** 2)
    sigma = 4 * math.pi * BOHR_CM**2 * RYDBERG_EV**2 / (speed_ev * e) * photo_cm2 / OSCILLATOR_CM2_EV * angles
    return np.where(energies_ev >= first_ev, sigma, 0.0)


def _core_losses(film: Film, grid_ev: Floats, beam_kev: float, collection_mrad: float) -> Floats:
    """Return core losses per electron and eV, f8[n]."""
    total = np.zeros_like(grid_ev)
    thickness_cm = film.thickness_nm * 1e-7
    for element, fraction in film.composition.items():
        atoms_cm2 = AVOGADRO / xraydb.atomic_mass(element) * fraction * film.density_g_cm3 * thickness_cm
        total += atoms_cm2 * core_cross_section_cm2_ev(element, grid_ev, beam_kev, collection_mrad)
        for line in (w for w in film.white_lines if w.element == element):
            edges = xraydb.xray_edges(element)
            if line.edge not in edges:
                raise ValueError(f"{element} has no edge {line.edge}: there are {', '.join(edges)}")
            edge_ev = edges[line.edge].energy
            around = core_cross_section_cm2_ev(
                element, np.array([edge_ev - 5.0, edge_ev + 15.0]), beam_kev, collection_mrad
            )
            step = max(float(around[1] - around[0]), 0.0)
            total += atoms_cm2 * step * line.strength_ev * gaussian(grid_ev, line.energy_ev, line.width_ev)
    return total


def spectrum(
    film: Film, axis: Axis, *, beam_kev: float = 200.0, collection_mrad: float = 20.0, resolution_ev: float = 1.0
) -> Floats:
    """Return expected counts per incident electron, f8[D].

    Plural scattering J = Z exp(S t / lambda) by Fourier transforms: every electron is scattered a Poisson number
    of times, each time by the single-scattering distribution (Egerton, eq. 4.8).

    Parameters
    ----------
    axis : Axis
        Energy losses in eV.
    resolution_ev : float
        FWHM of the zero loss.
    """
    step = abs(axis.scale)
    top = float(np.abs(axis.edges).max()) + 50 * resolution_ev
    # Twice the range: what is scattered beyond the end must not come back at the beginning.
    n = 1 << math.ceil(math.log2(2 * top / step + 1))
    grid: Floats = step * np.arange(n, dtype=np.float64)
    drude = drude_loss(grid, film.plasmon_ev, film.plasmon_width_ev)
    drude[grid > top] = 0.0
    valence = film.thickness_nm / film.mean_free_path_nm * drude / drude.sum()
    core = _core_losses(film, grid, beam_kev, collection_mrad) * step
    core[grid > top] = 0.0
    single = valence + core
    transformed = np.fft.rfft(single)
    frequency = 2 * math.pi * np.fft.rfftfreq(n, step)
    blur = np.exp(-0.5 * (frequency * resolution_ev * SIGMA_PER_FWHM) ** 2)
    unscattered = math.exp(-float(single.sum()))
    lost = np.fft.irfft(np.expm1(transformed) * blur, n) * unscattered
    zero_loss = unscattered * np.diff(ndtr(axis.edges / (resolution_ev * SIGMA_PER_FWHM)))
    inelastic = np.interp(axis.values, grid, np.maximum(lost, 0.0), left=0.0, right=0.0)
    return np.asarray(np.abs(zero_loss) + inelastic)
