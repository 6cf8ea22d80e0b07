"""An energy-dispersive silicon drift detector: resolution, efficiency, escape, pile-up, dead time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xraydb
from numpy.typing import NDArray
from scipy.special import ndtr

from simulator.physics.lines import mass_attenuation_cm2_g

Floats = NDArray[np.float64]

FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
PAIR_EV = 3.65
"""Mean energy of an electron-hole pair in silicon."""
MN_KA_EV = 5895.1
"""Weighted mean of Mn K-alpha 1 and 2, the line by which detectors are rated."""
SILICON_G_CM3 = 2.329
POLYMER = {"C": 0.625, "H": 0.042, "O": 0.333}
"""A polyester window as mass fractions."""


@dataclass(frozen=True)
class SiliconDetector:
    """A silicon drift detector as its data sheet describes it.

    Parameters
    ----------
    fwhm_mn_ka_ev : float
        Resolution at Mn K-alpha.
    fano : float
        Fano factor of silicon.
    thickness_um, dead_layer_um : float
        Active silicon, and the silicon before it that collects nothing.
    window_um, light_barrier_um : float
        Polymer window (1.4 g/cm3) and the aluminium on it; 0 for none.
    solid_angle_sr : float
    take_off_deg : float
        Angle of the detector above the specimen's surface.
    pair_resolution_s : float
        Two photons closer than this count as one of their summed energy.
    dead_time_s : float
        Time that each photon blocks the (paralysable) pulse processor.
    """

    fwhm_mn_ka_ev: float = 130.0
    fano: float = 0.12
    thickness_um: float = 450.0
    dead_layer_um: float = 0.1
    window_um: float = 0.3
    light_barrier_um: float = 0.03
    solid_angle_sr: float = 0.7
    take_off_deg: float = 20.0
    pair_resolution_s: float = 1e-7
    dead_time_s: float = 1e-6


def fwhm_kev(detector: SiliconDetector, energies_kev: Floats) -> Floats:
    """Return the width of a line, FWHM^2 = noise^2 + 8 ln 2 F eps E, in keV, f8[n].

    The electronic noise follows from the width at Mn K-alpha (Goldstein et al., Scanning Electron Microscopy
    and X-Ray Microanalysis, 2018).
    """
    statistical = FWHM_PER_SIGMA**2 * detector.fano * PAIR_EV
    noise2 = detector.fwhm_mn_ka_ev**2 - statistical * MN_KA_EV
    squared: Floats = noise2 + statistical * 1e3 * np.maximum(energies_kev, 0.0)
    return 1e-3 * np.sqrt(squared)


def efficiency(detector: SiliconDetector, energies_kev: Floats) -> Floats:
    """Return the fraction of photons that reach the active silicon and are absorbed in it, f8[n]."""
    silicon = mass_attenuation_cm2_g({"Si": 1.0}, energies_kev) * SILICON_G_CM3 * 1e-4
    aluminium = mass_attenuation_cm2_g({"Al": 1.0}, energies_kev) * 2.70e-4
    polymer = mass_attenuation_cm2_g(POLYMER, energies_kev) * 1.4e-4
    through = silicon * detector.dead_layer_um + aluminium * detector.light_barrier_um
    stopped: Floats = -np.expm1(-silicon * detector.thickness_um)
    return stopped * np.exp(-through - polymer * detector.window_um)


@lru_cache(maxsize=1)
def _silicon_k() -> tuple[float, float, float, float]:
    """Return edge keV, K-alpha keV, fluorescence yield, share of absorption by the K shell."""
    edge = xraydb.xray_edges("Si")["K"]
    line = xraydb.xray_lines("Si")["Ka1"]
    return edge.energy / 1e3, line.energy / 1e3, edge.fyield, 1 - 1 / edge.jump_ratio


def escape_kev() -> float:
    """Return the energy that an escaping silicon K-alpha photon takes along, in keV."""
    return _silicon_k()[1]


def escape_fraction(energies_kev: Floats) -> Floats:
    """Return escaping photons per detected one, f8[n]; 0 below the silicon K edge.

    Reed & Ware, J. Phys. E 5 (1972) 582: w r / 2 (1 - m ln(1 + 1/m)), m = mu(Si Ka)/mu(E).
    """
    edge, line, fluorescence, k_share = _silicon_k()
    energies = np.asarray(energies_kev, dtype=np.float64)
    mu_line = mass_attenuation_cm2_g({"Si": 1.0}, np.array([line]))
    ratio = mu_line / mass_attenuation_cm2_g({"Si": 1.0}, energies)
    lost = 0.5 * fluorescence * k_share * (1 - ratio * np.log1p(1 / ratio))
    return np.where(energies > edge, lost / (1 - lost), 0.0)


def respond(detector: SiliconDetector, energies_kev: Floats, photons: Floats, edges_kev: Floats) -> Floats:
    """Return the spectrum f8[D] of detected photons: a peak and an escape peak for each energy.

    Parameters
    ----------
    energies_kev : f8[n]
    photons : f8[n]
        Detected ones of each energy.
    edges_kev : f8[D + 1]
        Borders of the channels, increasing.
    """
    escaped = escape_fraction(energies_kev) * photons
    peaks = np.concatenate([energies_kev, energies_kev - escape_kev()])
    strengths = np.concatenate([photons, escaped]) / np.tile(1 + escape_fraction(energies_kev), 2)
    some = strengths > 0
    return _gaussians(peaks[some], fwhm_kev(detector, peaks[some]), strengths[some], edges_kev)


def _gaussians(centres_kev: Floats, widths_kev: Floats, strengths: Floats, edges_kev: Floats) -> Floats:
    """Sum Gaussians integrated over channels, each cut at 7 sigma."""
    n_channels = len(edges_kev) - 1
    if len(centres_kev) == 0:
        return np.zeros(n_channels)
    sigmas = widths_kev / FWHM_PER_SIGMA
    first = np.searchsorted(edges_kev, centres_kev - 7 * sigmas)
    last = np.searchsorted(edges_kev, centres_kev + 7 * sigmas)
    columns = first[:, None] + np.arange(int((last - first).max()) + 2)
    inside = np.clip(columns, 0, n_channels)
    cumulated = ndtr((edges_kev[inside] - centres_kev[:, None]) / sigmas[:, None])
    # Beyond the last edge all columns are the same edge: their differences vanish.
    parts = np.diff(cumulated, axis=1) * strengths[:, None]
    channels = np.minimum(inside[:, :-1], n_channels - 1)
    spectrum: Floats = np.bincount(channels.reshape(-1), parts.reshape(-1), n_channels).astype(np.float64)
    return spectrum


def with_sum_peaks(spectrum: Floats, offset_channels: float, pile_up: float) -> Floats:
    """Return a spectrum in which a share of the photons is recorded in pairs.

    Parameters
    ----------
    spectrum : f8[D]
        Expected counts without pile-up.
    offset_channels : float
        Energy of channel 0 in channels: sums land at i + j + offset.
    pile_up : float
        Probability that a photon meets another one, input rate x pair resolution; first order, so below 0.1.
    """
    total = spectrum.sum()
    if pile_up <= 0 or total <= 0:
        return spectrum
    # By Fourier transforms: the spectrum folded with itself, with room for sums up to twice the range.
    n = 2 * len(spectrum) - 1
    pairs = np.fft.irfft(np.fft.rfft(spectrum, n) ** 2, n) / total
    at = np.arange(len(spectrum)) - offset_channels
    doubled = np.interp(at, np.arange(len(pairs)), np.maximum(pairs, 0.0), left=0.0, right=0.0)
    # Each pair takes two photons away and records one.
    return np.asarray(spectrum * (1 - pile_up) + 0.5 * pile_up * doubled)


def output_rate_hz(input_rate_hz: Floats, dead_time_s: float) -> Floats:
    """Return the rate that a paralysable counter records, OCR = ICR exp(-ICR tau)."""
    return np.asarray(input_rate_hz * np.exp(-np.asarray(input_rate_hz) * dead_time_s))
