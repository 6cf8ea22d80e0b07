"""Powder diffraction from lattice and structure.

Form factors (Waasmaier & Kirfel) and anomalous dispersion (Chantler) come from xraydb. Formulas: Pecharsky &
Zavalij, Fundamentals of Powder Diffraction (2009), chapters 2 and 3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xraydb
from numpy.typing import NDArray

from simulator.physics.shapes import gaussian, pseudo_voigt

Floats = NDArray[np.float64]

HC_EV_ANGSTROM = 12398.42
CENTRINGS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "P": ((0, 0, 0),),
    "I": ((0, 0, 0), (0.5, 0.5, 0.5)),
    "F": ((0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)),
    "C": ((0, 0, 0), (0.5, 0.5, 0)),
}


@dataclass(frozen=True)
class Site:
    """An atom (symbol or ion as xraydb names it) at fractional coordinates."""

    atom: str
    place: tuple[float, float, float] = (0.0, 0.0, 0.0)
    occupancy: float = 1.0
    b_iso_a2: float = 0.5


@dataclass(frozen=True)
class Crystal:
    """A structure: lattice constants in angstrom, angles in degrees, centring, sites of the asymmetric part.

    `texture` is the March-Dollase parameter along `texture_axis` (1 is a random powder); `strain` stretches the
    lattice.
    """

    lattice_a: tuple[float, float, float]
    sites: Sequence[Site]
    angles_deg: tuple[float, float, float] = (90.0, 90.0, 90.0)
    centring: str = "P"
    strain: float = 0.0
    texture: float = 1.0
    texture_axis: tuple[int, int, int] = (0, 0, 1)


@dataclass(frozen=True, eq=False)
class Reflections:
    """Lines of a powder: two theta in degrees, d in angstrom, integrated intensities, f8[L], and an hkl of each."""

    two_theta_deg: Floats
    d_a: Floats
    intensities: Floats
    hkl: NDArray[np.int64]


def metric(crystal: Crystal) -> Floats:
    """Return the metric tensor f8[3, 3] in square angstrom, strain included."""
    a, b, c = (x * (1 + crystal.strain) for x in crystal.lattice_a)
    ca, cb, cg = (math.cos(math.radians(x)) for x in crystal.angles_deg)
    return np.array([[a * a, a * b * cg, a * c * cb], [a * b * cg, b * b, b * c * ca], [a * c * cb, b * c * ca, c * c]])


def reflections(crystal: Crystal, wavelength_a: float, max_two_theta_deg: float = 120.0) -> Reflections:
    """Return the powder lines: sum of |F|^2 over the planes of each spacing, texture and Lorentz-polarisation.

    Multiplicity needs no table: every plane is counted.
    """
    reciprocal: Floats = np.asarray(np.linalg.inv(metric(crystal)), dtype=np.float64)
    s_max = math.sin(math.radians(max_two_theta_deg / 2)) / wavelength_a
    reach = [math.ceil(2 * s_max * x * (1 + abs(crystal.strain))) for x in crystal.lattice_a]
    hkl = np.array(list(itertools.product(*(range(-n, n + 1) for n in reach))))
    hkl = hkl[np.any(hkl != 0, axis=1)]
    d = 1 / np.sqrt(np.einsum("ni,ij,nj->n", hkl, reciprocal, hkl))
    keep = 1 / (2 * d) < s_max
    hkl, d = hkl[keep], d[keep]
    if len(d) == 0:
        return Reflections(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros((0, 3), dtype=np.int64))
    factors = np.abs(_structure_factors(crystal, hkl, 1 / (2 * d), wavelength_a))
    strength: Floats = factors**2 * _march_dollase(crystal, hkl, d, reciprocal)
    order = np.argsort(-d, kind="stable")
    hkl, d, strength = hkl[order], d[order], strength[order]
    starts = np.flatnonzero(np.concatenate([[True], np.abs(np.diff(d)) > 1e-6 * d[1:]]))
    summed = np.add.reduceat(strength, starts)
    theta = np.arcsin(wavelength_a / (2 * d[starts]))
    lorentz = (1 + np.cos(2 * theta) ** 2) / (np.sin(theta) ** 2 * np.cos(theta))
    volume = math.sqrt(np.linalg.det(metric(crystal)))
    intensities = summed * lorentz / volume**2
    real = intensities > 1e-9 * intensities.max()
    two_theta = np.degrees(2 * theta)
    return Reflections(two_theta[real], d[starts][real], intensities[real], hkl[starts][real])


def _structure_factors(
    crystal: Crystal, hkl: NDArray[np.int64], s: Floats, wavelength_a: float
) -> NDArray[np.complex128]:
    energy_ev = HC_EV_ANGSTROM / wavelength_a
    total = np.zeros(len(hkl), dtype=np.complex128)
    for site in crystal.sites:
        element = "".join(c for c in site.atom if c.isalpha())
        dispersion = complex(
            float(xraydb.f1_chantler(element, energy_ev)), float(xraydb.f2_chantler(element, energy_ev))
        )
        scattering = np.asarray(xraydb.f0(site.atom, s)) + dispersion
        scattering = scattering * site.occupancy * np.exp(-site.b_iso_a2 * s**2)
        for shift in CENTRINGS[crystal.centring]:
            place = np.asarray(site.place) + np.asarray(shift)
            total += scattering * np.exp(2j * math.pi * (hkl @ place))
    return total


def _march_dollase(crystal: Crystal, hkl: NDArray[np.int64], d: Floats, reciprocal: Floats) -> Floats:
    """Return (r^2 cos^2 + sin^2 / r)^(-3/2) of the angle to the texture axis of each plane.

    Dollase, J. Appl. Cryst. 19 (1986) 267.
    """
    if crystal.texture == 1.0:
        return np.ones(len(hkl))
    axis = np.asarray(crystal.texture_axis, dtype=np.float64)
    length = math.sqrt(axis @ reciprocal @ axis)
    cosine = (hkl @ reciprocal @ axis) * d / length
    r = crystal.texture
    return np.asarray((r**2 * cosine**2 + (1 - cosine**2) / r) ** -1.5)


def caglioti_fwhm_deg(two_theta_deg: Floats, u: float, v: float, w: float) -> Floats:
    """Return FWHM = sqrt(U tan^2 theta + V tan theta + W) in degrees (Caglioti, Paoletti & Ricci 1958)."""
    tangent = np.tan(np.radians(two_theta_deg) / 2)
    return np.asarray(np.sqrt(np.maximum(u * tangent**2 + v * tangent + w, 1e-8)))


def strain_shift_deg(two_theta_deg: Floats, strain: float) -> Floats:
    """Return the shift of lines to first order, d(2 theta) = -2 tan(theta) da/a, in degrees."""
    return np.asarray(np.degrees(-2 * np.tan(np.radians(two_theta_deg) / 2) * strain))


def pattern(
    crystal: Crystal, two_theta_deg: Floats, wavelength_a: float, caglioti: tuple[float, float, float], eta: float
) -> Floats:
    """Return a powder pattern, f8[D], intensity per degree: pseudo-Voigt lines of Caglioti widths."""
    lines = reflections(crystal, wavelength_a, min(float(two_theta_deg.max()) + 5, 170.0))
    widths = caglioti_fwhm_deg(lines.two_theta_deg, *caglioti)
    total = np.zeros(len(two_theta_deg))
    for centre, width, strength in zip(lines.two_theta_deg, widths, lines.intensities, strict=True):
        total += strength * pseudo_voigt(two_theta_deg, float(centre), float(width), eta)
    return total


def amorphous(two_theta_deg: Floats, centre_deg: float, fwhm_deg: float) -> Floats:
    """Return the broad hump of a glass, of unit area, f8[D]."""
    return gaussian(two_theta_deg, centre_deg, fwhm_deg)
