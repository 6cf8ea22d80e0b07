"""Grains on a thick wedge, by the simulator's physics at each thickness, for `tests.benchmarks.unmixing --thick`.

Films of aluminides (lines of Ni L and Al K, which nickel absorbs), of oxides (O, Al, Si, Fe L), and of iron oxides in
core losses. Each phase absorbs by its own composition and scatters by its own plasmon, before the detector blurs; the
correction is told one mean composition, or one plasmon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.axis import Axis
from models.thickness import Absorption, PluralScattering, Thickness
from simulator.axis import Axis as SpectrumAxis
from simulator.layout import Canvas, Grains
from simulator.physics.eds import mass_fractions, thin_film_spectrum
from simulator.physics.eels import Film, WhiteLine, spectrum

Array = NDArray[np.float64]
SIDE, CHANNELS, N_THICK, GRAINS, TAKE_OFF_DEG = 64, 1024, 24, 25, 20.0
ALUMINIDES = ((5.9, {"Ni": 0.5, "Al": 0.5}), (7.5, {"Ni": 0.75, "Al": 0.25}))
OXIDES = ((5.2, {"Fe": 0.4, "O": 0.6}), (2.65, {"Si": 0.333, "O": 0.667}), (3.95, {"Al": 0.4, "O": 0.6}))


@dataclass(frozen=True)
class Thick:
    """Expected spectra (P, D) of mean sum 1, shares of counts (P, M) and spectra (M, D) as of the mean thickness."""

    axis: Axis
    law: Thickness
    expected: Array
    shares: Array
    spectra: Array
    thickness: Array


def _films(phases: tuple[tuple[float, dict[str, float]], ...], thinnest_nm: float, thickest_nm: float) -> Scene:
    axis = SpectrumAxis.linear("Energy", "keV", -0.2, 20.28, CHANNELS)
    nm = np.linspace(thinnest_nm, thickest_nm, N_THICK)
    mass = [mass_fractions(atomic) for _, atomic in phases]
    table = [
        [thin_film_spectrum(m, density * t * 1e-7, axis) for t in nm]
        for m, (density, _) in zip(mass, phases, strict=True)
    ]
    absorber = {e: sum(m.get(e, 0.0) for m in mass) for e in {e for m in mass for e in m}}
    known = Axis("Energy", "keV", CHANNELS, -0.2, float(axis.scale))
    grams = np.mean([density for density, _ in phases]) * 1e-7
    return known, Absorption.on(known, dict(sorted(absorber.items())), TAKE_OFF_DEG), np.array(table), nm * grams


def aluminides() -> Scene:
    """NiAl and Ni3Al, 50 to 600 nm."""
    return _films(ALUMINIDES, 50.0, 600.0)


def oxides() -> Scene:
    """Iron oxide, silica and alumina, 50 to 600 nm."""
    return _films(OXIDES, 50.0, 600.0)


def iron_oxides() -> Scene:
    """Fe2+ and Fe3+ oxides in core losses, 0.2 to 1.6 mean free paths."""
    axis = SpectrumAxis.linear("Energy loss", "eV", 500.0, 780.0, CHANNELS)
    paths, table = np.linspace(0.2, 1.6, N_THICK), []
    for iron, density, plasmon, l3, width, strength in (
        (0.5, 5.7, 22.0, 707.8, 12.0, 9.0),
        (0.4, 5.2, 24.0, 709.5, 13.0, 11.0),
    ):
        lines = [
            WhiteLine("Fe", "L3", l3, 2.1, strength),
            WhiteLine("Fe", "L3", l3 + 13.0, 2.6, 2.3),
        ]
        mass = mass_fractions({"Fe": iron, "O": 1.0 - iron})
        table.append([spectrum(Film(mass, density, 95.0 * t, plasmon, width, 95.0, lines), axis) for t in paths])
    known = Axis("Energy loss", "eV", CHANNELS, 500.0, float(axis.scale))
    return known, PluralScattering.on(known, 23.0, 12.5), np.array(table), paths


Scene = tuple[Axis, Thickness, Array, Array]
"""Axis, law, spectra (M, T, D) and their thicknesses (T,)."""
SCENES: dict[str, tuple[Callable[[], Scene], tuple[float, ...]]] = {
    "aluminides": (aluminides, (50.0, 200.0, 1000.0)),
    "oxides": (oxides, (50.0, 200.0, 1000.0)),
    "iron_oxides": (iron_oxides, (1000.0, 3000.0)),
}


def wedge(scene: Scene, seed: int) -> Thick:
    """Grains of all phases, mixed at their borders, thin at the first row and thick at the last."""
    axis, law, table, thickness = scene
    names = [str(k) for k in range(len(table))]
    canvas = Canvas((SIDE, SIDE), names, np.random.Generator(np.random.Philox(seed)))
    canvas.paint(Grains(kind="grains", phases=names, count=GRAINS, mixing_px=1.0))
    at = (canvas.y - canvas.y.min()).ravel() / float(np.ptp(canvas.y)) * (N_THICK - 1)
    below = np.minimum(at.astype(np.int64), N_THICK - 2)
    above = (at - below)[:, None]
    part = canvas.abundances()
    expected = sum(part[:, [k]] * ((1.0 - above) * one[below] + above * one[below + 1]) for k, one in enumerate(table))
    middle = table[:, N_THICK // 2]
    area = middle.sum(axis=1)
    amounts = part * area
    return Thick(
        axis, law, expected / expected.sum(axis=1).mean(), amounts / amounts.sum(axis=1, keepdims=True),
        middle / area[:, None], np.interp(at, np.arange(N_THICK), thickness),
    )  # fmt: skip
