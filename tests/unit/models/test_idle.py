"""What the engine leaves for idle time: the same results as at once, in small pieces, and a promotion that waits."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import sparse

from models.linear import LinearEngine
from models.linear_config import LinearConfig
from models.moments import Moments
from models.noise import POISSON
from models.preprocess import make_scaling
from tests.unit.models.scenes import eds_scene

N, D = 32 * 32, 512


def engine_with(batch: int, min_batch: int) -> LinearEngine:
    # Nothing is held back: what is flagged depends on how many null spectra there was time to draw.
    return LinearEngine(N, D, LinearConfig(batch=batch, min_batch=min_batch, false_alarm=1e-30), noise=POISSON)


def fed(engine: LinearEngine, visit: np.ndarray, after: Callable[[LinearEngine], object]) -> LinearEngine:
    """Feed blocks of 64 (sparse where they are few), with something done after each."""
    for first in range(0, N, 64):
        engine.process(np.arange(first, first + 64, dtype=np.uint32), visit[first : first + 64])
        after(engine)
    return engine


def idle(engine: LinearEngine) -> None:
    while engine.background():
        pass


@pytest.mark.parametrize("counts", [15.0, 2000.0])
def test_learning_in_pieces_is_learning_at_once(counts: float) -> None:
    visit = eds_scene(counts, side=32, d=D).visit(1)
    at_once = fed(engine_with(64, 10_000), visit, lambda engine: None)
    pieces = fed(engine_with(10_000, 64), visit, idle)
    for engine in (at_once, pieces):
        engine.promote()
    expected, found = at_once.basis, pieces.basis
    assert expected is not None
    assert found is not None
    assert found.rank == expected.rank > 1
    # The subspace iteration of sparse counts has come further where there was time for it.
    np.testing.assert_allclose(found.eigenvalues[: found.rank], expected.eigenvalues[: found.rank], rtol=0.02)


def test_a_spectrum_can_be_tested_between_any_two_pieces() -> None:
    visit = eds_scene(2000.0, side=32, d=D).visit(1)
    engine = engine_with(10_000, 128)
    pieces = []

    def one_by_one(engine: LinearEngine) -> None:
        n = 0
        while engine.background():
            n += 1
            result = engine.process(np.array([N - 1], np.uint32), visit[-1:])
            assert np.isfinite(result.scores).all()
        pieces.append(n)

    fed(engine, visit, one_by_one)
    assert max(pieces) >= 5
    assert engine.visits[-1] == sum(pieces) + 1


@pytest.mark.parametrize("counts", [15.0, 2000.0])
def test_a_prepared_promotion_is_as_good_as_one_at_once(counts: float) -> None:
    visit = eds_scene(counts, side=32, d=D).visit(1)
    prepared, at_once = (fed(engine_with(256, 64), visit, idle) for _ in range(2))
    prepared.prepare()
    pieces = [prepared.background() for _ in range(50) if not prepared.prepared]
    assert 1 <= len(pieces) < 50
    assert all(pieces)
    bases = [engine.promote() or engine.basis for engine in (prepared, at_once)]
    assert bases[0] is not None
    assert bases[1] is not None
    np.testing.assert_allclose(bases[0].eigenvalues[:3], bases[1].eigenvalues[:3], rtol=0.01)


def test_what_was_prepared_is_not_used_for_another_scaling() -> None:
    visit = sparse.csr_array(eds_scene(30.0, side=24, d=256).visit(0).astype(np.float32))
    moments = Moments(256, 12)
    moments.add(visit, np.ones(576))
    one, other = (make_scaling(visit.mean(axis=0) + more, 576, POISSON, 4.0) for more in (0.0, 1.0))
    moments.solve(one)
    moments.prepare(one)
    while moments.work():
        pass
    vectors, _ = moments.solve(other)
    assert vectors.shape[0] == other.n_groups
    y = other.merge(visit.toarray().T).T
    for _ in range(6):
        _, values = moments.solve(make_scaling(visit.mean(axis=0) + 1.0, 576, POISSON, 4.0))
    np.testing.assert_allclose(values[:3], np.linalg.svd(y, compute_uv=False)[:3] ** 2, rtol=1e-3)
