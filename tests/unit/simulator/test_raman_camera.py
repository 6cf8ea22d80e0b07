"""What only a Raman microscope meets: cosmic rays, and fluorescence that bleaches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.cosmic import cosmic_rays
from simulator.detector import Integrating
from simulator.effects import Effects
from simulator.sample import Specimen, load_specimen
from simulator.scene import SimulatedScene

N = 100


@pytest.fixture(scope="module")
def blend() -> Specimen:
    return load_specimen("polymer_blend", shape=(10, 10))


def one_pass(scene: SimulatedScene, dwell_s: float = 1.0) -> NDArray[Any]:
    spectra = scene.measure(np.arange(N, dtype=np.uint32), np.zeros(N, dtype=np.int64), np.full(N, dwell_s))
    assert isinstance(spectra, np.ndarray)
    return spectra


def scene(specimen: Specimen, detector: Integrating | None = None, **effects: Any) -> SimulatedScene:
    return SimulatedScene(specimen, counts=5e4, dwell_s=1.0, seed=5, detector=detector, effects=Effects(**effects))


@pytest.mark.parametrize("detector", [None, Integrating(gain=2.0, offset=100.0, read_sigma=4.0)])
def test_cosmic_rays_add_to_a_few_channels_and_leave_the_others_alone(
    blend: Specimen, detector: Integrating | None
) -> None:
    quiet = one_pass(scene(blend, detector))
    hit = one_pass(scene(blend, detector, cosmic_per_s=0.5, cosmic_counts=3000.0))
    added = hit.astype(float) - quiet
    struck = added > 0.5
    assert added.min() >= -1e-3
    assert 25 < struck.any(axis=1).sum() < 60  # of 100 visits 1 - exp(-0.5), 39, give or take 5
    for row in np.flatnonzero(struck.any(axis=1)):
        runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], struck[row].astype(int), [0]]))))[::2]
        assert runs.max() <= 6  # two rays side by side at most


def test_rays_have_the_rate_width_and_height_that_they_should() -> None:
    rng = np.random.Generator(np.random.Philox(1))
    rows, channels, counts = cosmic_rays(rng, np.full(50_000, 0.2), 1000, 1.0, 500.0)
    starts = np.flatnonzero(np.diff(rows, prepend=-1) | (np.diff(channels, prepend=-9) != 1))
    n_rays = len(starts)
    assert abs(n_rays - 10_000) < 5 * np.sqrt(10_000) + 30
    widths = np.diff(np.append(starts, len(rows)))
    # Widths 1, 2 and 3 alike; two rays in a row of one visit may touch, seldom.
    shares = np.bincount(widths, minlength=4)[1:4] / n_rays
    np.testing.assert_allclose(shares, 1 / 3, atol=0.02)
    assert counts.sum() / n_rays == pytest.approx(500.0, rel=0.05)
    assert channels.max() < 1000


def test_the_same_seed_gives_the_same_rays(blend: Specimen) -> None:
    first, second = (one_pass(scene(blend, cosmic_per_s=2.0)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_fluorescence_bleaches_with_dose_and_bands_stay(blend: Specimen) -> None:
    assert blend.bleaching is not None
    bleaching = scene(blend, bleach_s=2.0)
    for number in range(3):
        got = one_pass(bleaching).sum(axis=0)
        left = np.exp(-(number + 0.5) / 2.0)
        members = blend.endmembers - (1 - left) * blend.bleaching
        expected = 5e4 * (blend.abundances @ members).sum(axis=0)
        assert np.all(np.abs(got - expected) < 6 * np.sqrt(expected))
    flat = blend.bleaching.sum(axis=1) / blend.endmembers.sum(axis=1)
    assert flat[0] > 0.5, "fluorescence is what one sees first of a polymer"


def test_effects_that_an_instrument_cannot_have_are_refused(blend: Specimen) -> None:
    with pytest.raises(ValueError, match="bleach"):
        scene(load_specimen("exercise", shape=(10, 10), channels=64), bleach_s=1.0)
    with pytest.raises(ValueError, match="cosmic"):
        SimulatedScene(blend, counts=10, dwell_s=1.0, seed=0, list_mode=True, effects=Effects(cosmic_per_s=1.0))
