"""Dwell goes where it pays, within its limits; counting stops when a position is decided, and what that saves."""

import numpy as np
import pytest
from scipy.optimize import minimize

from models.dwell import Limits, allocate, edges, expected_errors, extension_s, is_decided, rates_of_learning, tiles
from models.information import chernoff_informations, divergences, hardest_pair
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
    assert is_decided(np.stack([posterior, 1 - posterior], axis=1), 0.003).all()
    error = float((posterior < 0.5).mean())
    assert error < 0.006
    wrong = (drawn < 0).mean(axis=0)
    fixed = int(np.argmax(wrong < max(error, 0.003))) + 1
    saved = fixed / (stop + 1).mean()
    ceiling = divergences(pair)[0, 1] / chernoff_informations(pair)[0, 1]
    assert 2.0 < saved < 1.1 * ceiling


def test_allocation_is_that_of_a_general_optimiser() -> None:
    rng = np.random.default_rng(1)
    error, rate = rng.uniform(0.01, 0.5, 8), rng.uniform(0.5, 8.0, 8)
    limits = Limits(1e-6, 1.5)
    found = allocate(error, rate, np.zeros(8), 4.0, limits).dwell_s
    best = minimize(
        lambda t: (error * np.exp(-rate * t)).sum(), np.full(8, 0.5), bounds=[(0, 1.5)] * 8, method="SLSQP",
        constraints={"type": "ineq", "fun": lambda t: 4.0 - t.sum()},
    )  # fmt: skip
    assert found.sum() == pytest.approx(4.0, abs=1e-3)
    assert (error * np.exp(-rate * found)).sum() == pytest.approx(best.fun, rel=1e-3)


def test_groups_share_one_dwell_and_the_budget_holds() -> None:
    rng = np.random.default_rng(2)
    error, rate = rng.uniform(0, 0.3, 200), rng.uniform(0.5, 5.0, 200)
    error[:20] = 0.5
    lines = np.arange(200) // 20
    found = allocate(error, rate, np.zeros(200), 60.0, LIMITS, lines).dwell_s
    assert all(np.unique(found[lines == k]).size == 1 for k in range(10))
    assert 55.0 < found.sum() <= 60.0 + 1e-6
    single = allocate(error, rate, np.zeros(200), 60.0, LIMITS, np.arange(200)).dwell_s
    assert np.array_equal(single, allocate(error, rate, np.zeros(200), 60.0, LIMITS).dwell_s)
    assert (error * np.exp(-rate * single)).sum() < (error * np.exp(-rate * found)).sum()


def test_limits_hold_and_decided_positions_get_nothing() -> None:
    error = np.array([0.0, 1e-12, 0.4, 0.4, 0.4])
    given = np.array([0.0, 0.0, 0.0, 2.9, 3.5])
    found = allocate(error, np.full(5, 2.0), given, 100.0, Limits(0.05, 2.0, 3.0)).dwell_s
    assert found[0] == 0.0
    assert found[2] == pytest.approx(2.0)
    assert found[3] == pytest.approx(0.1)
    assert found[4] == 0.0
    with pytest.raises(ValueError, match="make no sense"):
        Limits(2.0, 1.0)


def test_what_is_open_about_a_position_counts() -> None:
    posterior = np.array([[0.999, 0.001]] * 4)
    error = expected_errors(posterior, np.array([0.2, 0.8, 0.99, 1.5]), np.array([False, False, False, True]))
    assert error[0] == pytest.approx(0.001)
    assert error[1] == pytest.approx(0.025)
    assert error[2] > error[1]
    assert error[3] == pytest.approx(0.01)


def test_rates_are_those_of_the_two_likeliest_phases() -> None:
    posterior = np.array([[0.5, 0.4, 0.1], [0.0, 0.4, 0.6]])
    information = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 3.0, 0.0]])
    assert rates_of_learning(posterior, information, np.array([10.0, 1.0])) == pytest.approx([10.0, 3.0])


def test_extension_goes_on_until_the_price_is_reached() -> None:
    limits = Limits(0.01, 1.0)
    more = extension_s(0.3, 4.0, 0.1, 0.2, limits)
    assert 0.3 * 4.0 * np.exp(-4.0 * more) == pytest.approx(0.1)
    assert extension_s(0.3, 4.0, 1e-9, 0.8, limits) == pytest.approx(0.2)
    assert extension_s(0.01, 4.0, 0.1, 0.2, limits) == 0.0
    assert extension_s(0.3, 0.0, 0.1, 0.2, limits) == 0.0


def test_edges_and_tiles() -> None:
    label = np.zeros((4, 6), dtype=np.int64)
    label[:, 3:] = 1
    assert np.array_equal(np.flatnonzero(edges(label)[0]), [2, 3])
    number = tiles((4, 6), 4)
    assert np.array_equal(np.unique(number), [0, 1])
    assert np.count_nonzero(number == 0) == 16
