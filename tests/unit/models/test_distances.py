"""T2, Q and reconstruction error: what they are, how often chance exceeds their limits, and what they see."""

import numpy as np
import pytest
from scipy import sparse
from scipy.special import gammainccinv

from models.distances import Distances, distances_of, t2_of
from models.linear import LinearEngine
from models.noise import POISSON, NoiseModel
from tests.unit.models.scenes import Scene, eds_scene

RATE = 0.01


def learnt(scene: Scene, counts: np.ndarray, noise: NoiseModel) -> LinearEngine:
    n, d = scene.expected.shape
    engine = LinearEngine(n, d, noise=noise)
    for first in range(0, n, 256):
        engine.process(np.arange(first, min(first + 256, n), dtype=np.uint32), counts[first : first + 256])
    engine.finish()
    return engine


def drawn(scene: Scene, noise: NoiseModel, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if noise == POISSON:
        return rng.poisson(scene.expected).astype(np.uint16)
    quanta = rng.poisson(scene.expected / noise.gain)
    read = noise.read_sigma * rng.standard_normal(scene.expected.shape)
    return (noise.gain * quanta + noise.offset + read).astype(np.float32)


@pytest.mark.parametrize(
    ("counts", "noise"),
    [(50.0, POISSON), (500.0, POISSON), (20_000.0, NoiseModel("poisson_gaussian", 2.0, 100.0, 4.0))],
)
def test_chance_exceeds_the_limits_about_as_often_as_configured(counts: float, noise: NoiseModel) -> None:
    scene = eds_scene(counts, side=48, d=256, seed=3)
    engine = learnt(scene, drawn(scene, noise, 5), noise)
    index = np.arange(engine.n_positions)
    for found in distances_of(engine.score_map, index, RATE):
        assert 0.2 * RATE < (found > 1.0).mean() < 2.5 * RATE
    # Compositions of a few phases are less spread than normal ones.
    assert (t2_of(engine.score_map, index, RATE) > 1.0).mean() < 3.0 * RATE


def test_they_are_squared_distances_over_one_limit() -> None:
    scene = eds_scene(300.0, side=32, d=128, seed=1)
    counts = drawn(scene, POISSON, 2)
    engine = learnt(scene, counts, POISSON)
    published = engine.score_map.published
    assert published is not None
    some = np.array([3, 40, 700])
    _, error = distances_of(engine.score_map, some, RATE)
    x, raw, h = counts[some].astype(float), engine.score_map.raw(some), engine.totals[some]
    residual = x - published.shrinkage.apply(raw, h) @ published.eigenspectra
    ratio = (residual**2).sum(axis=1) / error
    # The limit itself: about the sum of the variances, which are the counts, and never far above.
    assert np.all((ratio > h) & (ratio < 2.0 * h))


@pytest.mark.parametrize("noise", [POISSON, NoiseModel("poisson_gaussian", 2.0, 3.0, 4.0)])
@pytest.mark.parametrize("with_background", [False, True])
def test_sparse_and_dense_spectra_give_what_the_sums_over_channels_are(
    noise: NoiseModel, with_background: bool
) -> None:
    scene = eds_scene(5.0, side=32, d=128, seed=4)
    engine = learnt(scene, drawn(scene, noise, 5), noise)
    published = engine.score_map.published
    assert published is not None
    assert published.scaling.n_groups < 128 or noise != POISSON
    some = np.arange(0, 1000, 9)
    rng = np.random.default_rng(6)
    background = rng.uniform(0.0, 2.0, (some.size, 128)).astype(np.float32) if with_background else None
    visits, counts = rng.integers(1, 4, some.size).astype(float), drawn(scene, noise, 7)[some].astype(np.float32)
    raw = published.project(counts)
    under = Distances(published, RATE)
    found = under.of(counts, background, raw, visits)
    for dense, sparse_ in zip(found, under.of(sparse.csr_array(counts), background, raw, visits), strict=True):
        np.testing.assert_allclose(dense, sparse_, rtol=2e-5)

    more = np.zeros_like(counts) if background is None else background
    exposure = noise.row_variance((counts + more).sum(axis=1), visits, 128)
    expected = (published.shrinkage.apply(raw, exposure) @ published.eigenspectra).astype(float)
    counted = noise.gain * (expected + more - visits[:, None] * noise.offset)
    variance, kept = counted + visits[:, None] * noise.read_sigma**2, published.shrinkage.kept(exposure)
    weight, starts = published.scaling.inverse**2 / exposure[:, None], published.scaling.starts
    r, v, f = (np.add.reduceat(a, starts, axis=1) for a in (counts - expected, variance, noise.gain**2 * counted))
    mean = (v * weight).sum(axis=1) - kept.sum(axis=1)
    spread = (2.0 * (v * weight) ** 2 + f * weight**2).sum(axis=1)
    limit = spread / mean * gammainccinv(mean**2 / spread, RATE)
    np.testing.assert_allclose(found[0], (r**2 * weight).sum(axis=1) / limit, rtol=1e-4)


def test_each_sees_what_it_is_for() -> None:
    scene = eds_scene(400.0, side=48, d=256, seed=7)
    counts = drawn(scene, POISSON, 8)
    bright, foreign = 100, 200
    # Ten times a line of the first phase: within the model. Counts spread over channels at random: outside it.
    base = scene.expected[bright]
    counts[bright] += (
        np.random.default_rng(1)
        .poisson(4.0 * np.maximum(base - np.median(scene.expected, axis=0), 0.0))
        .astype(np.uint16)
    )
    counts[foreign] += np.random.default_rng(2).poisson(400.0 / 256, 256).astype(np.uint16)
    engine = learnt(scene, counts, POISSON)
    index = np.arange(engine.n_positions)
    q, _ = distances_of(engine.score_map, index, RATE)
    t2 = t2_of(engine.score_map, index, RATE)
    assert q[foreign] > 1.0
    assert t2[bright] > 1.0


def test_nothing_measured_has_no_distance() -> None:
    scene = eds_scene(100.0, side=16, d=64, seed=0)
    engine = LinearEngine(300, 64, noise=POISSON)
    assert np.isnan(t2_of(engine.score_map, np.arange(300), RATE)).all()
    engine.process(np.arange(256, dtype=np.uint32), drawn(scene, POISSON, 1))
    engine.finish()
    q, error = distances_of(engine.score_map, np.arange(300), RATE)
    for found in (q, error, t2_of(engine.score_map, np.arange(300), RATE)):
        assert np.isfinite(found[:256]).all()
        assert np.isnan(found[256:]).all()
