"""Whatever visits come in whatever layout: the store holds their sums, or says that it does not."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from models.base import as_dense
from models.store import CountStore

P, D = 7, 5
visits = st.lists(
    st.tuples(
        hnp.arrays(np.uint32, st.integers(0, 9), elements=st.integers(0, P - 1)),
        st.sampled_from(["uint8", "uint16", "int32", "float32"]),
        st.integers(0, 2**32 - 1),
        st.booleans(),
        st.booleans(),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(visits, st.sampled_from([0, 200, 1 << 30]))
def test_the_store_holds_the_sums(blocks: list[tuple[np.ndarray, str, int, bool, bool]], limit: int) -> None:
    store = CountStore(P, D, limit_bytes=limit)
    truth = np.zeros((P, D))
    for positions, dtype, seed, as_sparse, replace in blocks:
        index = np.unique(positions) if replace else positions
        high = 200 if dtype == "uint8" else 60_000
        counts = np.random.default_rng(seed).integers(0, high, (index.size, D)).astype(dtype)
        counts[counts < high / 2] = 0
        store.add(index, sparse.csr_array(counts) if as_sparse else counts, replace)
        if replace:
            truth[index] = 0
        np.add.at(truth, index, counts)
        assert store.bytes_used <= limit
    complete = np.flatnonzero(store.complete(np.arange(P)))
    assert np.array_equal(as_dense(store.rows(complete)), truth[complete])
