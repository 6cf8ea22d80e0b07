"""However a stream is split over workers, their engines put together know what one would: exactly, or as well."""

import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from models.anomaly import ScanWindows
from models.learner import Learner
from models.learnt import Learnt
from models.linear import LinearEngine
from models.linear_config import LinearConfig
from models.moments import Moments
from models.noise import POISSON
from models.visits import read_visits
from tests.unit.models.scenes import eds_scene, weighted_error

SIDE, D, BLOCK = 24, 128, 48
N = SIDE * SIDE
PASSES = 2
N_BLOCKS = PASSES * N // BLOCK
WINDOWS = ScanWindows.for_peaks(D, 3.0)
FEW = {counts: eds_scene(counts, side=SIDE, d=D) for counts in (15.0, 500.0)}
splits = st.integers(2, 4).flatmap(
    lambda n: st.lists(st.integers(0, n - 1), min_size=N_BLOCKS, max_size=N_BLOCKS).map(lambda owners: (n, owners))
)


def blocks(counts: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions and counts of every block of the stream, pass after pass."""
    out = []
    for seed in range(PASSES):
        visit = FEW[counts].visit(seed)
        for first in range(0, N, BLOCK):
            out.append((np.arange(first, first + BLOCK, dtype=np.uint32), visit[first : first + BLOCK]))
    return out


def sent(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Over a wire: numbers and nothing else."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as file:
        return dict(file)


def learner(counts: float, mine: list[int]) -> Learner:
    made = Learner(D, LinearConfig(batch=200), POISSON, 3.0)
    for number, (_, spectra) in enumerate(blocks(counts)):
        if number in mine:
            made.add(read_visits(sparse.csr_array(spectra) if counts < 100 else spectra, WINDOWS))
    made.flush()
    return made


def merged_learner(counts: float, split: tuple[int, list[int]]) -> Learner:
    n, owners = split
    workers = [learner(counts, [i for i, owner in enumerate(owners) if owner == w]) for w in range(n)]
    for other in workers[1:]:
        workers[0].merge(Learnt.from_arrays(sent(other.learnt().arrays()), workers[0].n_kept))
    return workers[0]


@settings(max_examples=15, deadline=None)
@given(splits)
def test_moments_of_any_split_are_those_of_the_whole(split: tuple[int, list[int]]) -> None:
    whole, parts = learner(15.0, list(range(N_BLOCKS))).learnt(), merged_learner(15.0, split).learnt()
    assert isinstance(whole.tracker, Moments)
    assert isinstance(parts.tracker, Moments)
    np.testing.assert_allclose(parts.tracker.packed(), whole.tracker.packed(), rtol=2e-5, atol=1e-7)
    assert np.array_equal(parts.total, whole.total)
    np.testing.assert_allclose(parts.profile, whole.profile, rtol=1e-5)
    assert (parts.weight, parts.n_seen, parts.n_values) == (whole.weight, whole.n_seen, whole.n_values)
    assert parts.tracker.n_rows == whole.tracker.n_rows
    np.testing.assert_allclose(parts.exposure, whole.exposure, rtol=1e-12)


def left_out(made: Learner, counts: float) -> float:
    """Noise-weighted squared distance of the true spectra from the subspace, and the noise that its rank lets in."""
    state = made.state(first=True)
    assert state is not None
    truth = FEW[counts].expected
    scaled = state.scaling.merge(truth.T).T / np.sqrt(truth.sum(axis=1, keepdims=True))
    outside = scaled - scaled @ state.vectors @ state.vectors.T
    return float((outside**2).sum(axis=1).mean()) + float(state.vectors.shape[1])


@settings(max_examples=15, deadline=None)
@given(splits)
def test_histories_of_any_split_are_no_worse_than_that_of_the_whole(split: tuple[int, list[int]]) -> None:
    whole, parts = learner(500.0, list(range(N_BLOCKS))), merged_learner(500.0, split)
    assert whole.engine == parts.engine == "ritz"
    assert left_out(parts, 500.0) <= 1.1 * left_out(whole, 500.0)


def engine_of(counts: float, mine: list[int]) -> LinearEngine:
    engine = LinearEngine(N, D, LinearConfig(batch=200), POISSON)
    for number, (index, spectra) in enumerate(blocks(counts)):
        if number in mine:
            engine.process(index, sparse.csr_array(spectra) if counts < 100 else spectra)
            if number % 5 == 0:
                engine.promote()
    return engine


@settings(max_examples=8, deadline=None)
@given(splits, st.sampled_from([15.0, 500.0]))
def test_engines_of_any_split_end_with_as_good_a_map(split: tuple[int, list[int]], counts: float) -> None:
    n, owners = split
    whole = engine_of(counts, list(range(N_BLOCKS)))
    engines = [engine_of(counts, [i for i, owner in enumerate(owners) if owner == w]) for w in range(n)]
    for other in engines[1:]:
        engines[0].merge(sent(other.arrays()))
    one = engines[0]
    assert np.array_equal(one.totals, whole.totals)
    assert np.array_equal(one.visits, whole.visits)
    assert all(np.array_equal(one.spectrum(i)[0], whole.spectrum(i)[0]) for i in (0, N // 2, N - 1))
    assert np.isfinite(one.scores).all()
    truth, everywhere = PASSES * FEW[counts].expected, np.arange(N)
    for engine in (one, whole) * 2:
        engine.promote()
        while engine.background():
            pass
    # What is held back is shown as it was counted until the end decides: a handful of positions, and all noise.
    common = everywhere[~(one.held | whole.held)]
    assert common.size > 0.95 * N
    live, live_whole = (weighted_error(e.denoise(common), truth[common]) for e in (one, whole))
    # Moments are exact whoever summed them, histories are cut off by each worker on its own.
    assert live <= (1.1 if counts < 100 else 1.2) * live_whole
    for engine in (one, whole):
        engine.finish()
    final, final_whole = (weighted_error(e.denoise(everywhere), truth) for e in (one, whole))
    assert final <= 1.05 * final_whole
