"""A network beside the linear model: its domain, where they disagree, and which of the two predicts better."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.axis import Axis
from models.card import ModelCard, NoiseCard
from models.inference import TrainedNetwork
from models.linear import LinearEngine
from models.noise import POISSON, NoiseModel
from models.second_opinion import Domain, Opinion, SecondOpinion, _alike, misfit
from models.seen import Tally, compare
from models.thinning import squared_error
from tests.networks import scene_axis, train_for
from tests.unit.models.spectra import moving_line
from tests.unit.streamer.scene import Scene

SHAPE = (24, 64)
BLOCK = 64


def scan(
    expected: NDArray[np.float64], network: TrainedNetwork, seed: int = 0, noise: NoiseModel = POISSON
) -> tuple[LinearEngine, SecondOpinion]:
    """Measure each position once, the network looking at each block; counts are those of the noise."""
    rng = np.random.default_rng(seed)
    engine = LinearEngine(len(expected), 64, noise=noise, axis=scene_axis())
    opinion = SecondOpinion(network)
    for first in range(0, len(expected), BLOCK):
        index = np.arange(first, min(first + BLOCK, len(expected)), dtype=np.uint32)
        counts = rng.poisson(expected[index]).astype(np.uint16)
        visits = counts if noise.is_poisson else (counts * noise.gain + noise.offset).astype(np.float32)
        engine.process(index, visits)
        while engine.background():
            pass
        engine.promote()
        opinion.look(engine, index)
    return engine, opinion


def look(engine: LinearEngine, opinion: SecondOpinion) -> Opinion:
    found = opinion.look(engine, np.arange(engine.n_positions))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def network(scene_network: Path) -> TrainedNetwork:
    return TrainedNetwork.load(scene_network, device="cpu")


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> TrainedNetwork:
    """Trained on a line that may be anywhere: a curve that a straight subspace needs many components for."""
    path = tmp_path_factory.mktemp("moving") / "moving.onnx"
    train_for(moving_line(np.linspace(16, 48, 256)), path, steps=600, latent=2, hidden=(48, 24), mixed=1)
    return TrainedNetwork.load(path, device="cpu")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> TrainedNetwork:
    """Trained on pairs of lines that are not those of the scene, for a moment."""
    path, rng = tmp_path_factory.mktemp("elsewhere") / "elsewhere.onnx", np.random.default_rng(7)
    pairs = moving_line(rng.uniform(4, 60, 512)) + moving_line(rng.uniform(4, 60, 512))
    train_for(pairs, path, steps=200, latent=6, hidden=(48, 24), mixed=1)
    return TrainedNetwork.load(path, device="cpu")


def test_what_was_trained_for_is_in_the_domain_and_agreed_on(network: TrainedNetwork) -> None:
    for seed, mean in ((1, 60.0), (2, 120.0), (3, 1000.0)):
        engine, opinion = scan(Scene(SHAPE, mean_counts=mean).expected, network, seed)
        found = look(engine, opinion)
        assert found.inside.mean() > 0.99
        assert found.disagree.mean() < 0.02


def test_a_phase_that_only_the_linear_model_knows_is_disagreed_on_and_shown_by_it(network: TrainedNetwork) -> None:
    expected = Scene(SHAPE, mean_counts=400.0).expected.copy()
    foreign = np.zeros(len(expected), dtype=bool)
    foreign[5 * BLOCK : 8 * BLOCK] = True
    expected[foreign] = 400.0 * moving_line(np.full(int(foreign.sum()), 37.0))
    engine, opinion = scan(expected, network)
    found = look(engine, opinion)
    assert found.disagree[foreign].mean() > 0.95
    assert found.disagree[~foreign].mean() < 0.02
    assert not (found.speaks & foreign).mean() > 0.01
    assert found.speaks[~foreign].mean() > 0.95


def test_a_network_that_predicts_better_speaks_and_what_is_shown_is_better(moving: TrainedNetwork) -> None:
    place = np.random.default_rng(0).uniform(18, 46, 1024)
    expected = 300.0 * moving_line(place)
    engine, opinion = scan(expected, moving)
    found = look(engine, opinion)
    assert opinion.merit.median > 3 * opinion.merit.error
    assert found.speaks.mean() > 0.95
    linear = engine.denoise(np.arange(1024))
    shown = np.where(found.speaks[:, None], found.spectra, linear)
    assert squared_error(shown, expected).mean() < 0.7 * squared_error(linear, expected).mean()
    # What is measured without the truth is what the truth says, at half of the dose.
    assert (
        opinion.merit.median > 0.5 * (squared_error(linear, expected) - squared_error(found.spectra, expected)).mean()
    )


def test_a_network_that_predicts_worse_is_silent_and_flags_nothing(moving: TrainedNetwork) -> None:
    expected = Scene(SHAPE, mean_counts=400.0).expected
    engine, opinion = scan(expected, moving)
    opinion = SecondOpinion(moving)
    for _ in range(4):
        found = look(engine, opinion)
    assert opinion.is_worse or found.inside.mean() < 0.1
    assert not found.speaks.any()
    assert not found.disagree.any()


def test_what_is_shown_of_a_network_for_other_specimens_is_no_worse_once_the_scan_is_known(
    elsewhere: TrainedNetwork,
) -> None:
    expected = Scene(SHAPE, mean_counts=100.0).expected
    for seed in range(3):
        engine, opinion = scan(expected, elsewhere, seed)
        engine.finish()
        opinion.judge_anew()
        found = look(engine, opinion)
        linear = engine.denoise(np.arange(engine.n_positions))
        shown = np.where(found.speaks[:, None], found.spectra, linear)
        assert squared_error(shown, expected).mean() < 1.02 * squared_error(linear, expected).mean()


def test_a_network_that_follows_the_noise_is_not_taken_to_be_nearer_to_the_truth(network: TrainedNetwork) -> None:
    """Where both are right but for noise, the one with more of it in its predictions is nearer to the counts."""
    opinion, rng = SecondOpinion(network), np.random.default_rng(0)
    n, d, follows, quiet = 20000, 64, 12, 2
    noise = rng.standard_normal((n, d)).astype(np.float32)
    bold, calm = (np.where(np.arange(d) < k, noise, 0.0).astype(np.float32) for k in (follows, quiet))
    opinion._bolder.add(np.full(8, float(follows - quiet)))
    distance, lean = compare(noise, bold, calm, np.ones(d, dtype=np.float32))
    assert (lean > 0).mean() > 0.99
    assert opinion._is_nearer(lean, distance, np.ones(n)).mean() < 1e-3
    # One that is right where the linear model is not.
    wrong = calm + np.where(np.arange(d) == 40, 15.0, 0.0).astype(np.float32)
    distance, lean = compare(noise, bold, wrong, np.ones(d, dtype=np.float32))
    assert opinion._is_nearer(lean, distance, np.ones(n)).mean() > 0.99


def test_what_a_network_has_of_the_linear_models_scores_is_measured(network: TrainedNetwork) -> None:
    engine, _ = scan(Scene(SHAPE).expected, network)
    published, linear = engine.score_map.published, engine.denoise(np.arange(256))
    assert published is not None
    for share in (0.0, 0.4, 1.0):
        assert _alike(np.float32(share) * linear, linear, published) == pytest.approx(share, abs=1e-5)
    assert _alike(2 * linear, linear, published) == 1.0


def test_the_same_looks_give_the_same_bits(network: TrainedNetwork) -> None:
    first, second = (scan(Scene(SHAPE).expected, network) for _ in range(2))
    a, b = look(*first), look(*second)
    np.testing.assert_array_equal(a.spectra, b.spectra)
    np.testing.assert_array_equal(a.speaks, b.speaks)
    assert first[1].merit.median == second[1].merit.median


def test_gain_and_offset_change_units_and_nothing_else(network: TrainedNetwork) -> None:
    noise = NoiseModel("poisson_gaussian", 4.0, 7.0, 0.0)
    expected = Scene(SHAPE, mean_counts=300.0).expected
    plain, scaled = scan(expected, network), scan(expected, network, noise=noise)
    for at in (0, 700, 1500):
        one, other = (o.spectrum(e.spectrum(at)[0], 1, e.noise) for e, o in (plain, scaled))
        np.testing.assert_allclose(other, 4.0 * one + 7.0, rtol=1e-3, atol=1e-2)
    both = np.array([o.merit.median for _, o in (plain, scaled)])
    assert both.min() > -0.03
    assert abs(both[0] - both[1]) < 0.03, "the linear model's rank differs, raw counts would have 1"


def test_the_offset_of_every_visit_is_taken_off(network: TrainedNetwork) -> None:
    noise = NoiseModel("poisson_gaussian", 2.0, 5.0, 0.0)
    counts = np.random.default_rng(0).poisson(Scene(SHAPE).expected[0]).astype(np.float32)
    opinion = SecondOpinion(network)
    once = opinion.spectrum(2.0 * counts + 5.0, 1, noise)
    thrice = opinion.spectrum(2.0 * counts + 15.0, 3, noise)
    np.testing.assert_allclose(thrice - 15.0, once - 5.0, rtol=1e-4, atol=1e-4)


def test_positions_without_data_are_left_out(network: TrainedNetwork) -> None:
    engine = LinearEngine(10, 64, noise=POISSON, axis=scene_axis())
    opinion = SecondOpinion(network)
    assert opinion.look(engine, np.arange(10)) is None
    engine.process(np.array([3], dtype=np.uint32), np.ones((1, 64), dtype=np.uint16))
    found = opinion.look(engine, np.arange(10))
    assert found is not None
    assert found.index.tolist() == [3]
    assert not found.speaks.any(), "nobody has judged it yet"


def test_domain_is_that_of_the_card(scene_card: ModelCard) -> None:
    domain = Domain(scene_card)
    mean = np.array([scene_card.latent.mean], dtype=np.float32)
    assert domain.holds(mean, np.array([100.0])).all()
    assert not domain.holds(mean, np.array([0.4 * scene_card.counts[0]])).any()
    assert not domain.holds(mean, np.array([11 * scene_card.counts[1]])).any()
    axis = np.linalg.eigh(np.array(scene_card.latent.covariance))
    step = np.sqrt(axis.eigenvalues[-1]) * axis.eigenvectors[:, -1] * scene_card.latent.distance
    far = mean + np.array([[0.99], [1.01]]) * step
    assert domain.holds(far.astype(np.float32), np.full(2, 100.0)).tolist() == [True, False]


def test_comparing_is_the_difference_of_squares() -> None:
    rng = np.random.default_rng(0)
    x, a, b = rng.uniform(0, 9, (3, 5, 40)).astype(np.float32)
    weight = rng.uniform(0, 2, 40).astype(np.float32)
    distance, lean = compare(x, a, b, weight)
    np.testing.assert_allclose(distance, (weight * (a - b) ** 2).sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(lean, (weight * ((b - x) ** 2 - (a - x) ** 2)).sum(axis=1), rtol=1e-3, atol=1e-2)


def test_a_tally_remembers_the_latest() -> None:
    tally = Tally(4)
    assert (tally.median, tally.error) == (0.0, float("inf"))
    tally.add(np.arange(10.0))
    assert (tally.median, tally.n) == (7.5, 10)
    assert tally.spread == pytest.approx(1.5 / 1.349)


def test_the_error_of_a_median_is_that_of_normal_numbers_and_outliers_do_not_count() -> None:
    rng = np.random.default_rng(0)
    medians, errors = [], []
    for _ in range(200):
        tally = Tally(100)
        tally.add(np.where(rng.uniform(size=100) < 0.1, -1e3, rng.normal(0.3, 1.0, 100)))
        medians.append(tally.median)
        errors.append(tally.error)
    assert np.mean(errors) == pytest.approx(np.std(medians), rel=0.25)
    assert np.mean(medians) > 0.0


def test_misfits_are_told(scene_card: ModelCard) -> None:
    axis = scene_axis()
    assert misfit(scene_card, "eds", axis, POISSON) is None
    assert "for eds" in str(misfit(scene_card, "xps", axis, POISSON))
    assert "off by 2" in str(misfit(scene_card, "eds", scene_axis(0.1), POISSON))
    assert "channels" in str(misfit(scene_card, "eds", Axis("Energy", "keV", 65, 0.0, 0.05), POISSON))
    assert "not that of counting" in str(misfit(scene_card, "eds", axis, NoiseModel("poisson_gaussian", 0.0, 0.0, 1.0)))
    noisy = NoiseModel("poisson_gaussian", 2.0, 0.0, 4.0)
    assert "read noise" in str(misfit(scene_card, "eds", axis, noisy))
    trained = scene_card.model_copy(update={"noise": NoiseCard.of(replace(noisy, gain=1.0, read_sigma=1.5))})
    assert misfit(trained, "eds", axis, noisy) is None
    spatial = scene_card.architecture.model_copy(update={"kind": "spatial", "side": 3})
    assert "neighbourhoods" in str(
        misfit(scene_card.model_copy(update={"architecture": spatial}), "eds", axis, POISSON)
    )
