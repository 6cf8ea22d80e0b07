"""Rotation on read: whatever is read when, scores are in the present basis."""

import numpy as np

from models.turns import Turns

P, K = 50, 4


def test_products_of_rotations_equal_rotations_one_by_one() -> None:
    rng = np.random.default_rng(0)
    turns, lazy, eager = Turns(P), np.zeros((P, K), np.float32), np.zeros((P, K), np.float32)
    width = 3
    for step in range(200):
        fresh = rng.choice(P, 5, replace=False)
        turns.apply(lazy, fresh)
        turns.settle(fresh)
        visit = rng.standard_normal((5, width)).astype(np.float32)
        lazy[fresh, :width] += visit
        eager[fresh, :width] += visit
        new = int(rng.integers(2, K + 1))
        turn = np.linalg.qr(rng.standard_normal((K, K)))[0][:width, :new].astype(np.float32)
        turns.add(lazy, turn)
        eager[:, :new] = eager[:, :width] @ turn
        width = new
        some = rng.choice(P, 7, replace=False)
        turns.apply(lazy, some)
        np.testing.assert_allclose(lazy[some, :width], eager[some, :width], atol=1e-4)
        if step % 90 == 80:
            turns.apply(lazy, np.arange(P))
            np.testing.assert_allclose(lazy[:, :width], eager[:, :width], atol=1e-4)


def test_positions_that_are_never_read_survive_any_number_of_bases() -> None:
    turns, scores = Turns(P), np.zeros((P, K), np.float32)
    angle = 0.1
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)
    for position in range(P):
        for _ in range(4):
            turns.add(scores, turn)
        scores[position, 0] = 1.0
        turns.settle(np.array([position]))
    turns.apply(scores, np.arange(P))
    turned = angle * 4 * np.arange(P)[::-1]
    np.testing.assert_allclose(scores[:, 0], np.cos(turned), atol=1e-3)
    np.testing.assert_allclose(scores[:, 1], np.sin(turned), atol=1e-3)
