"""How often a rare peak in a single spectrum is found: the scan test beside older statistics and an oracle.

`python -m tests.benchmarks.power [--check] [--null 48000]` draws spectra of a scene of four phases, gives some of them
a line that nothing else has, at a place of its own each, and counts how many pass a threshold that 2 in 10,000 spectra
without one pass. All statistics see the same spectra and the same model (learnt from the scene without rare lines).
The oracle is told place, shape and counts of the line and makes the most powerful test there is (Neyman and Pearson)
of that one line; the matched scan knows shape and counts, not the place, which nobody does: what a scan can reach.
With ``--check`` it exits with 1 where the scan test finds more than a tenth (of all lines) fewer than the matched scan,
or fewer than another statistic.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from models.axis import Axis
from models.linear import LinearEngine
from models.noise import POISSON
from tests.unit.models.scenes import Scene, eds_scene

D, SIDE, BATCH, N_RARE = 1024, 64, 256, 2000
RATE = 2e-4
COUNTS, PEAKS = (20.0, 200.0, 1000.0), (4, 6, 8, 12, 16, 24, 40)
SIGMA = 5.5
AXIS = Axis("Energy", "keV", D, 0.0, 0.01)
NAMES = ("scan test", "squared residual", "deviance", "Pearson", "oracle", "matched scan")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """Spectra as measured (n, D), and where each has, or could have, a line (n,)."""

    spectra: NDArray[np.float32]
    place: NDArray[np.int64]


def line(place: NDArray[np.int64]) -> Array:
    """Lines (n, D) of unit sum."""
    return np.asarray(np.exp(-0.5 * ((np.arange(D) - place[:, None]) / SIGMA) ** 2) / (SIGMA * np.sqrt(2 * np.pi)))


def trial(scene: Scene, n: int, counts: float, rng: np.random.Generator) -> Trial:
    """Spectra at random positions, with lines of this many counts on average at random places."""
    place = rng.integers(int(0.05 * D), int(0.95 * D), n)
    mean = scene.expected[rng.integers(0, len(scene.expected), n)]
    return Trial(rng.poisson(mean + counts * line(place)).astype(np.float32), place)


def statistics(engine: LinearEngine, some: Trial, peak: float) -> Array:
    """Every statistic of every spectrum, (n, 6); oracle and matched scan are told the counts of the line."""
    published = engine.score_map.published
    if published is None:
        raise ValueError("the engine has seen nothing")
    x = some.spectra
    exposure = x.sum(axis=1, dtype=np.float64)
    scores = published.shrinkage.apply(published.project(x), exposure, fitted=False)
    scan, _ = published.test(x, scores, exposure, np.ones(len(x)))
    floor = 0.1 * exposure[:, None] * published.basis.mean / published.basis.mean.sum()
    b = np.maximum(np.maximum(scores @ published.eigenspectra, floor), 1e-6).astype(np.float64)
    residual = x - b
    deviance = 2 * (xlogy(x, x / b) - residual).sum(axis=1)
    squared, pearson = (residual**2).sum(axis=1), (residual**2 / b).sum(axis=1)
    oracle = (xlogy(x, 1.0 + peak * line(some.place) / b)).sum(axis=1)
    steps = np.arange(int(0.05 * D), int(0.95 * D), 2)
    reach = int(4 * SIGMA)
    shape = peak * line(np.array([D // 2]))[0, D // 2 - reach : D // 2 + reach + 1]
    best = np.full(len(x), -np.inf)
    for at in steps:
        lo, hi = max(0, int(at) - reach), min(D, int(at) + reach + 1)
        part = shape[lo - at + reach : hi - at + reach]
        here = xlogy(x[:, lo:hi], 1.0 + part / b[:, lo:hi]).sum(axis=1)
        best = np.maximum(best, here)
    return np.stack([scan, squared, deviance, pearson, oracle, best], axis=1)


def in_pieces(engine: LinearEngine, scene: Scene, n: int, counts: float, peak: float, seed: int) -> Array:
    """Statistics of n spectra with lines of `counts`, for who expects lines of `peak` counts."""
    rng = np.random.default_rng(seed)
    sizes = [min(1000, n - first) for first in range(0, n, 1000)]
    return np.concatenate([statistics(engine, trial(scene, size, counts, rng), peak) for size in sizes])


def learnt(scene: Scene, seed: int) -> LinearEngine:
    """An engine that has seen four passes of the scene, without rare lines."""
    engine = LinearEngine(SIDE * SIDE, D, noise=POISSON, axis=AXIS)
    for number in range(4):
        visit = scene.visit(seed + number)
        for first in range(0, SIDE * SIDE, BATCH):
            engine.process(np.arange(first, first + BATCH, dtype=np.uint32), visit[first : first + BATCH])
        engine.promote()
    return engine


def powers(counts: float, n_null: int, seed: int) -> Array:
    """Share of lines found, (peaks, statistics)."""
    scene = eds_scene(counts, side=SIDE, d=D, seed=seed)
    engine = learnt(scene, seed)
    found = []
    for peak in PEAKS:
        null = in_pieces(engine, scene, n_null, 0.0, peak, seed + 100)
        threshold = np.quantile(null, 1 - RATE, axis=0)
        rare = in_pieces(engine, scene, N_RARE, peak, peak, seed + 200 + peak)
        found.append((rare > threshold).mean(axis=0))
    return np.stack(found)


def main() -> int:
    """Print the table; with --check, 1 where the scan test falls short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where the target is missed")
    parser.add_argument("--null", type=int, default=48_000, help="spectra without a line for each threshold")
    parser.add_argument("--counts", type=float, nargs="*", default=list(COUNTS), help="counts a spectrum")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    missed = False
    print(f"power at a false-alarm rate of {RATE:g}, {options.null:,} null and {N_RARE:,} rare spectra each")
    print(f"{'counts':>7} {'line':>5}  " + " ".join(f"{name:>16}" for name in NAMES))
    for counts in options.counts:
        for peak, row in zip(PEAKS, powers(counts, options.null, options.seed), strict=True):
            short = row[0] < row[5] - 0.1 or row[0] < row[1:4].max() - 0.02
            missed |= bool(short)
            text = " ".join(f"{value:16.3f}" for value in row)
            print(f"{counts:7g} {peak:5d}  {text} {'MISSED' if short else ''}", flush=True)
    return int(options.check and missed)


if __name__ == "__main__":
    sys.exit(main())
