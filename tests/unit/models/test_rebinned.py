"""A network on other channels than it was trained on: as good as on its own, and refused where it cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import ndtr

from models.axis import Axis
from models.card import Architecture, AxisCard, ModelCard, write_card
from models.export import from_onnx, to_onnx
from models.inference import TrainedNetwork
from models.pools import Expected, Pairs
from models.rebinned import edges, misfit, overlap, rebinned
from models.thinning import squared_error
from models.train import TrainConfig, denoise, fresh, latent_card, train

OWN = Axis("Energy", "keV", 120, 0.0, 0.02)
FINER = Axis("Energy", "keV", 240, -0.005, 0.01)
COARSER = Axis("Energy", "keV", 80, 0.005, 0.03)
FALLING = Axis("Energy", "keV", 160, 2.3825, -0.015)
_BENT = np.arange(120) + 2.0 * np.sin(np.arange(120) * np.pi / 119)
LISTED = Axis("Energy", "keV", 120, listed=tuple((0.02 * _BENT).tolist()))


def lines(axis: Axis, seed: int, n: int) -> NDArray[np.float64]:
    """Shares (n, D) of four lines of other heights each time, on a background, in the channels of an axis."""
    rng = np.random.default_rng(seed)
    borders = edges(axis)
    parts = [np.abs(np.diff(ndtr((borders - at) / 0.035))) for at in (0.5, 0.8, 1.3, 1.9)]
    behind = np.abs(np.diff(-np.exp(-borders)))
    spectra = rng.gamma(2.0, 1.0, (n, 4)) @ np.array(parts) + 2.0 * behind
    return np.asarray(spectra / spectra.sum(axis=1, keepdims=True))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> TrainedNetwork:
    path = tmp_path_factory.mktemp("rebinned") / "lines.onnx"
    pool = Expected(lines(OWN, 0, 256), Pairs("truth", mixed=2), (50.0, 2000.0))
    architecture = Architecture(kind="residual", n_channels=OWN.size, hidden=(24, 16), latent=5)
    made = fresh(architecture, pool)
    train(made, pool, pool, TrainConfig(steps=300, batch=64, learning_rate=1e-3, check_every=100))
    to_onnx(made, path)
    card = ModelCard(
        name="lines", technique="eds", architecture=architecture, axis=AxisCard.of(OWN), counts=(50.0, 2000.0),
        latent=latent_card(made, pool), parameters=made.n_parameters,
    )  # fmt: skip
    write_card(card, path)
    return TrainedNetwork.load(path, device="cpu")


def on(network: TrainedNetwork, axis: Axis) -> TrainedNetwork:
    return TrainedNetwork(*rebinned(network.model, network.card, axis), device="cpu")


def error(network: TrainedNetwork, axis: Axis) -> float:
    """Squared error over all channels; raw counts have their number."""
    truth = 300.0 * lines(axis, 1, 800)
    counts = np.random.default_rng(2).poisson(truth).astype(np.float32)
    return float(axis.size * squared_error(network.denoise(counts).spectra, truth).mean())


@pytest.mark.parametrize("axis", [FINER, COARSER, FALLING, LISTED], ids=["finer", "coarser", "falling", "listed"])
def test_it_is_as_good_on_other_channels(network: TrainedNetwork, axis: Axis) -> None:
    assert network.card.misfit("eds", axis) is not None
    there = on(network, axis)
    assert there.card.misfit("eds", axis) is None
    assert error(there, axis) < 1.1 * error(network, OWN)


def test_on_its_own_channels_it_is_the_same(network: TrainedNetwork) -> None:
    counts = np.random.default_rng(0).poisson(200 * lines(OWN, 3, 50)).astype(np.float32)
    one, other = network.denoise(counts), on(network, OWN).denoise(counts)
    np.testing.assert_allclose(other.spectra, one.spectra, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other.latent, one.latent, rtol=1e-4, atol=1e-4)


def test_latent_coordinates_are_those_of_the_summed_counts(network: TrainedNetwork) -> None:
    counts = np.random.default_rng(0).poisson(200 * lines(FINER, 3, 50)).astype(np.float32)
    summed = counts.reshape(50, OWN.size, 2).sum(axis=2)
    np.testing.assert_allclose(on(network, FINER).denoise(counts).latent, network.denoise(summed).latent, atol=1e-3)


def test_list_mode_windows_and_learning_know_no_difference(network: TrainedNetwork, tmp_path: Path) -> None:
    there = on(network, FINER)
    counts = np.random.default_rng(0).poisson(10 * lines(FINER, 3, 50)).astype(np.float32)
    dense, listed = there.denoise(counts), there.denoise(sparse.csr_array(counts))
    np.testing.assert_allclose(listed.spectra, dense.spectra, rtol=1e-4, atol=1e-5)
    sums = there.windows(counts, [(40, 70)])
    np.testing.assert_allclose(sums[:, 0], dense.spectra[:, 40:70].sum(axis=1), rtol=1e-4)
    onnx.save(there.model, tmp_path / "there.onnx")
    learner = from_onnx(tmp_path / "there.onnx", there.card.architecture)
    np.testing.assert_allclose(denoise(learner, counts), dense.spectra, rtol=1e-3, atol=1e-4)


def test_counts_are_shared_out_and_none_is_lost() -> None:
    shared = overlap(edges(OWN), edges(FALLING))
    np.testing.assert_allclose(shared.sum(axis=0), 1.0)
    wider = Axis("Energy", "keV", 124, -0.04, 0.02)
    np.testing.assert_allclose(overlap(edges(OWN), edges(wider)).sum(axis=0), 1.0)
    np.testing.assert_allclose(overlap(edges(OWN), edges(FINER))[3, 5:9], [0.0, 1.0, 1.0, 0.0], atol=1e-9)


def test_what_cannot_be_is_told(network: TrainedNetwork) -> None:
    card = network.card
    assert misfit(card, "eds", FINER) is None
    assert "it is for eds" in str(misfit(card, "xps", FINER))
    assert "in 'keV'" in str(misfit(card, "eds", Axis("Energy", "eV", 120, 0.0, 20.0)))
    assert "the series is from" in str(misfit(card, "eds", Axis("Energy", "keV", 120, 0.0, 0.04)))
    assert "times as wide" in str(misfit(card, "eds", Axis("Energy", "keV", 40, 0.02, 0.06)))
    other = card.model_copy(update={"architecture": card.architecture.model_copy(update={"kind": "hourglass"})})
    assert "120 channels, the series 240" in str(misfit(other, "eds", FINER))
    with pytest.raises(ValueError, match="cannot be had"):
        rebinned(network.model, other, FINER)
