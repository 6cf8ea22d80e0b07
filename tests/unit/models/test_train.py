"""Training: seconds on small families of spectra whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from models.augment import displace, expected_share, random_share
from models.card import Architecture
from models.evaluate import shrunk_pca
from models.networks import Network, make_network
from models.pools import Expected, Measured, Pairs, Pool, Target
from models.thinning import squared_error
from models.train import TrainConfig, align, denoise, fresh, latent_card, train
from tests.reference import BatchPCA, weighted_error
from tests.unit.models.spectra import mixtures, moving_line, moving_lines

D = 64
QUICK = TrainConfig(steps=60, batch=64, check_every=20)


def line_pool(seed: int, n: int = 400, quanta: tuple[float, float] = (100.0, 3000.0)) -> Expected:
    return Expected(moving_lines(n, seed), Pairs("truth"), quanta)


def small(pool: Pool, latent: int = 2, **keys: object) -> Network:
    architecture = Architecture(n_channels=D, latent=latent, **({"hidden": (64, 32)} | keys))
    return make_network(architecture, pool.mean)


def weights(network: Network) -> torch.Tensor:
    return torch.cat([p.detach().ravel() for p in network.parameters()])


def test_a_line_that_moves_is_denoised_better_than_by_any_plane() -> None:
    pool = line_pool(0)
    network = small(pool, hidden=(96, 32))
    history = train(network, pool, line_pool(1), TrainConfig(steps=700, batch=128, learning_rate=2e-2))
    assert history.held_out[-1] < history.held_out[0]
    for dose in (300.0, 1000.0):
        truth = dose * moving_lines(1500, 7)
        counts = np.random.default_rng(2).poisson(truth)
        found = squared_error(denoise(network, counts), truth).mean()
        plane = squared_error(shrunk_pca(counts), truth).mean()
        assert found < 0.65 * plane  # 0.48 and 0.44 of it when this was written


def test_thinned_counts_teach_without_any_truth_what_their_noise_would_hide() -> None:
    truth = 100.0 * mixtures(400, 0)
    counts = np.random.default_rng(1).poisson(truth).astype(np.uint16)
    errors = {}
    targets: tuple[Target, ...] = ("thinned", "same")
    for target in targets:
        pool, held = (Measured(counts, Pairs(target), rows=rows) for rows in (np.arange(320), np.arange(320, 400)))
        network = small(pool, latent=16)
        train(network, pool, held, TrainConfig(steps=400, batch=128, learning_rate=1e-2))
        errors[target] = squared_error(denoise(network, counts), truth).mean()
    assert errors["thinned"] < 0.12  # raw counts: 1
    assert errors["thinned"] < 0.5 * errors["same"]
    # Mixtures lie in a plane: PCA is better, and the daemon has to find that out.
    assert squared_error(shrunk_pca(counts), truth).mean() < errors["thinned"]


def test_a_residual_network_begins_as_shrunk_pca_and_leaves_it_where_lines_move() -> None:
    plane, lines = Expected(mixtures(400, 0), Pairs("truth"), (50.0, 2000.0)), line_pool(0, quanta=(50.0, 2000.0))
    keys = {"kind": "residual", "hidden": (32, 16), "latent": 3}
    begun = fresh(Architecture(n_channels=D, **keys), plane)
    for dose in (100.0, 1000.0):
        truth = dose * mixtures(1500, 3)
        counts = np.random.default_rng(2).poisson(truth)
        pca = squared_error(shrunk_pca(counts), truth).mean()
        assert squared_error(denoise(begun, counts), truth).mean() < 1.3 * pca  # without any training
    network = fresh(Architecture(n_channels=D, **(keys | {"hidden": (64, 32)})), lines)
    truth = 500.0 * moving_lines(1500, 7)
    counts = np.random.default_rng(2).poisson(truth)
    pca = squared_error(shrunk_pca(counts), truth).mean()
    assert squared_error(denoise(network, counts), truth).mean() > 1.5 * pca  # three components are too few
    train(network, lines, line_pool(1), TrainConfig(steps=500, batch=128))
    assert squared_error(denoise(network, counts), truth).mean() < pca


def test_a_residual_network_begins_as_shrunk_pca_of_measured_counts_too() -> None:
    rng = np.random.default_rng(0)
    truth = np.exp(rng.uniform(np.log(10.0), np.log(300.0), 3000))[:, None] * mixtures(3000, 3)
    counts = rng.poisson(truth).astype(np.uint16)
    architecture = Architecture(kind="residual", n_channels=D, hidden=(32, 16), latent=3)
    begun = fresh(architecture, Measured(counts, Pairs("thinned")))
    pca = squared_error(shrunk_pca(counts), truth).mean()
    assert squared_error(denoise(begun, counts), truth).mean() < 1.3 * pca  # 13 by thinned ones


def test_a_grid_is_laid_through_lines_that_move_and_beats_pca_of_any_rank() -> None:
    network = fresh(Architecture(kind="topographic", n_channels=D, hidden=(96,), latent=1), line_pool(0, 1000))
    place = np.random.default_rng(7).uniform(0.25 * D, 0.75 * D, 1500)
    for dose, least in ((100.0, 0.6), (2000.0, 0.4)):
        truth = dose * moving_line(place, D)
        counts = np.random.default_rng(2).poisson(truth)
        fit = BatchPCA.of(counts, 24)
        pca = min(weighted_error(y, truth) for way in (fit, fit.shrunk()) for y in way.spectra())
        assert weighted_error(denoise(network, counts), truth) < least * pca
        with torch.no_grad():
            latent = network(torch.from_numpy(counts.astype(np.float32)))[1][:, 0].numpy()
        assert abs(spearmanr(latent, place).statistic) > 0.99


def test_latent_coordinates_of_a_variational_network_are_spread_as_samples_are_drawn() -> None:
    pool, held = (line_pool(seed, quanta=(1e4, 1e5)) for seed in (0, 1))  # bright: the divergence weighs nothing
    network = small(pool, kind="variational", latent=1, hidden=(48,))
    train(network, pool, held, TrainConfig(steps=150, batch=64, learning_rate=1e-2, beta=0.1))
    with torch.no_grad():
        latent = network(torch.from_numpy(held.draw(1000, np.random.default_rng(3)).inputs))[1]
    assert abs(float(latent.mean())) < 0.1
    assert float(latent.std()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("kind", ["convolutional", "variational", "nonnegative"])
def test_every_kind_learns_mixtures(kind: str) -> None:
    pool, held = (Expected(mixtures(300, seed), Pairs("truth"), (100.0, 1000.0)) for seed in (0, 1))
    keys = {"hidden": (4, 8, 8)} if kind == "convolutional" else {"hidden": (32,)}
    network = small(pool, latent=3, kind=kind, **keys)
    train(network, pool, held, TrainConfig(steps=200, batch=128, learning_rate=1e-2))
    truth = 300.0 * mixtures(500, 3)
    counts = np.random.default_rng(2).poisson(truth)
    assert squared_error(denoise(network, counts), truth).mean() < 0.25


def test_a_spatial_network_learns_from_its_neighbours() -> None:
    flat = np.repeat(mixtures(4, 0), 64, axis=0)  # four patches of 8 x 8, one after the other
    pairs = Pairs("truth", side=3)
    errors = {}
    for side in (1, 3):
        pool = Expected(flat, replace(pairs, side=side), (20.0, 50.0), (32, 8))
        kind = "spatial" if side > 1 else "hourglass"
        network = small(pool, latent=3, kind=kind, side=side, hidden=(32, 16))
        train(network, pool, pool, TrainConfig(steps=200, batch=128, learning_rate=1e-2))
        batch = pool.draw(1000, np.random.default_rng(5))
        share = denoise(network, batch.inputs) * (D / batch.quanta[:, None])
        errors[side] = float(((share - batch.targets) ** 2).mean())
    assert errors[3] < 0.8 * errors[1]


def test_the_same_seed_gives_the_same_network_bit_for_bit() -> None:
    found = []
    for seed in (3, 3, 4):
        pool = line_pool(0)
        network = small(pool)
        train(network, pool, line_pool(1), replace(QUICK, seed=seed, corruption="gaussian"))
        found.append(weights(network))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_training_stops_when_held_out_data_no_longer_profit_and_keeps_the_best() -> None:
    few = Measured(np.random.default_rng(0).poisson(30 * moving_lines(12, 0)), Pairs("same"), least=1.0)
    held = line_pool(1, quanta=(30.0, 60.0))
    network = small(few, latent=8)
    config = TrainConfig(steps=2000, check_every=20, patience=3)
    history = train(network, few, held, config)
    assert history.steps[-1] < 1000
    assert history.best == min(history.held_out) < history.held_out[-1]
    again = train(network, few, held, replace(config, steps=1, learning_rate=1e-12))
    assert again.held_out[0] == pytest.approx(history.best, rel=1e-5)


def test_a_loss_that_is_no_number_is_an_error() -> None:
    pool = line_pool(0)
    with pytest.raises(ValueError, match="lower learning rate"):
        train(small(pool), pool, pool, replace(QUICK, learning_rate=1e12, loss="mse"))


def test_progress_is_told() -> None:
    pool, told = line_pool(0), []
    train(small(pool), pool, pool, QUICK, lambda *said: told.append(said[:2]))
    assert told == [(20, 60), (40, 60), (60, 60)]


def test_another_instrument_is_aligned_from_a_few_unlabelled_spectra() -> None:
    pool, held = (Expected(mixtures(300, seed), Pairs("truth"), (100.0, 3000.0)) for seed in (0, 1))
    network = small(pool, latent=3, calibration=True)
    train(network, pool, held, TrainConfig(steps=300, batch=128))
    before = weights(network)
    rng, n = np.random.default_rng(3), 100
    how = np.full(n, 2.0), np.full(n, 0.01), np.zeros(n)
    truth = 500.0 * mixtures(n, 9)
    counts = displace(rng.poisson(truth), *how, random_share(rng))
    truth = np.asarray(displace(truth, *how, expected_share), dtype=np.float64)
    without = squared_error(denoise(network, counts), truth).mean()
    few = Measured(counts, Pairs("thinned"), least=1.0)
    shift, gain = align(network, few, few)
    assert (1 + gain) * 32 + shift == pytest.approx(1.01 * 32 + 2.0, abs=0.4)
    assert squared_error(denoise(network, counts), truth).mean() < 0.2 * without
    assert int((weights(network) != before).sum()) == 2  # nothing else has changed
    assert all(p.requires_grad for p in network.parameters())
    with pytest.raises(ValueError, match="no calibration layer"):
        align(small(pool), few, few)


def test_the_latent_card_holds_nearly_all_spectra_like_those_of_the_training() -> None:
    pool = line_pool(0)
    network = small(pool)
    train(network, pool, line_pool(1), QUICK)
    card = latent_card(network, line_pool(1))
    batch = line_pool(5).draw(2000, np.random.default_rng(8))
    with torch.no_grad():
        latent = network(torch.from_numpy(batch.inputs))[1].numpy()
    away = latent - np.array(card.mean)
    distance = np.sqrt(np.einsum("nk,kl,nl->n", away, np.linalg.inv(np.array(card.covariance)), away))
    assert 0.98 < (distance < card.distance).mean() < 1.0
