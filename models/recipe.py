"""A whole training: sources in, an ONNX file with its card out. Needs PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from scipy import sparse

from models.augment import Augmentation
from models.base import Float32
from models.card import NORMALISATION, Architecture, AxisCard, Kind, Metric, ModelCard, NoiseCard, read_card, write_card
from models.evaluate import against_thinned, against_truth
from models.export import from_onnx, to_onnx
from models.networks import Network
from models.pools import Expected, Measured, Mixture, Pairs, Pool, Target, neighbours
from models.sources import Source
from models.train import History, Progress, TrainConfig, denoise, fresh, latent_card, train

_EVERY = 5


@dataclass(frozen=True)
class Recipe:
    """What is asked for.

    Attributes
    ----------
    quanta : (float, float), optional
        Least and most in a simulated spectrum; a tenth to ten times what the specimens suggest where not given.
    target : str, optional
        truth where all sources are simulated, else thinned.
    mixed : int
        Simulated spectra that are no map are mixtures of up to so many.
    start : Path, optional
        A trained network to go on with; its architecture counts.
    """

    kind: Kind = "hourglass"
    hidden: tuple[int, ...] = (512, 128, 32)
    latent: int = 8
    side: int = 1
    calibration: bool = False
    quanta: tuple[float, float] | None = None
    target: Target | None = None
    mixed: int = 3
    augmentation: Augmentation = field(default_factory=Augmentation)
    training: TrainConfig = field(default_factory=TrainConfig)
    start: Path | None = None


@dataclass(frozen=True)
class Sources:
    """Spectra by use.

    Attributes
    ----------
    training : list of Source
    held_out : list of Source
        For early stopping; where there are none, every fifth line of the measured ones is.
    judged : list of Source
        Simulated maps on which the card's metrics are taken, beside PCA.
    """

    training: Sequence[Source]
    held_out: Sequence[Source] = ()
    judged: Sequence[Source] = ()


def cook(
    name: str,
    sources: Sources,
    recipe: Recipe,
    path: Path,
    progress: Progress = lambda done, planned, loss: None,
    say: Callable[[str], None] = lambda text: None,
) -> ModelCard:
    """Train, export, judge, and write the card; return it.

    Raises
    ------
    ValueError
        Where the sources do not go together, or there is nothing to hold out.
    """
    first = _alike(sources)
    network, pairs, quanta = _begun(recipe, sources, first)
    pool, held_out = _pools(sources, pairs, quanta)
    if network is None:
        if recipe.kind == "topographic" and pairs.target != "truth":
            raise ValueError("a grid is laid through spectra without noise: begin with simulated ones")
        network = fresh(_architecture(recipe, first.axis.size), pool, recipe.training.seed)
    history = train(network, pool, held_out, recipe.training, progress)
    say(f"trained in {history.seconds:.0f} s; exporting and comparing with PCA")
    path.parent.mkdir(parents=True, exist_ok=True)
    to_onnx(network, path)
    card = ModelCard(
        name=name,
        technique=first.technique,
        architecture=network.architecture,
        axis=AxisCard.of(first.axis),
        noise=NoiseCard.of(first.noise),
        normalisation=NORMALISATION[network.architecture.scaling],
        counts=quanta,
        data=tuple(_said(source, use) for use in ("training", "held_out") for source in getattr(sources, use)),
        training=_settings(recipe, history),
        metrics=tuple(judge(network, sources, quanta)),
        latent=latent_card(network, held_out, recipe.training.seed),
        parameters=network.n_parameters,
    )
    write_card(card, path)
    return read_card(path)


def judge(network: Network, sources: Sources, quanta: tuple[float, float]) -> list[Metric]:
    """Compare a network with PCA: on simulated maps at three doses, on measured ones on the lines held out."""
    metrics = []
    for source in sources.judged:
        rows = np.asarray(source.spectra)
        for dose in np.geomspace(*quanta, 3):
            metrics.append(against_truth(source.name, on_map(network, source), rows, float(dose), source.axis))
    for source in sources.held_out:
        if not source.expected:
            metrics.append(_thinned(network, source, None))
    for source in sources.training if not sources.held_out else ():
        if not source.expected:
            metrics.append(_thinned(network, source, np.flatnonzero(_held_out_mask(source))))
    return metrics


def _thinned(network: Network, source: Source, rows: NDArray[np.int64] | None) -> Metric:
    dense = source.spectra.toarray() if isinstance(source.spectra, sparse.csr_array) else source.spectra
    return against_thinned(source.name, on_map(network, source), dense, source.axis, source.read_sigma, rows)


def on_map(network: Network, source: Source) -> Callable[[NDArray[Any]], Float32]:
    """Return what denoises all positions of a map, with their neighbourhoods where the network sees these."""
    around = neighbours(source.nav_shape, source.spectra.shape[0], network.architecture.side)

    def denoised(quanta: NDArray[Any]) -> Float32:
        if network.architecture.side == 1:
            return denoise(network, quanta)
        seen = quanta[np.maximum(around, 0)] * (around >= 0)[:, :, None]
        return denoise(network, seen)

    return denoised


def _alike(sources: Sources) -> Source:
    everything = [*sources.training, *sources.held_out, *sources.judged]
    if not sources.training:
        raise ValueError("nothing to train on: name a specimen or a scan")
    first = everything[0]
    for other in everything[1:]:
        same = other.axis.size == first.axis.size and np.allclose(other.axis.values, first.axis.values)
        if other.technique != first.technique or not same:
            raise ValueError(f"{other.name!r} has another technique or axis than {first.name!r}")
    return first


def _architecture(recipe: Recipe, n_channels: int) -> Architecture:
    return Architecture(
        kind=recipe.kind, n_channels=n_channels, hidden=recipe.hidden, latent=recipe.latent,
        side=recipe.side, calibration=recipe.calibration,
    )  # fmt: skip


def _begun(recipe: Recipe, sources: Sources, first: Source) -> tuple[Network | None, Pairs, tuple[float, float]]:
    """Return the network to go on with, if one is; how pairs are made; quanta in a spectrum."""
    network, quanta = None, recipe.quanta
    if recipe.start is not None:
        card = read_card(recipe.start)
        misfit = card.misfit(first.technique, first.axis)
        if misfit is not None:
            raise ValueError(f"{recipe.start} cannot be trained further on this: {misfit}")
        network = from_onnx(recipe.start, card.architecture)
        quanta = quanta or card.counts
    simulated = all(source.expected for source in sources.training)
    side = network.architecture.side if network is not None else recipe.side
    target = recipe.target or ("truth" if simulated else "thinned")
    usual = [source.counts for source in sources.training]
    quanta = quanta or (max(5.0, min(usual) / 10.0), 10.0 * max(usual))
    return network, Pairs(target, recipe.augmentation, side, recipe.mixed), quanta


def _pools(sources: Sources, pairs: Pairs, quanta: tuple[float, float]) -> tuple[Pool, Pool]:
    held = [_pool(source, pairs, quanta, None) for source in sources.held_out]
    if held:
        return Mixture([_pool(s, pairs, quanta, None) for s in sources.training]), Mixture(held)
    measured = [source for source in sources.training if not source.expected]
    if not measured:
        raise ValueError("simulated spectra need others of their kind to be held out")
    pool = Mixture([_pool(s, pairs, quanta, None if s.expected else ~_held_out_mask(s)) for s in sources.training])
    return pool, Mixture([_pool(source, pairs, quanta, _held_out_mask(source)) for source in measured])


def _pool(source: Source, pairs: Pairs, quanta: tuple[float, float], mask: NDArray[np.bool_] | None) -> Pool:
    if source.expected:
        mixed = 1 if source.nav_shape is not None else pairs.mixed
        pairs = Pairs(pairs.target, pairs.augmentation, pairs.side, mixed)
        return Expected(source.spectra, pairs, quanta, source.nav_shape, source.group)
    rows = None if mask is None else np.flatnonzero(mask)
    return Measured(source.spectra, pairs, read_sigma=source.read_sigma, nav_shape=source.nav_shape, rows=rows)


def _held_out_mask(source: Source) -> NDArray[np.bool_]:
    """Every fifth line of a map, or every fifth spectrum of a list."""
    n = source.spectra.shape[0]
    line = source.nav_shape[-1] if source.nav_shape is not None and len(source.nav_shape) > 1 else 1
    return np.asarray((np.arange(n) // line) % _EVERY == _EVERY - 1)


def _said(source: Source, use: str) -> dict[str, Any]:
    shape = None if source.nav_shape is None else list(source.nav_shape)
    return {
        "name": source.name, "title": source.title, "use": use, "simulated": source.expected,
        "spectra": int(source.spectra.shape[0]), "nav_shape": shape, "counts": source.counts,
    }  # fmt: skip


def _settings(recipe: Recipe, history: History) -> dict[str, Any]:
    return {
        **asdict(recipe.training), "target": recipe.target, "augmentation": asdict(recipe.augmentation),
        "mixed": recipe.mixed, "start": None if recipe.start is None else recipe.start.stem,
        "steps_done": history.steps[-1], "held_out_loss": history.best, "seconds": round(history.seconds, 1),
        "torch": str(torch.__version__), "onnx": onnx.__version__,
    }  # fmt: skip
