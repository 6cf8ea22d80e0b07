"""The continuum that electrons radiate, against published tables and against itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulator.physics.bremsstrahlung import radiated_cm2_per_kev, radiated_cm2_per_kev_sr
from simulator.physics.lines import beta_squared

SHARES = np.array([0.05, 0.1, 0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize(
    ("atomic_number", "electron_kev", "published_mb"),
    # beta^2 / Z^2 k d sigma / dk at shares of the electron's energy: Seltzer & Berger, At. Data Nucl. Data Tables 35
    # (1986) 345, as NIST tabulates them.
    [
        (13, 10, [7.878, 7.850, 7.588, 6.880, 6.282, 5.825]),
        (13, 20, [8.967, 8.668, 8.097, 7.055, 6.170, 5.496]),
        (13, 100, [10.472, 9.659, 8.260, 6.156, 4.734, 3.657]),
        (13, 200, [10.697, 9.607, 7.870, 5.525, 3.988, 2.785]),
        (26, 20, [7.707, 7.677, 7.422, 6.795, 6.287, 5.848]),
        (26, 100, [9.849, 9.256, 8.203, 6.541, 5.376, 4.563]),
        (26, 200, [10.286, 9.433, 7.990, 5.899, 4.533, 3.494]),
    ],
)
def test_the_continuum_is_that_of_seltzer_and_berger(
    atomic_number: int, electron_kev: float, published_mb: list[float]
) -> None:
    photon_kev = SHARES * electron_kev
    ours = radiated_cm2_per_kev(atomic_number, photon_kev, electron_kev) * photon_kev
    scaled_mb = 1e27 * beta_squared(electron_kev) / atomic_number**2 * ours
    np.testing.assert_allclose(scaled_mb, published_mb, rtol=0.11)


def test_for_gold_the_born_approximation_is_a_third_off_at_most() -> None:
    """Figures: as above."""
    for electron_kev, published_mb in (
        (20, [5.108, 5.195, 5.260, 5.224, 5.160, 5.154]),
        (200, [9.874, 9.362, 8.449, 7.010, 5.996, 5.238]),
    ):
        photon_kev = SHARES * electron_kev
        scaled_mb = 1e27 * beta_squared(electron_kev) / 79**2 * radiated_cm2_per_kev(79, photon_kev, electron_kev)
        ratio = scaled_mb * photon_kev / published_mb
        assert np.all((ratio > 0.68) & (ratio < 1.4))


@pytest.mark.parametrize(("electron_kev", "photon_kev"), [(20.0, 2.0), (200.0, 10.0), (200.0, 150.0)])
def test_all_directions_together_are_the_whole(electron_kev: float, photon_kev: float) -> None:
    """Formulas 2BN and 3BN were derived apart: the integral of one is the other."""
    cosines, weights = np.polynomial.legendre.leggauss(200)
    energy = np.array([photon_kev])
    total = sum(
        2 * math.pi * w * float(radiated_cm2_per_kev_sr(26, energy, electron_kev, math.degrees(math.acos(c)))[0])
        for c, w in zip(cosines, weights, strict=True)
    )
    assert total == pytest.approx(float(radiated_cm2_per_kev(26, energy, electron_kev)[0]), rel=1e-6)


def test_fast_electrons_radiate_forwards() -> None:
    energy = np.array([10.0])
    mean = float(radiated_cm2_per_kev(26, energy, 200.0)[0]) / (4 * math.pi)
    forward, detector = (float(radiated_cm2_per_kev_sr(26, energy, 200.0, a)[0]) for a in (30.0, 110.0))
    assert forward > 2 * mean
    # (1 - beta^2) / (1 - beta cos)^2 of a slow charge's even radiation, seen from a frame that moves: 0.34.
    assert detector / mean == pytest.approx(0.34, rel=0.15)


def test_nothing_has_more_energy_than_the_electron() -> None:
    found = radiated_cm2_per_kev(26, np.array([19.9, 20.0, 25.0]), 20.0)
    assert found[0] > 0
    assert list(found[1:]) == [0.0, 0.0]
    assert np.all(radiated_cm2_per_kev_sr(26, np.array([20.0, 25.0]), 20.0, 110.0) == 0)
