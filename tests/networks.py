"""A small network for the spectra of `tests.unit.streamer.scene`, trained in a second or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.axis import Axis
from models.card import Architecture, AxisCard, ModelCard, read_card, write_card
from models.export import to_onnx
from models.networks import make_network
from models.pools import Expected, Pairs
from models.train import TrainConfig, latent_card, train


def scene_axis(offset: float = 0.0) -> Axis:
    """Axis of the scene."""
    return Axis("Energy", "keV", 64, offset, 0.05)


def train_for(
    spectra: NDArray[Any], path: Path, *, axis: Axis | None = None, counts: tuple[float, float] = (20.0, 2000.0),
    steps: int = 300, hidden: tuple[int, ...] = (32, 16), latent: int = 3, seed: int = 0, mixed: int = 3,
) -> ModelCard:  # fmt: skip
    """Train a network on expected spectra (n, D) and mixtures of up to so many; write it with its card to `path`."""
    pairs = Pairs("truth", mixed=mixed)
    pool = Expected(spectra, pairs, counts)
    axis = axis or scene_axis()
    network = make_network(Architecture(n_channels=axis.size, hidden=hidden, latent=latent), pool.mean, seed)
    train(network, pool, pool, TrainConfig(steps=steps, batch=128, check_every=steps, seed=seed))
    to_onnx(network, path)
    card = ModelCard(
        name=path.stem, technique="eds", architecture=network.architecture, axis=AxisCard.of(axis), counts=counts,
        latent=latent_card(network, pool, seed), parameters=network.n_parameters,
    )  # fmt: skip
    write_card(card, path)
    return read_card(path)


def shapes_of(expected: NDArray[Any]) -> NDArray[np.float64]:
    """Return the different spectra of a map."""
    return np.unique(expected, axis=0)
