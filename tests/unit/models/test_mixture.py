"""Non-negative Poisson fits: optimal, unbiased, with errors that are right."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.mixture import equivalent_counts, fit_mixtures, poisson_deviance
from models.noise import POISSON, NoiseModel
from tests.unit.models.scenes import peak

D = 256
KNOWN = np.stack([peak(D, 60, 6) + 0.02, peak(D, 90, 6) + 0.5 * peak(D, 180, 8) + 0.02, peak(D, 68, 6) + 0.02])


def draw(amounts: NDArray[np.float64], n: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).poisson(np.repeat((amounts @ KNOWN)[None], n, axis=0))


@pytest.mark.parametrize("dose", [0.3, 3.0, 300.0])
def test_no_amount_can_be_changed_for_the_better(dose: float) -> None:
    """Karush-Kuhn-Tucker: no gradient where an amount is free, none upwards where it is 0."""
    counts = draw(dose * np.array([1.0, 0.2, 0.0]), 200)
    fit = fit_mixtures(counts, KNOWN)
    gradient = (counts / np.maximum(fit.amounts @ KNOWN, 1e-12) - 1) @ KNOWN.T
    size = KNOWN.sum(axis=1)
    assert (fit.amounts >= 0).all()
    assert np.abs(gradient * fit.amounts).max() < 1e-3 * max(1.0, 0.01 * counts.sum(axis=1).max())
    assert (gradient / size).max() < 1e-3


def test_one_known_spectrum_takes_all_counts() -> None:
    counts = draw(np.array([4.0, 0.0, 0.0]), 20)
    fit = fit_mixtures(counts, KNOWN[:1])
    np.testing.assert_allclose(fit.amounts[:, 0], counts.sum(axis=1) / KNOWN[0].sum(), rtol=1e-6)
    np.testing.assert_allclose(fit.errors[:, 0], np.sqrt(counts.sum(axis=1)) / KNOWN[0].sum(), rtol=1e-6)


def test_amounts_are_unbiased_and_their_errors_right() -> None:
    truth = np.array([30.0, 20.0, 10.0])
    fit = fit_mixtures(draw(truth, 2000), KNOWN)
    pull = (fit.amounts - truth) / fit.errors
    assert np.abs(pull.mean(axis=0)).max() < 4 / np.sqrt(2000)
    np.testing.assert_allclose(pull.std(axis=0), 1.0, atol=0.08)
    # Deviance of a right model, with this many counts in each channel, is about one a degree of freedom.
    bright = fit_mixtures(draw(100 * truth, 200), KNOWN)
    assert bright.deviance.mean() == pytest.approx(D - 3, rel=0.03)


def test_many_known_spectra_take_the_other_way_to_the_same_end() -> None:
    """One spectrum with more columns than rows goes through active sets, many through coordinate descent."""
    counts = draw(np.array([3.0, 1.0, 0.0]), 8)
    together = fit_mixtures(counts, KNOWN).amounts
    alone = np.concatenate([fit_mixtures(row[None], KNOWN).amounts for row in counts])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)


def test_read_noise_and_gain_become_counts() -> None:
    """A camera's spectra give the same amounts as counted ones would, with the errors of the camera."""
    noise = NoiseModel("poisson_gaussian", gain=4.0, offset=100.0, read_sigma=12.0)
    rng = np.random.default_rng(3)
    truth = np.array([40.0, 30.0, 20.0])
    electrons = rng.poisson(np.repeat((truth @ KNOWN)[None], 2000, axis=0))
    camera = 4.0 * electrons + 3 * 100.0 + rng.normal(0, 12 * np.sqrt(3), electrons.shape)
    counts, pedestal = equivalent_counts(camera, noise, visits=3)
    fit = fit_mixtures(counts, KNOWN, pedestal)
    pull = (fit.amounts - truth) / fit.errors
    assert np.abs(pull.mean(axis=0)).max() < 0.12
    np.testing.assert_allclose(pull.std(axis=0), 1.0, atol=0.08)
    plain, nothing = equivalent_counts(electrons, POISSON)
    assert np.array_equal(plain, electrons)
    assert not nothing.any()


def test_deviance_is_zero_at_a_perfect_fit_and_finite_without_counts() -> None:
    assert poisson_deviance(np.array([3.0, 0.0]), np.array([3.0, 0.0])).tolist() == [0.0, 0.0]
    assert poisson_deviance(np.array([0.0]), np.array([2.0])).tolist() == [4.0]


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="same channels"):
        fit_mixtures(np.ones((2, 5)), KNOWN)
    with pytest.raises(ValueError, match="negative or empty"):
        fit_mixtures(np.ones((2, D)), np.zeros((1, D)))
    assert fit_mixtures(np.zeros((0, D)), KNOWN).amounts.shape == (0, 3)
    assert fit_mixtures(np.zeros((2, D)), KNOWN).amounts.max() < 1e-6
