"""Engines put together: what does not fit is refused, and everything that an engine keeps comes along."""

import numpy as np
import pytest
from scipy import sparse

from models.anomaly import ScanWindows
from models.axis import Axis
from models.learner import Learner
from models.learnt import Learnt
from models.linear import LinearEngine
from models.linear_config import LinearConfig
from models.noise import POISSON, NoiseModel
from models.prepared import PreparedEngine
from models.steps import Steps, StepsConfig
from models.visits import read_visits
from tests.unit.models.scenes import eds_scene, weighted_error

SIDE, D = 32, 256
N = SIDE * SIDE
HALVES = (np.arange(N // 2, dtype=np.uint32), np.arange(N // 2, N, dtype=np.uint32))


def fed(engine: LinearEngine, index: np.ndarray, visit: np.ndarray, block: int = 64) -> LinearEngine:
    for first in range(0, len(index), block):
        part = index[first : first + block]
        engine.process(part, visit[part])
        engine.promote()
    return engine


def test_halves_of_a_scan_become_the_scan() -> None:
    scene = eds_scene(200.0, side=SIDE, d=D, n_rare=4)
    visit = scene.visit(0)
    upper, lower = (fed(LinearEngine(N, D, noise=POISSON), half, visit) for half in HALVES)
    whole = fed(LinearEngine(N, D, noise=POISSON), np.arange(N, dtype=np.uint32), visit)
    upper.merge(lower.arrays())
    assert np.array_equal(upper.totals, visit.sum(axis=1))
    assert np.array_equal(upper.visits, np.ones(N))
    assert upper.held[scene.rare].sum() >= 3
    assert upper.held.sum() <= scene.rare.size + 4
    for engine in (upper, whole):
        engine.finish()
    errors = [weighted_error(e.denoise(np.arange(N)), scene.expected) for e in (upper, whole)]
    assert errors[0] <= 1.02 * errors[1]
    assert upper.held[scene.rare].all()


def test_an_engine_without_data_takes_over_everything() -> None:
    visit = eds_scene(60.0, side=SIDE, d=D).visit(0)
    known = fed(LinearEngine(N, D, noise=POISSON), HALVES[0], visit)
    empty = LinearEngine(N, D)
    empty.merge(known.arrays())
    assert empty.noise == POISSON
    assert empty.basis is not None
    assert known.basis is not None
    assert abs(empty.basis.rank - known.basis.rank) <= 1  # one more block has been learnt by then
    assert np.isnan(empty.scores[N // 2 :]).all()
    assert np.isfinite(empty.scores[: N // 2]).all()
    before = known.totals.copy()
    known.merge(LinearEngine(N, D).arrays())
    assert np.array_equal(known.totals, before)


def test_another_scan_is_refused() -> None:
    with pytest.raises(ValueError, match="a scan of 10 positions and 256 channels is another one"):
        LinearEngine(N, D).merge(LinearEngine(10, D).arrays())


def test_state_is_plain_arrays_of_numbers() -> None:
    visit = eds_scene(60.0, side=SIDE, d=D).visit(0)
    for rows in (visit, visit.astype(np.float32)):
        arrays = fed(LinearEngine(N, D), HALVES[0], rows).arrays()
        assert all(type(a) is np.ndarray and a.dtype.kind in "bifu" for a in arrays.values())
    assert arrays["map/index"].size == N // 2


def test_counts_that_one_could_not_store_are_known_to_be_missing() -> None:
    visit = eds_scene(2000.0, side=SIDE, d=D).visit(0)
    small = fed(LinearEngine(N, D, LinearConfig(store_limit_bytes=100_000), POISSON), HALVES[0], visit)
    assert np.isnan(small.window((0, 10))[1][: N // 2]).any()
    large = fed(LinearEngine(N, D, noise=POISSON), HALVES[1], visit)
    large.merge(small.arrays())
    smooth, raw = large.window((0, D))
    assert np.isnan(raw[: N // 2]).any()
    assert np.isfinite(raw[N // 2 :]).all()
    truth = visit.sum(axis=1)
    assert np.abs(smooth / truth - 1.0).max() < 0.2


def learnt_from(spectra: np.ndarray, noise: NoiseModel | None, as_csr: bool = False) -> Learner:
    made = Learner(D, LinearConfig(), noise, 3.0)
    made.add(read_visits(sparse.csr_array(spectra) if as_csr else spectra, ScanWindows.for_peaks(D, 3.0)))
    made.flush()
    return made


def test_moments_and_a_history_become_a_history() -> None:
    few, many = (eds_scene(c, side=SIDE, d=D).visit(0) for c in (30.0, 2000.0))
    first, second = learnt_from(few, POISSON, as_csr=True), learnt_from(many, POISSON)
    assert (first.engine, second.engine) == ("moments", "ritz")
    first.merge(Learnt.from_arrays(second.learnt().arrays(), first.n_kept))
    assert first.engine == "ritz"
    together = learnt_from(np.concatenate([few, many]), POISSON)
    one, other = (learner.state(first=True) for learner in (first, together))
    assert one is not None
    assert other is not None
    assert one.n_spectra == other.n_spectra == 2 * N
    np.testing.assert_allclose(one.eigenvalues[:4], other.eigenvalues[:4], rtol=0.05)


def test_what_was_weighted_by_another_gain_is_weighted_anew() -> None:
    counts = 3.0 * eds_scene(500.0, side=SIDE, d=D).visit(0).astype(np.float32)
    right, wrong = NoiseModel("poisson_gaussian", 3.0, 0.0, 2.0), NoiseModel("poisson_gaussian", 6.0, 0.0, 2.0 * 2**0.5)
    first, second, whole = learnt_from(counts[::2], right), learnt_from(counts[1::2], wrong), learnt_from(counts, right)
    first.merge(Learnt.from_arrays(second.learnt().arrays(), first.n_kept))
    one, other = first.learnt(), whole.learnt()
    assert one.noise == right
    assert one.exposure == pytest.approx(other.exposure, rel=1e-6)
    np.testing.assert_allclose(one.profile, other.profile, rtol=1e-4)
    states = [learner.state(first=True) for learner in (first, whole)]
    assert states[0] is not None
    assert states[1] is not None
    np.testing.assert_allclose(states[0].eigenvalues[:4], states[1].eigenvalues[:4], rtol=0.02)


def test_what_was_forgotten_stays_forgotten() -> None:
    rng = np.random.default_rng(0)
    old, new = (rng.poisson(2.0, (200, D)).astype(np.uint16) for _ in range(2))
    first, second = learnt_from(old, POISSON), learnt_from(new, POISSON)
    first.forget(0.5)
    first.merge(Learnt.from_arrays(second.learnt().arrays(), first.n_kept))
    state = first.state(first=True)
    assert state is not None
    assert first.learnt().weight == 300.0
    assert state.n_spectra == pytest.approx(300.0**2 / 250.0)


def test_engines_behind_steps_merge_raw_counts_and_backgrounds() -> None:
    axis = Axis("Energy", "", D)
    config = StepsConfig(rebin=2, background="snip", background_at="model", half_window=8, normalise="total")
    visit = eds_scene(2000.0, side=SIDE, d=D).visit(0)
    whole, upper, lower = (
        fed(PreparedEngine(N, Steps(config, axis, POISSON), LinearConfig(), POISSON, axis), part, visit)
        for part in (np.arange(N, dtype=np.uint32), *HALVES)
    )
    upper.merge(lower.arrays())
    assert isinstance(upper, PreparedEngine)
    assert isinstance(whole, PreparedEngine)
    at = N - 5
    assert np.array_equal(upper.spectrum(at)[0], visit[at])
    assert np.array_equal(upper.totals, whole.totals)
    assert np.array_equal(upper.step_maps()["scale"], whole.step_maps()["scale"])
    background, expected = upper.background_of(at), whole.background_of(at)
    assert background is not None
    assert expected is not None
    np.testing.assert_allclose(background.sum(), expected.sum(), rtol=1e-3)
    for engine in (upper, whole):
        engine.finish()
    np.testing.assert_allclose(upper.window((40, 60))[0], whole.window((40, 60))[0], rtol=0.05, atol=3.0)
