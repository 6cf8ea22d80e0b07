"""What changes while a scan runs, and what integrating detectors add."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.detector import Emitters, Integrating
from simulator.effects import Effects
from simulator.faults import parse_switches
from simulator.sample import Specimen, load_specimen
from simulator.scene import SimulatedScene

SHAPE = (10, 10)
N = 100
COUNTS = 2000.0


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    return load_specimen("fe_cr_ni", seed=1, shape=SHAPE, channels=512)


def passes(specimen: Specimen, n: int, **effects: Any) -> np.ndarray[Any, Any]:
    """Measure the map n times at one second a position; counts (n, positions, D)."""
    scene = SimulatedScene(specimen, counts=COUNTS, dwell_s=1.0, seed=1, effects=Effects(**effects))
    where = np.arange(N, dtype=np.uint32)
    return np.stack([np.asarray(scene.measure(where, np.full(N, k), np.ones(N))) for k in range(n)]).astype(float)


def centre(specimen: Specimen, counts: np.ndarray[Any, Any], lo: float, hi: float) -> float:
    inside = (specimen.axis.values > lo) & (specimen.axis.values < hi)
    spectrum = counts.sum(axis=0)[inside]
    return float(spectrum @ specimen.axis.values[inside] / spectrum.sum())


def test_without_effects_all_passes_are_alike(specimen: Specimen) -> None:
    got = passes(specimen, 4).sum(axis=(1, 2))
    assert np.all(np.abs(got - N * COUNTS) < 5 * np.sqrt(N * COUNTS))


def test_shift_and_gain_move_peaks_as_they_say(specimen: Specimen) -> None:
    shifted = passes(specimen, 3, shift_per_s=1e-4)
    moved = centre(specimen, shifted[2], 6.1, 6.7) - centre(specimen, shifted[0], 6.1, 6.7)
    assert moved == pytest.approx(200 * 1e-4, abs=0.004)
    stretched = passes(specimen, 3, gain_per_s=2e-5)
    low = centre(specimen, stretched[2], 0.6, 0.85) - centre(specimen, stretched[0], 0.6, 0.85)
    high = centre(specimen, stretched[2], 6.1, 6.7) - centre(specimen, stretched[0], 6.1, 6.7)
    assert high == pytest.approx(200 * 2e-5 * 6.4, abs=0.004)
    assert abs(low) < 0.006


def test_damage_follows_its_law_and_keeps_to_its_phase(specimen: Specimen) -> None:
    got = passes(specimen, 5, damage_s=2.0, damaged="iron-rich")
    share = specimen.abundances[:, 0] * specimen.endmembers[0].sum()
    doses = np.arange(5) + 0.5
    expected = COUNTS * (1 - np.outer(-np.expm1(-doses / 2.0), share)).sum(axis=1)
    expected += COUNTS * (specimen.expected().sum(axis=1) - 1).sum()
    np.testing.assert_allclose(got.sum(axis=(1, 2)), expected, rtol=0.01)


def test_what_is_damaged_may_become_something_else(specimen: Specimen) -> None:
    got = passes(specimen, 6, damage_s=0.5, damaged="iron-rich", damaged_into="nickel-rich")
    nickel = (specimen.axis.values > 7.3) & (specimen.axis.values < 7.65)
    changed = specimen.abundances.copy()
    changed[:, specimen.phases.index("nickel-rich")] += changed[:, 0]
    changed[:, 0] = 0.0
    for number in (0, 5):
        left = np.exp(-(number + 0.5) / 0.5)
        abundances = left * specimen.abundances + (1 - left) * changed
        expected = COUNTS * (abundances @ specimen.endmembers)[:, nickel].sum()
        assert abs(got[number][:, nickel].sum() - expected) < 5 * np.sqrt(expected)


def test_contamination_grows_with_dose(specimen: Specimen) -> None:
    got = passes(specimen, 4, contamination_per_s=0.1, contaminant="carbide").sum(axis=(1, 2))
    steps = np.diff(got)
    expected = 0.1 * N * COUNTS * specimen.endmembers[specimen.phases.index("carbide")].sum()
    np.testing.assert_allclose(steps, expected, rtol=0.15)


def test_a_segment_fails_and_a_dwell_changes_when_they_should(specimen: Specimen) -> None:
    got = passes(specimen, 4, segment_fails_s=200.0, segment_share=0.25, dwell_changes_s=300.0, dwell_factor=0.5)
    ratio = got.sum(axis=(1, 2)) / (N * COUNTS)
    np.testing.assert_allclose(ratio, [1, 1, 0.75, 0.375], rtol=0.01)


def test_the_stage_drifts(specimen: Specimen) -> None:
    got = passes(specimen, 4, stage_x_per_s=0.01)
    late = got[3].sum(axis=1).reshape(SHAPE)
    shares = specimen.expected().sum(axis=1).reshape(SHAPE)
    x = np.clip(np.arange(10)[None, :] + np.rint(0.01 * (300.5 + np.arange(100).reshape(10, 10))), 0, 9).astype(int)
    expected = COUNTS * np.take_along_axis(shares, x, axis=1)
    assert np.all(np.abs(late - expected) < 5.5 * np.sqrt(expected))


def test_dead_channels_are_empty_and_hot_ones_are_not(specimen: Specimen) -> None:
    got = passes(specimen, 1, dead=(164, 165), hot=(400,), hot_per_s=50.0)[0]
    assert got[:, 164:166].sum() == 0
    assert got[:, 400].mean() == pytest.approx(50.0, abs=5 * np.sqrt(50 / N) + 1)


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        (["damage_s=3"], "the phase that is damaged"),
        (["melting=1"], "no switch 'melting': there are bleach_s"),
        (["shift_per=1"], "did you mean shift_per_s"),
        (["segment_share=2"], "segment_share: Input should be less than 1"),
        (["shift_per_s=fast"], "shift_per_s: Input should be a valid number"),
        (["shift_per_s"], "shift_per_s needs a value"),
    ],
)
def test_wrong_switches_are_refused(switches: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_switches(switches, Effects)


def test_effects_on_what_is_not_there_are_refused(specimen: Specimen) -> None:
    for effects in (Effects(damage_s=1.0, damaged="cheese"), Effects(dead=(600,))):
        with pytest.raises(ValueError, match=r"cheese|outside"):
            SimulatedScene(specimen, counts=1.0, dwell_s=1.0, seed=0, effects=effects)


def test_switches_are_read_as_written() -> None:
    effects = parse_switches(["dead=3,4", "hot=7", "shift-per-s=-1e-3"], Effects)
    assert (effects.dead, effects.hot, effects.shift_per_s) == ((3, 4), (7,), -1e-3)
    assert parse_switches(["gain=2", "announced=false"], Integrating) == Integrating(gain=2.0, announced=False)


@pytest.mark.parametrize(
    "detector",
    [
        Integrating(gain=3.0, offset=100.0, read_sigma=4.0),
        Integrating(gain=2.0, offset=10.0, excess=1.0),
        Integrating(gain=0.5),
    ],
)
def test_integrating_detectors_have_the_noise_they_announce(detector: Integrating) -> None:
    n, light = 40000, np.array([20.0, 100.0, 500.0])
    rng = np.random.Generator(np.random.Philox(3))
    drawn = np.asarray(detector.draw(rng, np.ones((n, 1)), Emitters(light[None, :]), False), dtype=np.float64)
    noise = detector.noise()
    assert noise is not None
    mean = detector.offset + detector.gain * light
    variance = noise["gain"] * (mean - noise["offset"]) + noise["read_sigma"] ** 2
    assert np.all(np.abs(drawn.mean(axis=0) - mean) < 5 * np.sqrt(variance / n))
    # Five standard errors of a variance; multiplied noise has a kurtosis of its own.
    np.testing.assert_allclose(drawn.var(axis=0, ddof=1), variance, rtol=5 * np.sqrt(2.6 / n))


def test_an_instrument_that_does_not_tell_its_noise_does_not(specimen: Specimen) -> None:
    scene = SimulatedScene(specimen, counts=1.0, dwell_s=1.0, seed=0, detector=Integrating(announced=False))
    assert "noise" not in scene.header()
    with pytest.raises(ValueError, match="list mode"):
        SimulatedScene(specimen, counts=1.0, dwell_s=1.0, seed=0, detector=Integrating(), list_mode=True)
