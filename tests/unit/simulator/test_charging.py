"""A specimen that charges up: jumps, their decay, and what they do to a scan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.charging import Charging
from simulator.effects import Effects
from simulator.faults import parse_switches
from simulator.sample import Specimen, load_specimen
from simulator.scene import SimulatedScene

SIGMAS = np.array([2.0, 2.0, 0.1])


def test_displacement_jumps_and_decays() -> None:
    t_s = np.arange(0, 2000, 0.01)
    found = Charging(0.5, SIGMAS, 0.2, seed=3).at(t_s)
    decayed = found[:-1] * np.exp(-0.01 / 0.2)
    jumps = np.flatnonzero(np.any(np.abs(found[1:] - decayed) > 1e-9, axis=1))
    # A Poisson process: the number of jumps within five standard deviations, waits as long as their spread.
    assert abs(len(jumps) - 1000) < 5 * np.sqrt(1000)
    waits = np.diff(t_s[jumps])
    assert waits.std() == pytest.approx(waits.mean(), rel=5 * np.sqrt(2 / len(waits)))
    heights = (found[1:] - decayed)[jumps]
    np.testing.assert_allclose(heights.std(axis=0), SIGMAS, rtol=5 / np.sqrt(2 * len(jumps)))
    assert not np.any(found[: jumps[0]])


def test_jumps_follow_their_seed_however_time_is_cut() -> None:
    t_s = np.arange(0, 50, 0.05)
    whole = Charging(2.0, SIGMAS, 0.1, seed=3).at(t_s)
    piecewise = Charging(2.0, SIGMAS, 0.1, seed=3)
    pieces = np.concatenate([piecewise.at(part) for part in np.array_split(t_s, 37)])
    np.testing.assert_allclose(pieces, whole, atol=1e-12)
    assert not np.allclose(Charging(2.0, SIGMAS, 0.1, seed=4).at(t_s), whole)


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    return load_specimen("fe_cr_ni", seed=1, shape=(10, 10), channels=512)


def scan(specimen: Specimen, **effects: Any) -> np.ndarray[Any, Any]:
    """Measure the map 8 times at one second a position, ten positions a message; counts (8, 100, D)."""
    scene = SimulatedScene(specimen, counts=2000.0, dwell_s=1.0, seed=7, effects=Effects(**effects))
    where = np.arange(800, dtype=np.uint32).reshape(80, 10) % 100
    drawn = [np.asarray(scene.measure(at, np.zeros(10, np.int64), np.ones(10))) for at in where]
    return np.concatenate(drawn).reshape(8, 100, -1).astype(float)


def test_the_stage_jumps_where_the_charge_says(specimen: Specimen) -> None:
    got = scan(specimen, charging_per_s=0.05, charging_decay_s=30.0, charging_positions=3.0).reshape(800, -1)
    jumped = np.rint(Charging(0.05, np.array([3.0, 3.0, 0.0]), 30.0, seed=7).at(np.arange(0.5, 800))).astype(int)
    y, x = np.divmod(np.arange(800) % 100, 10)
    there = np.clip(y + jumped[:, 0], 0, 9) * 10 + np.clip(x + jumped[:, 1], 0, 9)
    assert np.count_nonzero(there != np.arange(800) % 100) > 200
    expected = 2000.0 * specimen.expected(there)
    enough = expected > 10
    squares = ((got - expected) ** 2 / np.where(enough, expected, 1))[enough]
    assert abs(squares.sum() - squares.size) < 6 * np.sqrt(2 * squares.size)


def test_the_energy_axis_jumps_and_creeps_back(specimen: Specimen) -> None:
    got = scan(specimen, charging_per_s=0.02, charging_decay_s=40.0, charging_shift=0.05).reshape(80, 10, -1)
    middles = np.arange(5.5, 800, 10)
    jumped = Charging(0.02, np.array([0.0, 0.0, 0.05]), 40.0, seed=7).at(middles)[:, 2]
    assert np.abs(jumped).max() > 0.05
    inside = (specimen.axis.values > 6.0) & (specimen.axis.values < 6.8)
    peaks = got.sum(axis=1)[:, inside]
    centres = peaks @ specimen.axis.values[inside] / peaks.sum(axis=1)
    # A peak in a window: its centre follows the shift, less what background stays in the window.
    assert np.corrcoef(centres, jumped)[0, 1] > 0.9
    assert np.polyfit(jumped, centres, 1)[0] == pytest.approx(1.0, abs=0.2)


def test_charging_without_a_size_or_a_rate_is_refused() -> None:
    for switches in (["charging_per_s=1"], ["charging_shift=0.1"]):
        with pytest.raises(ValueError, match="charging needs both"):
            parse_switches(switches, Effects)
