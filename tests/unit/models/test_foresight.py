"""What earlier maps got wrong tells how far the probabilities of the present one can be trusted."""

import numpy as np
import pytest

from models.base import Float32
from models.foresight import Foresight


def maps(n: int, doses: list[float], trust: float, seed: int) -> list[tuple[np.ndarray, Float32, float]]:
    """Maps of two phases by measurements that add up, whose doubts are those of `trust` times the counts."""
    rng = np.random.default_rng(seed)
    truth, total, at, out = rng.integers(0, 2, n), np.zeros(n), 0.0, []
    for dose in doses:
        total += (2 * truth - 1) * (dose - at) + np.sqrt(dose - at) * rng.standard_normal(n)
        at = dose
        label = (total > 0).astype(np.int32)
        doubt = (1 / (1 + np.exp(2 * trust * np.abs(total)))).astype(np.float32)
        out.append((label, doubt, float((label != truth).mean())))
    return out


@pytest.mark.parametrize(("trust", "low", "high"), [(1.0, 1.0, 1.2), (2.0, 2.0, 6.0)])
def test_doubts_that_are_too_small_are_found_out(trust: float, low: float, high: float) -> None:
    doses = [1.0, 2.0, 3.0, 4.5]
    foresight, found = Foresight(), maps(20_000, doses, trust, 0)
    for dose, (label, doubt, _) in zip(doses, found, strict=True):
        foresight.note(dose, label, doubt)
    label, doubt, error = found[-1]
    factor = foresight.factor(doses[-1], label, doubt)
    assert low <= factor <= high
    assert factor * float(doubt.mean()) > 0.9 * error or trust > 1.0


def test_nothing_known_is_no_trust_and_new_phases_are_none_either() -> None:
    label, doubt = np.zeros(1000, np.int32), np.full(1000, 0.01, np.float32)
    foresight = Foresight()
    assert foresight.factor(1.0, label, doubt) == 1.0
    foresight.note(1.0, label, np.zeros(1000, np.float32))
    split = np.repeat([0, 1], 500).astype(np.int32)
    assert foresight.factor(2.0, split, doubt) > 30.0
    foresight.note(2.0, split, doubt)
    # A map that has lasted for a tenth more dose is trusted, though there was none of these phases before.
    assert foresight.factor(2.1, split, doubt) > 30.0
    assert foresight.factor(2.3, split, doubt) <= 1.5
    foresight.note(3.0, split, doubt)
    assert foresight.factor(3.0, split, doubt) < 1.5
    unlabelled = np.full(1000, -1, np.int32)
    assert foresight.factor(3.0, unlabelled, doubt) == 1.0


def test_a_map_is_checked_by_one_of_two_thirds_of_its_dose_that_has_nearly_all_positions() -> None:
    label, doubt = np.zeros(1000, np.int32), np.full(1000, 0.01, np.float32)
    foresight, most = Foresight(), label.copy()
    most[:200] = -1
    assert foresight.unchecked(1.0, label) > 1.0
    foresight.note(0.8, most, doubt)
    assert foresight.unchecked(1.2, label) > 1.0
    foresight.note(1.0, label, doubt)
    assert foresight.unchecked(1.3, label) > 1.0
    assert foresight.unchecked(1.5, label) == 1.0
