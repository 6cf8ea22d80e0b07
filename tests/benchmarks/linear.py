"""Speed and quality of the linear engine, beside scikit-learn and beside batch PCA.

Run `python -m tests.benchmarks.linear [--check] [--quick]`. The reference is timed in the same run, in float64, with
the BLAS threads that are printed; set OPENBLAS_NUM_THREADS=1 to compare one core with one core.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import IncrementalPCA

from models.linear import LinearEngine
from models.moments import Moments
from models.noise import POISSON
from models.pca import StreamingPCA
from models.preprocess import make_scaling
from tests.unit.models.scenes import batch_pca_errors, eds_scene, weighted_error

LIST_TARGET, PEAK_WIDTH = 100.0, 12.0
D, K, BATCH, N = 2048, 16, 256, 4096
SOLVED = 16384
"""Spectra in list mode after which the leading components are solved for: what comes in a third of a second or less."""


def seconds_per_spectrum(run: Callable[[], int], repeats: int) -> float:
    """Median over repeats of the time of `run` divided by the spectra it says it did."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        n = run()
        times.append((time.perf_counter() - start) / n)
    return median(times)


def fed(model: Any, rows: NDArray[Any], batch: int) -> Callable[[], int]:
    """A run that feeds all rows to partial_fit."""

    def run() -> int:
        for first in range(0, len(rows), batch):
            model.partial_fit(rows[first : first + batch])
        return len(rows)

    return run


def update_ratios(repeats: int) -> tuple[float, list[tuple[str, float, float, float]]]:
    """Model update alone: scikit-learn's time, and (name, time, ratio, target) of ours."""
    scene = eds_scene(200.0, side=64, d=D)
    rows = scene.visit(0) / np.sqrt(np.maximum(scene.expected.mean(axis=0), 1e-9))
    reference = IncrementalPCA(n_components=K)
    fed(reference, rows[:512], BATCH)()
    base = seconds_per_spectrum(fed(reference, rows[:2048], BATCH), repeats)
    found = []
    rows32 = rows.astype(np.float32)
    for name, update, kept, batch, target in (
        ("gram, batch 64, 16 kept", "gram", K, 64, 8.0),
        ("ritz, batch 256, 24 kept", "ritz", K + 8, 256, 8.0),
        ("ritz, batch 1024, 24 kept", "ritz", K + 8, 1024, 25.0),
    ):
        model = StreamingPCA(D, K, n_kept=kept, update=update)  # type: ignore[arg-type]
        fed(model, rows32[:2048], batch)()
        ours = seconds_per_spectrum(fed(model, rows32, batch), repeats)
        found.append((name, ours, base / ours, target))
    return base, found


def moments_ratio(base: float, repeats: int) -> tuple[float, float, float]:
    """Update alone in list mode at 20 counts: time a spectrum, its part without the eigenproblem, and ratio."""
    side = round(np.sqrt(SOLVED))
    visit = eds_scene(20.0, side=side, d=D).visit(0)
    blocks = [sparse.csr_array(visit[i : i + BATCH].astype(np.float32)) for i in range(0, SOLVED, BATCH)]
    weights = [1.0 / np.maximum(block.sum(axis=1, dtype=np.float64), 1.0) for block in blocks]
    total, profile = visit.sum(axis=0, dtype=np.float64), np.concatenate(weights) @ visit.astype(np.float64)
    moments, rounds, adding = Moments(D, K + 8), iter(range(1, repeats + 3)), []

    def run() -> int:
        start = time.perf_counter()
        for block, weight in zip(blocks, weights, strict=True):
            moments.add(block, weight)
        adding.append((time.perf_counter() - start) / SOLVED)
        n = next(rounds)
        moments.solve(make_scaling(total / SOLVED, n * SOLVED, POISSON, PEAK_WIDTH, n * profile))
        return SOLVED

    run()
    run()
    ours = seconds_per_spectrum(run, repeats)
    return ours, median(adding[2:]), base / ours


def engine_ratio(counts: float, list_mode: bool, base: float, repeats: int) -> tuple[float, float]:
    """Everything the engine does with a block (read, test, store, score, learn): time a spectrum, and ratio."""
    side = 64
    visit = eds_scene(counts, side=side, d=D).visit(0)
    blocks: list[Any] = [visit[i : i + BATCH] for i in range(0, len(visit), BATCH)]
    if list_mode:
        blocks = [sparse.csr_array(block) for block in blocks]
    engine = LinearEngine(len(visit) * (repeats + 2), D, noise=POISSON)
    passes = iter(range(repeats + 2))

    def run() -> int:
        first = next(passes) * len(visit)
        for number, block in enumerate(blocks):
            start = first + number * BATCH
            engine.process(np.arange(start, start + BATCH, dtype=np.uint32), block)
        return len(visit)

    run()
    engine.promote()
    run()
    engine.promote()
    ours = seconds_per_spectrum(run, repeats)
    return ours, base / ours


