"""Forgetting: off within a pass, a factor between passes, and a new start where the specimen has changed."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import sparse

from models.axis import Axis
from models.change import Cusum
from models.linear import LinearEngine
from models.linear_config import LinearConfig
from models.moments import Moments
from models.noise import POISSON, NoiseModel
from models.pca import DenseRows, Tracker
from models.prepared import PreparedEngine
from models.steps import Steps, StepsConfig
from tests.unit.models.scenes import Scene, eds_scene, weighted_error

SIDE, D = 32, 256
N = SIDE * SIDE
CAMERA = NoiseModel("poisson_gaussian", gain=2.0, offset=100.0, read_sigma=4.0)


def watched(
    engine: LinearEngine, expected: Callable[[int], np.ndarray], passes: int, seed: int = 0, camera: bool = False
) -> list[tuple[int, int]]:
    """Scan pass after pass; pass and first position of the blocks where a change was found."""
    found = []
    for number in range(passes):
        mean, rng = expected(number), np.random.default_rng([seed, number])
        visit: np.ndarray = rng.poisson(mean).astype(np.uint16)
        if camera:
            read = CAMERA.read_sigma * rng.standard_normal(mean.shape)
            visit = (CAMERA.gain * visit + CAMERA.offset + read).astype(np.float32)
        for first in range(0, len(visit), 64):
            before = engine.changes
            engine.process(np.arange(first, first + 64, dtype=np.uint32), visit[first : first + 64])
            if engine.changes > before:
                found.append((number, first))
            if first % 256 == 0:
                engine.promote()
    return found


def engine_with(**config: object) -> LinearEngine:
    return LinearEngine(N, D, LinearConfig(**config), POISSON)  # type: ignore[arg-type]


def two_specimens(counts: float) -> tuple[Scene, Scene]:
    return (eds_scene(counts, side=SIDE, d=D, seed=seed) for seed in (0, 50))  # type: ignore[return-value]


def learn(tracker: Tracker, rows: np.ndarray) -> None:
    for _ in tracker.update_pieces(DenseRows(rows), 30, 30):
        pass


def test_both_trackers_forget_by_a_factor() -> None:
    rng = np.random.default_rng(0)
    old, new = (sparse.csr_array(rng.poisson(0.2, (50, 30)).astype(np.float32)) for _ in range(2))
    moments, weighted = Moments(30, 4), Moments(30, 4)
    moments.add(old, np.ones(50))
    moments.forget(0.25)
    moments.add(new, np.ones(50))
    weighted.add(old, np.full(50, 0.25))
    weighted.add(new, np.ones(50))
    np.testing.assert_allclose(
        moments.times(np.eye(30, dtype=np.float32)), weighted.times(np.eye(30, dtype=np.float32))
    )
    assert moments.n_rows == 62.5
    assert moments.n_effective == pytest.approx(62.5**2 / (50 + 50 * 0.0625))
    a, b = (rng.standard_normal((60, 30)).astype(np.float32) for _ in range(2))
    tracker, whole = (Tracker(30, np.zeros((30, 0), dtype=np.float32)) for _ in range(2))
    learn(tracker, a)
    tracker.forget(0.5)
    learn(tracker, b)
    learn(whole, np.concatenate([a * np.sqrt(np.float32(0.5)), b]))
    np.testing.assert_allclose(tracker.values, whole.values, rtol=1e-4)
    assert (tracker.n_rows, tracker.n_effective) == (90.0, 90.0**2 / 75.0)


def test_nothing_is_forgotten_within_a_pass_nor_by_default() -> None:
    scene = eds_scene(60.0, side=SIDE, d=D)
    plain, forgetful = engine_with(), engine_with(forget=0.1, reset_on_change=True)
    for engine in (plain, forgetful):
        watched(engine, lambda _: scene.expected, 1)
    assert plain.basis is not None
    assert forgetful.basis is not None
    assert np.array_equal(plain.basis.eigenspectra, forgetful.basis.eigenspectra)
    assert np.array_equal(plain.scores, forgetful.scores)


@pytest.mark.parametrize("counts", [30.0, 400.0])
def test_what_is_gone_is_forgotten_pass_by_pass(counts: float) -> None:
    """Error of single spectra of other phases than before: what the basis leaves out, and the noise it lets through."""
    first = eds_scene(counts, side=SIDE, d=D).expected
    second = first[:, ::-1]
    errors, edges = [], []
    for forget in (1.0, 0.2):
        engine = engine_with(forget=forget)
        watched(engine, lambda number: first if number < 2 else second, 4)
        engine.promote()
        assert engine.basis is not None
        scale = np.sqrt(second.sum() / second.sum(axis=0))
        rank = engine.state_summary()["ranks"]["edge"]  # novelty groups are no memory of the model
        basis, _ = np.linalg.qr((engine.basis.eigenspectra[:rank] * scale).T)
        truth = second * scale / np.sqrt(second.sum(axis=1, keepdims=True))
        outside = float(((truth - truth @ basis @ basis.T) ** 2).sum(axis=1).mean())
        errors.append(outside + rank)
        edges.append(engine.basis.noise_edge)
    assert errors[1] < 0.9 * errors[0]
    assert edges[1] > edges[0]  # fewer spectra count, and the edge knows


@pytest.mark.parametrize("counts", [30.0, 400.0])
def test_a_specimen_that_changes_between_passes_is_started_anew(counts: float) -> None:
    first, second = two_specimens(counts)
    engine, fresh, mixed = engine_with(reset_on_change=True), engine_with(), engine_with()
    changed = watched(engine, lambda number: (first if number < 2 else second).expected, 5)
    assert [number for number, _ in changed] == [2]
    assert changed[0][1] <= 512
    for number in (2, 3, 4):
        visit = np.random.default_rng([0, number]).poisson(second.expected).astype(np.uint16)
        fresh.process(np.arange(N, dtype=np.uint32), visit)
    watched(mixed, lambda number: (first if number < 2 else second).expected, 5)
    for one in (engine, fresh, mixed):
        one.finish()
    late = np.arange(changed[0][1] + 64, N)
    assert np.array_equal(engine.totals[late], fresh.totals[late])
    assert (engine.visits[late] == 3).all()
    assert (engine.visits[: changed[0][1]] == 2).all()
    truth = 3 * second.expected[late]
    ours, best = (weighted_error(e.denoise(late), truth) for e in (engine, fresh))
    assert ours < 1.15 * best
    assert weighted_error(mixed.denoise(late) * 0.6, truth) > 3 * ours
    assert engine.state_summary()["changes"] == 1


@pytest.mark.parametrize(
    ("counts", "noise", "camera"),
    [(15.0, POISSON, False), (300.0, POISSON, False), (1000.0, CAMERA, True), (1000.0, None, True)],
)
def test_no_change_is_found_where_there_is_none(counts: float, noise: NoiseModel | None, camera: bool) -> None:
    for seed in range(2):
        scene = eds_scene(counts, side=SIDE, d=D, n_rare=4, seed=seed)
        engine = LinearEngine(N, D, LinearConfig(reset_on_change=True), noise)
        assert watched(engine, lambda _, scene=scene: scene.expected, 6, seed, camera) == []  # type: ignore[misc]


def test_another_dwell_and_a_part_of_the_map_are_no_change_of_the_specimen() -> None:
    first, second = two_specimens(200.0)
    dwell = (1.0, 0.5, 2.0, 0.3)
    assert watched(engine_with(reset_on_change=True), lambda number: dwell[number] * first.expected, 4) == []
    part = np.zeros((N, 1))
    part[400:450] = 1.0

    def damaged(number: int) -> np.ndarray:
        return np.asarray(first.expected * (1 - part * (number > 0)) + second.expected * part * (number > 0))

    assert watched(engine_with(reset_on_change=True), damaged, 3) == []


def test_the_cusum_gives_no_false_alarm_in_years_of_noise() -> None:
    """Squares of normal numbers, as skewed as score changes get: 20,000 sums of 64 visits."""
    values = np.random.default_rng(0).standard_normal((20_000, 64)) ** 2 - 1.0
    for calibrates in (False, True):
        cusum = Cusum(0, calibrates)
        assert not any(cusum.add(row) for row in values)
    risen = [cusum.add(row + 1.0) for row in values[:10]]
    assert any(risen)


def test_raw_counts_behind_steps_start_anew_too() -> None:
    first, second = two_specimens(200.0)
    config = LinearConfig(reset_on_change=True)
    axis = Axis("Energy", "", D)
    steps = StepsConfig(crop=(0.0, 250.0), dark=(0.5,), normalise="total")
    engine = PreparedEngine(N, Steps(steps, axis, POISSON), config, POISSON, axis)
    changed = watched(engine, lambda number: (first if number < 1 else second).expected + 0.5, 3)
    assert [number for number, _ in changed] == [1]
    late = N - 1
    kept = [np.random.default_rng([0, number]).poisson(second.expected + 0.5)[late] for number in (1, 2)]
    assert np.array_equal(engine.spectrum(late)[0], np.sum(kept, axis=0))
    assert engine.totals[late] == np.sum(kept)
