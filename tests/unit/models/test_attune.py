"""A network's spectra, fitted to what all spectra of a scan have in common."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.attune import Attunement, attuned
from models.axis import Axis
from models.thinning import squared_error
from tests.unit.models.spectra import mixtures

D = 64
AXIS = Axis("Energy", "keV", D, 0.0, 0.05)
RESPONSE = 1.0 + 0.4 * np.cos(np.linspace(0.0, np.pi, D))


def measured(truth: NDArray[np.float64], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).poisson(truth).astype(np.float32)


def said(truth: NDArray[np.float64], counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a network makes of spectra whose shapes it knows: their total is that of the counts."""
    shares = truth / truth.sum(axis=1, keepdims=True)
    return np.asarray(shares * counts.sum(axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.parametrize("dose", [10.0, 200.0])
def test_background_and_efficiency_of_the_scan_are_given_to_the_network(dose: float) -> None:
    shapes = mixtures(2000, 1)
    truth = dose * shapes * RESPONSE / (shapes * RESPONSE).sum(axis=1, keepdims=True)
    counts = measured(truth)
    plain = said(shapes, counts)
    before, after = (squared_error(x, truth).mean() for x in (plain, attuned(plain, counts, AXIS)))
    assert after < 0.4 * before
    # Nothing is left but what a mean spectrum leaves: these shapes have no response but the common one.
    assert after < 1e-4 * dose + 2e-3


def test_where_the_network_is_right_nothing_is_made_worse() -> None:
    shapes = mixtures(40, 1)
    truth = 30.0 * shapes * np.random.default_rng(5).gamma(2.0, 0.5, (40, 1))  # totals that really differ
    worse = []
    for seed in range(20):
        counts = measured(truth, seed)
        plain = said(shapes, counts)
        before, after = (squared_error(x, truth).mean() for x in (plain, attuned(plain, counts, AXIS)))
        worse.append(after - before)
    assert np.mean(worse) < 1e-3  # raw counts: 1


def test_totals_that_differ_by_noise_alone_are_shrunk_to_their_mean() -> None:
    shapes = mixtures(3000, 2)
    truth = 20.0 * shapes
    counts = measured(truth)
    tuned = attuned(said(shapes, counts), counts, AXIS)
    assert tuned.sum(axis=1).std() < 0.35 * counts.sum(axis=1).std()
    assert squared_error(tuned, truth).mean() < 0.25 * squared_error(said(shapes, counts), truth).mean()


def test_a_total_that_noise_cannot_explain_stays() -> None:
    truth = 20.0 * mixtures(3000, 2)
    truth[7] *= 5.0
    counts = measured(truth)
    plain = said(truth, counts)
    assert attuned(plain, counts, AXIS)[7].sum() == pytest.approx(counts[7].sum(), rel=0.05)


def test_visits_are_shrunk_by_what_noise_they_have() -> None:
    rng = np.random.default_rng(0)
    visits = np.where(np.arange(4000) % 2, 1.0, 16.0)
    dose = rng.gamma(25.0, 4.0, 4000)  # 100 in the mean, 20 either way
    total = rng.poisson(dose * visits).astype(np.float64)
    shape = mixtures(1, 0)[0]
    spectra = (total[:, None] * shape).astype(np.float32)
    tuning = Attunement(AXIS)
    tuning.take(spectra, spectra, total, visits, np.ones(4000, dtype=np.bool_))
    found = tuning.tune(spectra, total, visits).sum(axis=1) / visits
    for few in (True, False):
        chosen = (visits == 1.0) == few
        raw = (total / visits - dose)[chosen].std()
        assert (found - dose)[chosen].std() < (0.95 if few else 1.0) * raw


def test_nothing_is_known_before_the_first_spectra() -> None:
    tuning = Attunement(AXIS)
    spectra = np.ones((3, D), dtype=np.float32)
    np.testing.assert_array_equal(tuning.tune(spectra, np.full(3, 64.0), np.ones(3)), spectra)
    assert tuning.optimism == 0.0
    tuning.take(spectra, spectra, np.full(3, 64.0), np.ones(3), np.array([True, False, True]))
    assert tuning.n == 2
    assert 0 < tuning.optimism < 0.1