def quality(counts: float, n_rare: int, side: int) -> tuple[float, float, float]:
    """Error over the best batch PCA's: final and last live map (weighted), final map (plain)."""
    scene = eds_scene(counts, side=side, d=1024, n_rare=n_rare)
    n = side * side
    engine = LinearEngine(n, 1024)
    total = np.zeros(scene.expected.shape, dtype=np.int64)
    for seed in range(3):
        visit = scene.visit(seed)
        total += visit
        for first in range(0, n, BATCH):
            index = np.arange(first, min(first + BATCH, n), dtype=np.uint32)
            engine.process(index, visit[first : first + BATCH])
            if first % (4 * BATCH) == 0:
                engine.promote()
        engine.promote()
        while engine.background():
            pass
    truth = 3 * scene.expected
    weighted, plain = batch_pca_errors(total, truth, max_rank=12)
    live = weighted_error(engine.denoise(np.arange(n)), truth)
    engine.finish()
    found = engine.denoise(np.arange(n))
    final = weighted_error(found, truth) / weighted.min()
    return final, live / weighted.min(), float(((found - truth) ** 2).mean() / plain.min())


def single_rows(repeats: int) -> float:
    """Seconds of one call with one spectrum, without an update of the tracker."""
    visit = eds_scene(200.0, side=32, d=D).visit(0)
    engine = LinearEngine(8192, D, noise=POISSON)
    engine.process(np.arange(1024, dtype=np.uint32), visit)
    engine.process(np.array([5000], np.uint32), visit[:1])
    times = []
    for i in range(200 * repeats):
        row = visit[i % 1024 : i % 1024 + 1]
        start = time.perf_counter()
        engine.process(np.array([2000 + i], np.uint32), row)
        times.append(time.perf_counter() - start)
    return median(times)


def report(name: str, figure: str, ok: bool, missed: list[str]) -> None:
    """Print a line, and remember what missed its target."""
    print(f"{name:58s} {figure:34s} {'' if ok else 'MISSED'}")
    if not ok:
        missed.append(name)


def main() -> int:
    """Print all ratios; with --check, 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and smaller scenes")
    options = parser.parse_args()
    repeats, side = (3, 48) if options.quick else (5, 64)
    missed: list[str] = []
    print(f"BLAS threads: OPENBLAS_NUM_THREADS={os.environ.get('OPENBLAS_NUM_THREADS', 'not set')}")
    base, found = update_ratios(repeats)
    print(f"scikit-learn IncrementalPCA.partial_fit, float64, batch {BATCH}, K {K}: {base * 1e6:.1f} us/spectrum")
    for name, ours, ratio, target in found:
        report(f"update alone, {name}", f"{ours * 1e6:6.1f} us, {ratio:5.1f}x (>= {target:g})", ratio >= target, missed)
    ours, adding, ratio = moments_ratio(base, repeats)
    name = f"update alone, list mode, 20 counts, solved every {SOLVED:,}"
    figure = f"{ours * 1e6:6.2f} us, {ratio:5.1f}x (>= {LIST_TARGET:g})"
    report(name, figure, ratio >= LIST_TARGET, missed)
    solving = (ours - adding) * SOLVED
    print(f"   of which pairs {adding * 1e6:.2f} us ({base / adding:.0f}x), eigenproblem {solving * 1e3:.1f} ms a time")
    for counts, list_mode, target in (
        (20.0, True, 50.0),
        (20.0, False, 25.0),
        (200.0, False, 15.0),
        (2000.0, False, 15.0),
    ):
        ours, ratio = engine_ratio(counts, list_mode, base, repeats)
        name = f"engine, {counts:g} counts, {'list mode' if list_mode else 'dense'}"
        report(name, f"{ours * 1e6:6.1f} us, {ratio:5.1f}x (>= {target:g})", ratio >= target, missed)
    one = single_rows(repeats)
    report("engine, one spectrum a call", f"{one * 1e6:6.1f} us (<= 300)", one <= 3e-4, missed)
    finals = []
    for counts in (15.0, 50.0, 200.0, 2000.0):
        for n_rare in (0, 6):
            final, live, plain = quality(counts, n_rare, side)
            finals.append(final)
            figure = f"{final:.3f} (<= 1.02), live {live:.3f}, plain {plain:.3f}"
            report(f"error / best batch PCA, {counts:g} counts, {n_rare} rare", figure, final <= 1.02, missed)
    mean = float(np.exp(np.mean(np.log(finals))))
    report("error / best batch PCA, geometric mean", f"{mean:.3f} (<= 0.98)", mean <= 0.98, missed)
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
