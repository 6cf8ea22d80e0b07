"""Learning during a scan: from which positions, by which judge, and what comes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from models.card import read_card
from models.export import from_onnx, to_onnx, with_weights
from models.graphs import weights
from models.inference import TrainedNetwork
from models.linear import LinearEngine
from models.noise import POISSON, NoiseModel
from models.reservoir import draw, judges, quanta
from models.shadow import learn
from models.thinning import squared_error
from models.trial import LEAST, Trial
from tests.networks import scene_axis, train_for
from tests.unit.models.spectra import moving_line
from tests.unit.streamer.scene import Scene

SHAPE = (24, 64)


def engine_of(counts: NDArray[np.uint16]) -> LinearEngine:
    engine = LinearEngine(len(counts), 64, noise=POISSON, axis=scene_axis())
    index = np.arange(len(counts), dtype=np.uint32)
    for part in np.array_split(index, 8):
        engine.process(part, counts[part])
        engine.promote()
    engine.finish()
    return engine


@pytest.fixture(scope="module")
def old(scene_network: Path) -> TrainedNetwork:
    return TrainedNetwork.load(scene_network, device="cpu")


@pytest.fixture(scope="module")
def shifted() -> tuple[LinearEngine, NDArray[np.float64]]:
    """A scan of the network's phases with lines a channel and a half away from where it knows them."""
    truth = Scene(SHAPE, mean_counts=200.0).expected
    truth = np.stack([np.interp(np.arange(64) - 1.5, np.arange(64), row) for row in truth])
    return engine_of(np.random.default_rng(0).poisson(truth).astype(np.uint16)), truth


@pytest.fixture(scope="module")
def learnt(
    scene_network: Path, shifted: tuple[LinearEngine, NDArray[np.float64]], tmp_path_factory: pytest.TempPathFactory
) -> TrainedNetwork:
    """What the network becomes when it learns from that scan."""
    engine, _ = shifted
    out = tmp_path_factory.mktemp("learnt") / "out.onnx"
    rows = quanta(engine, draw(engine, None, 1024, judged=False))
    learn(rows, scene_network, out, steps=150, seed=1)
    return TrainedNetwork.load(out, device="cpu")


def test_a_copy_learns_the_scan_from_its_counts_alone_and_wins_the_trial(
    old: TrainedNetwork, learnt: TrainedNetwork, shifted: tuple[LinearEngine, NDArray[np.float64]]
) -> None:
    engine, truth = shifted
    kept = draw(engine, None, 256, judged=True)
    counts = engine.score_map.counts(kept)
    before, after = (squared_error(n.denoise(counts).spectra, truth[kept]).mean() for n in (old, learnt))
    assert after < 0.5 * before
    trial = Trial(old, learnt)
    trial.judge(engine, kept)
    assert trial.is_better
    assert not trial.is_worse
    back = Trial(learnt, old)
    back.judge(engine, kept)
    assert back.is_worse
    assert not back.is_better
    # At half the dose, hence not the same number; of the same sign and size.
    assert trial.mean == pytest.approx(before - after, rel=0.6)
    assert learnt.card.training["learnt"]["from"] == old.card.sha256


def test_two_alike_are_never_better_than_each_other(old: TrainedNetwork) -> None:
    wins = 0
    for seed in range(20):
        truth = Scene(SHAPE, mean_counts=100.0).expected[::6]
        engine = engine_of(np.random.default_rng(seed).poisson(truth).astype(np.uint16))
        rng, blurred = np.random.default_rng(seed + 100), onnx.ModelProto()
        blurred.CopyFrom(old.model)
        for tensor in blurred.graph.initializer:
            if tensor.name == "encoder.0.weight":
                values = onnx.numpy_helper.to_array(tensor)
                moved = values + 1e-3 * rng.standard_normal(values.shape).astype(np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
        trial = Trial(old, TrainedNetwork(blurred, old.card, device="cpu"), seed)
        trial.judge(engine, draw(engine, None, 256, judged=True))
        wins += trial.is_better
    assert wins <= 3, "one in forty by chance"


def test_too_few_spectra_decide_nothing(old: TrainedNetwork, learnt: TrainedNetwork) -> None:
    truth = Scene(SHAPE, mean_counts=200.0).expected
    engine = engine_of(np.random.default_rng(0).poisson(truth).astype(np.uint16))
    trial = Trial(old, learnt)
    trial.judge(engine, np.arange(LEAST - 1))
    assert trial.n == LEAST - 1
    assert not trial.is_better
    assert not trial.is_worse


def test_judges_are_a_fifth_scattered_and_never_taught() -> None:
    index = np.arange(40_000)
    mine = judges(index)
    assert mine.mean() == pytest.approx(0.2, abs=0.01)
    rows = mine.reshape(200, 200)
    assert np.abs(rows.mean(axis=0) - 0.2).max() < 0.15
    assert np.abs(rows.mean(axis=1) - 0.2).max() < 0.15
    engine = engine_of(np.random.default_rng(0).poisson(Scene(SHAPE).expected).astype(np.uint16))
    teach, judge = (draw(engine, None, 10_000, judged=j) for j in (False, True))
    assert not np.intersect1d(teach, judge).size
    assert teach.size + judge.size > 0.95 * engine.n_positions


def test_each_phase_gives_as_much_and_what_is_flagged_gives_nothing() -> None:
    truth = Scene(SHAPE, mean_counts=300.0).expected.copy()
    odd = [100, 700, 1200]
    truth[odd] = 300.0 * moving_line(np.full(3, 37.0))
    engine = engine_of(np.random.default_rng(0).poisson(truth).astype(np.uint16))
    label = np.where(np.arange(len(truth)) % 64 < 2, 1, 0).astype(np.int32)
    chosen = draw(engine, label, 60, judged=False)
    assert np.bincount(label[chosen]).tolist() == [60 - min(30, (label[chosen] == 1).sum()), (label[chosen] == 1).sum()]
    assert (label[chosen] == 1).sum() > 20
    everything = np.concatenate([draw(engine, label, 10_000, judged=j) for j in (False, True)])
    assert not np.isin(odd, everything).any()


def test_quanta_are_free_of_gain_and_of_every_visits_offset() -> None:
    noise = NoiseModel("poisson_gaussian", 3.0, 5.0, 0.0)
    counts = np.random.default_rng(0).poisson(20.0, (4, 64)).astype(np.float32)
    engine = LinearEngine(4, 64, noise=noise, axis=scene_axis())
    for _ in range(2):
        engine.process(np.arange(4, dtype=np.uint32), 3.0 * counts + 5.0)
    np.testing.assert_allclose(quanta(engine, np.arange(4)), 2 * counts, rtol=1e-5)


def test_weights_go_back_into_the_file_they_came_from(scene_network: Path, tmp_path: Path) -> None:
    model, card = onnx.load(scene_network), read_card(scene_network)
    network = from_onnx(scene_network, card.architecture)
    for parameter in network.parameters():
        parameter.data.mul_(1.01)
    changed = with_weights(model, network)
    to_onnx(network, tmp_path / "exported.onnx")
    exported = weights(onnx.load(tmp_path / "exported.onnx"))
    for name, value in weights(changed).items():
        np.testing.assert_allclose(value, exported[name], rtol=1e-5, atol=1e-6, err_msg=name)
    wider = train_for(moving_line(np.linspace(16, 48, 8)), tmp_path / "wider.onnx", steps=1, hidden=(40, 16))
    with pytest.raises(ValueError, match="in the file"):
        with_weights(model, from_onnx(tmp_path / "wider.onnx", wider.architecture))
