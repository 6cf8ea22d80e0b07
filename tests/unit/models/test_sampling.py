"""Sparse maps: what is measured stays as it was, what is guessed is said to be, and visits go where it pays."""

import numpy as np
import pytest

from models.sampling import inpainted, next_visits

SHAPE = (32, 40)
P = SHAPE[0] * SHAPE[1]


def two_halves() -> np.ndarray:
    """Posterior of a map whose right half is another phase."""
    right = np.arange(P) % SHAPE[1] >= 20
    return np.stack([~right, right], axis=1).astype(float)


def test_measured_positions_stay_and_guesses_are_told() -> None:
    measured = np.sort(np.random.default_rng(0).choice(P, 150, replace=False))
    guess = inpainted(two_halves()[measured], measured, SHAPE)
    assert np.array_equal(np.flatnonzero(guess.measured), measured)
    assert np.array_equal(guess.posterior[measured], two_halves()[measured])
    assert guess.posterior.sum(axis=1) == pytest.approx(np.ones(P))
    assert (guess.label == two_halves().argmax(axis=1)).mean() > 0.95


def test_one_position_fills_a_map_and_none_does_not() -> None:
    guess = inpainted(np.array([[0.2, 0.8]]), np.array([7]), SHAPE)
    assert np.all(guess.label == 1)
    with pytest.raises(ValueError, match="nothing was measured"):
        inpainted(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), SHAPE)


def test_visits_go_to_the_border_and_are_new() -> None:
    measured = np.arange(0, P, 3)
    guess = inpainted(two_halves()[measured], measured, SHAPE)
    found, _ = next_visits(guess, SHAPE, 40, smallest=20.0)
    assert np.unique(found).size == 40
    assert not np.isin(found, measured).any()
    assert np.mean(np.abs(found % SHAPE[1] - 19.5) < 3) > 0.5


def test_nothing_larger_than_the_smallest_object_stays_hidden() -> None:
    measured = np.array([0])
    for _ in range(12):
        guess = inpainted(two_halves()[measured], measured, SHAPE)
        measured = np.concatenate([measured, next_visits(guess, SHAPE, 20, smallest=4.0)[0]])
    assert inpainted(two_halves()[measured], measured, SHAPE).distance.max() <= 4.0


def test_novelty_draws_visits() -> None:
    measured = np.arange(0, P, 2)
    novelty = np.zeros(P)
    novelty[601:604:2] = 0.9
    one = np.tile([1.0, 0.0], (measured.size, 1))
    found, wanted = next_visits(inpainted(one, measured, SHAPE), SHAPE, 2, 3.0, novelty)
    assert set(found.tolist()) == {601, 603}
    assert np.all(wanted > 0.85)


def test_no_more_visits_than_positions() -> None:
    measured = np.arange(P - 3)
    guess = inpainted(two_halves()[measured], measured, SHAPE)
    assert np.array_equal(np.sort(next_visits(guess, SHAPE, 10, 3.0)[0]), np.arange(P - 3, P))
    everything = inpainted(two_halves(), np.arange(P), SHAPE)
    assert next_visits(everything, SHAPE, 10, 3.0)[0].size == 0


@pytest.mark.parametrize(("layout", "tolerance"), [("halves", 0.3), ("islands", 0.3), ("noise", 0.1)])
def test_guesses_are_wrong_as_often_as_they_say(layout: str, tolerance: float) -> None:
    rng = np.random.default_rng(3)
    foreseen, wrong = 0.0, 0
    for _ in range(12):
        truth = {"halves": two_halves()[:, 1], "islands": islands(rng), "noise": rng.random(P) < 0.3}[layout]
        measured = np.sort(rng.choice(P, 200, replace=False))
        guess = inpainted(np.stack([1.0 - truth, truth], axis=1)[measured], measured, SHAPE)
        foreseen += float((1.0 - guess.posterior.max(axis=1)).sum())
        wrong += int(np.count_nonzero(guess.label != truth))
    assert foreseen == pytest.approx(wrong, rel=tolerance)


def islands(rng: np.random.Generator) -> np.ndarray:
    """A map with forty islands of five by five, of another phase."""
    found = np.zeros(SHAPE)
    for y, x in zip(rng.integers(0, SHAPE[0] - 5, 40), rng.integers(0, SHAPE[1] - 5, 40), strict=True):
        found[y : y + 5, x : x + 5] = 1.0
    return found.ravel()


def test_measured_positions_stand_for_all() -> None:
    measured = np.arange(0, P, 7)
    guess = inpainted(two_halves()[measured], measured, SHAPE)
    assert guess.stands_for.sum() == pytest.approx(P)
    assert np.array_equal(np.flatnonzero(guess.stands_for), measured)
