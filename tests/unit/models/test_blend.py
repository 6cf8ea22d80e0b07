"""The weight of a network beside the linear model: what regression gives, how sure it is, and what it is worth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.blend import LEAST_JUDGED, Blend

D = 50


def judged(
    blend: Blend, rng: np.random.Generator, n: int, linear: float, network: float, far: float = 0.0
) -> tuple[NDArray[np.float64], ...]:
    """Judge predictions with errors of these standard deviations, some of the network's being far off."""
    truth = rng.normal(0.0, 5.0, (n, D))
    a, b = (truth + s * rng.standard_normal((n, D)) for s in (linear, network))
    b[rng.uniform(size=n) < far] += 30.0
    other = truth + rng.standard_normal((n, D))
    blend.add(((b - a) ** 2).sum(axis=1), ((b - a) * (other - a)).sum(axis=1))
    return truth, a, b


def test_the_weight_is_that_of_independent_errors_and_its_error_is_right() -> None:
    found, errors = [], []
    for seed in range(200):
        blend = Blend()
        judged(blend, np.random.default_rng(seed), 64, 0.4, 0.8)
        weight, error = blend.plain
        found.append(weight)
        errors.append(error)
    assert np.mean(found) == pytest.approx(0.16 / 0.80, abs=0.01)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.2)


@pytest.mark.parametrize(("linear", "network"), [(0.4, 0.4), (0.4, 1.0), (1.0, 0.4), (0.1, 2.0)])
def test_both_together_are_at_least_as_good_as_either(linear: float, network: float) -> None:
    blend = Blend()
    rng = np.random.default_rng(1)
    judged(blend, rng, 512, linear, network)
    truth, a, b = judged(Blend(), rng, 512, linear, network)
    both = a + blend.weight * (b - a)
    assert ((both - truth) ** 2).mean() < 1.01 * min(((x - truth) ** 2).mean() for x in (a, b))


def test_a_network_that_only_adds_noise_has_hardly_a_weight() -> None:
    weights = []
    for seed in range(100):
        blend, rng = Blend(), np.random.default_rng(seed)
        truth = rng.normal(0.0, 5.0, (48, D))
        noise = rng.standard_normal((48, D))
        other = truth + rng.standard_normal((48, D))
        blend.add((noise**2).sum(axis=1), (noise * (other - truth)).sum(axis=1))
        weights.append(blend.weight)
    assert np.mean(np.array(weights) == 0.0) > 0.75
    assert max(weights) < 0.1


def test_few_that_are_far_apart_do_not_decide_of_the_others() -> None:
    with_them, without = Blend(), Blend()
    judged(with_them, np.random.default_rng(0), 400, 0.6, 0.4, far=0.1)
    judged(without, np.random.default_rng(0), 400, 0.6, 0.4)
    assert with_them.weight == pytest.approx(without.weight, abs=0.05)


def test_nothing_is_mixed_before_enough_was_judged_and_the_latest_count() -> None:
    blend, rng = Blend(memory=64), np.random.default_rng(0)
    assert blend.plain == (0.0, float("inf"))
    judged(blend, rng, LEAST_JUDGED - 1, 1.0, 0.1)
    assert (blend.weight, blend.is_known) == (0.0, False)
    judged(blend, rng, 1, 1.0, 0.1)
    assert blend.weight > 0.9
    judged(blend, rng, 100, 0.1, 1.0)
    assert blend.weight < 0.1


def test_of_what_was_judged_when_the_two_were_others_the_latest_is_kept_at_first() -> None:
    blend, alone = Blend(memory=64), Blend(memory=64)
    judged(blend, np.random.default_rng(0), 150, 1.0, 0.1)
    before = blend.weight
    blend.age(LEAST_JUDGED)
    assert blend.n == LEAST_JUDGED
    assert blend.weight == pytest.approx(before, abs=0.05)
    for part in (blend, alone):
        judged(part, np.random.default_rng(1), 64, 0.1, 1.0)
    assert blend.weight == pytest.approx(alone.weight, abs=1e-12)
