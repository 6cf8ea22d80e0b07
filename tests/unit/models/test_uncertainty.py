"""The standard error of a window map is how far it is from the truth, at every dose."""

import numpy as np
import pytest

from models.axis import Axis
from models.linear import LinearEngine
from models.linear_config import LinearConfig
from models.noise import POISSON, NoiseModel
from models.prepared import PreparedEngine
from models.steps import Steps, StepsConfig
from tests.unit.models.scenes import eds_scene

SIDE, D, PASSES = 36, 512, 2
N = SIDE * SIDE
WINDOWS = {"strong line": (245, 268), "overlapped lines": (150, 168), "background": (330, 370), "shared line": (33, 50)}
CAMERA = NoiseModel("poisson_gaussian", gain=2.0, offset=100.0, read_sigma=4.0)


def scanned(engine: LinearEngine, expected: np.ndarray, camera: bool = False, seed: int = 0) -> LinearEngine:
    for number in range(PASSES):
        rng = np.random.default_rng([seed, number])
        visit: np.ndarray = rng.poisson(expected).astype(np.uint16)
        if camera:
            visit = (2.0 * visit + 100.0 + 4.0 * rng.standard_normal(visit.shape)).astype(np.float32)
        for first in range(0, N, 216):
            engine.process(np.arange(first, first + 216, dtype=np.uint32), visit[first : first + 216])
        engine.promote()
    engine.finish()
    return engine


def spread(engine: LinearEngine, truth: np.ndarray, window: tuple[int, int]) -> float:
    """Root mean square of the deviations from the truth in standard errors."""
    deviation = engine.window(window)[0] - truth[:, slice(*window)].sum(axis=1)
    return float(np.sqrt(np.mean((deviation / engine.window_error(window)) ** 2)))


@pytest.mark.parametrize("counts", [15.0, 60.0, 300.0, 2000.0])
def test_deviations_from_the_truth_are_one_standard_error(counts: float) -> None:
    scene = eds_scene(counts, side=SIDE, d=D, seed=1)
    engine = scanned(LinearEngine(N, D, noise=POISSON), scene.expected)
    for name, window in WINDOWS.items():
        assert spread(engine, PASSES * scene.expected, window) == pytest.approx(1.0, abs=0.2), name
    raw_error = np.sqrt(np.maximum(engine.window(WINDOWS["background"])[1], 1.0))
    assert np.median(engine.window_error(WINDOWS["background"]) / raw_error) < 0.5


def test_a_camera_has_the_errors_of_its_noise() -> None:
    scene = eds_scene(3000.0, side=SIDE, d=D)
    engine = scanned(LinearEngine(N, D, noise=CAMERA), scene.expected, camera=True)
    truth = PASSES * (2.0 * scene.expected + 100.0)
    for name, window in WINDOWS.items():
        assert spread(engine, truth, window) == pytest.approx(1.0, abs=0.25), name


def test_errors_behind_steps_are_those_of_what_is_published() -> None:
    scene = eds_scene(300.0, side=SIDE, d=D)
    axis = Axis("channel", "", D)
    config = StepsConfig(rebin=2, crop=(10.0, 500.0), dead_channels=(255,), dark=(0.5,))
    engine = PreparedEngine(N, Steps(config, axis, POISSON), LinearConfig(), POISSON, axis)
    scanned(engine, scene.expected + 0.5)
    window = WINDOWS["strong line"]
    assert spread(engine, PASSES * (scene.expected + 0.5), window) == pytest.approx(1.0, abs=0.25)
    assert np.isnan(engine.window_error((0, 20))).all()


def test_a_novelty_has_the_error_of_its_counts() -> None:
    scene = eds_scene(300.0, side=SIDE, d=D, n_rare=4)
    engine = scanned(LinearEngine(N, D, noise=POISSON), scene.expected)
    window = (380, 410)  # the line that only the rare positions have
    error = engine.window_error(window)
    raw = engine.window(window)[1]
    assert engine.held[scene.rare].all()
    assert (error[scene.rare] >= np.sqrt(raw[scene.rare]) - 1e-3).all()


def test_nothing_measured_has_no_error() -> None:
    engine = LinearEngine(N, D, noise=POISSON)
    assert np.isnan(engine.window_error((0, 10))).all()
    engine.process(np.arange(40, dtype=np.uint32), eds_scene(60.0, side=SIDE, d=D).visit(0)[:40])
    assert np.isfinite(engine.window_error((0, 10))[:40]).all()
    assert np.isnan(engine.window_error((0, 10))[40:]).all()
    assert engine.window_error((0, 10), np.array([3, 50])).shape == (2,)


def test_a_rare_position_is_shown_without_what_it_does_not_have() -> None:
    scene = eds_scene(150.0, side=SIDE, d=D, seed=1)
    where = np.array([100, 500, 777, 1200])
    foreign = np.exp(-0.5 * ((np.arange(D) - 420) / 4.0) ** 2) + 0.002
    scene.expected[where] = 300.0 * foreign / foreign.sum()
    engine = scanned(LinearEngine(N, D, noise=POISSON), scene.expected)
    assert engine.held[where].all()
    truth = PASSES * scene.expected
    for name, window in WINDOWS.items():
        shown, error = engine.window(window, where)[0], engine.window_error(window, where)
        deviation = shown - truth[where, slice(*window)].sum(axis=1)
        assert np.sqrt(np.mean((deviation / error) ** 2)) < 1.3, name
        if name == "strong line":
            # What the components alone would show is their mean composition for so many counts.
            assert np.abs(deviation).max() < 0.15 * engine.window(window)[0].max()
