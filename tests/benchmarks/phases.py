"""Phases found live, beside offline K-means that is told their number.

Run `python -m tests.benchmarks.phases [--check] [--quick] [--only SPECIMEN] [--dose COUNTS] [--seed N]`. Adjusted Rand
index against the true phase map of simulated specimens. The reference is K-means on the scores of offline Keenan-Kotula
PCA of the same counts, with and without division by the exposure, given the true number of phases with and without the
unexpected ones: the best of the four. It calls each position by its own spectrum; what ours are before neighbours have
their say is given as `alone`. Times are of the processor.
The number of phases is right where it is that of the expected ones; rare unexpected ones may be found besides. Where it
is too small, it is held against what becomes of a mixture that begins with the true compositions, in the same
components: phases that it drops as well are not to be told apart there (`oracle`), and are no miss.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from models.axis import Axis
from models.base import done
from models.linear import LinearEngine
from models.noise import POISSON
from models.phase_growth import PhaseLimits, grown
from models.phase_sample import Grid, spread_out
from models.phase_starts import with_phases
from models.phases import Phases
from simulator.sample import Specimen, load_specimen

SPECIMENS: dict[str, tuple[int, int] | None] = {
    "exercise": None,
    "core_shell": None,
    "steel_phases": None,
    "map512": (128, 128),
    "five_alloys": None,
}
FILES = {"five_alloys": str(Path(__file__).with_name("five_alloys.toml"))}
DOSES, COUNTED_DOSES = (15.0, 50.0, 200.0), (50.0, 200.0)
TOLERANCE = 0.01
BLOCK, IDLE_PIECES, PROMOTE_BLOCKS, ORACLE_SAMPLE = 256, 100, 8, 2048


@dataclass
class Cost:
    """Seconds of processor time of each piece of idle work, and of the end."""

    pieces_s: list[float] = field(default_factory=list)
    end_s: float = 0.0


def live(specimen: Specimen, counts: NDArray[np.uint16]) -> tuple[LinearEngine, Phases, Cost]:
    """Scan with idle time between blocks, and close the series."""
    values, d = specimen.axis.values, counts.shape[1]
    axis = Axis(specimen.axis.name, specimen.axis.units, d, values[0], values[1] - values[0])
    engine = LinearEngine(len(counts), d, noise=POISSON, axis=axis)
    phases, cost = Phases(engine, axis.peak_width_channels(), specimen.nav_shape), Cost()
    for number, first in enumerate(range(0, len(counts), BLOCK)):
        block = counts[first : first + BLOCK]
        engine.process(np.arange(first, first + len(block), dtype=np.uint32), block)
        if number % PROMOTE_BLOCKS == PROMOTE_BLOCKS - 1:
            engine.promote()
        for _ in range(IDLE_PIECES):
            if engine.wants_background:
                engine.background()
            elif phases.wants_work:
                start = time.process_time()
                phases.work()
                cost.pieces_s.append(time.process_time() - start)
    engine.finish()
    start = time.process_time()
    phases.finish()
    cost.end_s = time.process_time() - start
    return engine, phases, cost


def reference(counts: NDArray[np.uint16], truth: NDArray[np.int32], sizes: set[int]) -> float:
    """Best adjusted Rand index of K-means on Keenan-Kotula scores."""
    total = np.maximum(counts.sum(axis=1), 1.0)[:, None]
    mean = counts.sum(axis=0) / counts.sum()
    lit = mean > 0
    scaled = counts[:, lit] / np.sqrt(total * mean[lit])
    _, vectors = np.linalg.eigh(scaled.T @ scaled)
    found = []
    for k in sizes:
        scores = scaled @ vectors[:, ::-1][:, :k]
        for rows in (scores, scores / np.sqrt(total)):
            label = KMeans(k, n_init=10, random_state=0).fit_predict(rows)
            found.append(float(adjusted_rand_score(truth, label)))
    return max(found)


def oracle(engine: LinearEngine, phases: Phases, truth: NDArray[np.int32], shape: tuple[int, ...]) -> int:
    """How many phases are left of the true ones, by the rules and in the components that ours were found with."""
    if phases.found is None:
        return 1
    view, mixture, _ = phases.found
    every = view.composition(np.arange(truth.size))
    means = []
    for k in np.unique(truth):
        e = every.exposure * (truth == k)
        means.append((e @ every.z / e.sum(), float(np.mean(truth == k))))
    positions = spread_out(truth.size, ORACLE_SAMPLE)
    sample = view.sample(positions)
    sample = replace(sample, weight=sample.weight * (truth.size / sample.size))
    start = with_phases(mixture, 0, means, view.space)
    grid = Grid(positions, shape, view, engine.score_map, np.ones(truth.size, dtype=np.bool_))
    return len(done(grown(start, sample, view.likelihood, PhaseLimits(), grid)).mixture.phases)


def compare(name: str, dose: float, seed: int, missed: list[str]) -> None:
    """Print the figures of one scan."""
    specimen = load_specimen(FILES.get(name, name), seed=seed, shape=SPECIMENS[name])
    counts = np.random.default_rng(seed + 100).poisson(dose * specimen.expected()).astype(np.uint16)
    truth = specimen.phase_map().ravel()
    n_all, n_expected = len(np.unique(truth)), len(specimen.phases) - len(specimen.unexpected)
    engine, phases, cost = live(specimen, counts)
    ours, alone = (float(adjusted_rand_score(truth, label)) for label in (phases.label, phases.alone))
    best = reference(counts, truth, {n_all, n_expected})
    n = len(phases.infos)
    told = oracle(engine, phases, truth, specimen.nav_shape) if n < n_expected else n_expected
    right = min(told, n_expected) <= n <= n_all or dose not in COUNTED_DOSES
    p50, p99 = (1e3 * float(np.quantile(cost.pieces_s, q)) for q in (0.5, 0.99))
    figure = f"ARI {ours:.3f} (alone {alone:.3f}), K-means {best:.3f}; {n} phases of {n_expected} to {n_all}"
    figure += f" (oracle {told})" if n < n_expected else ""
    figure += f"; piece {p50:.1f} ms"
    figure += f" (p99 {p99:.1f}), {sum(cost.pieces_s):.1f} s in all, end {cost.end_s:.1f} s"
    ok = right and ours >= best - TOLERANCE
    print(f"{name:14s} {dose:4.0f} counts, seed {seed}: {figure} {'' if ok else 'MISSED'}", flush=True)
    if not ok:
        missed.append(f"{name} {dose:g} {seed}")


def main() -> int:
    """Print all figures; with --check, 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--quick", action="store_true", help="one specimen, one seed")
    parser.add_argument("--only", choices=SPECIMENS, help="one specimen")
    parser.add_argument("--dose", type=float, help="one dose, in counts a position")
    parser.add_argument("--seed", type=int, action="append", help="one seed; may be repeated")
    options = parser.parse_args()
    missed: list[str] = []
    names = ["steel_phases"] if options.quick else list(SPECIMENS)
    for name in names if options.only is None else [options.only]:
        for dose in DOSES if options.dose is None else [options.dose]:
            for seed in options.seed or ((0,) if options.quick else (0, 1)):
                compare(name, dose, seed, missed)
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
