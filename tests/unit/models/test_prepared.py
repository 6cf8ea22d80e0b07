"""The linear engine behind steps: raw counts stay raw, noise stays with them, results are the sender's counts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from models.axis import Axis
from models.linear import LinearEngine
from models.linear_config import LinearConfig
from models.noise import POISSON, NoiseModel
from models.prepared import PreparedEngine, make_engine
from models.steps import Steps, StepsConfig
from tests.unit.models.scenes import eds_scene, peak, weighted_error

SIDE, D = 40, 256
N = SIDE * SIDE


def feed(engine: LinearEngine, visits: list[np.ndarray], block: int = 200) -> LinearEngine:
    for visit in visits:
        for first in range(0, len(visit), block):
            part = visit[first : first + block]
            engine.process(np.arange(first, first + len(part), dtype=np.uint32), part)
            engine.promote()
    engine.finish()
    return engine


def sum_of(visits: list[np.ndarray]) -> np.ndarray:
    return np.asarray(np.sum(visits, axis=0, dtype=np.int64))


def engine_with(steps: StepsConfig, n: int = N, d: int = D, noise: NoiseModel | None = POISSON) -> LinearEngine:
    return make_engine(n, LinearConfig(), noise, Axis("Energy", "", d), steps)


def prepared(engine: LinearEngine) -> PreparedEngine:
    assert isinstance(engine, PreparedEngine)
    return engine


def test_nothing_asked_for_is_the_plain_engine() -> None:
    assert type(engine_with(StepsConfig())) is LinearEngine
    assert StepsConfig(dark=(0.0,)).is_nothing


def test_crop_rebin_and_mask_leave_raw_counts_and_the_axis_alone() -> None:
    scene = eds_scene(200.0, side=SIDE, d=4 * D)
    visits = [scene.visit(seed) for seed in range(2)]
    for visit in visits:
        visit[:, 400] = 500  # a hot channel
    config = StepsConfig(crop=(40.0, 960.0), rebin=2, dead_channels=(400,))
    engine = prepared(feed(engine_with(config, d=4 * D), visits))
    total = sum_of(visits)
    assert np.array_equal(engine.totals, total.sum(axis=1))
    raw, smooth, expected = engine.spectrum(7)
    assert np.array_equal(raw, total[7])
    assert np.isnan(smooth[[39, 961]]).all()
    assert np.isfinite(smooth[40:961]).all()
    assert np.isfinite(expected[40:961]).all()
    basis = engine.basis
    assert basis is not None
    assert basis.eigenspectra.shape == (basis.rank, 4 * D)
    denoised = engine.denoise(np.arange(N))
    np.testing.assert_allclose(denoised, basis.mean + engine.scores @ basis.eigenspectra, rtol=1e-4, atol=1e-3)
    truth = 2 * scene.expected
    plain = feed(engine_with(StepsConfig(), d=4 * D), [scene.visit(seed) for seed in range(2)])
    inside = slice(40, 961)
    error = weighted_error(denoised[:, inside], truth[:, inside])
    assert error < 1.1 * weighted_error(plain.denoise(np.arange(N))[:, inside], truth[:, inside])
    window, raw_window = engine.window((360, 440))
    np.testing.assert_allclose(window, denoised[:, 360:440].sum(axis=1), rtol=1e-4, atol=1e-2)
    assert np.array_equal(raw_window, total[:, 360:440].sum(axis=1))
    assert np.isnan(engine.window((0, 20))[0]).all()
    assert engine.state_summary()["steps"].keys() == {"crop", "rebin", "dead_channels"}


def test_a_hot_channel_that_is_masked_makes_no_component() -> None:
    scene = eds_scene(200.0, side=SIDE, d=D)
    flicker = np.random.default_rng(5).poisson(200.0 * (np.arange(N) % 7 == 0), (2, N))
    visits = [scene.visit(seed) for seed in range(2)]
    for visit, hot in zip(visits, flicker, strict=True):
        visit[:, 30] += hot.astype(np.uint16)
    ranks = []
    for config in (StepsConfig(), StepsConfig(dead_channels=(30,))):
        basis = feed(engine_with(config), visits).basis
        assert basis is not None
        ranks.append(basis.rank)
    assert ranks[1] == ranks[0] - 1


@pytest.mark.parametrize("kind", ["total", "peak", "snv", "minmax"])
def test_the_weighted_fit_is_the_same_with_and_without_normalisation(kind: Any) -> None:
    scene = eds_scene(100.0, side=SIDE, d=D)
    visits = [scene.visit(0)]
    plain, scaled = (feed(engine_with(StepsConfig(normalise=k)), visits) for k in ("none", kind))
    assert plain.basis is not None
    assert scaled.basis is not None
    assert np.array_equal(plain.basis.eigenspectra, scaled.basis.eigenspectra)
    assert np.array_equal(plain.scores, scaled.scores)
    maps = prepared(scaled).step_maps()
    if kind == "total":
        assert np.array_equal(maps["scale"], scaled.totals)


def test_a_noise_weighted_fit_does_not_see_row_scales() -> None:
    """The claim behind it, with plain algebra: dividing a spectrum by s divides its noise by s."""
    counts = eds_scene(300.0, side=20, d=64).visit(0).astype(float)
    h, g = counts.sum(axis=1, keepdims=True), np.maximum(counts.mean(axis=0), 1e-3)
    for s in (h, counts.max(axis=1, keepdims=True)):
        np.testing.assert_allclose((counts / s) / np.sqrt(h * g / s**2), counts / np.sqrt(h * g))


@dataclass(frozen=True)
class Edges:
    """EELS edges of two phases on power laws whose exponent differs from position to position."""

    axis: Axis
    signal: np.ndarray
    background: np.ndarray

    @classmethod
    def scene(cls, level: float, d: int = 300) -> "Edges":
        axis = Axis("Loss", "eV", d, 400.0, 1.0)
        rng = np.random.default_rng(0)
        exponent = rng.uniform(2.0, 4.0, (N, 1))
        background = level * (axis.values / 400.0) ** -exponent
        x = (np.arange(N) % SIDE / SIDE)[:, None]
        edges = [np.where(axis.values >= e, (axis.values / e) ** -3.0, 0.0) for e in (530.0, 600.0)]
        return cls(axis, 0.3 * level * (x * edges[0] + (1 - x) * edges[1]), background)


def test_background_is_subtracted_for_the_model_and_added_back_for_the_reader() -> None:
    scene = Edges.scene(300.0)
    truth = scene.signal + scene.background
    visits = [np.random.default_rng(seed).poisson(truth).astype(np.uint16) for seed in range(2)]
    config = StepsConfig(background="power_law", background_at="model", background_window=(405.0, 525.0))
    engine = prepared(feed(make_engine(N, LinearConfig(), POISSON, scene.axis, config), visits))
    assert engine.basis is not None
    assert 2 <= engine.basis.rank <= 4
    gross, raw = engine.window((130, 200))
    total = sum_of(visits)
    assert np.array_equal(raw, total[:, 130:200].sum(axis=1))
    true_net, true_gross = (2 * s[:, 130:200].sum(axis=1) for s in (scene.signal, truth))
    net = engine.net_window((130, 200))
    assert np.sqrt(np.mean((gross - true_gross) ** 2)) < 0.05 * true_gross.mean()
    assert np.corrcoef(net, true_net)[0, 1] > 0.99
    assert abs(net.mean() / true_net.mean() - 1.0) < 0.02
    raw0, smooth, expected = engine.spectrum(3)
    assert np.array_equal(raw0, total[3])
    background = engine.background_of(3)
    assert background is not None
    assert background.shape == (300,)
    np.testing.assert_allclose(smooth[130:200].sum(), gross[3], rtol=1e-4)
    assert np.isfinite(expected).all()
    # The noise is still that of the counts: nothing is flagged, nor is the noise taken for structure.
    assert (engine.anomaly > 14).mean() < 0.002


@pytest.mark.parametrize("kind", ["power_law", "snip"])
def test_background_of_what_is_denoised_changes_nothing_but_net_maps(kind: Any) -> None:
    scene = Edges.scene(300.0)
    truth = scene.signal + scene.background
    visits = [np.random.default_rng(seed).poisson(truth).astype(np.uint16) for seed in range(2)]
    config = StepsConfig(background=kind, background_window=(405.0, 525.0), half_window=150)
    engine = prepared(feed(make_engine(N, LinearConfig(), POISSON, scene.axis, config), visits))
    plain = feed(make_engine(N, LinearConfig(), POISSON, scene.axis, StepsConfig()), visits)
    assert np.array_equal(engine.denoise(np.arange(N)), plain.denoise(np.arange(N)))
    assert engine.basis is not None
    assert plain.basis is not None
    assert np.array_equal(engine.basis.eigenspectra, plain.basis.eigenspectra)
    gross, net = engine.window((130, 200))[0], engine.net_window((130, 200))
    background = engine.background_of(3)
    assert background is not None
    assert gross[3] - net[3] == pytest.approx(background[130:200].sum(), rel=1e-3)
    if kind == "power_law":
        true_net = 2 * scene.signal[:, 130:200].sum(axis=1)
        assert np.sqrt(np.mean((net - true_net) ** 2)) < 0.06 * true_net.mean()


def test_costly_backgrounds_are_found_when_there_is_time() -> None:
    scene = Edges.scene(300.0)
    visit = np.random.default_rng(0).poisson(scene.signal + scene.background).astype(np.uint16)
    engine = prepared(make_engine(N, LinearConfig(), POISSON, scene.axis, StepsConfig(background="snip")))
    engine.process(np.arange(40, dtype=np.uint32), visit[:40])
    assert np.isnan(engine.net_window((130, 200))).all()
    steps = 0
    while engine.background():
        steps += 1
    assert steps >= 3
    assert np.isfinite(engine.net_window((130, 200))[:40]).all()
    assert np.isnan(engine.net_window((130, 200))[40:]).all()


def test_a_subtraction_leaves_the_noise_model_as_it_was() -> None:
    """The scaling of the fit comes from what was counted, so the scree of pure noise ends at the edge."""
    rng = np.random.default_rng(1)
    background = 400.0 * np.exp(-np.arange(D) / 80.0) + 5.0
    signal = 20.0 * peak(D, 150, 5)
    visits = [rng.poisson(np.tile(background + signal, (N, 1))).astype(np.uint16)]
    engine = feed(engine_with(StepsConfig(dark=tuple(background.tolist()))), visits)
    assert engine.basis is not None
    values = engine.basis.eigenvalues
    assert values[1] < engine.basis.noise_edge
    assert values[1] > 0.8 * engine.basis.noise_edge


def jittered(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shift = rng.normal(0.0, 1.5, N)
    x = np.arange(N) % SIDE / SIDE

    def at(offset: np.ndarray) -> np.ndarray:
        zero, plasmon = (np.stack([peak(D, c + s, w) for s in offset]) for c, w in ((30.0, 2.0), (75.0, 8.0)))
        return np.asarray(2000.0 * zero + (40.0 + 60.0 * x)[:, None] * plasmon + 1.0)

    return rng.poisson(at(shift)).astype(np.uint16), at(np.zeros(N)), shift


def test_alignment_by_the_zero_loss_undoes_a_jitter() -> None:
    axis = Axis("Loss", "eV", D, -15.0, 0.5)
    counts, truth, shift = jittered(0)
    errors, ranks = [], []
    for config in (StepsConfig(align=0.0, align_within=5.0), StepsConfig()):
        engine = feed(make_engine(N, LinearConfig(), POISSON, axis, config), [counts])
        assert engine.basis is not None
        errors.append(float(((engine.denoise(np.arange(N)) - truth) ** 2)[:, 50:].mean()))
        ranks.append(int((engine.basis.eigenvalues > engine.basis.noise_edge).sum()))
        assert np.array_equal(engine.spectrum(5)[0], counts[5])
        if isinstance(engine, PreparedEngine):
            found = engine.step_maps()["shift"]
            assert np.std(found / 0.5 - shift) < 0.06
    assert errors[0] < 0.3 * errors[1]
    assert ranks[0] <= 3 < ranks[1]


def test_replaced_counts_replace_what_steps_found() -> None:
    scene = Edges.scene(200.0)
    first, second = (
        np.random.default_rng(s).poisson(scene.signal + scene.background).astype(np.uint16) for s in (0, 1)
    )
    config = StepsConfig(
        background="power_law", background_at="model", background_window=(405.0, 525.0), normalise="total"
    )
    once, twice = (make_engine(N, LinearConfig(), POISSON, scene.axis, config) for _ in range(2))
    index = np.arange(N, dtype=np.uint32)
    twice.process(index, first)
    for engine in (once, twice):
        engine.process(index, second, replace=True)
    assert np.array_equal(once.totals, twice.totals)
    assert np.array_equal(once.spectrum(9)[0], twice.spectrum(9)[0])
    backgrounds = [prepared(e).background_of(9) for e in (once, twice)]
    assert backgrounds[0] is not None
    assert backgrounds[1] is not None
    np.testing.assert_allclose(backgrounds[0], backgrounds[1], rtol=1e-6)
    assert np.array_equal(prepared(once).step_maps()["scale"], prepared(twice).step_maps()["scale"])


def test_memory_of_raw_and_prepared_counts_is_within_the_limit() -> None:
    scene = eds_scene(3000.0, side=SIDE, d=D)
    limit = 300_000
    config = StepsConfig(rebin=2, background="snip", background_at="model", half_window=12)
    axis = Axis("Energy", "", D)
    engine = PreparedEngine(N, Steps(config, axis), LinearConfig(store_limit_bytes=limit), POISSON, axis)
    engine.process(np.arange(400, dtype=np.uint32), scene.visit(0)[:400])
    assert engine.state_summary()["store_bytes"] <= limit + N * 128 * 4
    smooth, raw = engine.window((40, 60))
    assert np.isfinite(smooth[:400]).all()
    assert np.isnan(raw).any()


def test_the_same_calls_give_the_same_bits() -> None:
    counts, _, _ = jittered(1)
    config = StepsConfig(
        align=0.0, align_within=5.0, rebin=2, background="arpls", background_at="model", normalise="snv"
    )
    axis = Axis("Loss", "eV", D, -15.0, 0.5)
    a, b = (feed(make_engine(400, LinearConfig(), None, axis, config), [counts[:400]]) for _ in range(2))
    assert np.array_equal(a.scores, b.scores)
    assert np.array_equal(a.denoise(np.arange(400)), b.denoise(np.arange(400)))
