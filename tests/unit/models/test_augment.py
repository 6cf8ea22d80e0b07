"""Spectra as another instrument would have recorded them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.augment import Augmentation, displace, expected_share, random_share, whole
from tests.unit.models.spectra import moving_line

ZERO = np.zeros(1)


def moments(spectrum: NDArray[np.floating]) -> tuple[float, float, float]:
    c = np.arange(spectrum.size)
    total = float(spectrum.sum())
    centre = float(spectrum @ c) / total
    return total, centre, float(spectrum @ (c - centre) ** 2) / total


@pytest.mark.parametrize(("shift", "gain", "broadening"), [(2.3, 0.0, 0.0), (0.0, 0.02, 0.0), (-1.5, -0.01, 1.7)])
def test_a_line_is_moved_stretched_and_broadened_by_what_was_asked(
    shift: float, gain: float, broadening: float
) -> None:
    line = np.zeros((1, 200))
    line[0, 60:141] = np.exp(-0.5 * ((np.arange(60, 141) - 100) / 4.0) ** 2)
    moved = displace(line, np.array([shift]), np.array([gain]), np.array([broadening]), expected_share)[0]
    total, centre, variance = moments(moved.astype(float))
    before = moments(line[0])
    assert total == pytest.approx(before[0], rel=1e-6)
    assert centre == pytest.approx((1 + gain) * 100 + shift, abs=1e-3)
    # Sharing a count between two channels blurs by at most a quarter of a channel squared.
    assert variance == pytest.approx((1 + gain) ** 2 * before[2] + broadening**2, abs=0.26)


def test_moved_counts_are_still_poisson() -> None:
    rng = np.random.default_rng(0)
    expected = 30 * moving_line(np.full(4000, 30.0))
    counts = rng.poisson(expected)
    n = len(counts)
    moved = displace(counts, np.full(n, 1.4), np.full(n, 0.01), np.full(n, 1.0), random_share(rng))
    assert np.array_equal(moved, np.rint(moved))
    peak = moved[:, 26:38]
    assert (peak.var(axis=0) / peak.mean(axis=0)) == pytest.approx(1.0, abs=0.1)
    neighbours = np.asarray(np.corrcoef(peak, rowvar=False))[0, 1]
    assert abs(neighbours) < 0.06


def test_what_leaves_the_axis_is_lost() -> None:
    flat = np.ones((1, 10))
    moved = displace(flat, np.array([3.0]), ZERO, ZERO, expected_share)
    assert moved.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1, 1, 1]]


def test_measured_values_move_by_whole_channels_so_that_their_noise_stays_white() -> None:
    noise = np.random.default_rng(3).standard_normal((1, 500))
    moved = displace(noise, np.array([0.7]), ZERO, ZERO, whole)
    assert np.array_equal(moved[0, 1:], noise[0, :-1].astype(np.float32))


def test_draws_stay_within_their_limits() -> None:
    how = Augmentation(shift=2.0, gain=0.1, broadening=1.0)
    shift, gain, broadening = how.draw(1000, np.random.default_rng(0))
    assert 1.9 < np.abs(shift).max() <= 2.0
    assert 0.09 < np.abs(gain).max() <= 0.1
    assert 0.0 <= broadening.min() < broadening.max() <= 1.0
    assert how.active
    assert not Augmentation().active
