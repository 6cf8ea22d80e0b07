"""A whole EDS map, 512 x 512 x 2,048 at 20 counts, from the first message to the final map, beside HyperSpy offline.

`python -m tests.benchmarks.map512 [--check] [--quick] [--only dense|list]`. The simulator's `map512` (six phases and a
rare one) goes through the default daemon as a process, over ZeroMQ, in list mode and dense, as fast as the daemon takes
it; the clock runs until its last map is out, with every position fitted again. HyperSpy decomposes the same counts in
the same run, from a cube that is in memory already: SVD with Poisson normalisation and 16 components (randomised, as it
chooses by itself), the same without a number of components (full, its default), and ORPCA. What would take minutes is
timed on the first lines of the map and given for each spectrum: both are linear in spectra. Errors are squared, against
the known truth, in Keenan-Kotula variances summed over channels; HyperSpy's with the best of all ranks.

HyperSpy is optional: pip install 'scanwise[bench]'. With ``--check`` this exits with 1 where the map takes more than
10 s, longer than HyperSpy, or has more than 1.02 times the error.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import cache
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.sample import Specimen, load_specimen
from simulator.scene import SimulatedScene
from streamer.wire import Events
from tests.benchmarks._stream import Stream
from tests.benchmarks.chain import Run, chain
from tests.system.outsider import Asker, Bench, header

Array = NDArray[np.float64]
SIDE, CHANNELS, COUNTS, SEED, K = 512, 2048, 20.0, 1, 16
DRAWN = 4096
FULL_ROWS, ORPCA_ROWS = 8192, 4096
WITHIN_S, AS_GOOD = 10.0, 1.02
LEAST_COUNTS = 1.0


@cache
def specimen() -> Specimen:
    """Return what is scanned."""
    return load_specimen("map512", seed=SEED, shape=(SIDE, SIDE), channels=CHANNELS)


@dataclass(frozen=True)
class MapStream(Stream):
    """One pass over the specimen: the same counts whenever they are drawn."""

    def header(self) -> list[bytes]:
        """Return the header message, with the specimen's axis."""
        keys: dict[str, Any] = {"technique": "eds", "noise": {"model": "poisson"}, "expected": self.n_spectra}
        axis = specimen().axis.to_map()
        return header(self.name, [self.side, self.side], self.n_channels, axis=axis, **keys)

    def blocks(self, seed: int = SEED) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint16]]]:
        """Draw the spectra of each message: offsets (n + 1,) and channels of single counts."""
        scene = SimulatedScene(specimen(), counts=self.counts, dwell_s=1e-3, seed=seed, list_mode=True)
        for first in range(0, self.n_spectra, DRAWN):
            where = np.arange(first, min(first + DRAWN, self.n_spectra), dtype=np.uint32)
            drawn = scene.measure(where, np.zeros(len(where), dtype=np.int64), np.full(len(where), 1e-3))
            assert isinstance(drawn, Events)
            offsets = np.asarray(drawn.offsets, dtype=np.uint32)
            for begin in range(0, len(where), self.block):
                part = offsets[begin : begin + self.block + 1]
                yield part - part[0], np.asarray(drawn.channels[part[0] : part[-1]], dtype=np.uint16)


@dataclass(frozen=True)
class Truth:
    """Errors of factored maps against the factored truth, without making either."""

    abundances: Array
    spectra: Array
    h: Array
    g: Array

    @classmethod
    def of(cls, rows: int) -> Truth:
        """Return the truth of the first positions."""
        sample = specimen()
        abundances, spectra = COUNTS * sample.abundances[:rows], sample.endmembers
        total = abundances.sum(axis=0) @ spectra
        lit = total >= LEAST_COUNTS
        h = np.sqrt(abundances @ spectra.sum(axis=1))
        g = np.sqrt(np.where(lit, total, np.inf) / total.sum())
        return cls(abundances / h[:, None], spectra / g, h, g)

    def errors(self, scores: NDArray[Any], spectra: NDArray[Any]) -> Array:
        """Mean squared errors of scores (n, K) times spectra (K, D), with the first component, the first two, ..."""
        mine, lines = np.asarray(scores, dtype=np.float64) / self.h[:, None], spectra / self.g
        own = (mine.T @ mine) * (lines @ lines.T)
        cross = ((mine.T @ self.abundances) * (lines @ self.spectra.T)).sum(axis=1)
        truth = ((self.abundances.T @ self.abundances) * (self.spectra @ self.spectra.T)).sum()
        found = own.cumsum(axis=0).cumsum(axis=1).diagonal() - 2 * cross.cumsum() + truth
        return np.asarray(found / len(self.h))


@dataclass(frozen=True)
class Offline:
    """A decomposition by HyperSpy: seconds, of so many spectra, and the smallest error with its rank."""

    name: str
    seconds: float
    rows: int
    error: float
    rank: int

    @property
    def whole_s(self) -> float:
        """Seconds of the whole map."""
        return self.seconds * SIDE**2 / self.rows


def cube(stream: Stream) -> NDArray[np.float32]:
    """Return all counts (n, D)."""
    found = np.empty((stream.n_spectra, stream.n_channels), dtype=np.float32)
    for number, block in enumerate(stream.blocks()):
        first = number * stream.block
        found[first : first + stream.block] = stream.dense(*block)
    return found


