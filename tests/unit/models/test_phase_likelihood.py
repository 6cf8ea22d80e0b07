"""Densities of spectra under phases and their mixtures, beside what integrals over compositions say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from models.base import done
from models.composition import CompositionSpace
from models.phase_likelihood import GaussLikelihood
from models.phase_mixture import Cloud, Mixture, Sample
from tests.unit.models.scenes import Float

RNG = np.random.default_rng(5)
D = 3


def space() -> CompositionSpace:
    """A space in which noise depends on the composition."""
    pairs = RNG.normal(0.0, 0.02, (D + 2, D + 1, D + 1))
    pairs = pairs + pairs.transpose(0, 2, 1)
    pairs[-1] = np.diag([1.0, 1.3, 0.7, 1.0])
    axes = np.linalg.qr(RNG.normal(size=(D + 1, D)))[0]
    return CompositionSpace(np.full(D + 1, 0.1), axes, 0.4, pairs, np.zeros(D + 1), np.eye(D + 1))


def mixture_in(within: CompositionSpace) -> Mixture:
    """Two phases, one of them spread, with mixtures between them."""
    means = np.array([[0.0, 0.0, 0.0], [2.0, -1.0, 0.5]])
    spreads = [np.zeros((D, D)), np.diag([0.05, 0.0, 0.02])]
    clouds = [Cloud.of(m, s, within.noise(m)) for m, s in zip(means, spreads, strict=True)]
    rest = Cloud.of(means.mean(axis=0), 9.0 * np.eye(D), within.noise(means.mean(axis=0)))
    return Mixture(tuple(clouds), np.array([0.4, 0.4]), {(0, 1): 0.19}, rest, 0.01)


def spread_of(found: Cloud, exposure: float) -> Float:
    return np.asarray(found.covariance + found.noise / exposure)


@pytest.mark.parametrize("exposure", [0.7, 40.0, 3000.0])
def test_densities_are_integrals_over_compositions(exposure: float) -> None:
    within = space()
    mixture = mixture_in(within)
    a, b = mixture.phases
    n = 200
    share = RNG.uniform(-0.2, 1.2, (n, 1))
    z = a.mean + share * (b.mean - a.mean) + RNG.normal(0.0, 1.0 / np.sqrt(exposure), (n, D))
    sample = Sample(z, np.full(n, exposure), np.ones(n), np.full(n, -1))
    found = done(GaussLikelihood(within).of(mixture))(sample)
    for row, cloud in ((found.phases[0], a), (found.phases[1], b), (found.rest, mixture.rest)):
        np.testing.assert_allclose(
            row, multivariate_normal(cloud.mean, spread_of(cloud, exposure)).logpdf(z), rtol=1e-9
        )
    places = (np.arange(20_000) + 0.5) / 20_000
    middle = Cloud.of(a.mean, (a.covariance + b.covariance) / 2, within.noise((a.mean + b.mean) / 2))
    here = multivariate_normal(np.zeros(D), spread_of(middle, exposure))
    density = here.pdf((z - a.mean)[:, None] - places[:, None] * (b.mean - a.mean))
    seen = density.mean(axis=1) > 1e-200
    np.testing.assert_allclose(found.bridges[0, seen], np.log(density.mean(axis=1)[seen]), rtol=1e-4, atol=1e-3)
    second = density[seen][:, places > 0.5].sum(axis=1) / density[seen].sum(axis=1)
    np.testing.assert_allclose(found.second[0, seen], second, atol=2e-3)


def test_noise_of_many_compositions_is_that_of_each() -> None:
    within = space()
    z = RNG.normal(size=(2, 5, D))
    each = [[within.noise(at) for at in row] for row in z]
    np.testing.assert_allclose(within.noise(z), each, rtol=1e-12, atol=1e-15)
    cloud = Cloud.of(z[0, 0], np.diag([0.3, 0.0, 0.1]), within.noise(z[0, 0]))
    np.testing.assert_allclose(cloud.noise, within.noise(z[0, 0]), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(cloud.covariance, np.diag([0.3, 0.0, 0.1]), atol=1e-12)
