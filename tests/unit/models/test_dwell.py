"""Dwell goes where it pays, within its limits; counting stops when a position is decided, and what that saves."""

import numpy as np
import pytest
from scipy.stats import norm

from models.dwell import Budget, Limits, allocate, tiles, with_anomalies
from models.information import chernoff_informations, divergences, hardest_pair
from models.prospects import Prospects, error_if_mixed, error_if_pure, prospects
from tests.unit.models.scenes import peak

D = 64
LIMITS = Limits(0.01, 2.0)


def near_pair(difference: float) -> np.ndarray:
    base = 0.3 + 4 * peak(D, 20, 3)
    pair = np.stack([base, base + difference * (peak(D, 40, 3) - peak(D, 50, 3))])
    return np.asarray(pair / pair.sum(axis=1, keepdims=True))


def test_information_of_poisson_rates_known_in_closed_form() -> None:
    rates = np.array([[2.0], [5.0]])
    assert divergences(rates)[0, 1] == pytest.approx(2 * np.log(2 / 5) - 2 + 5)
    s = np.linspace(0, 1, 100001)
    assert chernoff_informations(rates)[0, 1] == pytest.approx(
        (s * 2 + (1 - s) * 5 - 2**s * 5 ** (1 - s)).max(), rel=1e-3
    )
    assert np.allclose(chernoff_informations(rates), chernoff_informations(rates).T)


def test_a_near_pair_has_a_ceiling_of_four() -> None:
    assert hardest_pair(near_pair(0.05)).ratio == pytest.approx(4.0, rel=0.02)


def test_the_hardest_pair_is_found() -> None:
    spectra = np.stack([*near_pair(0.2), 0.3 + 4 * peak(D, 5, 3)])
    assert hardest_pair(spectra).pair == (0, 1)
    with pytest.raises(ValueError, match="no pair"):
        hardest_pair(spectra[:1])


def test_a_sequential_test_needs_a_third_of_the_counts() -> None:
    """Two phases at equal odds: counts until they are decided at 0.3 %, against a fixed number for the same error."""
    pair, rng, n = near_pair(0.2), np.random.default_rng(0), 2000
    ratio = np.log(pair[0] / pair[1])
    drawn = ratio[rng.choice(D, (n, 5000), p=pair[0])].cumsum(axis=1)
    over = np.abs(drawn) > np.log(1 / 0.003 - 1)
    assert over.any(axis=1).all()
    stop = over.argmax(axis=1)
    posterior = 1 / (1 + np.exp(-drawn[np.arange(n), stop]))
    assert (np.maximum(posterior, 1 - posterior) > 1 - 0.003).all()
    error = float((posterior < 0.5).mean())
    assert error < 0.006
    wrong = (drawn < 0).mean(axis=0)
    fixed = int(np.argmax(wrong < max(error, 0.003))) + 1
    saved = fixed / (stop + 1).mean()
    ceiling = divergences(pair)[0, 1] / chernoff_informations(pair)[0, 1]
    assert 2.0 < saved < 1.1 * ceiling


def test_errors_fall_as_simulated_positions_do() -> None:
    """Log odds of pure positions walk, shares of mixtures are measured: the mean error afterwards is the formula's."""
    rng, n = np.random.default_rng(3), 400_000
    for error, x in ((0.4, 2.0), (0.1, 8.0), (0.01, 20.0)):
        sign = np.where(rng.random(n) < error, -1.0, 1.0)
        odds = np.log(1 / error - 1) + sign * x / 2 + np.sqrt(x) * rng.standard_normal(n)
        after = float((1 / (1 + np.exp(np.abs(odds)))).mean())
        assert float(error_if_pure(np.array(error), np.array(x))) == pytest.approx(after, rel=0.02)
    for error, r in ((0.4, 1.0), (0.1, 3.0)):
        middle = norm.isf(error)
        share = middle + rng.standard_normal(n)
        seen = share + rng.standard_normal(n) / np.sqrt(r)
        mean = (middle + r * seen) / (1 + r)
        wrong = float((np.sign(mean) != np.sign(share)).mean())
        assert float(error_if_mixed(np.array(error), np.array(r))) == pytest.approx(wrong, rel=0.03)


