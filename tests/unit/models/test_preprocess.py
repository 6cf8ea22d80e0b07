"""Scaling: unit noise, merged channels, weights of bright spectra."""

import numpy as np
import pytest
from scipy import sparse

from models.noise import POISSON, NoiseModel
from models.preprocess import (
    column_sums,
    make_scaling,
    merge_channels,
    row_sums,
    row_weights,
    shrink_spectrum,
)
from tests.unit.models.scenes import eds_scene


def test_poisson_scaling_whitens() -> None:
    expected = eds_scene(5.0, side=32).expected.mean(axis=0)
    rows = np.random.default_rng(0).poisson(expected, (4000, expected.size))
    scaling = make_scaling(rows.mean(axis=0), 4000, POISSON, 6.0)
    y = scaling.merge(rows.T).T / np.sqrt(expected.sum())
    assert y.var(axis=0).mean() == pytest.approx(1.0, abs=0.02)
    assert scaling.n_effective == scaling.n_groups < expected.size


def test_gain_offset_scaling_whitens() -> None:
    noise = NoiseModel("poisson_gaussian", 3.0, 50.0, 4.0)
    mean = 50.0 + np.linspace(0.0, 200.0, 120)
    rows = np.random.default_rng(0).normal(mean, np.sqrt(noise.variance(mean)), (3000, 120))
    scaling = make_scaling(rows.mean(axis=0), 3000, noise, 5.0)
    exposure = noise.row_variance(rows.sum(axis=1), 1.0, 120)
    y = scaling.merge(rows.T).T / np.sqrt(exposure)[:, None]
    np.testing.assert_allclose(y.var(axis=0).mean(), 1.0, atol=0.03)


def test_projector_and_eigenspectra_are_inverse() -> None:
    scene = eds_scene(30.0, side=16)
    scaling = make_scaling(scene.visit(0).mean(axis=0), 256, POISSON, 6.0)
    vectors, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((scaling.n_groups, 5)))
    np.testing.assert_allclose(scaling.eigenspectra(vectors) @ scaling.projector(vectors), np.eye(5), atol=1e-4)
    np.testing.assert_allclose(scaling.moved(vectors, scaling), vectors, atol=1e-6)


def test_groups_hold_enough_counts_and_cover_everything() -> None:
    total = np.random.default_rng(0).poisson(4.0, 500).astype(float)
    total[100:300] = 0.0
    starts, group = merge_channels(total)
    assert np.add.reduceat(total, starts).min() >= 30.0
    assert np.array_equal(starts[group], np.maximum.accumulate(np.isin(np.arange(500), starts) * np.arange(500)))


def test_shrunk_spectrum_is_smooth_for_few_counts_and_exact_for_many() -> None:
    shape = np.exp(-np.arange(400) / 100)
    few = np.random.default_rng(0).poisson(shape).astype(float)
    assert np.abs(shrink_spectrum(few, 13) - shape).mean() < 0.5 * np.abs(few - shape).mean()
    np.testing.assert_allclose(shrink_spectrum(1e7 * shape, 13), 1e7 * shape, rtol=1e-4)
    assert not shrink_spectrum(np.zeros(30), 5).any()


def test_bright_spectra_do_not_own_the_model() -> None:
    weight = row_weights(np.array([0.0, 10.0, 1000.0]), 10.0, 8.0)
    assert weight[0] == 0.0
    assert weight[1] == pytest.approx(0.1)
    assert weight[2] * 1000.0 == pytest.approx(0.08)


def test_sums_of_dense_and_sparse_blocks() -> None:
    counts = np.random.default_rng(0).poisson(0.3, (20, 50)).astype(np.float32)
    for block in (counts, sparse.csr_array(counts)):
        assert np.array_equal(row_sums(block), counts.sum(axis=1))
        assert np.array_equal(column_sums(block), counts.sum(axis=0))
    bright = np.full((2, 100), 2e6 + 1, dtype=np.float32)
    assert np.array_equal(row_sums(bright), [100 * (2e6 + 1)] * 2)
