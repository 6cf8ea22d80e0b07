"""The store of accumulated counts: exact, narrow, and within its limit."""

import numpy as np
import pytest
from scipy import sparse

from models.base import as_dense
from models.segments import narrowest
from models.store import CountStore

INDEX = np.arange(300)


def counts_of(seed: int, mean: float, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(seed).poisson(mean, (300, 64)).astype(dtype)


def held(store: CountStore, index: np.ndarray = INDEX) -> np.ndarray:
    return as_dense(store.rows(index))


def test_dense_and_sparse_visits_add_up() -> None:
    store = CountStore(300, 64)
    first, second, third = counts_of(0, 3.0), counts_of(1, 0.05), counts_of(2, 900.0)
    store.add(INDEX, first)
    store.add(INDEX, sparse.csr_array(second))
    store.add(INDEX[::-1], third)
    assert np.array_equal(held(store), first + second + third[::-1])
    assert np.array_equal(store.window_sums(INDEX, 5, 9), (first + second + third[::-1])[:, 5:9].sum(axis=1))


def test_sparse_only_stays_sparse_and_small() -> None:
    store = CountStore(300, 64)
    visits = [counts_of(seed, 0.05) for seed in range(4)]
    for visit in visits:
        store.add(INDEX, sparse.csr_array(visit))
    rows = store.rows(INDEX[7:99])
    assert sparse.issparse(rows)
    assert np.array_equal(as_dense(rows), np.sum(visits, axis=0)[7:99])


@pytest.mark.parametrize("as_sparse", [True, False])
def test_a_position_may_come_several_times_in_a_block(as_sparse: bool) -> None:
    store = CountStore(3, 64)
    index = np.arange(300) % 3
    counts = counts_of(0, 0.2)
    store.add(index, sparse.csr_array(counts) if as_sparse else counts)
    expected = np.stack([counts[index == i].sum(axis=0) for i in range(3)])
    assert np.array_equal(held(store, np.arange(3)), expected)


@pytest.mark.parametrize("as_sparse", [True, False])
def test_replacing_forgets(as_sparse: bool) -> None:
    store = CountStore(300, 64)
    old, new = counts_of(0, 2.0), counts_of(1, 2.0)
    for counts, replace in ((old, False), (new[:100], True)):
        store.add(INDEX[: len(counts)], sparse.csr_array(counts) if as_sparse else counts, replace)
    assert np.array_equal(held(store), np.concatenate([new[:100], old[100:]]))


def test_counts_widen_when_they_have_to() -> None:
    store = CountStore(300, 64)
    store.add(INDEX, np.full((300, 64), 200, np.uint8))
    narrow = store.bytes_used
    store.add(INDEX, np.full((300, 64), 200, np.uint8))
    assert np.array_equal(held(store), np.full((300, 64), 400))
    assert store.bytes_used == 2 * narrow == 2 * 300 * 64
    store.add(INDEX, np.full((300, 64), -70_000, np.int32))
    assert np.array_equal(held(store), np.full((300, 64), -69_600))


def test_floats_are_kept_in_single_precision() -> None:
    store = CountStore(300, 64)
    store.add(INDEX, np.full((300, 64), 0.25))
    store.add(INDEX, np.full((300, 64), 7, np.uint8))
    assert np.array_equal(held(store), np.full((300, 64), 7.25))
    assert store.bytes_used == 300 * 64 * 4


def test_the_limit_is_kept_and_said() -> None:
    store = CountStore(1024, 64, limit_bytes=2 * 256 * 64)
    counts = np.ones((1024, 64), np.uint8)
    store.add(np.arange(1024), counts)
    assert store.bytes_used <= 2 * 256 * 64
    complete = store.complete(np.arange(1024))
    assert complete[:512].all()
    assert not complete[512:].any()
    assert np.array_equal(held(store, np.arange(512)), counts[:512])


def test_the_limit_holds_for_sparse_counts() -> None:
    limit = 5 << 20
    store = CountStore(4096, 64, limit_bytes=limit)
    for seed in range(40):
        counts = np.random.default_rng(seed).poisson(0.5, (4096, 64)).astype(np.uint8)
        store.add(np.arange(4096), sparse.csr_array(counts))
    assert store.bytes_used <= limit
    assert not store.complete(np.arange(4096)).any()


def test_chunks_cover_everything_once() -> None:
    store = CountStore(300, 64)
    store.add(INDEX, counts_of(0, 1.0))
    seen = np.concatenate([index for index, rows in store.chunks(INDEX, 70)])
    assert np.array_equal(seen, INDEX)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 255, "uint8"), (0, 256, "uint16"), (0, 70_000, "uint32"), (-1, 100, "int8"), (-1, 200, "int16")],
)
def test_narrowest(low: int, high: int, expected: str) -> None:
    assert narrowest(np.array([low, high], dtype=np.int64)) == np.dtype(expected)
