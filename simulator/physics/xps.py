"""XPS: core levels on the background of electrons that lost energy on their way out."""

from __future__ import annotations

import numpy as np
import xraydb
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from simulator.physics.shapes import SIGMA_PER_FWHM, doniach_sunjic, voigt

Floats = NDArray[np.float64]

TOUGAARD_B_EV2 = 2866.0
TOUGAARD_C_EV2 = 1643.0


def binding_energy_ev(element: str, level: str) -> float:
    """Return a tabulated core level such as ("W", "N7") for W 4f 7/2, in eV (xraydb).

    Raises
    ------
    ValueError
        Where the element has no such level.
    """
    levels = xraydb.xray_edges(element)
    if level not in levels:
        raise ValueError(f"{element} has no level {level}: there are {', '.join(levels)}")
    return float(levels[level].energy)


def core_line(
    binding_ev: Floats, centre_ev: float, lorentz_ev: float, gauss_ev: float, asymmetry: float = 0.0
) -> Floats:
    """Return a core line of unit area: Voigt, or a broadened Doniach-Sunjic line for a metal, f8[D]."""
    if asymmetry == 0:
        return voigt(binding_ev, centre_ev, gauss_ev, lorentz_ev)
    step = abs(float(np.mean(np.diff(binding_ev))))
    sharp = doniach_sunjic(binding_ev, centre_ev, lorentz_ev, asymmetry)
    return np.asarray(gaussian_filter1d(sharp, gauss_ev * SIGMA_PER_FWHM / step, mode="nearest"))


def shirley(peaks: Floats, binding_ev: Floats, loss_per_ev: float) -> Floats:
    """Return Shirley's background: proportional to all peak area at smaller binding energy, f8[D].

    Shirley, Phys. Rev. B 5 (1972) 4709.
    """
    step = np.abs(np.gradient(binding_ev))
    order = np.argsort(binding_ev)
    background = np.empty_like(peaks)
    background[order] = loss_per_ev * np.cumsum((peaks * step)[order])
    return background


def tougaard(peaks: Floats, binding_ev: Floats) -> Floats:
    """Return the background of the universal cross section B T / (C + T^2)^2, f8[D].

    B = 2866 eV^2, C = 1643 eV^2; Tougaard, Surf. Interface Anal. 11 (1988) 453. `binding_ev` must be evenly spaced.
    """
    step = abs(float(np.mean(np.diff(binding_ev))))
    losses = step * np.arange(len(binding_ev))
    kernel = TOUGAARD_B_EV2 * losses / (TOUGAARD_C_EV2 + losses**2) ** 2 * step
    rising = peaks if binding_ev[-1] > binding_ev[0] else peaks[::-1]
    background = np.convolve(rising, kernel)[: len(peaks)]
    return np.asarray(background if binding_ev[-1] > binding_ev[0] else background[::-1])
