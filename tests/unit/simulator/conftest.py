"""Spectra and tables that are not ours, from packages that bring them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.axis import Axis

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A spectrum that a real instrument measured: its axis and counts f8[D]."""

    axis: Axis
    counts: Floats

    def net(self, line_kev: float, half_kev: float = 0.12) -> float:
        """Counts of a line over what lies on both sides of it."""
        return net(self.axis, self.counts, line_kev, half_kev)

    def level(self, low_kev: float, high_kev: float) -> float:
        """Mean counts of a channel between two energies."""
        return level(self.axis, self.counts, low_kev, high_kev)


def net(axis: Axis, counts: Floats, line_kev: float, half_kev: float = 0.12) -> float:
    """Counts of a line over what lies on both sides of it."""
    away = np.abs(axis.values - line_kev)
    inside, beside = away < half_kev, np.abs(away - 2 * half_kev) < half_kev / 2
    return float(counts[inside].sum() - counts[beside].mean() * inside.sum())


def level(axis: Axis, counts: Floats, low_kev: float, high_kev: float) -> float:
    """Mean counts of a channel between two energies."""
    return float(counts[(axis.values > low_kev) & (axis.values < high_kev)].mean())


@pytest.fixture(scope="session")
def exspy() -> Any:
    """The package exspy: its table of lines, and measured spectra."""
    with warnings.catch_warnings():
        # It uses names of HyperSpy that HyperSpy 3 will not have.
        warnings.simplefilter("ignore")
        import exspy as package
    return package


def _measured(signal: Any) -> Measured:
    axis = signal.axes_manager[0]
    return Measured(Axis("Energy", "keV", np.asarray(axis.axis, dtype=np.float64)), signal.data.astype(np.float64))


@pytest.fixture(scope="session")
def tm002(exspy: Any) -> Measured:
    """A thick layer of C, Al, Mn, Cu and Zr (test material EDS-TM002 of BAM), 10 kV, take-off 37 degrees."""
    return _measured(exspy.data.EDS_SEM_TM002())


@pytest.fixture(scope="session")
def fept(exspy: Any) -> Measured:
    """Nanoparticles of iron and platinum on carbon, 200 kV, take-off 22 degrees."""
    return _measured(exspy.data.EDS_TEM_FePt_nanoparticles())
