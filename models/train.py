"""Training: pairs in, the network with the best held-out loss out. Needs PyTorch."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.card import Architecture, LatentCard
from models.layers import rescale
from models.losses import Corruption, Loss, corrupt, loss_per_spectrum
from models.networks import Network, Residual, Topographic, Variational, make_network
from models.pools import Batch, Pool

_HELD_OUT = 2048
_LAID_THROUGH = 1024
_DRAWN, _USES = 4, 2
_LATENT_QUANTILE = 0.999


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training.

    Attributes
    ----------
    steps, batch : int
        Batches, and pairs in each.
    learning_rate : float
        Highest; it rises to it and falls to nothing again (one cycle).
    loss : str
        mse, poisson or angle.
    corruption, strength :
        Noise beside that of the counts, and how much.
    beta : float
        Weight of the variational network's divergence; 1 is the evidence lower bound.
    check_every, patience : int
        Steps between two looks at the held-out loss, and how often it may fail to fall.
    seed : int
    threads : int
        Of PyTorch.
    """

    steps: int = 1500
    batch: int = 256
    learning_rate: float = 5e-3
    weight_decay: float = 1e-4
    loss: Loss = "poisson"
    corruption: Corruption = "none"
    strength: float = 0.3
    beta: float = 1.0
    check_every: int = 50
    patience: int = 10
    seed: int = 0
    threads: int = 1


@dataclass
class History:
    """What happened.

    Attributes
    ----------
    steps, held_out : list
        When the held-out loss was looked at, and what it was.
    best : float
    seconds : float
    """

    steps: list[int] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    best: float = float("inf")
    seconds: float = 0.0


Progress = Callable[[int, int, float], None]
"""Gets the steps done, those planned, and the held-out loss."""


def fresh(architecture: Architecture, pool: Pool, seed: int = 0) -> Network:
    """Make a network for the spectra of a pool: random, or, where it is residual or a grid, fitted to some of them."""
    network = make_network(architecture, pool.mean, seed)
    if isinstance(network, Topographic):
        network.begin(torch.from_numpy(pool.known(_LAID_THROUGH, np.random.default_rng([seed, 3]))[0]))
    if isinstance(network, Residual):
        spectra, weight = map(torch.from_numpy, pool.known(_HELD_OUT, np.random.default_rng([seed, 3])))
        most = float(np.quantile(pool.draw(_HELD_OUT, np.random.default_rng([seed, 3])).quanta, 0.95))
        network.begin(spectra, weight, most, torch.Generator().manual_seed(seed))
    return network


def train(
    network: Network,
    pool: Pool,
    held_out: Pool,
    config: TrainConfig | None = None,
    progress: Progress = lambda done, planned, loss: None,
) -> History:
    """Train a network in place; it ends with the weights that had the smallest held-out loss.

    Same seed, data and number of threads, same weights.

    Parameters
    ----------
    network : Network
        Only parameters that require a gradient are changed.
    pool, held_out : Pool
        The second should be of another scan.

    Raises
    ------
    ValueError
        Where the loss is no number: the learning rate is too high, or the data are none.
    """
    config = config or TrainConfig()
    begun = time.monotonic()
    with seeded(config.seed, config.threads):
        judge = held_out.draw(_HELD_OUT, np.random.default_rng([config.seed, 1]))
        history = _train(network, pool, judge, config, progress)
        if isinstance(network, Variational):
            _standardise(network, judge)
    history.seconds = time.monotonic() - begun
    return history


@torch.no_grad()
def _standardise(network: Variational, batch: Batch) -> None:
    """Give latent coordinates of spectra the mean 0 and the spread 1 that samples are drawn with.

    At many counts the divergence weighs little, and training leaves them anywhere.
    """
    named = network.stages(torch.from_numpy(batch.inputs))
    latent, variance = named["latent"], named["sigma"].square()
    spread = (latent.var(dim=0) + variance.mean(dim=0)).sqrt()
    rescale(network.encoder[-1], network.body[0], latent.mean(dim=0), spread)


def _train(network: Network, pool: Pool, judge: Batch, config: TrainConfig, progress: Progress) -> History:
    rng = np.random.default_rng([config.seed, 0])
    noise = torch.Generator().manual_seed(config.seed)
    learnt = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps + 1)
    batches = _batches(pool, config.batch, rng)
    history, best, waited = History(), copy.deepcopy(network.state_dict()), 0
    _look(network, judge, config, history, 0)
    for step in range(1, config.steps + 1):
        network.train()
        loss = _loss(network, next(batches), config, noise)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % config.check_every and step < config.steps:
            continue
        if _look(network, judge, config, history, step):
            best, waited = copy.deepcopy(network.state_dict()), 0
        else:
            waited += 1
        progress(step, config.steps, history.held_out[-1])
        if waited > config.patience:
            break
    network.load_state_dict(best)
    network.eval()
    return history


