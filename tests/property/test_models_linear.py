"""Whatever blocks come, in whatever order: the engine's books are right and everything published is finite."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from models.linear import LinearEngine
from models.linear_config import LinearConfig

P, D = 12, 24
block = st.tuples(
    hnp.arrays(np.uint32, st.integers(0, 20), elements=st.integers(0, P - 1)),
    st.sampled_from([0.0, 0.05, 1.0, 300.0]),
    st.integers(0, 1000),
    st.booleans(),
)
step = st.one_of(block, st.sampled_from(["promote", "background"]))


@settings(max_examples=60, deadline=None)
@given(st.lists(step, max_size=8))
def test_books_and_numbers(steps: list[str | tuple[np.ndarray, float, int, bool]]) -> None:
    engine = LinearEngine(P, D, LinearConfig(batch=16, min_batch=4))
    truth, visits = np.zeros((P, D)), np.zeros(P)
    for what in steps:
        if what == "promote":
            engine.promote()
        elif what == "background":
            engine.background()
        elif isinstance(what, tuple):
            index, mean, seed, as_sparse = what
            counts = np.random.default_rng(seed).poisson(mean, (index.size, D)).astype(np.uint16)
            result = engine.process(index, sparse.csr_array(counts) if as_sparse else counts)
            np.add.at(truth, index, counts)
            np.add.at(visits, index, 1)
            assert np.isfinite(result.scores).all()
            assert np.isfinite(result.anomaly).all()
    basis = engine.finish()
    assert np.array_equal(engine.totals, truth.sum(axis=1))
    assert np.array_equal(engine.visits, visits)
    seen = np.flatnonzero(visits)
    assert np.isfinite(engine.scores[seen]).all()
    assert np.isnan(engine.scores[visits == 0]).all()
    assert engine.scores.shape[1] == basis.rank
    raw = np.stack([engine.spectrum(int(i))[0] for i in range(P)])
    assert np.array_equal(raw, truth)
