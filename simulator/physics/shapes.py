"""Line shapes of unit area."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import voigt_profile

Floats = NDArray[np.float64]

SIGMA_PER_FWHM = 1 / (2 * math.sqrt(2 * math.log(2)))


def gaussian(x: Floats, centre: float, fwhm: float) -> Floats:
    """Return a Gaussian, f8[n], in 1/units of `x`."""
    sigma = fwhm * SIGMA_PER_FWHM
    return np.asarray(np.exp(-0.5 * ((x - centre) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi)))


def voigt(x: Floats, centre: float, gauss_fwhm: float, lorentz_fwhm: float) -> Floats:
    """Return a Voigt profile, f8[n]."""
    profile = voigt_profile(x - centre, gauss_fwhm * SIGMA_PER_FWHM, lorentz_fwhm / 2)
    return np.asarray(profile, dtype=np.float64)


def pseudo_voigt(x: Floats, centre: float, fwhm: float, eta: float) -> Floats:
    """Return eta times a Lorentzian plus (1 - eta) times a Gaussian of the same width, f8[n]."""
    lorentz = fwhm / (2 * math.pi) / ((x - centre) ** 2 + (fwhm / 2) ** 2)
    return np.asarray(eta * lorentz + (1 - eta) * gaussian(x, centre, fwhm))


def doniach_sunjic(x: Floats, centre: float, fwhm: float, asymmetry: float) -> Floats:
    """Return a Doniach-Sunjic line with its tail towards larger `x`, scaled to unit area on the given axis.

    Doniach & Sunjic, J. Phys. C 3 (1970) 285; its integral does not converge, so the axis bounds it.
    """
    gamma, away = fwhm / 2, centre - x
    phase = 0.5 * math.pi * asymmetry + (1 - asymmetry) * np.arctan(away / gamma)
    line = np.cos(phase) / (away**2 + gamma**2) ** ((1 - asymmetry) / 2)
    step = np.abs(np.gradient(x))
    return np.asarray(line / (line * step).sum())
