"""Raman: bands on fluorescence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.physics.shapes import gaussian, voigt

Floats = NDArray[np.float64]


def band(shift_cm1: Floats, centre_cm1: float, lorentz_cm1: float, gauss_cm1: float) -> Floats:
    """Return a band of unit area: its own Lorentzian width folded with the spectrometer's Gaussian one, f8[D]."""
    return voigt(shift_cm1, centre_cm1, gauss_cm1, lorentz_cm1)


def fluorescence(shift_cm1: Floats, centre_cm1: float, fwhm_cm1: float) -> Floats:
    """Return the broad hump of a fluorescent impurity, of unit area, f8[D]."""
    return gaussian(shift_cm1, centre_cm1, fwhm_cm1)
