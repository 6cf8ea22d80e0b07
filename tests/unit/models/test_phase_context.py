"""Neighbours have their say about phases, as far as they know anything, and no more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from models.base import Float32, done
from models.phase_context import in_context
from tests.unit.models.phase_scenes import scanned, stripes

SIDE = 40
SHAPE = (SIDE, SIDE)
EVERYWHERE = np.ones(SIDE * SIDE, dtype=np.bool_)


def blurred(truth: NDArray[np.int64], apart: float, seed: int = 0) -> Float32:
    """Probabilities (2, P) of two phases by a Gaussian measurement, whose means are so many of its spreads apart."""
    measured = np.random.default_rng(seed).standard_normal(truth.size) + apart * truth
    odds = np.exp(apart * (measured - apart / 2))
    return np.stack([1.0 / (1.0 + odds), odds / (1.0 + odds)]).astype(np.float32)


def checks(width: int = 8) -> NDArray[np.int64]:
    row, column = np.divmod(np.arange(SIDE * SIDE), SIDE)
    return np.asarray((row // width + column // width) % 2, dtype=np.int64)


def test_grains_are_called_rightly_where_single_spectra_are_not() -> None:
    truth = checks()
    alone = blurred(truth, 2.0)
    found = done(in_context(alone, EVERYWHERE, SHAPE))
    wrong = [float((c.argmax(axis=0) != truth).mean()) for c in (alone, found)]
    assert wrong[1] < 0.4 * wrong[0]
    np.testing.assert_allclose(found.sum(axis=0), 1.0, atol=1e-5)
    assert abs(float((1.0 - found.max(axis=0)).mean()) - wrong[1]) < 0.02


def test_scattered_positions_are_not_swayed() -> None:
    truth = np.random.default_rng(1).permutation(checks())
    alone = blurred(truth, 2.0)
    found = done(in_context(alone, EVERYWHERE, SHAPE))
    assert float(np.abs(found - alone).max()) < 0.1
    assert float((found.argmax(axis=0) != alone.argmax(axis=0)).mean()) < 0.02


def test_a_sure_position_is_not_outvoted() -> None:
    truth = checks(20)
    alone = blurred(truth, 3.0)
    inside = 10 * SIDE + 10
    alone[:, inside] = [1e-5, 1.0 - 1e-5]
    found = done(in_context(alone, EVERYWHERE, SHAPE))
    assert found[1, inside] > 0.99
    alone[:, inside] = [0.2, 0.8]
    assert done(in_context(alone, EVERYWHERE, SHAPE))[1, inside] < 0.5


def test_what_has_no_vote_is_not_heard_and_what_is_unknown_stays_so() -> None:
    truth = checks()
    alone = 0.9 * blurred(truth, 2.0)
    alone[:, 7] = 0.0
    found = done(in_context(alone, ~EVERYWHERE, SHAPE))
    np.testing.assert_allclose(found, alone, atol=0.02)
    heard = done(in_context(alone, EVERYWHERE, SHAPE))
    np.testing.assert_array_equal(heard[:, 7], 0.0)
    np.testing.assert_allclose(heard.sum(axis=0), alone.sum(axis=0), atol=1e-5)


def test_the_last_labels_are_better_than_each_position_alone() -> None:
    scene = stripes(4, side=32)
    _, phases = scanned(scene, 12.0)
    alone, last = (adjusted_rand_score(scene.truth, label) for label in (phases.alone, phases.label))
    assert last > alone + 0.05
    assert not np.any(phases.label == phases.runner_up)
