"""What lies around a position, and how sure it makes its phase."""

from __future__ import annotations

import numpy as np
import pytest

from models.base import Float64
from models.surroundings import error_among_neighbours

SIDE = 24
EVERY = np.arange(SIDE * SIDE)


def halves() -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    return np.where(EVERY % SIDE < SIDE // 2, 0, 1).astype(np.int32)


def errors(label: np.ndarray[tuple[int, ...], np.dtype[np.int32]], error: Float64) -> Float64:
    return error_among_neighbours(error, label, (1 - label).astype(np.int32), EVERY, (SIDE, SIDE))


def test_what_is_unlike_all_around_it_is_hardly_right_and_what_is_like_it_hardly_wrong() -> None:
    label, error = halves(), np.full(EVERY.size, 1e-3)
    odd, like = 5 * SIDE + 4, 15 * SIDE + 4
    label[odd] = 1
    error[[odd, like]] = 0.1
    found = errors(label, error)
    assert found[odd] > 0.9
    assert found[like] < 1e-3
    sure = error.copy()
    sure[odd] = 1e-12
    assert errors(label, sure)[odd] < 1e-6, "what its own counts leave no doubt of is so, whatever lies around it"


def test_a_fine_mixture_says_nothing_of_what_lies_beside() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, EVERY.size).astype(np.int32)
    error = rng.uniform(0.0, 0.5, EVERY.size) ** 4
    assert errors(label, error) == pytest.approx(error, rel=0.8)
    assert errors(label, error).sum() == pytest.approx(error.sum(), rel=0.1)


def test_errors_hold_where_pieces_are_as_they_are_learnt_to_be() -> None:
    rng = np.random.default_rng(1)
    y, x = np.divmod(EVERY, SIDE)
    wrong_by_counts = wrong_among = wrong = 0.0
    for _ in range(20):
        cut = rng.normal(size=2)
        truth = (cut @ np.stack([y - SIDE / 2, x - SIDE / 2]) > rng.uniform(-4, 4)).astype(np.int32)
        odds = 4.0 * (2 * truth - 1) + rng.normal(0.0, np.sqrt(8.0), EVERY.size)
        label, error = (odds > 0).astype(np.int32), 1.0 / (1.0 + np.exp(np.abs(odds)))
        wrong += np.count_nonzero(label != truth)
        wrong_by_counts += float(error[label != truth].sum())
        found = errors(label, error)
        wrong_among += float(found[label != truth].sum())
        assert found.sum() == pytest.approx(np.count_nonzero(label != truth), abs=4 * np.sqrt(found.sum()))
    assert wrong_among > 0.85 * wrong > 2 * wrong_by_counts


def test_what_has_no_label_stays_unknown_and_tells_its_neighbours_nothing() -> None:
    label, error = halves(), np.full(EVERY.size, 1e-3)
    middle = 10 * SIDE + 6
    around = middle + np.array([-SIDE, SIDE, -1, 1])
    label[around], error[around], error[middle] = -1, 1.0, 0.1
    found = errors(label, error)
    assert (found[around] == 1.0).all()
    assert found[middle] == pytest.approx(0.1)
