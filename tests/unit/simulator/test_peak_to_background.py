"""Continuum beside the lines, against maps that real microscopes measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.axis import Axis
from simulator.files import read
from simulator.physics.eds import STRAY_CONTINUUM, mass_fractions, thin_film_spectrum
from simulator.physics.silicon import SiliconDetector
from tests.unit.simulator.conftest import Measured, level, net

Floats = NDArray[np.float64]


def line_to_continuum(counts: Floats, axis: Axis, line_kev: float, window_kev: tuple[float, float]) -> float:
    """Counts of a line over those of the continuum in 10 eV of a window free of lines."""
    return net(axis, counts, line_kev, 0.2) / (level(axis, counts, *window_kev) * 0.01 / axis.scale)


AXIS = Axis.linear("Energy", "keV", -0.2, 20.28, 2048)


def simulated(composition: dict[str, float], line_kev: float, window_kev: tuple[float, float]) -> tuple[float, float]:
    """Line over continuum with the continuum of holder and column, and without."""
    detector = SiliconDetector(take_off_deg=22.0)
    with_stray, alone = (
        thin_film_spectrum(composition, 2e-5, AXIS, beam_kev=200.0, detector=detector, stray_continuum=stray)
        for stray in (STRAY_CONTINUUM, 0.0)
    )
    return tuple(line_to_continuum(s, AXIS, line_kev, window_kev) for s in (with_stray, alone))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("file", "line_kev", "composition"),
    [
        # A nickel superalloy; mass fractions from the map's own K lines and the k-factors of Williams & Carter.
        (
            "eds_fei_superx_20frames_50x10.npz", 7.48,
            {"Cr": 0.22, "Fe": 0.19, "Ni": 0.52, "Al": 0.03, "Co": 0.02, "Ti": 0.02},
        ),
        # A particle of iron sulphide on carbon; S K-alpha is as strong as Fe K-alpha.
        ("eds_jeol_14frames_512x512.npz", 6.40, mass_fractions({"Fe": 1.0, "S": 1.2, "C": 2.0})),
    ],
    ids=["four-quadrant detector", "older detector"],
)  # fmt: skip
def test_a_line_stands_out_of_the_continuum_as_in_the_maps_that_the_constant_is_from(
    shared_data: Path, file: str, line_kev: float, composition: dict[str, float]
) -> None:
    """Figures: the files of the instruments themselves (test data of HyperSpy), not a text; 200 kV is assumed."""
    recorded = read(shared_data / file)
    summed = np.asarray(recorded.counts.sum(axis=0), dtype=np.float64).reshape(-1)
    # Free of lines in both (copper's end at 9.0 keV).
    window_kev = (9.4, 12.5)
    real = line_to_continuum(summed, recorded.axis, line_kev, window_kev)
    found, alone = simulated(composition, line_kev, window_kev)
    assert found == pytest.approx(real, rel=0.3)
    assert alone > 1.9 * real


@pytest.mark.parametrize("window_kev", [(4.5, 6.0), (14.2, 15.4)])
def test_a_line_stands_out_of_the_continuum_as_in_a_spectrum_that_the_constant_is_not_from(
    fept: Measured, window_kev: tuple[float, float]
) -> None:
    real = line_to_continuum(fept.counts, fept.axis, 9.44, window_kev)
    found, alone = simulated({"Pt": 0.95, "Fe": 0.05}, 9.44, window_kev)
    assert found == pytest.approx(real, rel=0.25)
    assert alone > 1.9 * real


def test_l_and_m_lines_of_platinum_are_as_strong_as_measured(fept: Measured) -> None:
    simulated_counts = thin_film_spectrum(
        {"Pt": 0.95, "Fe": 0.05}, 2e-5, fept.axis, detector=SiliconDetector(take_off_deg=22.0)
    )
    ours = Measured(fept.axis, simulated_counts)
    for line_kev, half_kev in ((2.07, 0.2), (11.1, 0.3), (12.95, 0.12)):
        ratios = [m.net(line_kev, half_kev) / m.net(9.44, 0.2) for m in (ours, fept)]
        assert ratios[0] == pytest.approx(ratios[1], rel=0.15)


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
