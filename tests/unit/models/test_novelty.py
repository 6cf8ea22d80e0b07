"""Pooled residuals of novelty groups: what they show, and that they show no more than there is."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import poisson

from models.anomaly import ScanWindows
from models.base import Float32
from models.novelty import HeldBack, carriers, crowd_size, pooled_residual
from models.shrink import fit_shrinkage
from tests.unit.models.scenes import peak

D, WIDTH = 400, 12
BACKGROUND = np.exp(-np.arange(D) / 150) + 0.05
LINES = peak(D, 120, 4) + 0.5 * peak(D, 260, 4)


def pooled(expected: NDArray[np.float64], known: NDArray[np.float64], seed: int) -> tuple[Float32, Float32]:
    """Pool Poisson counts of these means (n, D) over what is known of them."""
    counts = np.random.default_rng(seed).poisson(expected)
    return pooled_residual((counts - known).astype(np.float32), known, 1.0, WIDTH)


@pytest.mark.parametrize("counts", [20.0, 2000.0])
def test_rare_positions_are_shown_better_than_without_it(counts: float) -> None:
    known = np.tile(0.3 * counts * BACKGROUND / BACKGROUND.sum(), (4, 1))
    novel = 0.7 * counts * LINES / LINES.sum()
    errors = []
    for seed in range(10):
        spectrum, share = pooled(known + novel, known, seed)
        assert share.sum() == pytest.approx(1.0, abs=1e-5)
        errors.append(float(((np.outer(share, spectrum) - novel) ** 2).sum() / (4 * (novel**2).sum())))
    assert np.mean(errors) < (0.5 if counts < 100 else 0.02)


def test_noise_of_bright_spectra_is_no_novelty() -> None:
    bright = np.tile(5e3 * (BACKGROUND / BACKGROUND.sum() + LINES / LINES.sum()), (3, 1))
    passed = [float(np.abs(pooled(bright, bright, seed)[0]).sum()) for seed in range(10)]
    assert np.mean(passed) < 0.05 * np.sqrt(3 * bright[0]).sum()


def test_shares_follow_the_counts_where_there_are_enough() -> None:
    known = np.full((3, D), 0.01)
    novel = np.outer([1.0, 2.0, 5.0], 400 * LINES / LINES.sum())
    _, share = pooled(known + novel, known, 0)
    np.testing.assert_allclose(share, np.array([1, 2, 5]) / 8, rtol=0.15)


def test_few_counts_do_not_tell_shares() -> None:
    known = np.full((2, D), 1e-4)
    residual = np.zeros((2, D), dtype=np.float32)
    residual[0, 118:122], residual[1, 119] = 1, 1
    _, share = pooled_residual(residual, known, 1.0, WIDTH)
    assert 0.5 < share[0] < 0.75


def test_residuals_that_contradict_each_other_do_not_make_more_of_themselves() -> None:
    """Lines that move leave residuals of either sign, in spectra of different brightness."""
    rng = np.random.default_rng(0)
    amount = np.array([300.0, 300.0, 300.0, 300.0, -520.0, -520.0])
    variance = np.where(amount > 0, 900.0, 30.0)[:, None] * np.ones(D)
    for _ in range(10):
        residual = np.outer(amount, LINES / LINES.max()) + rng.normal(0.0, np.sqrt(variance))
        spectrum, share = pooled_residual(residual.astype(np.float32), variance, 1.0, WIDTH)
        assert spectrum.any()
        assert share.sum() < 1.0 + 1e-5
        shown = np.outer(share, spectrum)
        assert np.linalg.norm(shown, axis=1).max() < 1.1 * np.linalg.norm(residual, axis=1).max()


def test_nothing_left_is_nothing_shown() -> None:
    spectrum, share = pooled_residual(np.zeros((2, D), np.float32), np.ones((2, D)), 1.0, WIDTH)
    assert not spectrum.any()
    np.testing.assert_allclose(share, 0.5)


@pytest.mark.parametrize("by_chance", [0.0, 0.3, 5.0])
def test_a_crowd_is_more_than_a_phase_shows_that_may_be_missed(by_chance: float) -> None:
    n, missed = crowd_size(by_chance), np.log(100.0)
    # A phase that one scan in a hundred misses, and what chance flags beside it, make a crowd in one scan of a hundred.
    assert poisson.sf(n - 1, missed + by_chance) <= 0.01 < poisson.sf(n - 2, missed + by_chance)


def test_a_handful_is_held_and_a_crowd_released() -> None:
    held = HeldBack(1000, ScanWindows(400, 3, 4))
    n = crowd_size()
    held.hold(np.arange(n - 1), np.full(n - 1, 50))
    held.hold(np.array([900]), np.array([80]))
    assert held.release_crowds(0.0).size == 0
    held.hold(np.array([500]), np.array([52]))
    assert held.release_crowds(1000.0).size == 0, "chance alone makes so many"
    assert held.release_crowds(0.0).tolist() == [*range(n - 1), 500]
    assert held.positions.tolist() == [900]
    assert held.hold(np.array([700]), np.array([51])).all(), "like a crowd that was just released"
    held.settle()
    assert not held.hold(np.array([701]), np.array([51])).any()


def test_a_crowd_that_is_flagged_now_here_now_there_is_one_all_the_same() -> None:
    held, n = HeldBack(1000, ScanWindows(400, 3, 4)), crowd_size()
    at = np.arange(n)
    held.hold(at, 5 * at)
    assert held.release_crowds(0.0).size == 0
    assert held.release_alike(at[1:], 0.0).size == 0, "too few"
    assert held.release_alike(at, 1000.0).size == 0, "chance alone makes so many"
    assert held.release_alike(at, 0.0).tolist() == at.tolist()
    assert held.positions.size == 0
    held.hold(at, 5 * at)
    held.bar(np.array([5]))
    assert held.release_alike(at, 0.0).size == 0, "a defect is no structure"


def test_few_positions_carry_a_component_and_none_carries_what_rounding_leaves_of_the_mean() -> None:
    """Scores along the mean are the exposure itself: where compositions do not differ, nobody carries anything."""
    rng = np.random.default_rng(0)
    exposure = rng.uniform(100.0, 200.0, 2000)
    noise = np.sqrt(exposure)[:, None] * rng.standard_normal((2000, 2))
    noise[:, 0] += 0.2 * exposure * rng.standard_normal(2000)
    noise[[300, 1500], 1] += 4000.0
    # Errors of rounding are as uneven.
    mean = exposure * (1.0 + 1e-7 * np.isin(np.arange(2000), [40, 700, 1100]))
    raw = np.column_stack([mean, noise])
    shrinkage = fit_shrinkage(raw, exposure, 100.0, 2000.0)
    assert shrinkage.strength[0] == 0.0
    assert carriers(raw, exposure, shrinkage).tolist() == [300, 1500]
