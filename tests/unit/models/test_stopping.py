"""Conditions of a stop: each number is what it says, and all have to hold twice in a row."""

import numpy as np
import pytest

from models.stopping import (
    UNMEASURED,
    Condition,
    InARow,
    Targets,
    conditions,
    error_slope,
    independent_positions,
    misclassified_area,
    positions_to_see_one,
    unseen_area,
)

GOOD = {
    "wrong_area": 0.001,
    "slope": 0.002,
    "angle_deg": 2.0,
    "relative_errors": {"Fe": 0.05, "Cr": 0.08},
    "hidden_area": 0.004,
    "open_anomalies": 0,
}


def test_expected_area_is_the_area_of_calibrated_posteriors_and_its_bound_is_seldom_exceeded() -> None:
    rng = np.random.default_rng(0)
    error = rng.beta(0.1, 2.0, 40000)
    wrong = rng.random((400, error.size)) < error
    expected, bound = misclassified_area(error, error.size, 0.05)
    assert expected == pytest.approx(wrong.mean(), rel=0.01)
    assert 0.02 <= (wrong.mean(axis=1) > bound).mean() <= 0.08
    assert misclassified_area(np.zeros(0), 0, 0.05) == (np.inf, np.inf)
    assert misclassified_area(np.array([0.5]), 100, 0.05)[0] == pytest.approx(0.005)


def test_what_all_positions_have_in_common_does_not_average_out() -> None:
    """In a map of many positions the bound is that of an error of the factor; in one of few it is that of chance."""
    rng = np.random.default_rng(0)
    for n in (1_000, 100_000):
        error = np.full(n, 0.02)
        factors = np.maximum(1.0 + 0.1 * rng.standard_normal(4000), 0.0)
        wrong = rng.binomial(n, 0.02 * factors) / n
        bound = misclassified_area(error, n, 0.05, factor_error=0.1)[1]
        assert 0.03 <= (wrong > bound).mean() <= 0.07


def test_slope_of_the_error_is_what_the_next_pass_brings() -> None:
    rng = np.random.default_rng(1)
    passes = np.linspace(2.0, 4.0, 12)
    errors = 0.4 / np.sqrt(passes)
    expected = 0.4 / 2.0 - 0.4 / np.sqrt(5.0)
    assert error_slope(errors, passes) == pytest.approx(expected)
    noisy = [error_slope(errors * (1 + 0.02 * rng.standard_normal(12)), passes) for _ in range(200)]
    assert np.std(noisy) < 0.3 * expected
    assert min(noisy) > 0.3 * expected
    lasting = np.sqrt(0.1**2 + 0.4**2 / passes)
    assert error_slope(lasting, passes) == pytest.approx(lasting[-1] - np.sqrt(0.1**2 + 0.4**2 / 5.0))
    assert error_slope(np.array([4.0]), np.array([1.0])) == np.inf
    assert error_slope(np.array([4.0, 4.0]), np.array([1.0, 1.0])) == np.inf
    assert error_slope(np.array([4.0, 4.1]), np.array([1.0, 2.0])) == 0.0


def test_rule_of_three() -> None:
    assert unseen_area(1000, 0, 0, 0.05) == pytest.approx(1 - 0.05 ** (1 / 1000))
    assert unseen_area(1000, 0, 0, 0.05) == pytest.approx(3 / 1000, rel=0.01)
    assert unseen_area(0, 0, 0, 0.05) == 1.0
    assert unseen_area(2, 5, 0, 0.05) == 1.0
    assert unseen_area(1000, 3, 0, 0.05) > unseen_area(1000, 0, 0, 0.05)
    assert independent_positions(1000, 25) == 40


def test_one_of_so_many_positions_is_seen_but_for_the_risk() -> None:
    assert 0.7 ** positions_to_see_one(0.3, 0.05) == pytest.approx(0.05)
    assert positions_to_see_one(0.999, 0.05) == positions_to_see_one(1.0, 0.05) == 1.0
    assert positions_to_see_one(0.0, 0.05) == np.inf


def test_the_bound_on_the_unseen_holds_as_often_as_it_says() -> None:
    """Worlds of many rare phases: the mass not seen among m positions is under the bound in 95 of 100 draws."""
    rng = np.random.default_rng(0)
    worlds = (np.full(200, 1 / 200), np.concatenate([[0.9], np.full(50, 0.1 / 50)]), np.array([0.99, 0.01]))
    for mass in worlds:
        for m in (60, 120, 500):
            held = 0
            for _ in range(400):
                seen = np.bincount(rng.choice(mass.size, m, p=mass), minlength=mass.size)
                bound = unseen_area(m, int((seen == 1).sum()), int((seen == 2).sum()), 0.05)
                held += mass[seen == 0].sum() <= bound
            # Three standard errors of 400 draws.
            assert held / 400 >= 0.95 - 0.033


def test_margins() -> None:
    assert Condition("x", 0.5, 1.0).margin == pytest.approx(0.5)
    assert Condition("x", 2.0, 1.0).margin == pytest.approx(-1.0)
    assert Condition("x", 0.0, 0.0).margin == 0.0
    assert Condition("x", 1.0, 0.0).margin == -np.inf
    assert not Condition("x", np.nan, 1.0).is_met
    assert not Condition("x", np.inf, 1.0).is_met


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("wrong_area", 0.02),
        ("slope", 0.05),
        ("angle_deg", 9.0),
        ("relative_errors", {"Fe": 0.05, "Cr": 0.2}),
        ("hidden_area", 0.05),
        ("open_anomalies", 1),
    ],
)
def test_each_condition_alone_holds_a_stop_up(name: str, bad: object) -> None:
    found = conditions(Targets(), **(GOOD | {name: bad}))  # type: ignore[arg-type]
    assert sum(not c.is_met for c in found) == 1
    rule = InARow()
    assert [rule.check(found) for _ in range(3)] == [False, False, False]


def test_all_have_to_hold_twice_in_a_row() -> None:
    good = conditions(Targets(), **GOOD)  # type: ignore[arg-type]
    bad = conditions(Targets(), **(GOOD | {"slope": 1.0}))  # type: ignore[arg-type]
    rule = InARow()
    assert [rule.check(c) for c in (good, bad, good, good)] == [False, False, False, True]
    assert not InARow().check([])


def test_the_first_of_the_two_checks_may_come_before_the_last_positions() -> None:
    def check(coverage: float, slope: float = 0.0) -> list[Condition]:
        return [Condition(UNMEASURED, 1.0 - coverage, 0.0), *conditions(Targets(), **(GOOD | {"slope": slope}))]  # type: ignore[arg-type]

    rule = InARow()
    assert [rule.check(c) for c in (check(0.95), check(0.98), check(1.0))] == [False, False, True]
    assert [rule.wants_another for c in (check(0.95), check(0.5, slope=1.0)) if not rule.check(c)] == [True, False]
    rule = InARow()
    assert [rule.check(c) for c in (check(0.95), check(0.98, slope=1.0), check(1.0), check(1.0))] == [
        False, False, False, True,
    ]  # fmt: skip
