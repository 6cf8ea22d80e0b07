"""Training pairs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from models.augment import Augmentation
from models.pools import Expected, Measured, Mixture, Pairs, Target, neighbours
from tests.unit.models.spectra import mixtures, moving_lines

D = 64


@pytest.mark.parametrize("target", ["truth", "thinned", "same"])
def test_simulated_pairs_have_the_dose_asked_for_and_targets_of_one_size(target: Target) -> None:
    pool = Expected(moving_lines(50, 0), Pairs(target, Augmentation(shift=1.0), mixed=2), (20.0, 2000.0))
    batch = pool.draw(400, np.random.default_rng(0))
    assert batch.inputs.shape == batch.targets.shape == (400, D)
    assert 5 < batch.quanta.min() < 60
    assert 1000 < batch.quanta.max() < 2300
    counted = batch.weight > 0  # a target without counts says nothing
    assert counted.mean() > 0.99
    np.testing.assert_allclose(batch.targets.mean(axis=1), counted, rtol=1e-4)
    assert batch.weight.mean() == pytest.approx(1.0, rel=1e-5)
    again = pool.draw(400, np.random.default_rng(0))
    assert np.array_equal(batch.inputs, again.inputs)
    same = np.allclose(batch.inputs * (D / batch.quanta[:, None]), batch.targets, atol=1e-4)
    assert same == (target == "same")


def test_thinned_targets_weigh_what_they_count() -> None:
    quanta = np.random.default_rng(0).poisson(np.repeat([[20.0], [200.0]], 50, axis=0) * mixtures(100, 1))
    batch = Measured(quanta, Pairs("thinned"), least=1.0).draw(500, np.random.default_rng(1))
    bright = batch.quanta > 60
    assert bright.any()
    assert batch.weight[bright].mean() > 4 * batch.weight[~bright].mean()


def test_pairs_whose_truth_is_known_weigh_what_their_input_counts() -> None:
    batch = Expected(mixtures(50, 0), Pairs("truth"), (20.0, 2000.0)).draw(2000, np.random.default_rng(0))
    usual = batch.quanta < 800  # beyond some times the usual number it is bounded
    ratio = batch.weight[usual] / batch.quanta[usual]
    assert ratio.std() < 0.15 * ratio.mean()
    assert batch.weight.max() < 10 * np.median(batch.weight)


def test_spectra_are_mixed_within_their_group_alone() -> None:
    groups = np.kron(np.eye(3), np.ones((4, 8))) * np.random.default_rng(0).uniform(0.5, 1.0, (12, 24))
    batch = Expected(groups, Pairs("truth", mixed=3), (500.0, 600.0), group=4).draw(200, np.random.default_rng(0))
    lit = (batch.targets.reshape(200, 3, 8) > 0).any(axis=2)
    assert (lit.sum(axis=1) == 1).all()
    assert (lit.sum(axis=0) > 30).all()


def test_every_count_is_in_the_input_or_in_the_target() -> None:
    counts = np.random.default_rng(0).poisson(100.0 * mixtures(1, 1)).astype(np.uint16)
    for rows in (counts, sparse.csr_array(counts)):
        batch = Measured(rows, Pairs("thinned"), least=1.0).draw(50, np.random.default_rng(1))
        rest = counts.sum() - batch.inputs.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(batch.inputs + batch.targets * rest / D, np.repeat(counts, 50, axis=0), atol=1e-3)
        share = batch.quanta / counts.sum()
        assert 0.35 < share.min() < 0.6
        assert 0.8 < share.max() < 1.0


def test_measured_pools_say_what_they_cannot_do() -> None:
    counts = np.ones((3, D), dtype=np.uint16)
    with pytest.raises(ValueError, match="not known"):
        Measured(counts, Pairs("truth"))
    with pytest.raises(ValueError, match="no spectrum"):
        Measured(0 * counts, Pairs())
    with pytest.raises(ValueError, match="no spectrum"):
        Measured(counts, Pairs(), rows=np.array([], dtype=np.int64))


def test_only_the_chosen_rows_are_drawn() -> None:
    counts = np.zeros((10, D), dtype=np.uint16)
    counts[np.arange(10), np.arange(10)] = 1000
    batch = Measured(counts, Pairs("same"), least=1.0, rows=np.array([2, 5])).draw(100, np.random.default_rng(0))
    assert set(batch.inputs.argmax(axis=1)) == {2, 5}


def test_neighbourhoods_lie_around_and_end_at_the_edge() -> None:
    around = neighbours((3, 4), 12, 3)
    assert around.shape == (12, 9)
    assert around[5].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert around[0].tolist() == [-1, -1, -1, -1, 0, 1, -1, 4, 5]
    assert neighbours(None, 4, 1).tolist() == [[0], [1], [2], [3]]
    for shape in (None, (12,), (3, 3)):
        with pytest.raises(ValueError, match="needs a map"):
            neighbours(shape, 12, 3)


def test_spatial_pairs_see_their_neighbours_at_one_dose() -> None:
    expected = mixtures(25, 0) * np.linspace(0.5, 1.5, 25)[:, None]
    for pool in (
        Expected(expected, Pairs("truth", Augmentation(shift=1.0), side=3), (1e5, 1e5 + 1), (5, 5)),
        Measured(np.random.default_rng(0).poisson(1e5 * expected), Pairs(side=3), least=1.0, nav_shape=(5, 5)),
    ):
        batch = pool.draw(200, np.random.default_rng(0))
        assert batch.inputs.shape == (200, 9, D)
        assert batch.targets.shape == (200, D)
        outside = batch.inputs.sum(axis=2) == 0
        assert 0.2 < outside.mean() < 0.4  # 9 of 25 positions are inside
        assert not outside[:, 4].any()
        totals = batch.inputs.sum(axis=2)
        assert np.ptp(totals[~outside.any(axis=1)] / totals[~outside.any(axis=1), 4:5]) > 0.05


def test_a_mixture_draws_from_each_by_weight() -> None:
    bright = Measured(np.full((5, D), 100, np.uint16), Pairs("same"), least=1.0)
    dark = Measured(np.full((5, D), 1, np.uint16), Pairs("same"), least=1.0)
    pool = Mixture([bright, dark], [3.0, 1.0])
    batch = pool.draw(4000, np.random.default_rng(0))
    assert (batch.quanta > 1000).mean() == pytest.approx(0.75, abs=0.03)
    assert pool.mean.sum() == pytest.approx(1.0)
