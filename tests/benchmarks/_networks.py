"""What the benchmarks of networks share: networks that are trained once and kept, and errors of spectra."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from models.card import Architecture
from models.export import to_onnx
from models.networks import Network, make_network
from models.pools import Pool
from models.sessions import Session
from models.train import TrainConfig, fresh, train
from tests.reference import BatchPCA, weighted_error

Floats = NDArray[np.float64]
SEED = 0


def trained(
    folder: Path, name: str, architecture: Architecture, pool: Pool, held_out: Pool, config: TrainConfig
) -> tuple[Network, float]:
    """A network of that name and the seconds of processor time that its training took, from the folder where it is
    there already.
    """
    weights, facts = folder / f"{name}.pt", folder / f"{name}.json"
    if weights.exists() and facts.exists():
        network = make_network(architecture, pool.mean, SEED)
        network.load_state_dict(torch.load(weights, weights_only=True))
        return network.eval(), float(json.loads(facts.read_text())["seconds"])
    folder.mkdir(parents=True, exist_ok=True)
    network = fresh(architecture, pool, SEED)
    begun = time.process_time()
    train(network, pool, held_out, config)
    seconds = time.process_time() - begun
    torch.save(network.state_dict(), weights)
    facts.write_text(json.dumps({"seconds": seconds}))
    return network, seconds


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Arrays of a file, made where it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **make())
    with np.load(path) as stored:
        return dict(stored)


def inference_us(network: Network, folder: Path, rows: int = 256) -> float:
    """Microseconds a spectrum in ONNX Runtime, one thread, in blocks: the least of some repeats."""
    path = folder / "timed.onnx"
    to_onnx(network, path)
    session = Session(onnx.load(path), rows, "cpu")
    counts = np.random.default_rng(0).poisson(1.0, (rows, network.architecture.n_channels)).astype(np.float32)
    times = []
    for _ in range(12):
        begun = time.process_time()
        session.run({"counts": counts})
        times.append(time.process_time() - begun)
    return min(times) / rows * 1e6


def best_pca_error(counts: NDArray[Any], truth: Floats, max_rank: int = 24) -> float:
    """Smallest error that batch PCA reaches with any rank, truncated or shrunk: it needs the truth to choose it."""
    fit = BatchPCA.of(counts, max_rank)
    return min(weighted_error(y, truth) for way in (fit, fit.shrunk()) for y in way.spectra())


def at_dose(expected: NDArray[Any], dose: float, seed: int = 0) -> tuple[Floats, NDArray[np.float32]]:
    """Expected spectra (n, D) at a mean of `dose` counts, and counts drawn from them."""
    truth = np.asarray(expected, dtype=np.float64)
    truth = truth * (dose / truth.sum(axis=1).mean())
    return truth, np.random.default_rng(seed).poisson(truth).astype(np.float32)


def options_of(description: str | None, only: Iterable[str] = ()) -> argparse.Namespace:
    """Read the options that all of these benchmarks have: --check, --out, and --only where there is a choice."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true")
    if choices := list(only):
        parser.add_argument("--only", choices=choices)
    parser.add_argument("--out", type=Path, default=Path("build/networks"))
    mpl.use("Agg")
    return parser.parse_args()


class Targets:
    """Prints figures beside what is asked of them, and remembers what was missed."""

    def __init__(self) -> None:
        self.missed = 0

    def judge(self, name: str, figure: str, ok: bool) -> None:
        """One line."""
        self.missed += not ok
        print(f"{name:64s} {figure:36s}{'' if ok else 'MISSED'}", flush=True)