def decompose(name: str, counts: NDArray[np.float32], **how: Any) -> Offline:
    """Let HyperSpy decompose counts, which it changes, and compare with the truth."""
    # Its progress bars are no part of the table.
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        from hyperspy.signals import Signal1D

        signal = Signal1D(counts)
        begun_s = time.perf_counter()
        signal.decomposition(normalize_poissonian_noise=True, print_info=False, **how)
        seconds = time.perf_counter() - begun_s
    found = signal.learning_results
    scores = np.nan_to_num(found.loadings[:, :K])
    errors = Truth.of(len(counts)).errors(scores, np.nan_to_num(found.factors[:, :K]).T)
    return Offline(name, seconds, len(counts), float(errors.min()), int(errors.argmin()) + 1)


def hyperspy(stream: Stream, quick: bool) -> Iterator[Offline]:
    """Time HyperSpy on the counts of a stream."""
    counts = cube(replace(stream, n_spectra=stream.n_spectra // (8 if quick else 1)))
    some, few = counts[:FULL_ROWS].copy(), counts[:ORPCA_ROWS].copy()
    yield decompose(f"ORPCA, {K} components", few, algorithm="ORPCA", output_dimension=K, training_samples=4 * K)
    yield decompose("SVD, all components", some, algorithm="SVD")
    yield decompose(f"SVD, {K} components", counts, algorithm="SVD", output_dimension=K)


@dataclass(frozen=True)
class Live:
    """The map through the daemon."""

    run: Run
    error: float
    rank: int

    @property
    def seconds(self) -> float:
        """From the first message sent to the end of the series, which is published after the final maps."""
        return self.run.drained.end_s - self.run.sent.first_s


def live(stream: Stream) -> Live:
    """Send the map through a warm daemon."""
    with chain() as through:
        through.run(replace(stream, name=f"{stream.name}-warm", n_spectra=1 << 16))
        run = through.run(stream)
        bench = Bench()
        asker = Asker(bench, through.server.control)
        _, basis = asker.ask("basis")
        _, maps = asker.ask("snapshot", names=["scores"])
        bench.close()
    scores = np.nan_to_num(maps["scores"].reshape(SIDE**2, -1))
    whole = np.column_stack([np.ones(len(scores)), scores])
    error = Truth.of(SIDE**2).errors(whole, np.vstack([basis["mean"], basis["eigenspectra"]]))[-1]
    return Live(run, float(error), scores.shape[1])


def main() -> int:
    """Run and print; 1 where a target is missed under --check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--quick", action="store_true", help="HyperSpy on an eighth of the map")
    parser.add_argument("--only", choices=["list", "dense"], help="one way of sending")
    options = parser.parse_args()
    stream = MapStream("list", "events", COUNTS, SIDE**2, side=SIDE, n_channels=CHANNELS)
    print(f"{SIDE} x {SIDE} x {CHANNELS}, {COUNTS:g} counts a spectrum; BLAS threads: {_threads()}")
    print("what                             seconds   of spectra   whole map s    error   rank")
    offline: list[Offline] = []
    if importlib.util.find_spec("hyperspy") is None:
        print("HyperSpy is not installed, so there is nothing to compare with: pip install 'scanwise[bench]'")
    else:
        for o in hyperspy(stream, options.quick):
            offline.append(o)
            print(
                f"HyperSpy {o.name:22s} {o.seconds:8.1f} {o.rows:12,} {o.whole_s:13.1f} {o.error:8.3f} {o.rank:6d}",
                flush=True,
            )
    missed = []
    for s in (stream, replace(stream, name="dense", kind="dense")):
        if options.only in (None, s.name):
            missed += show(live(s), s, offline)
    for line in missed:
        print(f"MISSED {line}")
    return int(options.check and bool(missed))


def show(found: Live, stream: Stream, offline: list[Offline]) -> list[str]:
    """Print the daemon's line, and return what misses its target."""
    seconds, name = found.seconds, f"scanwise, {'list mode' if stream.kind == 'events' else 'dense'}"
    n = found.run.sent.n_spectra
    print(f"{name:31s} {seconds:8.1f} {n:12,} {seconds:13.1f} {found.error:8.3f} {found.rank:6d}")
    sent, result = (t - found.run.sent.first_s for t in (found.run.sent.last_s, found.run.result_s))
    print(
        f"   of which {sent:.1f} s until the last spectrum was sent, {result:.1f} s until it had its result", flush=True
    )
    missed = [] if found.run.balanced else [f"{name}: not every spectrum was processed and had a result"]
    if seconds > WITHIN_S:
        missed.append(f"{name}: {seconds:.1f} s (<= {WITHIN_S:g})")
    for o in offline:
        print(f"   {o.whole_s / seconds:.1f} times as fast as HyperSpy's {o.name}")
        if o.whole_s < seconds:
            missed.append(f"{name}: slower than HyperSpy's {o.name}")
    whole = [o for o in offline if o.rows == n]
    for o in whole:
        print(f"   {found.error / o.error:.3f} times the error of HyperSpy's {o.name} (<= {AS_GOOD})")
        if found.error > AS_GOOD * o.error:
            missed.append(f"{name}: {found.error / o.error:.3f} times the error of HyperSpy's {o.name}")
    return missed


def _threads() -> str:
    return os.environ.get("OPENBLAS_NUM_THREADS", f"default, {os.cpu_count()} cores")


if __name__ == "__main__":
    sys.exit(main())
