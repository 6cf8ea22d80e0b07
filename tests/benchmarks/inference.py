"""Networks: each way to run one beside PyTorch and numpy, and the whole daemon with one beside its linear model.

`python -m tests.benchmarks.inference [--check] [--only networks|chain|latency]`. The lecture's hourglass (2048 - 512 -
128 - 32 - 8 and back) is trained for a moment on the spectra that are sent. Networks: time of one spectrum, and spectra
a second at 16, 64 and 256, in ONNX Runtime (float32, int8, encoder alone), in PyTorch eager, and as plain products of
the same weights in numpy, one thread each, in turns. Chain: spectra at 20,000 a second in blocks of 256 through the
daemon, which must lose none and let the network see them; then as fast as they are taken, with the network and without.
Latency: single spectra at 1,000 a second, from send to result.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from models.axis import Axis
from models.card import read_card
from models.export import from_onnx
from models.graphs import weights
from models.inference import TrainedNetwork
from models.precision import choose
from tests.benchmarks._stream import Stream
from tests.benchmarks.chain import chain
from tests.benchmarks.latency import spectra, through_daemon
from tests.networks import train_for
from tests.system.outsider import image

D, SIZES = 2048, (1, 16, 64, 256)
RATE, TARGET_P99_MS, TARGET_INT8, TARGET_COST = 20_000, 5.0, 3.0, 0.01
SECONDS = 8.0
STREAM = Stream("paced", "dense", 200.0, int(RATE * SECONDS) // 256 * 256, rate=RATE)
Run = Callable[[NDArray[np.float32]], Any]


def trained(folder: Path) -> Path:
    """Train the hourglass on what is sent."""
    path = folder / "hourglass.onnx"
    if not path.exists():
        axis = Axis("Energy", "keV", D, 0.0, 0.01)
        shapes = np.concatenate([STREAM.shapes(), spectra_shapes()])
        train_for(shapes, path, axis=axis, counts=(50.0, 2000.0), steps=300, hidden=(512, 128, 32), latent=8)
    return path


def spectra_shapes() -> NDArray[np.float64]:
    """Return the mean spectra of the four phases of the latency benchmark."""
    rows = spectra(4096).astype(np.float64)
    phase = np.arange(4096) % 128 * 4 // 128
    return np.stack([rows[phase == p].mean(axis=0) for p in range(4)]) / 200.0


def in_numpy(held: dict[str, NDArray[Any]]) -> Run:
    """Return the same network as products in numpy."""
    dense = [(held[f"{n}.weight"].T.copy(), held[f"{n}.bias"]) for n in _layers(held)]
    mean = held["mean"]

    def run(counts: NDArray[np.float32]) -> NDArray[np.float32]:
        total = np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
        x = np.sqrt(counts) * np.sqrt(D / total)
        for number, (weight, bias) in enumerate(dense):
            x = x @ weight + bias
            if number not in {len(dense) // 2 - 1, len(dense) - 1}:
                np.maximum(x, 0.0, out=x)
        return np.asarray(mean * (np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))) * (total / D))

    return run


def _layers(held: dict[str, NDArray[Any]]) -> list[str]:
    """Names of the dense layers in their order."""
    inner = [
        sorted({n.rsplit(".", 1)[0] for n in held if n.startswith(f"{part}.")}, key=_number)
        for part in ("encoder", "body")
    ]
    return ["first", *inner[0], *inner[1], "last"]


def _number(name: str) -> int:
    return int(name.rpartition(".")[2])


def ways(path: Path) -> dict[str, Run]:
    """Every way to run the network, each checked to give the same but for int8."""
    model, card = onnx.load(path), read_card(path)
    plain = TrainedNetwork(model, card, device="cpu")
    small = TrainedNetwork(model, card, device="cpu", precision="int8")
    network = from_onnx(path, card.architecture).eval()

    @torch.no_grad()
    def eager(counts: NDArray[np.float32]) -> Any:
        return network(torch.from_numpy(counts))[0].numpy()

    found: dict[str, Run] = {
        "ONNX Runtime float32": lambda c: plain.denoise(c).spectra,
        "ONNX Runtime int8": lambda c: small.denoise(c).spectra,
        "its encoder alone": plain.transform,
        "PyTorch eager": eager,
        "numpy products": in_numpy(weights(model)),
    }
    counts = np.random.default_rng(0).poisson(0.1, (8, D)).astype(np.float32)
    for name in ("PyTorch eager", "numpy products"):
        np.testing.assert_allclose(found[name](counts), plain.denoise(counts).spectra, rtol=1e-3, atol=1e-4)
    return found


def time_networks(path: Path, repeats: int = 15) -> bool:
    """Print times of each way; whether int8 is taken only where it pays."""
    torch.set_num_threads(1)
    found, rng = ways(path), np.random.default_rng(1)
    blocks = {n: rng.poisson(0.1, (n, D)).astype(np.float32) for n in SIZES}
    times: dict[tuple[str, int], list[float]] = {(w, n): [] for w in found for n in SIZES}
    for _ in range(repeats):
        for name, run in found.items():
            for n, block in blocks.items():
                begun_s = time.perf_counter()
                run(block)
                times[name, n].append(time.perf_counter() - begun_s)
    print(f"hourglass, one thread: {'one, us':>19s} " + " ".join(f"{n:>9d}/s" for n in SIZES[1:]) + "   x numpy at 256")
    for name in found:
        each = {n: median(times[name, n]) for n in SIZES}
        rates = " ".join(f"{n / each[n]:11,.0f}" for n in SIZES[1:])
        ratio = median(times["numpy products", 256]) / each[256]
        print(f"   {name:22s} {1e6 * each[1]:15.0f} {rates}   {ratio:6.2f}")
    choice = choose(onnx.load(path), read_card(path))
    cost = 100 * (choice.cost - 1)
    print(f"   int8 here: {choice.speed:.2f} x float32, {cost:+.2f} % error: {choice.precision} is used")
    right = (choice.precision == "int8") == (choice.speed > 1.0 and choice.cost < 1.0 + TARGET_COST)
    if choice.speed < TARGET_INT8:
        print(f"   int8 below the aim of {TARGET_INT8:g} x for VNNI")
    return right


@contextmanager
def networks(folder: Path | None) -> Iterator[None]:
    """Give the daemon networks from a folder, or none."""
    os.environ["SCANWISE_NETWORKS__FOLDERS"] = json.dumps([] if folder is None else [str(folder)])
    os.environ["SCANWISE_NETWORKS__ENABLED"] = str(folder is not None).lower()
    try:
        yield
    finally:
        del os.environ["SCANWISE_NETWORKS__FOLDERS"], os.environ["SCANWISE_NETWORKS__ENABLED"]


def time_chain(folder: Path) -> bool:
    """Send at a rate with a network; then as fast as it goes, with and without."""
    with networks(folder), chain() as through:
        through.run(replace(STREAM, name="first", rate=0.0, n_spectra=1 << 15))
        run = through.run(STREAM)
        free = through.run(replace(STREAM, name="free", rate=0.0))
    with networks(None), chain() as through:
        through.run(replace(STREAM, name="first", rate=0.0, n_spectra=1 << 15))
        bare = through.run(replace(STREAM, name="bare", rate=0.0))
    status = run.drained.status.get("network") or {}
    share = status.get("looked", 0) / run.sent.n_spectra
    lost = sum(run.drained.end["lost"].values())
    told = {k: status.get(k) for k in ("precision", "shown", "disagreements", "merit")}
    print(f"chain, {D} channels, hourglass beside PCA, sent at {RATE:,} spectra/s:")
    print(f"   {run.rate:,.0f}/s, lost {lost}; the network saw {100 * share:.0f} % of them meanwhile; {told}")
    print(f"   as fast as they are taken: {free.rate:,.0f}/s with, {bare.rate:,.0f}/s without a network")
    print(f"   ratio {free.rate / bare.rate:.2f}: under load the network gives way")
    met = run.balanced and run.rate > 0.98 * RATE and share > 0.9
    print(f"   {'met' if met else 'MISSED'}: {RATE:,} spectra/s, none lost, 9 of 10 seen by both")
    return met


def time_latency(folder: Path) -> bool:
    """Single spectra at 1,000 a second, with the network and without."""
    n = 13_000
    messages = [image("latency", 1 + i, i, row) for i, row in enumerate(spectra(n))]
    found = {}
    for name, where in (("without", None), ("with", folder)):
        with networks(where):
            found[name] = through_daemon(messages, 1000.0)
        p50, p99, lost = found[name]
        print(
            f"1,000 single spectra a second {name:8s} a network: p50 {p50:.2f} ms, p99 {p99:.2f} ms, lost {lost}",
            flush=True,
        )
    met = found["with"][1] < TARGET_P99_MS and not found["with"][2]
    print(f"   {'met' if met else 'MISSED'}: p99 under {TARGET_P99_MS:g} ms")
    return met


def main() -> int:
    """Run and print; 1 where a target is missed under --check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", choices=["networks", "chain", "latency"], action="append")
    parser.add_argument("--folder", type=Path, help="keep the trained network here")
    options = parser.parse_args()
    parts = {"networks": lambda f: time_networks(f / "hourglass.onnx"), "chain": time_chain, "latency": time_latency}
    met = True
    with tempfile.TemporaryDirectory() as folder:
        place = options.folder or Path(folder)
        trained(place)
        for name in options.only or parts:
            met &= parts[name](place)
    return int(options.check and not met)


if __name__ == "__main__":
    sys.exit(main())
