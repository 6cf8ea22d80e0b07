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


@pytest.mark.parametrize(("as_sparse", "limit", "steps"), [(True, 4 << 20, 4), (False, 5 << 18, 2)])
def test_at_the_limit_a_map_is_given_up_part_by_part(as_sparse: bool, limit: int, steps: int) -> None:
    """Never more than is allowed; what is complete is exact, and is a share of the map that shrinks with what comes."""
    n = 64 * 256
    store, index, everything = CountStore(n, 64, limit_bytes=limit), np.arange(64 * 256), np.zeros((64 * 256, 64))
    shares = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        counts = rng.poisson(0.3 if as_sparse else 40.0 * 1.5**seed, (n, 64)).astype(np.uint16)
        everything += counts
        for first in range(0, n, 200):
            part = index[first : first + 200]
            store.add(part, sparse.csr_array(counts[part]) if as_sparse else counts[part])
            assert store.bytes_used <= limit
        complete = np.flatnonzero(store.complete(index))
        shares.append(complete.size / n)
        assert np.array_equal(held(store, complete), everything[complete])
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0
    assert len(set(shares)) >= steps
    assert 0.1 < shares[-1] < 0.7
    # What is left is of every quarter of the map alike.
    quarters = np.add.reduceat(store.complete(index), np.arange(4) * n // 4)
    assert quarters.min() > 0.5 * quarters.max()


def test_a_map_of_one_part_keeps_what_it_has() -> None:
    store = CountStore(100, 64, limit_bytes=100_000)
    for seed in range(40):
        store.add(np.arange(0, 100, 1 + seed % 2), sparse.csr_array(counts_of(seed, 0.5)[: 100 // (1 + seed % 2)]))
    assert store.bytes_used <= 100_000
    assert not store.complete(np.arange(100)).all()


def test_what_was_given_up_is_not_complete_again() -> None:
    store = CountStore(1024, 64, limit_bytes=2 * 256 * 64)
    counts = np.ones((1024, 64), np.uint8)
    store.add(np.arange(1024), counts)
    assert store.bytes_used <= 2 * 256 * 64
    gone = np.flatnonzero(~store.complete(np.arange(1024)))
    assert gone.size == 512
    store.add(gone, counts[gone], replace=True)
    assert not store.complete(gone).any()
    left = np.setdiff1d(np.arange(1024), gone)
    assert np.array_equal(held(store, left), counts[left])


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
