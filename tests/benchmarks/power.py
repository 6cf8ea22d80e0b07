"""How often a rare peak in a single spectrum is found: the scan test beside older statistics and an oracle.

`python -m tests.benchmarks.power [--check] [--null 48000]` draws spectra of a scene of four phases, gives some of them
a line that nothing else has, at a place of its own each, and counts how many pass a threshold that 2 in 10,000 spectra
without one pass. All statistics see the same spectra and the same model (learnt from the scene without rare lines).
The oracle is told place, shape and counts of the line and makes the most powerful test there is (Neyman and Pearson)
of that one line. The placeless one is told shape and counts, but not the place, which nobody knows: its likelihood
ratio is averaged over all places, and by the same lemma no test that is not told the place finds more of them. What
the oracle finds beyond it is the price of looking everywhere, which nothing can save; what the placeless one finds
beyond the scan test, which is told nothing, is what could be gained. With ``--check`` it exits with 1 where the scan
test finds more than a tenth (of all lines) fewer than the placeless oracle, or fewer than another statistic.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, xlogy

from models.axis import Axis
from models.distances import Distances, t2
from models.linear import LinearEngine
from models.noise import POISSON
from tests.unit.models.scenes import Scene, eds_scene

D, SIDE, BATCH, N_RARE = 1024, 64, 256, 2000
RATE = 2e-4
COUNTS, PEAKS = (20.0, 200.0, 1000.0), (4, 6, 8, 12, 16, 24, 40)
SIGMA = 5.5
AXIS = Axis("Energy", "keV", D, 0.0, 0.01)
NAMES = ("scan test", "squared residual", "Q", "T2", "deviance", "Pearson", "oracle", "placeless")
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
    """Every statistic of every spectrum, (n, 8); the last two are told the counts of the line."""
    published = engine.score_map.published
    if published is None:
        raise ValueError("the engine has seen nothing")
    x, alone = some.spectra, np.ones(len(some.spectra))
    exposure = x.sum(axis=1, dtype=np.float64)
    raw = published.project(x)
    scores = published.shrinkage.apply(raw, exposure, fitted=False)
    scan, _ = published.test(x, scores, exposure, alone)
    floor = 0.1 * exposure[:, None] * published.basis.mean / published.basis.mean.sum()
    b = np.maximum(np.maximum(scores @ published.eigenspectra, floor), 1e-6).astype(np.float64)
    residual = x - b
    deviance = 2 * (xlogy(x, x / b) - residual).sum(axis=1)
    squared, pearson = (residual**2).sum(axis=1), (residual**2 / b).sum(axis=1)
    q, _ = Distances(published, RATE).of(x, None, raw, alone)
    classic = [q, t2(published, raw, exposure, RATE)]
    oracle = (xlogy(x, 1.0 + peak * line(some.place) / b)).sum(axis=1)
    return np.stack([scan, squared, *classic, deviance, pearson, oracle, anywhere(x, b, peak)], axis=1)


def anywhere(x: NDArray[np.float32], b: Array, peak: float) -> Array:
    """Log likelihood ratio (n,) of a line of known shape and counts that is equally likely at any place."""
    lo, hi, reach = int(0.05 * D), int(0.95 * D), int(4 * SIGMA)
    height = peak * line(np.array([D // 2]))[0, D // 2 :]
    rows, channels = np.nonzero(x)
    counts, expected = x[rows, channels].astype(np.float64), b[rows, channels]
    ratio = np.zeros(x.size)
    for away in range(reach + 1):
        more = counts * np.log1p(height[away] / expected)
        for place in (channels - away, channels + away)[: 2 if away else 1]:
            here = (place >= lo) & (place < hi)
            ratio += np.bincount(rows[here] * D + place[here], more[here], minlength=ratio.size)
    return np.asarray(logsumexp(ratio.reshape(len(x), D)[:, lo:hi], axis=1))


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


def powers(counts: float, peaks: list[int], n_null: int, seed: int) -> Array:
    """Share of lines found, (peaks, statistics)."""
    scene = eds_scene(counts, side=SIDE, d=D, seed=seed)
    engine = learnt(scene, seed)
    found = []
    for peak in peaks:
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
    parser.add_argument("--peaks", type=int, nargs="*", default=list(PEAKS), help="counts a line")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    missed = False
    print(f"power at a false-alarm rate of {RATE:g}, {options.null:,} null and {N_RARE:,} rare spectra each")
    print(f"{'counts':>7} {'line':>5}  " + " ".join(f"{name:>16}" for name in NAMES))
    for counts in options.counts:
        for peak, row in zip(options.peaks, powers(counts, options.peaks, options.null, options.seed), strict=True):
            short = row[0] < row[7] - 0.1 or row[0] < row[1:6].max() - 0.02
            missed |= bool(short)
            text = " ".join(f"{value:16.3f}" for value in row)
            print(f"{counts:7g} {peak:5d}  {text} {'MISSED' if short else ''}", flush=True)
    return int(options.check and missed)


if __name__ == "__main__":
    sys.exit(main())
