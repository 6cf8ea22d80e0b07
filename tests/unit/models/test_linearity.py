"""The test for nonlinear mixing where there is nothing to test with."""

import numpy as np
import pytest

from models.linearity import Bend, bends


def every(shares: np.ndarray, residual: np.ndarray, exposure: np.ndarray) -> list[Bend]:
    pieces = bends(shares, residual, exposure)
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return list(end.value)


@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_a_bend_needs_positions_that_are_like_their_fit(size: float) -> None:
    rng = np.random.default_rng(0)
    share = rng.uniform(size=300)
    shares = np.stack([share, 1 - share], axis=1)
    # The largest are so far from any fit that every position counts as of something else.
    residual = size * np.where(rng.uniform(size=(300, 2)) < 0.5, 1.0, -1.0)
    assert all(bend.p_value > 1e-4 for bend in every(shares, residual, np.full(300, 50.0)))


def test_nothing_bends_where_nothing_was_counted() -> None:
    shares = np.full((100, 2), 0.5)
    assert every(shares, np.ones((100, 2)), np.zeros(100)) == []
