"""Error of the final live map beside the best that batch PCA can do offline with the same counts.

`python -m tests.benchmarks.quality [--check] [--quick] [--seeds N]`. Specimens of the simulator, whose truth is known;
two passes of Poisson counts through the linear engine with the daemon's defaults. References: Keenan-Kotula PCA of the
accumulated counts with the best of all ranks from 1 to 24 by the truth, and the same with its singular values shrunk
optimally (Gavish and Donoho 2017), again with the best of all ranks. Nobody has either offline: both need the truth to
choose their rank. Errors are squared, in units of the Keenan-Kotula variance of the truth, over the channels where the
whole map is expected to have at least one count: beyond the ends of a spectrum that variance is as good as zero, and a
millionth of a count would decide. Medians over seeds, each with its own counts and layout of the specimen.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from statistics import geometric_mean, median

import numpy as np
from numpy.typing import NDArray

from models.noise import POISSON
from simulator.sample import load_specimen
from tests.benchmarks._scan import engine_for, scanned
from tests.reference import BatchPCA
from tests.unit.models.scenes import weighted_error as error_everywhere

SIDE, PASSES, MAX_RANK = 64, 2, 24
LEAST_COUNTS = 1.0
EACH, MEAN, SHRUNK = 1.02, 0.98, 1.02
CASES = [(name, counts) for name in ("exercise", "fe_cr_ni", "core_shell") for counts in (20.0, 200.0, 2000.0)]
CASES += [("fe_oxidation", 2000.0), ("fe_oxidation", 20000.0), ("low_loss", 20000.0)]
CASES += [("steel_phases", 2000.0), ("steel_phases", 20000.0)]


@dataclass(frozen=True)
class Ratios:
    """Errors of one scan over those of the references; and ranks."""

    final: float
    live: float
    plain: float
    shrunk: float
    rank: int
    best_rank: int


def weighted_error(found: NDArray[np.floating], truth: NDArray[np.float64]) -> float:
    """Mean squared error in Keenan-Kotula variances, summed over the channels that have counts."""
    seen = truth.sum(axis=0) >= LEAST_COUNTS
    return error_everywhere(found[:, seen], truth[:, seen])


def one(name: str, counts: float, seed: int) -> Ratios:
    """Scan a specimen once, and compare."""
    specimen = load_specimen(name, seed=seed, shape=(SIDE, SIDE))
    visit = counts / PASSES * specimen.expected()
    rng = np.random.default_rng(seed)
    passes: list[NDArray[np.integer]] = [rng.poisson(visit).astype(np.uint16) for _ in range(PASSES)]
    truth, total = PASSES * visit, sum(p.astype(np.int64) for p in passes)
    engine = scanned(engine_for(specimen, POISSON), passes)
    every = np.arange(specimen.n_positions)
    live = weighted_error(engine.denoise(every), truth)
    rank = engine.finish().rank
    found = engine.denoise(every)
    fit = BatchPCA.of(np.asarray(total), MAX_RANK)
    batch = [(weighted_error(y, truth), float(((y - truth) ** 2).mean())) for y in fit.spectra()]
    weighted, plain = np.array(batch).T
    shrunk = min(weighted_error(y, truth) for y in fit.shrunk().spectra())
    final = weighted_error(found, truth)
    return Ratios(
        final / weighted.min(), live / weighted.min(), float(((found - truth) ** 2).mean()) / plain.min(),
        final / shrunk, rank, int(np.argmin(weighted)) + 1,
    )  # fmt: skip


def main() -> int:
    """Print a line for each case; 1 where a target is missed under --check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="one specimen")
    options = parser.parse_args()
    n_seeds = 1 if options.quick else options.seeds
    print(
        f"{SIDE} x {SIDE} positions, {PASSES} passes, {n_seeds} seeds; BLAS threads:"
        f" {os.environ.get('OPENBLAS_NUM_THREADS', 'default')}"
    )
    print("specimen        counts   final/batch  final/shrunk   live/batch  plain   rank (best batch)")
    missed, finals = False, []
    for name, counts in (c for c in CASES if options.only in {None, c[0]}):
        found = [one(name, counts, seed) for seed in range(n_seeds)]
        final, shrunk, live, plain = (
            median(getattr(r, k) for r in found) for k in ("final", "shrunk", "live", "plain")
        )
        finals.append(final)
        ok = final <= EACH and shrunk <= SHRUNK
        missed |= not ok
        ranks = " ".join(f"{r.rank}({r.best_rank})" for r in found)
        print(
            f"{name:14s} {counts:7g} {final:12.3f} {shrunk:13.3f} {live:12.3f} {plain:7.3f}   {ranks}"
            f"{'' if ok else '   MISSED'}",
            flush=True,
        )
    mean = geometric_mean(finals)
    missed |= mean > MEAN
    print(
        f"geometric mean of final/batch {mean:.3f} (<= {MEAN}){'' if mean <= MEAN else '   MISSED'}"
        f"; each <= {EACH}, and <= {SHRUNK} against shrunk"
    )
    return int(options.check and missed)


if __name__ == "__main__":
    sys.exit(main())
