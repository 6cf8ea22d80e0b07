"""Neighbours have their say about phases, as far as they know anything, and no more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import norm
from sklearn.metrics import adjusted_rand_score

from models.base import Float32, done
from models.phase_borders import Mixtures
from models.phase_context import in_context, seen_in_context
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


def all_mixed(error: float, mixed: Float32 | None = None) -> Mixtures:
    """Mixtures, if nothing else is said everywhere, of which shares are known but for an error."""
    everywhere = np.ones(SIDE * SIDE, dtype=np.float32)
    return Mixtures(everywhere if mixed is None else mixed, lambda positions, *_: np.full(positions.size, error))


def test_a_mixture_of_which_its_own_counts_decide_is_not_outvoted() -> None:
    truth, inside = checks(20), 10 * SIDE + 10
    alone = blurred(truth, 3.0)
    alone[:, inside] = [0.2, 0.8]
    assert done(in_context(alone, EVERYWHERE, SHAPE))[1, inside] < 0.5
    known, unknown = (done(in_context(alone, EVERYWHERE, SHAPE, all_mixed(error))) for error in (0.01, 0.3))
    assert known[1, inside] > 0.7
    assert unknown[1, inside] < 0.5
    np.testing.assert_allclose(known.sum(axis=0), 1.0, atol=1e-5)


def borders(seed: int, error: float) -> tuple[NDArray[np.int64], Float32, Float32]:
    """What makes up most of positions with blurred borders; probabilities (2, P) of that, and of being mixed."""
    row, column = np.divmod(np.arange(SIDE * SIDE), SIDE)
    slanted = ((0.9 * row + 0.44 * column) // 9 + (0.9 * column - 0.44 * row) // 9) % 2
    share = gaussian_filter(slanted.reshape(SHAPE), 0.7).ravel()
    measured = share + error * np.random.default_rng(seed).standard_normal(share.size)
    second = norm.sf((0.5 - measured) / error)
    between = np.abs(measured - 0.5) < 0.45
    return (share > 0.5).astype(np.int64), np.stack([1 - second, second]).astype(np.float32), between.astype(np.float32)


def test_less_is_called_wrongly_of_borders_and_no_more_than_is_foreseen() -> None:
    wrong, alike, own, foreseen, believed = np.zeros(5)
    for seed in range(8):
        truth, alone, mixed = borders(seed, 0.12)
        found = done(in_context(alone, EVERYWHERE, SHAPE, all_mixed(0.12, mixed)))
        pure = done(in_context(alone, EVERYWHERE, SHAPE))
        errors = [np.count_nonzero(c.argmax(axis=0) != truth) for c in (found, pure, alone)]
        wrong, alike, own = wrong + errors[0], alike + errors[1], own + errors[2]
        foreseen, believed = foreseen + (1.0 - found.max(axis=0)).sum(), believed + (1.0 - pure.max(axis=0)).sum()
    assert wrong < 0.9 * alike
    assert wrong < 1.2 * own
    assert wrong < foreseen
    assert alike > 1.2 * believed, "as pure spectra, borders are called wrongly more often than that says"


def test_what_has_no_vote_is_not_heard_and_what_is_unknown_stays_so() -> None:
    truth = checks()
    alone = 0.9 * blurred(truth, 2.0)
    alone[:, 7] = 0.0
    found = done(in_context(alone, ~EVERYWHERE, SHAPE))
    np.testing.assert_allclose(found, alone, atol=0.02)
    heard = done(in_context(alone, EVERYWHERE, SHAPE))
    np.testing.assert_array_equal(heard[:, 7], 0.0)
    np.testing.assert_allclose(heard.sum(axis=0), alone.sum(axis=0), atol=1e-5)


def two_likeliest(chance: Float32) -> tuple[NDArray[np.int32], NDArray[np.int32], Float32]:
    """Numbers of the two likeliest of phases 3, 5, ..., and the doubt (P,) about the first."""
    order = np.argsort(chance, axis=0).astype(np.int32)
    return 2 * order[-1] + 3, 2 * order[-2] + 3, 1.0 - chance.max(axis=0)


def test_two_phases_of_each_position_tell_what_becomes_of_the_map() -> None:
    alone = blurred(checks(), 2.0)
    found = done(in_context(alone, EVERYWHERE, SHAPE))
    label, doubt = seen_in_context(*two_likeliest(alone), EVERYWHERE, SHAPE)
    np.testing.assert_array_equal(label, 2 * found.argmax(axis=0) + 3)
    heard = two_likeliest(alone)[2] > 1e-4
    np.testing.assert_allclose(doubt[heard], 1.0 - found.max(axis=0)[heard], atol=1e-5)


def test_of_three_phases_the_errors_are_foreseen_as_well() -> None:
    row, column = np.divmod(np.arange(SIDE * SIDE), SIDE)
    truth = (row // 8 + column // 8) % 3
    corners = 2.2 * np.eye(3)
    measured = np.random.default_rng(2).standard_normal((truth.size, 3)) + corners[truth]
    odds = np.exp(measured @ corners.T)
    alone = (odds / odds.sum(axis=1, keepdims=True)).T.astype(np.float32)
    found = done(in_context(alone, EVERYWHERE, SHAPE))
    label, doubt = seen_in_context(*two_likeliest(alone), EVERYWHERE, SHAPE)
    wrong = [float((c != truth).mean()) for c in (alone.argmax(axis=0), found.argmax(axis=0), (label - 3) // 2)]
    assert wrong[2] < 0.5 * wrong[0]
    assert wrong[2] < 1.4 * wrong[1] + 0.005, "a third phase is not known any more"
    assert abs(float(doubt.mean()) - wrong[2]) < 0.015


def test_what_has_no_vote_keeps_its_label_and_its_doubt() -> None:
    label, other, doubt = two_likeliest(blurred(checks(), 2.0))
    label[:5] = -1
    doubt[:5] = 1.0
    voting = np.arange(label.size) >= SIDE
    labels, doubts = seen_in_context(label, other, doubt, voting, SHAPE)
    np.testing.assert_array_equal(labels[:SIDE], label[:SIDE])
    np.testing.assert_array_equal(doubts[:SIDE], doubt[:SIDE])
    assert np.any(labels != label)
    one = np.zeros_like(label)
    same = seen_in_context(one, one - 1, np.zeros_like(doubt), EVERYWHERE, SHAPE)
    assert not same[0].any()
    assert not same[1].any()


def test_the_last_labels_are_better_than_each_position_alone() -> None:
    scene = stripes(4, side=32)
    _, phases = scanned(scene, 12.0)
    alone, last = (adjusted_rand_score(scene.truth, label) for label in (phases.alone, phases.label))
    assert last > alone + 0.05
    assert not np.any(phases.label == phases.runner_up)
