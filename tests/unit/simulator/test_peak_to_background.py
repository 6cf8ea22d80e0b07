"""Continuum beside the lines, against maps that real microscopes measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.axis import Axis
from simulator.files import read
from simulator.physics.eds import STRAY_CONTINUUM, mass_fractions, thin_film_spectrum

Floats = NDArray[np.float64]
CONTINUUM_KEV = (9.4, 12.5)
"""Free of lines in both maps (copper's end at 9.0 keV), and little absorbed."""


def line_to_continuum(spectrum: Floats, energies_kev: Floats, line_kev: float) -> float:
    """Counts of a line over those of the continuum in 10 eV."""
    step = (energies_kev[-1] - energies_kev[0]) / (len(energies_kev) - 1)
    flat = (energies_kev > CONTINUUM_KEV[0]) & (energies_kev < CONTINUUM_KEV[1])
    line = np.abs(energies_kev - line_kev) < 0.2
    per_channel = spectrum[flat].mean()
    return float((spectrum[line].sum() - per_channel * line.sum()) / (per_channel * 0.01 / step))


@pytest.mark.parametrize(
    ("file", "line_kev", "composition", "mass_thickness"),
    [
        # A nickel superalloy; mass fractions from the map's own K lines and the k-factors of Williams & Carter.
        (
            "eds_fei_superx_20frames_50x10.npz", 7.48,
            {"Cr": 0.22, "Fe": 0.19, "Ni": 0.52, "Al": 0.03, "Co": 0.02, "Ti": 0.02}, 5e-5,
        ),
        # A particle of iron sulphide on carbon; S K-alpha is as strong as Fe K-alpha.
        ("eds_jeol_14frames_512x512.npz", 6.40, mass_fractions({"Fe": 1.0, "S": 1.2, "C": 2.0}), 5e-5),
    ],
    ids=["four-quadrant detector", "older detector"],
)  # fmt: skip
def test_a_line_stands_out_of_the_continuum_as_in_a_real_map(
    shared_data: Path, file: str, line_kev: float, composition: dict[str, float], mass_thickness: float
) -> None:
    """Figures: the files of the instruments themselves (test data of HyperSpy), not a text; 200 kV is assumed."""
    recorded = read(shared_data / file)
    summed = np.asarray(recorded.counts.sum(axis=0), dtype=np.float64).reshape(-1)
    real = line_to_continuum(summed, recorded.axis.values, line_kev)
    axis = Axis.linear("Energy", "keV", -0.2, 20.28, 2048)
    simulated, alone = (
        line_to_continuum(
            thin_film_spectrum(composition, mass_thickness, axis, beam_kev=200.0, stray_continuum=stray),
            axis.values,
            line_kev,
        )
        for stray in (STRAY_CONTINUUM, 0.0)
    )
    # Instruments differ by more than a factor of 1.5 in this; the film alone has too little continuum for either.
    assert simulated == pytest.approx(real, rel=0.3)
    assert alone > 1.35 * real


def test_the_continuum_of_holder_and_column_changes_no_line() -> None:
    axis = Axis.linear("Energy", "keV", 0.0, 20.0, 2000)
    none, some = (thin_film_spectrum({"Fe": 1.0}, 1e-6, axis, stray_continuum=s) for s in (0.0, 1.0))
    flat = np.abs(axis.values - 12.0) < 0.5
    assert some[flat].sum() == pytest.approx(2 * none[flat].sum(), rel=1e-6)
    line = np.abs(axis.values - 6.4) < 0.2
    beside = np.abs(axis.values - 5.6) < 0.2
    extra = some - none
    # At the line as beside it there is more continuum, and nothing else.
    assert extra[line].sum() == pytest.approx(extra[beside].sum(), rel=0.2)
    assert extra[line].sum() < 0.01 * none[line].sum()
