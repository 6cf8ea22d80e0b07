"""Variance against mean for each detector, within its own standard error."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.detector import Counting, Detector, Emitters, Integrating, dense
from streamer.wire import Events

N = 20_000
MEANS = np.array([3.0, 10.0, 40.0, 160.0])


def drawn(detector: Detector, *, list_mode: bool = False) -> NDArray[np.float64]:
    rng = np.random.Generator(np.random.Philox(11))
    found = detector.draw(rng, np.ones((N, 1)), Emitters(MEANS[None, :]), list_mode)
    return np.asarray(dense(found, len(MEANS)) if isinstance(found, Events) else found, dtype=np.float64)


def within_error(values: NDArray[np.float64], expected: NDArray[np.float64]) -> None:
    """The variance of each channel is the expected one within five standard errors, from its fourth moment."""
    centred = values - values.mean(axis=0)
    variance = (centred**2).mean(axis=0)
    error = np.sqrt(((centred**4).mean(axis=0) - variance**2) / N)
    assert np.all(np.abs(variance - expected) < 5 * error)


@pytest.mark.parametrize("list_mode", [False, True])
def test_a_counter_is_poisson(list_mode: bool) -> None:
    within_error(drawn(Counting(), list_mode=list_mode), MEANS)


@pytest.mark.parametrize(
    "detector",
    [
        Integrating(gain=1.0),
        Integrating(gain=2.5, offset=100.0, read_sigma=6.0),
        # An electron-multiplying camera at high gain: noise factor squared of 2 (Robbins & Hadwen 2003).
        Integrating(gain=30.0, offset=200.0, read_sigma=20.0, excess=1.0),
        Integrating(gain=4.0, offset=50.0, read_sigma=1.0, excess=0.4),
    ],
    ids=["plain", "read noise", "multiplying", "some excess"],
)
def test_an_integrating_camera_follows_its_law_and_its_header(detector: Integrating) -> None:
    values = drawn(detector)
    mean = detector.gain * MEANS + detector.offset
    expected = detector.gain**2 * (1 + detector.excess) * MEANS + detector.read_sigma**2
    assert np.all(np.abs(values.mean(axis=0) - mean) < 5 * np.sqrt(expected / N))
    within_error(values, expected)
    # What the header announces is the same law in counts.
    told = detector.noise()
    assert told is not None
    np.testing.assert_allclose(told["gain"] * (mean - told["offset"]) + told["read_sigma"] ** 2, expected)
