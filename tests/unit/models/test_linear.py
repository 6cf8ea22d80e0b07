"""The linear engine: as good as offline PCA, honest about what it knows, and not put out by anything."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from models.axis import Axis
from models.base import Basis
from models.false_discovery import discoveries
from models.linear import LinearEngine
from models.linear_config import LinearConfig
from models.noise import POISSON, NoiseModel
from tests.unit.models.scenes import Scene, batch_pca_errors, eds_scene, peak, weighted_error


def index_of(n: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + n, dtype=np.uint32)


def scanned(scene: Scene, passes: int = 3, block: int = 128) -> tuple[LinearEngine, np.ndarray]:
    """An engine that saw some passes, with a promotion every few blocks, and the accumulated counts."""
    n, d = scene.expected.shape
    engine = LinearEngine(n, d)
    total = np.zeros((n, d), dtype=np.int64)
    for seed in range(passes):
        visit = scene.visit(seed)
        total += visit
        for first in range(0, n, block):
            engine.process(index_of(block, first), visit[first : first + block])
            if first % (4 * block) == 0:
                engine.promote()
                engine.background()
    return engine, total


def denoised(engine: LinearEngine) -> np.ndarray:
    return engine.denoise(np.arange(engine.n_positions))


@pytest.mark.parametrize("counts", [15.0, 50.0, 200.0, 2000.0])
@pytest.mark.parametrize("n_rare", [0, 5])
def test_final_map_is_as_good_as_the_best_batch_pca(counts: float, n_rare: int) -> None:
    scene = eds_scene(counts, side=48, d=512, n_rare=n_rare)
    engine, total = scanned(scene)
    engine.finish()
    truth = 3 * scene.expected
    weighted, plain = batch_pca_errors(total, truth, max_rank=10)
    found = denoised(engine)
    assert weighted_error(found, truth) <= 1.02 * weighted.min()
    assert ((found - truth) ** 2).mean() <= 1.05 * plain.min()


def test_live_map_is_close_before_the_end() -> None:
    scene = eds_scene(200.0, side=48, d=512)
    engine, total = scanned(scene)
    engine.promote()
    while engine.background():
        pass
    truth = 3 * scene.expected
    assert weighted_error(denoised(engine), truth) <= 1.25 * batch_pca_errors(total, truth, 10)[0].min()


def test_rare_positions_are_flagged_and_not_denoised_away() -> None:
    scene = eds_scene(300.0, side=48, d=512, n_rare=4)
    engine, _ = scanned(scene)
    basis = engine.finish()
    assert engine.held[scene.rare].all()
    assert engine.anomaly[scene.rare].min() > np.delete(engine.anomaly, scene.rare).max()
    raw, smooth, expected = (s[210:250].sum() for s in engine.spectrum(int(scene.rare[0])))
    truth = 3 * scene.expected[scene.rare[0], 210:250].sum()
    assert abs(smooth - truth) < 5 * np.sqrt(truth)
    assert basis.rank == engine.scores.shape[1]
    assert basis.n_components == engine.state_summary()["ranks"]["edge"] < basis.rank
    assert raw >= 0
    assert np.isfinite(expected)


def test_a_new_phase_teaches() -> None:
    first, second = eds_scene(300.0, side=16, d=256), eds_scene(300.0, side=16, d=256, n_rare=200)
    engine = LinearEngine(512, 256)
    for seed in range(3):
        engine.process(index_of(256), first.visit(seed))
        engine.promote()
    before = engine.basis
    flagged = []
    for seed in (5, 6, 7):
        flagged.append((engine.process(index_of(256, 256), second.visit(seed)).flag > 0).sum())
        engine.promote()
    assert before is not None
    assert flagged[0] > 100
    assert flagged[2] < 30


def test_what_taught_after_all_is_not_judged_by_its_first_test() -> None:
    n, d, block = 1024, 256, 64
    known = np.exp(-np.arange(d) / 80) + 0.05
    late = known + 8 * peak(d, 150, 3)
    expected = 400.0 * np.repeat(np.stack([known / known.sum(), late / late.sum()]), n // 2, axis=0)
    counts = np.random.default_rng(0).poisson(expected)
    engine, told = LinearEngine(n, d, noise=POISSON), 0
    for first in range(0, n, block):
        told += int(np.count_nonzero(engine.process(index_of(block, first), counts[first : first + block]).flag))
        if first % (4 * block) == 0:
            engine.promote()
    assert told > 100, "unlike everything before"
    assert np.count_nonzero(discoveries(engine.p_value, 0.1) & ~engine.held) <= 3
    engine.finish()
    assert np.isfinite(engine.p_value).all()
    assert np.count_nonzero(discoveries(engine.p_value, 0.1)) <= 3


def test_published_numbers_agree_with_each_other() -> None:
    scene = eds_scene(100.0, side=16, d=256, seed=2)
    engine, total = scanned(scene, passes=2)
    basis = engine.finish()
    assert not engine.held.any(), "the mean is that of the components"
    whole = basis.mean + engine.scores @ basis.eigenspectra
    np.testing.assert_allclose(denoised(engine), whole, rtol=1e-4, atol=1e-3)
    smooth, raw = engine.window((30, 60))
    np.testing.assert_allclose(smooth, whole[:, 30:60].sum(axis=1), rtol=1e-3, atol=1e-2)
    assert np.array_equal(raw, total[:, 30:60].sum(axis=1))
    np.testing.assert_allclose(basis.mean, whole.mean(axis=0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(basis.mean.sum(), total.sum() / 256, rtol=2e-2)
    assert np.array_equal(engine.totals, total.sum(axis=1))
    assert engine.exact.all()
    assert (engine.visits == 2).all()


@pytest.mark.parametrize("counts", [30.0, 300.0])
def test_relative_error_is_the_error(counts: float) -> None:
    scene = eds_scene(counts, side=48, d=512)
    engine, _ = scanned(scene)
    engine.finish()
    truth = 3 * scene.expected
    weight = truth.sum() / np.maximum(truth.sum(axis=0), 1e-9)
    actual = (weight * (denoised(engine) - truth) ** 2).sum(axis=1) / (weight * truth**2).sum(axis=1)
    predicted = engine.relative_error
    assert np.sqrt(actual.mean() / (predicted**2).mean()) == pytest.approx(1.0, abs=0.25)
    dark = scene.expected.sum(axis=1) < 0.8 * counts
    assert predicted[dark].mean() > 1.1 * predicted[~dark].mean()
    ranks = engine.state_summary()["ranks"]
    assert ranks["edge"] == ranks["parallel"]
    assert ranks["edge"] < ranks["variance_95"]


def test_scores_are_reexpressed_with_every_basis() -> None:
    scene = eds_scene(400.0, side=32, d=256)
    engine, _ = scanned(scene, passes=1, block=64)
    version = engine.basis.version if engine.basis else 0
    assert version > 1
    while engine.background():
        pass
    assert engine.exact.all()
    exact, basis = engine.scores, engine.basis
    assert basis is not None
    # One more basis, with nothing learnt since: rotated scores must come out close to exact ones.
    engine.promote()
    whole = denoised(engine)
    while engine.background():
        pass
    np.testing.assert_allclose(whole.sum(axis=1), denoised(engine).sum(axis=1), rtol=0.02)
    assert exact.shape == (1024, basis.rank)


@pytest.mark.parametrize("as_csr", [False, True])
def test_the_same_calls_give_the_same_bits(as_csr: bool) -> None:
    def run() -> tuple[Basis, np.ndarray, np.ndarray]:
        scene = eds_scene(40.0, side=16, d=256, n_rare=3)
        engine = LinearEngine(256, 256)
        for seed in range(4):
            visit = scene.visit(seed)
            engine.process(index_of(256), sparse.csr_array(visit) if as_csr else visit)
            engine.promote()
            engine.background()
        return engine.finish(), engine.scores, engine.anomaly

    (a, *arrays), (b, *others) = run(), run()
    assert np.array_equal(a.eigenspectra, b.eigenspectra)
    assert np.array_equal(a.mean, b.mean)
    for one, other in zip(arrays, others, strict=True):
        assert np.array_equal(one, other, equal_nan=True)


def test_list_mode_equals_dense() -> None:
    scene = eds_scene(30.0, side=16, d=256)
    maps = []
    for as_csr in (False, True):
        engine = LinearEngine(256, 256, noise=POISSON)
        for seed in range(3):
            visit = scene.visit(seed)
            engine.process(index_of(256), sparse.csr_array(visit) if as_csr else visit)
        engine.finish()
        maps.append(denoised(engine))
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-3, atol=1e-3)


def test_replacing_a_position_forgets_its_counts() -> None:
    scene = eds_scene(100.0, side=16, d=256)
    engine = LinearEngine(256, 256)
    engine.process(index_of(256), scene.visit(0))
    engine.process(index_of(256), scene.visit(1))
    twice = np.concatenate([scene.visit(2)[:1], scene.visit(3)[:1]])
    engine.process(np.zeros(2, np.uint32), twice, replace=True)
    assert engine.totals[0] == scene.visit(3)[0].sum()
    assert engine.visits[0] == 1
    assert np.array_equal(engine.spectrum(0)[0], scene.visit(3)[0])


def test_the_store_limit_leaves_a_whole_map() -> None:
    scene = eds_scene(2000.0, side=32, d=512)
    engine = LinearEngine(1024, 512, LinearConfig(store_limit_bytes=300_000))
    for seed in range(2):
        visit = scene.visit(seed)
        for first in range(0, 1024, 128):
            engine.process(index_of(128, first), visit[first : first + 128])
            engine.promote()
    engine.finish()
    assert engine.state_summary()["store_bytes"] <= 300_000
    assert 0 < engine.exact.sum() < 1024
    truth = 2 * scene.expected
    assert weighted_error(denoised(engine), truth) < 0.2 * weighted_error(
        (scene.visit(0) + scene.visit(1)).astype(np.float64), truth
    )


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "int32", "float32", "float64"])
def test_every_type_of_counts_read_only(dtype: str) -> None:
    visit = eds_scene(200.0, side=8, d=128).visit(0).astype(dtype)
    visit.flags.writeable = False
    before = visit.copy()
    engine = LinearEngine(64, 128)
    result = engine.process(index_of(64), visit)
    assert result.scores.shape == (64, engine.basis.rank if engine.basis else -1)
    engine.finish()
    assert np.array_equal(visit, before)
    assert np.array_equal(engine.spectrum(5)[0], visit[5])


@pytest.mark.parametrize("d", [1, 2, 95, 1024])
@pytest.mark.parametrize(
    "kind", ["one", "zeros", "equal", "dead", "half", "offset", "single rows", "one position", "bright", "empty rows"]
)
def test_degenerate_data(kind: str, d: int) -> None:
    rng = np.random.default_rng(0)
    blocks = [(index_of(40), rng.poisson(2.0, (40, d)).astype(np.float64)) for _ in range(3)]
    match kind:
        case "one":
            blocks = [(index, counts[:1]) for index, counts in blocks[:1]]
            blocks = [(index[:1], counts) for index, counts in blocks]
        case "zeros":
            blocks = [(index, 0 * counts) for index, counts in blocks]
        case "equal":
            blocks = [(index, 0 * counts + 7) for index, counts in blocks]
        case "dead":
            for _, counts in blocks:
                counts[:, d // 3 :] = 0
        case "half":
            for _, counts in blocks:
                counts[20:] = 0
        case "offset":
            blocks = [(index, rng.normal(100, 4, counts.shape)) for index, counts in blocks]
        case "single rows":
            blocks = [(index[i : i + 1], counts[i : i + 1]) for index, counts in blocks for i in range(40)]
        case "one position":
            blocks = [(0 * index, counts) for index, counts in blocks]
        case "bright":
            blocks[0][1][3] *= 1e6
        case "empty rows":
            blocks.append((index_of(0), np.zeros((0, d))))
    engine = LinearEngine(50, d)
    for index, counts in blocks:
        result = engine.process(index, counts)
        assert np.isfinite(result.scores).all()
        assert np.isfinite(result.anomaly).all()
        engine.promote()
        engine.background()
    basis = engine.finish()
    measured = engine.visits > 0
    assert np.isfinite(basis.mean).all()
    assert np.isfinite(basis.eigenspectra).all()
    assert np.isfinite(denoised(engine)[measured]).all()
    assert np.isnan(engine.scores[~measured]).all()
    assert engine.state_summary()["counts_per_spectrum"] >= 0


def test_before_any_data() -> None:
    engine = LinearEngine(4, 3)
    assert engine.basis is None
    assert engine.promote() is None
    assert not engine.background()
    assert engine.scores.shape == (4, 0)
    assert np.isnan(engine.relative_error).all()
    assert engine.state_summary()["ranks"] == {}
    assert np.isnan(engine.window((0, 2))[0]).all()
    assert engine.finish().version == 0


@pytest.mark.parametrize("given", [True, False])
def test_peaks_on_a_camera_are_found_with_noise_given_or_not(given: bool) -> None:
    noise = NoiseModel("poisson_gaussian", 2.0, 100.0, 4.0)
    shape = 1.0 + 8 * peak(256, 90, 3.0)
    mean = 100.0 + np.random.default_rng(1).uniform(60, 120, 576)[:, None] * shape
    mean[[200, 300, 400, 500]] += 80 * peak(256, 180, 1.5)
    spectra = np.random.default_rng(0).normal(mean, np.sqrt(noise.variance(mean))).astype(np.float32)
    engine = LinearEngine(576, 256, noise=noise if given else None)
    flags = []
    for first in range(0, 576, 32):
        flags.append(engine.process(index_of(32, first), spectra[first : first + 32]).flag)
        engine.promote()
    live = np.flatnonzero(np.concatenate(flags))
    assert {200, 300, 400, 500} <= set(live.tolist())
    assert live.size <= 20
    engine.finish()
    assert np.array_equal(np.flatnonzero(engine.p_value <= 2e-4), [200, 300, 400, 500])


def test_given_noise_is_used() -> None:
    noise = NoiseModel("poisson_gaussian", 2.0, 10.0, 3.0)
    engine = LinearEngine(300, 64, noise=noise)
    rng = np.random.default_rng(0)
    engine.process(index_of(300), rng.normal(10 + 50, np.sqrt(2 * 50 + 9), (300, 64)))
    basis = engine.finish()
    assert engine.state_summary()["noise"]["gain"] == 2.0
    assert basis.rank == 1


@pytest.mark.parametrize(
    ("name", "max_rank", "most_flagged", "found"),
    [
        ("xps_nano_antares_51x41", 8, 0.02, [1410, 1451]),
        ("eels_velox_dark_16x20", 3, 1 / 300, []),
        ("eds_bruker_sem_50x50", 5, 0.005, []),
        ("cl_quantum_emitters_16x16", 24, 0.08, [30, 88, 135]),
        ("xrd_fegapd_points_278", 28, 0.05, []),
    ],
)
def test_real_maps(shared_data: Path, name: str, max_rank: int, most_flagged: float, found: list[int]) -> None:
    with np.load(shared_data / f"{name}.npz") as file:
        data, values = file["data"], file["axis"]
        axis = Axis(str(file["axis_name"]), str(file["axis_units"]), values.size, listed=tuple(values.tolist()))
    spectra = data.reshape(-1, data.shape[-1])
    engine = LinearEngine(len(spectra), spectra.shape[1], axis=axis)
    live = np.zeros(len(spectra), dtype=bool)
    for first in range(0, len(spectra), 64):
        part = spectra[first : first + 64]
        live[first : first + 64] = engine.process(index_of(len(part), first), part).flag
        engine.promote()
    basis = engine.finish()
    assert 1 <= basis.rank <= max_rank
    assert live.mean() <= most_flagged
    assert (engine.p_value <= 2e-4).mean() <= most_flagged
    assert (live[found] | (engine.p_value[found] <= 2e-4)).all()
    np.testing.assert_allclose(denoised(engine).sum(), spectra.sum(dtype=np.float64), rtol=1e-2)


def test_cosmic_rays_of_a_real_luminescence_map_are_named(shared_data: Path) -> None:
    with np.load(shared_data / "cl_quantum_emitters_16x16.npz") as file:
        spectra = file["data"].reshape(256, -1)
        axis = Axis(
            str(file["axis_name"]), str(file["axis_units"]), spectra.shape[1], listed=tuple(file["axis"].tolist())
        )
    engine = LinearEngine(256, spectra.shape[1], axis=axis)
    for first in range(0, 256, 64):
        engine.process(index_of(64, first), spectra[first : first + 64])
        engine.promote()
    engine.finish()
    named = {kind: [g.positions for g in engine.groups if g.kind == kind] for kind in ("cosmic ray", "hot pixel")}
    spikes = np.concatenate([*named["cosmic ray"], *named["hot pixel"]])
    # Positions with channels that stand 12 robust standard deviations over their neighbours; one sees them in a plot.
    seen = {30, 54, 88, 103, 135, 140, 158, 159, 169, 212, 222}
    assert len(seen & set(spikes.tolist())) >= 9


def test_real_frames_get_better_with_every_pass(shared_data: Path) -> None:
    with np.load(shared_data / "eds_fei_superx_20frames_50x10.npz") as file:
        frames, ny, nx, d = file["shape"]
        counts = np.zeros((frames, ny * nx, d), np.uint16)
        np.add.at(counts, (file["frame"], file["y"] * nx + file["x"], file["ch"]), file["count"])
        axis = Axis("Energy", "keV", int(d), listed=tuple(file["axis"].tolist()))
    engine = LinearEngine(ny * nx, int(d), axis=axis)
    weight = 1 / np.maximum(counts.sum(axis=(0, 1)), 1)
    errors = []
    for k in range(8):
        engine.process(index_of(ny * nx), counts[k])
        engine.promote()
        rest = counts[10:].mean(axis=0)
        away = (denoised(engine) / (k + 1) - rest) ** 2 - rest / 10
        errors.append(float((away * weight).sum()))
    assert errors[0] > 1.5 * errors[2] > 2.0 * errors[7] > 0
