"""Counting statistics."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from simulator.detector import Counting, Emitters, dense, draw_events

D = 40
ENDMEMBERS = np.stack([np.exp(-np.arange(D) / 8.0), np.exp(-((np.arange(D) - 25) ** 2) / 18.0)])
ENDMEMBERS /= ENDMEMBERS.sum(axis=1, keepdims=True)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


@pytest.mark.parametrize("counts", [12.0, 400.0], ids=["by events", "by channels"])
def test_counts_are_poisson_in_every_channel(counts: float) -> None:
    n = 20000
    abundances = np.tile([0.3 * counts, 0.7 * counts], (n, 1))
    drawn = Counting().draw(rng(), abundances, Emitters(ENDMEMBERS), list_mode=False)
    assert isinstance(drawn, np.ndarray)
    expected = np.asarray(abundances[0] @ ENDMEMBERS)
    # Means within five standard errors, variance over mean within five of its own, sqrt(2/n).
    assert np.all(np.abs(drawn.mean(axis=0) - expected) < 5 * np.sqrt(expected / n))
    busy = expected > 0.05
    squares = ((drawn - drawn.mean(axis=0)) ** 2).sum(axis=0, keepdims=True)[0]
    ratio = squares[busy] / (n - 1) / expected[busy]
    tolerance = 5 * np.sqrt((2 + 1 / expected[busy]) / n)
    assert np.all(np.abs(ratio - 1) < tolerance)


def test_channels_are_independent() -> None:
    drawn = dense(draw_events(rng(1), np.tile([6.0, 9.0], (20000, 1)), Emitters(ENDMEMBERS)), D)
    correlation = np.asarray(np.corrcoef(drawn[:, [0, 1, 2, 24, 25, 26]].T))
    off = correlation[~np.eye(6, dtype=bool)]
    assert np.max(np.abs(off)) < 5 / np.sqrt(20000)


def test_events_follow_the_end_members() -> None:
    events = draw_events(rng(2), np.tile([30.0, 10.0], (4000, 1)), Emitters(ENDMEMBERS))
    observed = np.bincount(events.channels, minlength=D)
    expected = np.array([30.0, 10.0]) @ ENDMEMBERS
    keep = expected * 4000 > 5
    expected = expected[keep] / expected[keep].sum() * observed[keep].sum()
    assert stats.chisquare(observed[keep], expected).pvalue > 1e-4


def test_events_of_one_dwell_are_in_no_order() -> None:
    """The first half of a dwell has the same phases as the second: damage is looked for in their difference."""
    events = draw_events(rng(3), np.tile([50.0, 50.0], (2000, 1)), Emitters(ENDMEMBERS))
    halves = []
    for i in range(2000):
        channels = events.channels[events.offsets[i] : events.offsets[i + 1]]
        middle = len(channels) // 2
        halves.append([np.mean(channels[:middle] > 20), np.mean(channels[middle:] > 20)])
    first, second = np.mean(halves, axis=0)
    assert abs(first - second) < 5 * np.sqrt(0.5 / 2000 / 50)


def test_dense_and_list_mode_hold_the_same_counts() -> None:
    abundances = rng(4).random((50, 2)) * 10
    events = draw_events(rng(5), abundances, Emitters(ENDMEMBERS))
    spectra = Counting().draw(rng(5), abundances, Emitters(ENDMEMBERS), list_mode=False)
    assert isinstance(spectra, np.ndarray)
    np.testing.assert_array_equal(dense(events, D), spectra)
    assert spectra.dtype == np.uint16


def test_channels_without_expectation_stay_empty() -> None:
    only = np.zeros((2, D))
    only[0, 7] = 1.0
    events = draw_events(rng(6), np.full((100, 2), 5.0), Emitters(only))
    assert set(np.unique(events.channels)) == {7}


def test_more_counts_than_16_bits_hold_are_sent_with_32() -> None:
    drawn = Counting().draw(rng(7), np.array([[1e7, 0.0]]), Emitters(ENDMEMBERS), list_mode=False)
    assert isinstance(drawn, np.ndarray)
    assert drawn.dtype == np.uint32
    assert drawn.sum() == pytest.approx(1e7, rel=5e-3)
