"""X-ray lines of the elements as an EDS detector sees them, and core levels for EELS and XPS.

Energies, yields and branching from xraydb (Elam, Ravel & Sieber, Radiat. Phys. Chem. 63 (2002) 121), which takes half a
second to import and is therefore imported with the first question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import ndtr

from models.base import Float64

_SI_KA_KEV, _SI_EDGE_KEV = 1.740, 1.839
MN_KA_KEV = 5.8951
"""Weighted mean of Mn K-alpha 1 and 2, the line by which detectors are rated."""
FWHM_PER_SIGMA = 2.3548200450309493
_FANO_KEV = 0.12 * 3.65e-3
_LIGHTEST, _HEAVIEST = 4, 92
_UNLIKELY = frozenset({2, 10, 36, 43, 54, 61, 84, 85, 86, 87, 88, 89, 91})
"""Noble gases (argon stays: ions of it thin specimens) and elements without stable isotopes, but for Th and U."""
_COMMON = """
C N O F Na Mg Al Si P S Cl K Ca Ti V Cr Mn Fe Co Ni Cu Zn Ga As Sr Y Zr Nb Mo Pd Ag Cd In Sn Sb Ba La Ce Nd Gd Hf Ta W
Pt Au Pb Bi U
"""
COMMON = frozenset(_COMMON.split())
"""Elements that specimens are made of; the others are named only on stronger evidence."""
_ELECTRONS = {"K": 2, "L1": 2, "L2": 2, "L3": 4, "M1": 2, "M2": 2, "M3": 4, "M4": 4, "M5": 6}
_MIN_SHARE = 0.004
LEAST_KEV = {"K": 0.1, "L": 0.39, "M": 0.78}
"""Nothing is known by softer lines, below Sc L and La M: valence electrons make them, and tables are poor."""
_NAMES = {"Lb2,15": "Lb2", "Mz": "Mz"}
_MEASURED_EV = {("B", "K"): 188.0, ("C", "K"): 284.0, ("N", "K"): 401.0, ("O", "K"): 532.0, ("F", "K"): 685.0}
"""Edges of light elements in solids (Ahn & Krivanek, EELS Atlas, 1983); the tables have those of free atoms."""
_LEVELS = {"K": "1s", "L1": "2s", "L2": "2p1/2", "L3": "2p3/2"} | {
    f"{shell}{k}": f"{n}{orbital}"
    for n, shell in enumerate("MNO", start=3)
    for k, orbital in enumerate(("s", "p1/2", "p3/2", "d3/2", "d5/2", "f5/2", "f7/2"), start=1)
}


@dataclass(frozen=True)
class Line:
    """A line that a detector does not resolve further.

    Attributes
    ----------
    element, label : str
        For instance 'Cr' and 'Ka'.
    kev : float
        Mean energy.
    strength : float
        Photons, on a scale common to all lines of the element.
    """

    element: str
    label: str
    kev: float
    strength: float

    @property
    def shell(self) -> str:
        """K, L or M: lines of one shell come together whatever excites them."""
        return self.label[0]


@dataclass(frozen=True)
class Level:
    """A core level: `shell` as X-ray people name it (L3), energy in eV."""

    element: str
    shell: str
    ev: float
    yields_edge: bool

    @property
    def orbital(self) -> str:
        """The level as photoelectron people name it (2p3/2)."""
        return _LEVELS.get(self.shell, self.shell)


@lru_cache(maxsize=1)
def _xraydb() -> Any:
    import xraydb

    return xraydb


@lru_cache(maxsize=1)
def elements() -> tuple[str, ...]:
    """Symbols of the elements that a specimen may hold and a detector may see, light to heavy."""
    symbol = _xraydb().atomic_symbol
    return tuple(str(symbol(z)) for z in range(_LIGHTEST, _HEAVIEST + 1) if z not in _UNLIKELY)


def fwhm_kev(kev: Float64 | float, at_mn_kev: float) -> Float64:
    """Width of a line in a silicon detector, FWHM^2 = noise^2 + 8 ln 2 F eps E, from that at Mn K-alpha, keV."""
    statistical = FWHM_PER_SIGMA**2 * _FANO_KEV
    squared = at_mn_kev**2 + statistical * (np.maximum(kev, 0.0) - MN_KA_KEV)
    return np.asarray(np.sqrt(np.maximum(squared, (0.3 * at_mn_kev) ** 2)), dtype=np.float64)


@lru_cache(maxsize=128)
def emission_lines(element: str) -> tuple[Line, ...]:
    """Lines of an element above 0.1 keV, those of a shell that no detector separates taken together.

    Vacancies of a subshell go as its electrons over its energy (Bethe), then as Coster-Kronig transfer moves them;
    good to some ten per cent within a shell, to a factor of a few between shells.

    Raises
    ------
    ValueError
        Where xraydb does not know the element.
    """
    vacancies = _vacancies(element)
    strengths: dict[str, list[tuple[float, float]]] = {}
    for name, line in _xraydb().xray_lines(element).items():
        shell, kev = line.initial_level.split(",")[0], line.energy / 1e3
        if shell in vacancies and kev > 0.1:
            strength = vacancies[shell] * float(line.intensity) * _third_shell(element, name)
            strengths.setdefault(_label(name), []).append((kev, strength))
    merged = []
    for label, parts in strengths.items():
        kev, strength = np.array(parts).T
        if strength.sum() > 0:
            merged.append(Line(element, label, float(np.average(kev, weights=strength)), float(strength.sum())))
    brightest: dict[str, float] = {}
    for line in merged:
        brightest[line.shell] = max(brightest.get(line.shell, 0.0), line.strength)
    return tuple(line for line in merged if line.strength >= _MIN_SHARE * brightest[line.shell])


def _label(name: str) -> str:
    """Ka, Kb, La, Ma stand for their doublets; the others are told apart."""
    if name[:2] in {"Ka", "Kb", "La"}:
        return name[:2]
    return {"Lb1": "Lb", "Lg1": "Lg", "Mb": "Ma"}.get(name, _NAMES.get(name, name))


def _third_shell(element: str, name: str) -> float:
    """K-beta of the elements before argon in proportion to their 3p electrons, which the tables leave out."""
    filled = min(max((_xraydb().atomic_number(element) - 12) / 6, 0.0), 1.0)
    return filled if name.startswith("Kb") else 1.0


def _vacancies(element: str) -> dict[str, float]:
    """Radiative vacancies of each subshell, any scale."""
    edges = {s: e for s, e in _xraydb().xray_edges(element).items() if s in _ELECTRONS and e.energy > 10}
    found = {s: _ELECTRONS[s] / e.energy for s, e in edges.items()}
    for shell in sorted(found):
        for lower in sorted(s for s in found if s[0] == shell[0] and s > shell):
            moves = _xraydb().ck_probability(element, shell, lower, total=False) or 0.0
            found[lower] += found[shell] * float(moves)
    yields = {s: float(edges[s].fyield) for s in found}
    if "M5" in yields:
        yields["M5"] = yields["M5"] or yields["M4"]
    return {s: found[s] * yields[s] for s in found}


@lru_cache(maxsize=128)
def core_levels(element: str) -> tuple[Level, ...]:
    """Core levels of an element above 5 eV; `yields_edge` where EELS shows an edge that people use (Ahn & Krivanek)."""
    major = {"K", "L2", "L3", "M4", "M5"}
    edges = _xraydb().xray_edges(element)
    return tuple(
        Level(element, shell, _MEASURED_EV.get((element, shell), float(e.energy)), shell in major)
        for shell, e in edges.items()
        if e.energy > 5 and shell in _LEVELS
    )


@dataclass(frozen=True, eq=False)
class Templates:
    """Line spectra of unit area on a grid, one for each shell of each element.

    Attributes
    ----------
    names : tuple of (element, shell)
    spectra : f8[M, D]
        Share of the shell's photons in each channel.
    photons : f8[M]
        Photons of the shell, on a scale common to an element's shells; 0 where no line lies on the grid.
    mean_kev : f8[M]
        Where the shell's brightest line is.
    """

    names: tuple[tuple[str, str], ...]
    spectra: Float64
    photons: Float64
    mean_kev: Float64


def make_templates(edges_kev: Float64, at_mn_kev: float, offset_kev: float = 0.0, gain: float = 1.0) -> Templates:
    """Templates of all elements between the borders of channels, f8[D + 1] rising, in keV.

    Parameters
    ----------
    at_mn_kev : float
        FWHM at Mn K-alpha.
    offset_kev, gain : float
        A line at E appears at offset + gain E.
    """
    shells = list(_shells())
    lines = [line for _, _, mine in shells for line in mine]
    kev = np.array([line.kev for line in lines])
    places = offset_kev + gain * kev
    strength = np.array([line.strength for line in lines]) * ((places > edges_kev[0]) & (places < edges_kev[-1]))
    share = _peaks(edges_kev, places, fwhm_kev(kev, at_mn_kev))
    share += _escape_share(kev)[:, None] * _peaks(edges_kev, places - gain * _SI_KA_KEV, fwhm_kev(kev, at_mn_kev))
    first = np.concatenate([[0], np.cumsum([len(mine) for _, _, mine in shells])])
    photons = np.add.reduceat(strength, first[:-1])
    spectra = np.add.reduceat(strength[:, None] * share, first[:-1], axis=0) / np.maximum(photons, 1e-300)[:, None]
    brightest = [max(mine, key=lambda line: line.strength).kev for _, _, mine in shells]
    return Templates(tuple((e, s) for e, s, _ in shells), spectra, photons, np.array(brightest))


def mass_attenuation_cm2_g(mass_fractions: Mapping[str, float], energies_kev: Float64) -> Float64:
    """Mass attenuation of a mixture (fractions on any scale) at photon energies in keV, cm^2/g (Elam tables of xraydb).

    Below 0.1 keV, where the tables end, as at 0.1 keV.

    Raises
    ------
    ValueError
        Where xraydb does not know an element.
    """
    ev = 1e3 * np.maximum(energies_kev, 0.1)
    total = np.zeros(ev.shape)
    for element, fraction in mass_fractions.items():
        total += fraction * np.asarray(_xraydb().mu_elam(element, ev))
    return np.asarray(total / sum(mass_fractions.values()))


def _peaks(edges_kev: Float64, places: Float64, widths: Float64) -> Float64:
    """Share of each Gaussian line in each channel, (L, D)."""
    return np.diff(ndtr((edges_kev[None] - places[:, None]) / (widths[:, None] / FWHM_PER_SIGMA)), axis=1)


def _escape_share(kev: Float64) -> Float64:
    """Photons in the escape peak over those in the line, f8[n]; 0 below silicon's edge.

    Reed & Ware, J. Phys. E 5 (1972) 582: 1/2 omega (1 - 1/r) (1 - mu_K / mu ln(1 + mu / mu_K)).
    """
    above = kev > _SI_EDGE_KEV
    mu = np.asarray(_xraydb().mu_elam("Si", 1e3 * np.where(above, kev, 2.0)))
    inner = float(_xraydb().mu_elam("Si", 1e3 * _SI_KA_KEV)) / mu
    return np.where(above, 0.5 * 0.047 * (1 - 1 / 10.8) * (1 - inner * np.log1p(1 / inner)), 0.0)


def _shells() -> Iterator[tuple[str, str, list[Line]]]:
    for element in elements():
        lines = emission_lines(element)
        for shell in "KLM":
            mine = [line for line in lines if line.shell == shell]
            if mine:
                yield element, shell, mine
