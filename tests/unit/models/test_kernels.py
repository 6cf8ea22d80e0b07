"""Compiled loops against plain numpy."""

import numpy as np
import pytest
from scipy import sparse

from models.anomaly import ScanWindows
from models.base import add_at, as_dense
from models.blocks import back, event_parts, times
from models.kernels import add_pairs, bin_events, nonzero_rows, read_rows, sum_events
from models.moments import Moments
from models.noise import POISSON
from models.preprocess import make_scaling
from models.visits import read_visits
from tests.unit.models.scenes import eds_scene


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("size", [1, 7, 64, 1001])
def test_nonzero_rows(dtype: str, size: int) -> None:
    counts = np.random.default_rng(0).poisson(0.1, (9, size)).astype(dtype)
    values, channels, indptr = nonzero_rows(counts)
    assert values.dtype == counts.dtype
    assert np.array_equal(sparse.csr_array((values, channels, indptr), shape=counts.shape).toarray(), counts)


@pytest.mark.parametrize("step", [1, 3, 8])
def test_read_rows(step: int) -> None:
    counts = np.random.default_rng(0).poisson(40.0, (9, 50)).astype(np.uint16)
    n_bins = -(-50 // step)
    block, total, column, bins = read_rows(counts, step, n_bins)
    assert np.array_equal(block, counts)
    assert np.array_equal(total, counts.sum(axis=1))
    assert np.array_equal(column, counts.sum(axis=0))
    assert np.array_equal(bins, np.add.reduceat(counts, np.arange(0, 50, step), axis=1))
    csr = sparse.csr_array(counts.astype(np.float32))
    assert np.array_equal(bin_events(*event_parts(csr), step, n_bins), bins)


def test_pairs_sum_to_the_moment_also_for_repeated_channels() -> None:
    channels = np.array([3, 1, 3, 0, 2, 2], np.uint32)
    indptr = np.array([0, 3, 6], np.uint32)
    values = np.array([1, 2, 1, 5, 1, 3], np.float32)
    weight = np.array([0.5, 2.0])
    half = np.zeros((5, 5), np.float32)
    add_pairs(values, channels, indptr, weight, half)
    dense = np.array([[0, 2, 0, 2, 0], [5, 0, 4, 0, 0]], dtype=np.float64)
    np.testing.assert_allclose(half + half.T - np.diag(np.diag(half)), (dense.T * weight) @ dense)


def test_moments_of_any_split_merge_to_the_same_and_solve_exactly() -> None:
    visit = sparse.csr_array(eds_scene(30.0, side=24, d=256).visit(0).astype(np.float32))
    weight = 1 / np.maximum(visit.sum(axis=1), 1.0).astype(np.float64)
    whole, left, right = (Moments(256, 12) for _ in range(3))
    whole.add(visit, weight)
    left.add(visit[:100], weight[:100])
    right.add(visit[100:], weight[100:])
    left.merge(right)
    assert left.n_rows == whole.n_rows == 576
    scaling = make_scaling(visit.mean(axis=0), 576, POISSON, 4.0)
    y = scaling.merge(visit.toarray().T).T * np.sqrt(weight)[:, None]
    exact = np.linalg.svd(y, compute_uv=False)[:4] ** 2
    for moments in (whole, left):
        for _ in range(8):
            vectors, values = moments.solve(scaling)
            while moments.work():
                pass
        np.testing.assert_allclose(values[:4], exact, rtol=1e-3)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(12), atol=1e-6)


@pytest.mark.parametrize("width", [1, 4, 13, 16])
@pytest.mark.parametrize("mean", [0.0, 0.02, 0.5])
def test_products_with_counts(width: int, mean: float) -> None:
    rng = np.random.default_rng(1)
    counts = sparse.csr_array(rng.poisson(mean, (31, 203)).astype(np.float32))
    matrix, scores = (rng.normal(size=(n, width)).astype(np.float32) for n in (203, 31))
    np.testing.assert_allclose(times(counts, matrix), counts.toarray() @ matrix, atol=1e-4)
    np.testing.assert_allclose(back(counts, scores), counts.toarray().T @ scores, atol=1e-4)
    total, column = sum_events(*event_parts(counts), 203)
    assert np.array_equal(total, counts.sum(axis=1))
    assert np.array_equal(column, counts.sum(axis=0))


@pytest.mark.parametrize("mean", [0.02, 0.1, 0.15, 3.0])
@pytest.mark.parametrize("n", [3, 40])
def test_visits_are_the_same_however_full_they_are(mean: float, n: int) -> None:
    counts = np.random.default_rng(2).poisson(mean, (n, 400)).astype(np.uint16)
    windows = ScanWindows(400, 3, 2)
    visits = read_visits(counts, windows)
    assert np.array_equal(as_dense(visits.stored), counts)
    assert np.array_equal(as_dense(visits.block), counts)
    assert np.array_equal(visits.total, counts.sum(axis=1))
    assert np.array_equal(visits.channels, counts.sum(axis=0))
    if visits.bins is not None:
        assert np.array_equal(visits.bins, windows.bins(counts))
    # What is kept is the smaller of the two, whatever it is worked with as.
    assert isinstance(visits.stored, sparse.csr_array) == (mean < 0.05)
    assert isinstance(visits.block, sparse.csr_array) == (mean < 0.2 and n > 4)


@pytest.mark.parametrize("index", [[2], [0, 3, 4], [3, 0, 4], [1, 1, 2], []])
def test_values_are_added_at_positions(index: list[int]) -> None:
    at = np.array(index, dtype=np.uint32)
    values = np.arange(1.0, 1.0 + at.size * 2).reshape(-1, 2)
    found, wanted = np.zeros((5, 2)), np.zeros((5, 2))
    add_at(found, at, values)
    np.add.at(wanted, at, values)
    assert np.array_equal(found, wanted)
