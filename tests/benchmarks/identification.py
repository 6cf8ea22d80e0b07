"""Diffraction phases found in mixtures, and Fe2+/Fe3+ shares, against truth and beside what people do by hand.

Run `python -m tests.benchmarks.identification [--check] [--quick]`.

Diffraction: two- and three-phase mixtures of twelve candidates at several doses, textures (March-Dollase r) and
strains; recall and precision of the phases, beside a non-negative least-squares fit of the same reference patterns with
a threshold of 5 %. Valence: root-mean-square error of the Fe3+ share of each position, beside the ratio of the white
lines and the ratio of two narrow windows on the same counts, raw and denoised by the engine, and how many times fewer
counts the fit needs for the same error.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.fractions import FractionModel
from models.identify import AMORPHOUS, Identifier
from models.linear import LinearEngine
from models.noise import POISSON
from simulator.sample import load_specimen
from tests.diffraction import Mixture, axis, by_least_squares, library, phases
from tests.white_lines import l3_l2_ratio, two_windows

Array = NDArray[np.float64]
DOSES = (100, 300, 1000, 10000, 100000)
CONDITIONS = ((1.0, 0.0), (0.7, 0.002), (0.5, 0.005))
SHARES = ((0.7, 0.3), (0.5, 0.3, 0.2), (0.6, 0.3, 0.1))
VALENCE_DOSES = (300, 1000, 3000, 10000, 30000, 100000, 1000000)
ERROR = 0.1
"""Error of the Fe3+ share at which doses are compared."""


@dataclass
class Score:
    """Phases found, missed and made up."""

    right: int = 0
    missed: int = 0
    false: int = 0

    def add(self, truth: set[str], found: set[str]) -> None:
        """Count one pattern."""
        self.right += len(truth & found)
        self.missed += len(truth - found)
        self.false += len(found - truth)

    @property
    def recall(self) -> float:
        """Share of the phases that were found."""
        return self.right / max(self.right + self.missed, 1)

    @property
    def precision(self) -> float:
        """Share of what was found that is there."""
        return self.right / max(self.right + self.false, 1)


@dataclass
class Report:
    """Lines printed, and targets missed."""

    missed: list[str] = field(default_factory=list)

    def target(self, name: str, value: float, least: float) -> None:
        """Print a figure beside its target."""
        ok = value >= least
        print(f"{name:66s} {value:8.3f} (>= {least:g}) {'' if ok else 'MISSED'}")
        if not ok:
            self.missed.append(name)


def diffraction(report: Report, draws: int) -> None:
    """Print recall and precision over doses and conditions."""
    identifier, names, rng = Identifier(library(), axis().values), list(phases()), np.random.default_rng(2024)
    print(f"\nXRD: {len(names)} candidates, {axis().size} channels, shares {SHARES}, {draws} draws each")
    print("counts  texture strain   recall precision   least squares   ms/pattern")
    overall: dict[int, Score] = {}
    for dose in DOSES:
        for texture, strain in CONDITIONS:
            ours, plain, seconds, n = Score(), Score(), 0.0, 0
            for shares in SHARES:
                for seed in range(draws):
                    chosen = tuple(str(s) for s in rng.choice(names, len(shares), replace=False))
                    counts = rng.poisson(dose * Mixture(chosen, shares, texture, strain).expected(seed))
                    start = time.perf_counter()
                    found = set(identifier.identify(counts).names)
                    seconds, n = seconds + time.perf_counter() - start, n + 1
                    ours.add(set(chosen), found)
                    overall.setdefault(dose, Score()).add(set(chosen), found)
                    plain.add(set(chosen), by_least_squares(counts))
            print(
                f"{dose:6d} {texture:8.1f} {100 * strain:5.1f} % {ours.recall:8.3f} {ours.precision:9.3f}"
                f" {plain.recall:9.3f} {plain.precision:.3f} {1e3 * seconds / n:10.0f}"
            )
    for dose, least_recall in ((300, 0.95), (1000, 0.97), (10000, 0.98), (100000, 0.98)):
        report.target(f"XRD recall at {dose} counts, all conditions", overall[dose].recall, least_recall)
        report.target(f"XRD precision at {dose} counts, all conditions", overall[dose].precision, 0.97)
    _glass(report, identifier, draws)


def _glass(report: Report, identifier: Identifier, draws: int) -> None:
    """Glass beside a crystal is told, and a falling background is none."""
    told = made_up = 0
    for seed in range(4 * draws):
        rng = np.random.default_rng(seed)
        glassy = Mixture(("nickel",), (0.7,), texture=0.7, glass=0.3)
        clear = Mixture(("nickel",), (1.0,), texture=0.7)
        told += AMORPHOUS in identifier.identify(rng.poisson(3000 * glassy.expected(seed))).names
        made_up += AMORPHOUS in identifier.identify(rng.poisson(3000 * clear.expected(seed))).names
    report.target("XRD 30 % of glass told at 3000 counts", told / (4 * draws), 0.95)
    report.target("XRD crystalline patterns without amorphous part", 1 - made_up / (4 * draws), 0.95)


def valence(report: Report, side: int) -> None:
    """Print errors of the Fe3+ share over doses, and dose factors."""
    specimen = load_specimen("fe_oxidation", shape=(side, side))
    ev, references = specimen.axis.values, specimen.endmembers[:2]
    abundances = specimen.abundances
    truth = abundances[:, 1] / np.maximum(abundances[:, :2].sum(axis=1), 1e-9)
    oxide = abundances[:, 2] < 1e-3
    model = FractionModel.of_edges(ev, references, 700.0)
    ways: dict[str, Callable[[NDArray[Any]], Array]] = {
        "fit": lambda counts: model.estimate(counts).shares[:, 1],
        "two windows": lambda counts: two_windows(ev, counts, references),
        "L3/L2": lambda counts: l3_l2_ratio(ev, counts, references),
    }
    print(f"\nEELS: {side} x {side} positions, Fe3+ share, RMSE over oxide; fe_oxidation, counts over 500 to 780 eV")
    print("counts  " + "".join(f"{name:>13s}" for name in ways) + "".join(f"{name + ' d.':>15s}" for name in ways))
    errors: dict[str, list[float]] = {name: [] for name in (*ways, *(f"{n} d." for n in ways))}
    for dose in VALENCE_DOSES:
        counts = np.random.default_rng(dose).poisson(dose * specimen.expected())
        denoised = np.maximum(_denoised(counts), 0.0)
        for suffix, spectra in (("", counts), (" d.", denoised)):
            for name, way in ways.items():
                share = np.nan_to_num(way(spectra), nan=0.5)
                errors[name + suffix].append(float(np.sqrt(((share - truth)[oxide] ** 2).mean())))
        row = [errors[name][-1] for name in errors]
        print(f"{dose:7d} " + "".join(f"{e:13.4f}" for e in row[:3]) + "".join(f"{e:15.4f}" for e in row[3:]))
    needed = {name: _dose_at(found) for name, found in errors.items()}
    print(f"counts for an error of {ERROR}: " + ", ".join(f"{name} {dose:.3g}" for name, dose in needed.items()))
    print("(d.: spectra denoised by the linear engine)")
    report.target("EELS dose factor, fit over L3/L2 ratio, raw", needed["L3/L2"] / needed["fit"], 10)
    report.target("EELS dose factor, fit over two windows, raw", needed["two windows"] / needed["fit"], 4)
    report.target("EELS dose factor, fit denoised over two windows raw", needed["two windows"] / needed["fit d."], 5)


def _denoised(counts: NDArray[np.int64]) -> Array:
    n, d = counts.shape
    engine = LinearEngine(n, d, noise=POISSON)
    for first in range(0, n, 256):
        index = np.arange(first, min(first + 256, n), dtype=np.uint32)
        engine.process(index, counts[first : first + 256])
    engine.promote()
    engine.finish()
    return engine.denoise(np.arange(n)).astype(np.float64)


def _dose_at(errors: list[float]) -> float:
    """Dose at which the error falls to `ERROR`, between doses by power laws; beyond the last by the square root."""
    logs, doses = np.log(errors), np.log(VALENCE_DOSES)
    target = np.log(ERROR)
    below = np.flatnonzero(logs <= target)
    if not below.size:
        return float(np.exp(doses[-1] + 2 * (logs[-1] - target)))
    k = int(below[0])
    if k == 0:
        return float(np.exp(doses[0] + 2 * (logs[0] - target)))
    part = (logs[k - 1] - target) / (logs[k - 1] - logs[k])
    return float(np.exp(doses[k - 1] + part * (doses[k] - doses[k - 1])))


def main() -> int:
    """Print all figures; with --check, 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--quick", action="store_true", help="fewer draws and a smaller map")
    options = parser.parse_args()
    report = Report()
    diffraction(report, 2 if options.quick else 5)
    valence(report, 24 if options.quick else 48)
    return int(options.check and bool(report.missed))


if __name__ == "__main__":
    sys.exit(main())
