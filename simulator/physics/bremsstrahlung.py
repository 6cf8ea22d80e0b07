"""Continuum that electrons radiate in the field of nuclei: Born approximation, corrected for charge and screening.

Formulas 2BN and 3BN of Koch & Motz, Rev. Mod. Phys. 31 (1959) 920, with Elwert's factor (Ann. Phys. 426 (1939) 178):
the "modified Bethe-Heitler" continuum that Chapman, Gray, Robertson & Nicholson (X-Ray Spectrom. 12 (1983) 153) found
in thin films.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ELECTRON_REST_KEV = 510.99895
FINE_STRUCTURE = 1 / 137.035999
ELECTRON_RADIUS2_CM2 = 7.9407877e-26
THOMAS_FERMI = 0.885
"""Radius of an atom's screening cloud in Bohr radii times Z^(-1/3)."""


def radiated_cm2_per_kev(atomic_number: int, photon_kev: Floats, electron_kev: Floats | float) -> Floats:
    """Return d sigma / dk into all directions, cm^2 per keV and atom (3BN); 0 at and above the electron's energy.

    Parameters
    ----------
    photon_kev, electron_kev : f8[...]
        Photon and kinetic energies, broadcast against each other.
    """
    k, e0, e, p0, p, inside = _kinematics(photon_kev, electron_kev)
    eps0, eps = np.log((e0 + p0) / (e0 - p0)), np.log((e + p) / (e - p))
    both = 2 * np.log((e0 * e + p0 * p - 1) / k)
    bracket = (
        4 / 3
        - 2 * e0 * e * (p**2 + p0**2) / (p0**2 * p**2)
        + eps0 * e / p0**3
        + eps * e0 / p**3
        - eps * eps0 / (p0 * p)
        + both * (8 * e0 * e / (3 * p0 * p) + k**2 * (e0**2 * e**2 + p0**2 * p**2) / (p0**3 * p**3))
        + both * k / (2 * p0 * p) * (
            (e0 * e + p0**2) * eps0 / p0**3 - (e0 * e + p**2) * eps / p**3 + 2 * k * e0 * e / (p**2 * p0**2)
        )
    )  # fmt: skip
    born = ELECTRON_RADIUS2_CM2 * FINE_STRUCTURE * p / p0 / (k * ELECTRON_REST_KEV) * bracket
    return np.where(inside, atomic_number**2 * born * _corrections(atomic_number, e0, e, p0, p), 0.0)


def radiated_cm2_per_kev_sr(
    atomic_number: int, photon_kev: Floats, electron_kev: Floats | float, angle_deg: float
) -> Floats:
    """Return d sigma / dk dOmega at an angle to the electron's path, cm^2 per keV, steradian and atom (2BN).

    Fast electrons radiate forwards: at 200 keV and 110 degrees there is a third of the average over all directions.
    """
    k, e0, e, p0, p, inside = _kinematics(photon_kev, electron_kev)
    cosine = math.cos(math.radians(angle_deg))
    sine2 = 1 - cosine**2
    d = e0 - p0 * cosine
    q2 = p0**2 + k**2 - 2 * p0 * k * cosine
    q = np.sqrt(q2)
    eps, eps_q = np.log((e + p) / (e - p)), np.log((q + p) / (q - p))
    both = np.log((e * e0 - 1 + p * p0) / (e * e0 - 1 - p * p0))
    bracket = (
        8 * sine2 * (2 * e0**2 + 1) / (p0**2 * d**4)
        - 2 * (5 * e0**2 + 2 * e * e0 + 3) / (p0**2 * d**2)
        - 2 * (p0**2 - k**2) / (q2 * d**2)
        + 4 * e / (p0**2 * d)
        + both / (p * p0) * (
            4 * e0 * sine2 * (3 * k - p0**2 * e) / (p0**2 * d**4)
            + 4 * e0**2 * (e0**2 + e**2) / (p0**2 * d**2)
            + (2 - 2 * (7 * e0**2 - 3 * e * e0 + e**2)) / (p0**2 * d**2)
            + 2 * k * (e0**2 + e * e0 - 1) / (p0**2 * d)
        )
        - 4 * eps / (p * d)
        + eps_q / (p * q) * (4 / d**2 - 6 * k / d - 2 * k * (p0**2 - k**2) / (q2 * d))
    )  # fmt: skip
    born = ELECTRON_RADIUS2_CM2 * FINE_STRUCTURE / (8 * math.pi) * p / p0 / (k * ELECTRON_REST_KEV) * bracket
    return np.where(inside, atomic_number**2 * born * _corrections(atomic_number, e0, e, p0, p), 0.0)


def _kinematics(
    photon_kev: Floats, electron_kev: Floats | float
) -> tuple[Floats, Floats, Floats, Floats, Floats, NDArray[np.bool_]]:
    """Return photon energy, the electron's energies and momenta before and after, in rest masses; where it is real."""
    photon, electron = np.broadcast_arrays(np.asarray(photon_kev, float), np.asarray(electron_kev, float))
    inside = (photon > 0) & (photon < electron * (1 - 1e-9))
    k = np.where(inside, photon, 0.5 * electron) / ELECTRON_REST_KEV
    e0 = 1 + electron / ELECTRON_REST_KEV
    e = e0 - k
    return k, e0, e, np.sqrt(e0**2 - 1), np.sqrt(e**2 - 1), inside


def _corrections(atomic_number: int, e0: Floats, e: Floats, p0: Floats, p: Floats) -> Floats:
    """Return Elwert's factor times that of screening.

    The nucleus pulls a slow electron in; its cloud hides it from those that pass far away. The share that is left
    is that of the integral of q^3 dq / (q^2 + 1/a^2)^2, an exponentially screened charge of Thomas and Fermi's radius
    a, in the integral of dq/q of a bare one, over the momenta q from p0 - p to p0 + p that a nucleus can take.
    """
    charge = 2 * math.pi * atomic_number * FINE_STRUCTURE
    elwert = (p0 * e) / (p * e0) * np.expm1(-charge * e0 / p0) / np.expm1(-charge * e / p)
    reach2 = (FINE_STRUCTURE * atomic_number ** (1 / 3) / THOMAS_FERMI) ** 2
    least2, most2 = (p0 - p) ** 2, (p0 + p) ** 2
    screened = np.log((most2 + reach2) / (least2 + reach2)) + reach2 / (most2 + reach2) - reach2 / (least2 + reach2)
    return np.asarray(elwert * screened / np.log(most2 / least2))