def _batches(pool: Pool, n: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Batches of n pairs, each pair used twice: to draw counts costs as much as to learn from them."""
    while True:
        drawn = pool.draw(_DRAWN * n, rng)
        for _ in range(_USES):
            for rows in rng.permutation(_DRAWN * n).reshape(_DRAWN, n):
                yield Batch(drawn.inputs[rows], drawn.targets[rows], drawn.quanta[rows], drawn.weight[rows])


def _look(network: Network, judge: Batch, config: TrainConfig, history: History, step: int) -> bool:
    """Note the held-out loss; whether it is the best so far."""
    network.eval()
    with torch.no_grad():
        loss = float(_loss(network, judge, config, None))
    if not np.isfinite(loss):
        raise ValueError(f"the held-out loss is {loss} after {step} steps: try a lower learning rate")
    history.steps.append(step)
    history.held_out.append(loss)
    better = loss < history.best
    history.best = min(loss, history.best)
    return better


def _loss(network: Network, batch: Batch, config: TrainConfig, noise: torch.Generator | None) -> Tensor:
    """Mean loss of pairs; without a generator nothing is corrupted."""
    inputs, target = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
    if noise is not None:
        inputs = corrupt(inputs, config.corruption, noise, config.strength)
    named = network.stages(inputs)
    share = named["denoised"] * (target.shape[-1] / named["total"].clamp(min=1.0))
    loss = loss_per_spectrum(share, target, network.mean, config.loss)
    if "sigma" in named and isinstance(network, Variational):
        # The loss is for one count; the bound is for all of a spectrum.
        divergence = network.divergence(named["latent"], named["sigma"])
        loss = loss + config.beta * divergence / torch.from_numpy(batch.quanta)
    return (loss * torch.from_numpy(batch.weight)).mean()


def align(network: Network, pool: Pool, held_out: Pool, config: TrainConfig | None = None) -> tuple[float, float]:
    """Learn the shift (channels) and gain of another instrument from unlabelled spectra of it; nothing else changes.

    Raises
    ------
    ValueError
        Where the network has no calibration layer.
    """
    if network.calibration is None:
        raise ValueError("the network has no calibration layer: make it with calibration")
    before = {name: p.requires_grad for name, p in network.named_parameters()}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("calibration."))
    config = config or TrainConfig(steps=300, learning_rate=0.1, weight_decay=0.0)
    train(network, pool, held_out, config)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(before[name])
    return network.calibration.shift.item(), network.calibration.gain.item()


@torch.no_grad()
def denoise(network: Network, quanta: NDArray[Any], rows: int = 1024) -> NDArray[np.float32]:
    """Denoised spectra (n, D) of quanta (n, D), or (n, side^2, D), by the network as it is now."""
    network.eval()
    parts = [np.asarray(quanta[i : i + rows], dtype=np.float32) for i in range(0, len(quanta), rows)]
    done = [network(torch.from_numpy(part))[0].numpy() for part in parts]
    return np.concatenate(done) if done else np.zeros((0, network.architecture.n_channels), dtype=np.float32)


@torch.no_grad()
def latent_card(network: Network, pool: Pool, seed: int = 0) -> LatentCard:
    """Where spectra of a pool lie in the latent space of a network."""
    network.eval()
    batch = pool.draw(2 * _HELD_OUT, np.random.default_rng([seed, 2]))
    latent = network(torch.from_numpy(batch.inputs))[1].numpy().astype(np.float64)
    mean, spread = latent.mean(axis=0), np.cov(latent, rowvar=False).reshape(latent.shape[1], -1)
    # A coordinate that nothing uses has no spread; a little of the others' keeps the distance finite.
    spread += 1e-6 * max(float(np.trace(spread)) / len(spread), 1e-12) * np.eye(len(spread))
    away = latent - mean
    distance = np.sqrt(np.einsum("nk,kl,nl->n", away, np.linalg.inv(spread), away))
    return LatentCard(
        mean=tuple(mean.tolist()),
        covariance=tuple(map(tuple, spread.tolist())),
        distance=float(np.quantile(distance, _LATENT_QUANTILE)),
    )


@contextmanager
def seeded(seed: int, threads: int) -> Any:
    """Seed and bound PyTorch for a while, and leave it as it was."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