def test_the_best_step_brings_most_a_second() -> None:
    error, information = np.array([0.3, 0.03, 0.003]), np.array([0.5, 2.0, 1.0])
    found = prospects(error, np.zeros(3), information, np.ones(3))
    for k in range(3):
        steps = np.geomspace(0.1, 10.0, 60) * found.step_s[k]
        gain = error[k] - error_if_pure(error[k, None], 8 * information[k] * steps)
        assert found.gain[k] / found.step_s[k] > 0.97 * (gain / steps)[8 * information[k] * steps >= 1.0].max()
    assert np.all(np.diff(found.step_s * information) > 0)
    # A mixture wants a multiple of what it had; what has no rate has no prospects.
    mixed = prospects(np.full(2, 0.3), np.ones(2), np.array([1.0, 0.0]), np.full(2, 5.0))
    assert 1.0 < mixed.step_s[0] < 40.0
    assert mixed.gain[1] == 0.0


def some(n: int, seed: int) -> Prospects:
    rng = np.random.default_rng(seed)
    return Prospects(rng.uniform(0.1, 1.5, n), rng.uniform(0.0, 0.3, n))


def test_the_best_steps_are_taken_until_budget_or_share_are_reached() -> None:
    every, rate = some(300, 1), some(300, 1).gain / some(300, 1).step_s
    for budget in (Budget(20.0), Budget(1e9, share=0.4), Budget(30.0, 25.0, 0.01)):
        found = allocate(every, np.zeros(300), budget, LIMITS)
        taken = found > 0
        np.testing.assert_allclose(found[taken], every.step_s[taken])
        assert rate[taken].min() >= rate[~taken].max()
        assert found.sum() <= budget.most_s
        enough = every.gain[taken].sum() >= budget.share * every.gain.sum() and found.sum() > budget.least_s - 1.5
        assert enough or found.sum() > budget.most_s - 1.5
        if budget.share < 1.0 and not budget.least_s:
            assert every.gain[taken].sum() < budget.share * every.gain.sum() + 0.3


def test_groups_share_one_dwell_and_the_budget_holds() -> None:
    every, lines = some(200, 2), np.arange(200) // 20
    found = allocate(every, np.zeros(200), Budget(60.0), LIMITS, lines)
    assert all(np.unique(found[lines == k]).size == 1 for k in range(10))
    assert 30.0 < found.sum() <= 60.0 + 1e-6
    single = allocate(every, np.zeros(200), Budget(60.0), LIMITS, np.arange(200))
    assert np.array_equal(single, allocate(every, np.zeros(200), Budget(60.0), LIMITS))


def test_limits_hold_and_decided_positions_get_nothing() -> None:
    every = Prospects(np.array([1.0, 0.01, 5.0, 1.0, 1.0]), np.array([0.0, 0.1, 0.4, 0.4, 0.4]))
    given = np.array([0.0, 0.0, 0.0, 2.9, 3.5])
    found = allocate(every, given, Budget(100.0), Limits(0.05, 2.0, 3.0))
    np.testing.assert_allclose(found, [0.0, 0.05, 2.0, 0.1, 0.0])
    with pytest.raises(ValueError, match="make no sense"):
        Limits(2.0, 1.0)


def test_an_anomaly_near_its_threshold_is_open() -> None:
    error = with_anomalies(np.full(4, 0.001), np.array([0.2, 0.8, 0.99, 1.5]))
    assert error[0] == error[3] == pytest.approx(0.001)
    assert error[1] == pytest.approx(0.025)
    assert error[2] > error[1]


def test_tiles() -> None:
    number = tiles((4, 6), 4)
    assert np.array_equal(np.unique(number), [0, 1])
    assert np.count_nonzero(number == 0) == 16
