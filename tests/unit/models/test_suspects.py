"""Flags that wait: for how long, and in which order flagged positions are tested again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.suspects import Suspects

N = 1000
NOT = np.zeros(1, dtype=np.bool_)


def everything(positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.ones(positions.size, dtype=np.bool_)


def test_a_flag_waits_for_a_part_of_the_first_pass_and_not_after_it() -> None:
    suspects = Suspects(N)
    suspects.n_seen = 100
    assert suspects.add(np.array([7]), NOT).all()
    waited = 100
    while not suspects.ripe.size:
        waited += 1
        suspects.n_seen = waited
    assert 30 < waited - 100 <= N // 11
    assert suspects.confirm(np.array([7])).tolist() == [7]
    assert suspects.settled(np.array([7])).all()
    suspects.n_seen = N + 1
    assert not suspects.add(np.array([9]), NOT).any()
    assert suspects.add(np.array([10]), ~NOT).all(), "like a crowd that the model is about to learn"
    assert suspects.ripe.tolist() == [10]


def test_what_came_late_in_the_pass_is_settled_at_its_end() -> None:
    suspects = Suspects(N)
    suspects.n_seen = N - 1
    suspects.add(np.array([7]), NOT)
    assert suspects.ripe.size == 0
    assert suspects.confirm(np.array([7])).size == 0, "not yet"
    suspects.n_seen = N
    assert suspects.ripe.tolist() == [7]


def test_all_suspects_have_their_turn_and_what_has_waited_comes_first() -> None:
    suspects, many = Suspects(N), np.arange(0, 600, 3)
    suspects.n_seen = 1
    suspects.add(many, np.zeros(many.size, dtype=np.bool_))
    seen = [suspects.to_review(everything) for _ in range(7)]
    assert max(part.size for part in seen) < many.size
    assert np.unique(np.concatenate(seen)).tolist() == many.tolist()
    suspects.n_seen = N // 2
    assert np.isin(many, suspects.to_review(everything)).all()
    assert suspects.to_review(lambda some: some != 3).tolist() == np.delete(many, 1).tolist()
    suspects.clear(many[2:])
    assert suspects.to_review(everything).tolist() == [0, 3]
