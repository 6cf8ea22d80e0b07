"""Error against dose, from 5 to 5,000 counts a spectrum: raw counts, batch PCA, live PCA, as a table and a PNG.

`python -m tests.benchmarks.dose_curve [--check] [--quick] [--seeds N] [--only COUNTS] [--output FILE.png]`. Two passes
over the simulator's `exercise`, whose truth is known, with other counts for each seed. Three questions, because the
answer depends on them: whole spectra (squared errors in Keenan-Kotula variances of the truth, over channels that have
counts), the map of a strong line that stands alone (Fe Ka), and that of a weak one under another (Mn Ka under Cr Kb).

Methods: raw counts; Keenan-Kotula PCA of all counts with the best of all ranks by the truth, for each question and
dose anew, which nobody has offline; the live engine's final map without shrinkage (but with the spectra of novelty
groups, which have none); and as it is published, shrunk. The dose factor is the raw counts' squared error over a
method's: how many times the dose would make raw counts as good. Bias and noise are told apart over seeds: noise is the
standard deviation at a position, bias what their mean is off, less the noise that is left in that mean; it is shown
from three standard errors on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models.noise import POISSON
from simulator.sample import Specimen, load_specimen
from tests.benchmarks._scan import engine_for, scanned
from tests.reference import BatchPCA

Array = NDArray[np.float64]
DOSES = (5.0, 15.0, 50.0, 150.0, 500.0, 1500.0, 5000.0)
SPECIMEN, SIDE, CHANNELS, PASSES, MAX_RANK, SEEDS = "exercise", 48, 1024, 2, 12, 5
LEAST_COUNTS, SEEN = 1.0, 3.0
LINES = {"strong line, Fe Ka": (6.28, 6.52), "weak line under another, Mn Ka": (5.81, 5.99)}
WHOLE = "whole spectra"
METHODS = ("raw", "batch PCA, best rank", "live PCA, not shrunk", "live PCA")
COLOURS = dict(zip(METHODS, ("0.5", "#0072B2", "#E69F00", "#D55E00"), strict=True))
AS_GOOD = 1.02


@dataclass(frozen=True)
class Question:
    """What is asked of spectra (P, D): a part of them, and the weight of its squared errors."""

    part: Callable[[NDArray[Any]], Array]
    weight: Array | float


@dataclass(frozen=True)
class Error:
    """Relative errors (rms over positions, over the size of the truth), and the rank that batch PCA was best with."""

    total: float
    bias: float
    noise: float
    rank: int = 0


def questions(specimen: Specimen, truth: Array) -> dict[str, Question]:
    """Return what is asked, by name."""
    lit = truth.sum(axis=0) >= LEAST_COUNTS
    variance = truth.sum(axis=1, keepdims=True) * truth.sum(axis=0)[lit] / truth.sum()
    asked = {WHOLE: Question(lambda y: np.asarray(y[:, lit], dtype=np.float64), 1.0 / variance)}
    for name, (lo, hi) in LINES.items():
        asked[name] = Question(_summed((specimen.axis.values >= lo) & (specimen.axis.values <= hi)), 1.0)
    return asked


def _summed(window: NDArray[np.bool_]) -> Callable[[NDArray[Any]], Array]:
    return lambda y: np.asarray(y[:, window].sum(axis=1, keepdims=True), dtype=np.float64)


@dataclass(frozen=True)
class Scan:
    """One seed: its counts (P, D), their batch PCA, and what the engine made of them."""

    counts: NDArray[np.int64]
    batch: BatchPCA
    plain: NDArray[np.float32]
    shrunk: NDArray[np.float32]


def scan(specimen: Specimen, dose: float, seed: int) -> Scan:
    """Scan once."""
    rng = np.random.default_rng([seed, round(dose)])
    expected = dose / PASSES * specimen.expected()
    passes: list[NDArray[np.integer]] = [rng.poisson(expected).astype(np.uint16) for _ in range(PASSES)]
    counts = np.sum([p.astype(np.int64) for p in passes], axis=0)
    engine = scanned(engine_for(specimen, POISSON), passes)
    engine.finish()
    published = engine.score_map.published
    plain = np.zeros(counts.shape, dtype=np.float32)
    if published is not None:
        plain = published.project(counts.astype(np.float32)) @ published.eigenspectra
    shrunk = engine.denoise(np.arange(specimen.n_positions))
    plain[engine.held] = shrunk[engine.held]
    return Scan(counts, BatchPCA.of(counts, MAX_RANK), plain, shrunk)


def of_rank(fit: BatchPCA, rank: int) -> Array:
    """Return spectra (P, D) denoised by the first components."""
    return np.asarray((fit.u[:, :rank] * fit.s[:rank]) @ fit.vt[:rank] * fit.scale)


def best_ranks(scans: list[Scan], truth: Array, asked: dict[str, Question]) -> dict[str, int]:
    """Return the rank with the smallest mean squared error for each question."""
    errors = {name: np.zeros(MAX_RANK) for name in asked}
    for each in scans:
        for k, spectra in enumerate(each.batch.spectra()):
            for name, q in asked.items():
                errors[name][k] += (q.weight * (q.part(spectra) - q.part(truth)) ** 2).mean()
    return {name: int(np.argmin(e)) + 1 for name, e in errors.items()}


def error(found: Iterator[NDArray[Any]], truth: Array, q: Question, rank: int = 0) -> Error:
    """Return errors over seeds, their squares told apart without bias; a bias that chance may make is none."""
    parts = np.stack([q.part(y) for y in found])
    there, n = q.part(truth), len(parts)
    noises = (q.weight * parts.var(axis=0, ddof=1)).mean(axis=1)
    biases = (q.weight * (parts.mean(axis=0) - there) ** 2).mean(axis=1) - noises / n
    total, noise, bias = (q.weight * (parts - there) ** 2).mean(), noises.mean(), biases.mean()
    # What chance makes of it: variances of a mean of n, and of its estimate from n, at each position.
    chance = np.sqrt(2.0 * (noises**2).mean() / noises.size / (n * (n - 1)))
    if bias < SEEN * chance:
        bias = 0.0
    # Lines are judged by their mean height, spectra by their own size.
    size = (q.weight * there**2).mean() if np.ndim(q.weight) else there.mean() ** 2
    relative = [float(np.sqrt(v / size)) for v in (total, bias, noise)]
    return Error(relative[0], relative[1], relative[2], rank)


def at(specimen: Specimen, dose: float, n_seeds: int) -> dict[str, dict[str, Error]]:
    """Return errors at one dose, by question and method."""
    truth = dose * specimen.expected()
    asked = questions(specimen, truth)
    scans = [scan(specimen, dose, seed) for seed in range(n_seeds)]
    ranks = best_ranks(scans, truth, asked)
    found = {}
    for name, q in asked.items():
        found[name] = {
            METHODS[0]: error((s.counts for s in scans), truth, q),
            METHODS[1]: error((of_rank(s.batch, ranks[name]) for s in scans), truth, q, ranks[name]),
            METHODS[2]: error((s.plain for s in scans), truth, q),
            METHODS[3]: error((s.shrunk for s in scans), truth, q),
        }
    return found


def show(dose: float, found: dict[str, dict[str, Error]]) -> None:
    """Print the errors at one dose."""
    for name, by_method in found.items():
        raw = by_method[METHODS[0]].total
        for method, e in by_method.items():
            rank = f"K={e.rank}" if e.rank else ""
            print(
                f"{dose:6g}  {name:31s} {method:21s} {100 * e.total:8.2f} {100 * e.bias:8.2f} {100 * e.noise:8.2f} "
                f"{(raw / e.total) ** 2:9.1f}  {rank}",
                flush=True,
            )


def draw(curve: dict[float, dict[str, dict[str, Error]]], path: Path) -> None:
    """Draw errors, dose factors, and bias beside noise."""
    figure = Figure(figsize=(14.0, 11.0), layout="constrained")
    names = list(next(iter(curve.values())))
    axes = figure.subplots(3, len(names), sharex=True)
    doses = np.array(sorted(curve))
    for column, name in enumerate(names):
        errors = {m: [curve[d][name][m] for d in doses] for m in METHODS}
        raw = np.array([e.total for e in errors[METHODS[0]]])
        error_ax, factor_ax, parts_ax = axes[:, column]
        for method, found in errors.items():
            total, colour = np.array([e.total for e in found]), COLOURS[method]
            error_ax.loglog(doses, 100 * total, "o-", color=colour, label=method, ms=4)
            if method != METHODS[0]:
                factor_ax.semilogx(doses, (raw / total) ** 2, "o-", color=colour, label=method, ms=4)
            for what, style in (("bias", "s-"), ("noise", ".:")):
                part = np.array([getattr(e, what) for e in found])
                shown = np.where(part > 0, 100 * part, np.nan)
                parts_ax.loglog(doses, shown, style, color=colour, ms=4, label=f"{method}: {what}")
        error_ax.set(title=name, ylabel="relative error, %")
        factor_ax.axhline(1.0, color="0.5", lw=0.8)
        factor_ax.set(ylabel="dose factor", ylim=(0.0, None))
        parts_ax.set(ylabel="bias and noise, % (bias where it is seen)", xlabel="counts a spectrum")
    for row, size in zip(axes[:, 0], ("small", "small", "xx-small"), strict=True):
        row.legend(fontsize=size, loc="lower left")
    figure.suptitle(f"{SPECIMEN}, {SIDE} x {SIDE} positions, {CHANNELS} channels, {PASSES} passes")
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png", dpi=90)


def missed(curve: dict[float, dict[str, dict[str, Error]]]) -> list[str]:
    """Say where live PCA is worse than batch PCA on whole spectra, or than raw counts on anything."""
    found = []
    for dose, by_name in curve.items():
        for name, by_method in by_name.items():
            raw, batch, _, live = (by_method[m].total ** 2 for m in METHODS)
            if live > raw:
                found.append(f"{dose:g} counts, {name}: {live / raw:.3f} of the raw squared error (<= 1)")
            if name == WHOLE and live > AS_GOOD * batch:
                found.append(f"{dose:g} counts, {name}: {live / batch:.3f} of batch PCA's squared error (<= {AS_GOOD})")
    return found


def main() -> int:
    """Print, draw; 1 where a target is missed under --check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--quick", action="store_true", help="two seeds")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--only", type=float, action="append", help="one dose; may be repeated")
    parser.add_argument("--output", type=Path, default=Path("dose_curve.png"))
    options = parser.parse_args()
    n_seeds = 2 if options.quick else max(options.seeds, 2)
    specimen = load_specimen(SPECIMEN, seed=0, shape=(SIDE, SIDE), channels=CHANNELS)
    print(f"{SPECIMEN}, {SIDE} x {SIDE} positions, {CHANNELS} channels, {PASSES} passes, {n_seeds} seeds; errors in %")
    print("counts  question                        method                   error     bias    noise dose fact.")
    curve = {}
    for dose in options.only or DOSES:
        curve[dose] = at(specimen, dose, n_seeds)
        show(dose, curve[dose])
    draw(curve, options.output)
    wrong = missed(curve)
    print("\n".join([f"drawn in {options.output}", *(f"MISSED {line}" for line in wrong)]))
    return int(options.check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
