"""Thinning: independent halves, and errors found without the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from models.noise import NoiseModel
from models.thinning import squared_error, thin, thinned_error, to_quanta


def test_counts_go_to_one_half_or_the_other_and_the_halves_know_nothing_of_each_other() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(4.0, (2000, 30)).astype(np.uint16)
    share = np.where(np.arange(2000) % 2, 0.8, 0.5)[:, None]
    kept, rest = thin(counts, share, rng)
    assert np.array_equal(kept + rest, counts)
    assert np.array_equal(kept, np.rint(kept))
    assert kept[1::2].mean() == pytest.approx(3.2, rel=0.02)
    assert rest[1::2].mean() == pytest.approx(0.8, rel=0.03)
    assert kept[::2].var() == pytest.approx(2.0, rel=0.03)  # still Poisson
    for half in (slice(0, None, 2), slice(1, None, 2)):
        assert abs(np.corrcoef(kept[half].ravel(), rest[half].ravel())[0, 1]) < 0.02  # 30,000 pairs: 3 sigma


def test_measured_values_are_split_without_correlation() -> None:
    rng = np.random.default_rng(1)
    mean, read = 50.0, 3.0
    values = rng.poisson(mean, (400, 100)) + read * rng.standard_normal((400, 100))
    kept, rest = thin(values, 0.5, rng, read)
    np.testing.assert_allclose(kept + rest, values, rtol=1e-5, atol=1e-4)
    assert kept.mean() == pytest.approx(mean / 2, rel=0.01)
    assert abs(np.corrcoef(kept.ravel(), rest.ravel())[0, 1]) < 0.02


def test_the_thinned_error_is_that_against_the_truth() -> None:
    rng = np.random.default_rng(2)
    truth = rng.gamma(2.0, 2.0, 40) * np.ones((4000, 1))
    half, other = thin(rng.poisson(2 * truth), 0.5, rng)
    guess = 1.1 * truth + 0.2
    for predicted in (guess, half):
        found = thinned_error(predicted, other, truth[0]).mean()
        assert found == pytest.approx(squared_error(predicted, truth).mean(), rel=0.05)
    assert squared_error(half, truth).mean() == pytest.approx(1.0, rel=0.02)


def test_quanta_are_counts_without_offset_in_units_of_the_gain() -> None:
    counts = np.array([[110.0, 130.0]])
    assert to_quanta(counts, NoiseModel()) is counts
    found = to_quanta(sparse.csr_array(counts), NoiseModel("poisson_gaussian", 2.0, 100.0, 1.0))
    np.testing.assert_allclose(found, [[5.0, 15.0]])
    with pytest.raises(ValueError, match="without a gain"):
        to_quanta(counts, NoiseModel("poisson_gaussian", 0.0, 0.0, 1.0))
