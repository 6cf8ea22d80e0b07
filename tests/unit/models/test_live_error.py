"""The error that the engine says it has, against simulated truth."""

import numpy as np
import pytest
from scipy import sparse

from models.linear import LinearEngine
from models.live_error import LiveError, _leaning, live_error
from models.noise import POISSON, NoiseModel
from models.preprocess import as_float32
from tests.unit.models.scenes import eds_scene

SIDE, D, SEEDS = 20, 128, 6
CAMERA = NoiseModel("poisson_gaussian", 2.0, 5.0, 3.0)


def scanned(counts: float, noise: NoiseModel, seed: int) -> tuple[LinearEngine, np.ndarray]:
    """A finished engine after two passes, and the truth (P, D) of what it accumulated."""
    scene, rng = eds_scene(counts, side=SIDE, d=D, seed=seed), np.random.default_rng(1000 + seed)
    engine = LinearEngine(SIDE * SIDE, D, noise=noise)
    for _ in range(2):
        drawn = rng.poisson(scene.expected).astype(np.float64)
        if not noise.is_poisson:
            drawn = noise.gain * drawn + noise.offset + noise.read_sigma * rng.standard_normal(drawn.shape)
        engine.process(np.arange(SIDE * SIDE, dtype=np.uint32), drawn.astype(np.float32))
        engine.promote()
    engine.finish()
    return engine, 2 * (noise.gain * scene.expected + noise.offset)


def true_share(engine: LinearEngine, truth: np.ndarray) -> float:
    """Squared error of denoised spectra over that of raw ones, in the norm of the estimate."""
    published, noise = engine._map.published, engine.noise
    assert published is not None
    index = np.flatnonzero(~engine.held & (engine.totals > 0))
    exposure = engine._map.exposure(index, noise)
    off = published.scaling.merge((engine._map.expected(index) - truth[index]).T)
    variance = noise.row_variance(truth[index], 2.0, 1)
    return float(((off**2).sum(axis=0) / exposure).mean() / (variance @ published.scaling.weight / exposure).mean())


@pytest.mark.parametrize(("counts", "noise"), [(20.0, POISSON), (200.0, POISSON), (200.0, CAMERA)])
def test_it_is_unbiased_within_its_own_standard_error(counts: float, noise: NoiseModel) -> None:
    away = []
    for seed in range(SEEDS):
        engine, truth = scanned(counts, noise, seed)
        told = engine.live_error()
        assert told is not None
        assert told.standard_error < 0.25 * told.share_of_raw
        away.append((told.share_of_raw - true_share(engine, truth)) / told.standard_error)
    # Independent seeds: their mean is as far from 0 as chance allows, and none is far beyond its error.
    assert abs(np.mean(away)) < 3 / np.sqrt(SEEDS)
    assert np.abs(away).max() < 4


def test_what_the_basis_owes_to_the_noise_is_counted() -> None:
    """Taken for a basis that knows nothing of these counts, it looks better than it is."""
    told: list[float] = []
    blind: list[float] = []
    true: list[float] = []
    for seed in range(SEEDS):
        engine, truth = scanned(200.0, POISSON, seed)
        published, index = engine._map.published, np.arange(SIDE * SIDE)
        assert published is not None
        counts = as_float32(engine._map.store.rows(index))
        given = counts, engine._map.raw(index), np.full(index.size, 2.0), published
        for found, n_fitted in ((told, index.size), (blind, 10**9)):
            error = live_error(*given, n_fitted)
            assert error is not None
            found.append(error.share_of_raw)
        true.append(true_share(engine, truth))
    assert abs(np.mean(told) / np.mean(true) - 1) < 0.15
    assert np.mean(blind) < 0.8 * np.mean(true)


def both_layouts(engine: LinearEngine) -> tuple[LiveError, LiveError]:
    published, index = engine._map.published, np.arange(SIDE * SIDE)
    assert published is not None
    counts = np.asarray(engine._map.counts(index))
    given = engine._map.raw(index), np.full(index.size, 2.0), published, index.size
    dense, csr = live_error(counts, *given), live_error(sparse.csr_array(counts), *given)
    assert dense is not None
    assert csr is not None
    return dense, csr


def test_sparse_counts_give_the_same_and_are_left_alone() -> None:
    engine, _ = scanned(20.0, POISSON, 0)
    dense, csr = both_layouts(engine)
    np.testing.assert_allclose(csr.share_of_raw, dense.share_of_raw, rtol=1e-5)
    np.testing.assert_allclose(csr.by_scores, dense.by_scores, rtol=1e-4)
    again = both_layouts(engine)[1]
    assert again == csr


def test_each_score_lowers_the_error() -> None:
    engine, _ = scanned(200.0, POISSON, 0)
    told = engine.state_summary()["live_error"]
    rank = engine.state_summary()["ranks"]["edge"]
    assert len(told["by_scores"]) == rank + 1
    assert told["by_scores"][-1] == told["relative"] < 0.5 * told["by_scores"][0]


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert LinearEngine(16, 32).live_error() is None
    rng = np.random.default_rng(0)
    engine = LinearEngine(64, 64)
    engine.process(np.arange(64, dtype=np.uint32), rng.normal(50.0, 9.0, (64, 64)).astype(np.float32))
    assert engine.state_summary()["live_error"] is None


def test_a_basis_without_components_leans_nowhere() -> None:
    """A camera of one channel in which hardly anything is counted: its rank is nought."""
    assert np.array_equal(_leaning(np.zeros((3, 0)), np.zeros(0), 0.1), np.full((3, 1), 0.1))
