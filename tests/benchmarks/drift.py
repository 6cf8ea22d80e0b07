"""Drift of the energy axis: how soon it is found, how well it is told, and that nothing is found where nothing is.

Run `python -m tests.benchmarks.drift [--check] [--seeds N] [--side N] [--nulls MILLIONS]
[--only detect,null,correct,cost]`. The specimens are the simulator's, in EDS at 200 counts a spectrum and 10 eV a
channel, and the model is the linear engine as it learns. The bound is what Fisher information allows at the threshold
of the test, to which noise adds as often as it takes away; "known" is how soon the same test finds the change in the
same spectra where it is told what each position would give. What came before the change is the reference, so that in
small scans (`--side 96`) it takes longer to find it. Beside the joint test stand two textbook CUSUMs (k 0.5, h 10) of
the same filtered counts, of shift alone and of gain alone. With a tally file, scans without drift that it has are not
run again, so that many can be run in pieces.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.calibration import Calibration, restored
from models.drift import Drift, DriftConfig, DriftMonitor
from models.drift_filters import DriftFilters, Readings
from models.linear import LinearEngine
from models.noise import POISSON
from simulator.detector import Emitters, draw_events
from simulator.sample import Specimen, load_specimen
from tests.benchmarks._drift_cusum import Cusums
from tests.benchmarks._drift_known import KnownTest, axis_of, recorded_spectra
from tests.unit.models.scenes import weighted_error

COUNTS, CHANNELS, BLOCK = 200.0, 2048, 64
Float = NDArray[np.float64]


class Bench:
    """One scan of a specimen in list mode, with engine and monitor, and the CUSUMs beside them."""

    def __init__(self, specimen: Specimen, seed: int, *, passes: int = 1, correct: bool = False) -> None:
        self.specimen, self._correct = specimen, correct
        self.axis = axis_of(specimen)
        values = self.axis.values
        self.engine = LinearEngine(specimen.n_positions, values.size, noise=POISSON, axis=self.axis)
        self.monitor = DriftMonitor(self.axis, POISSON, DriftConfig())
        self.cusums = Cusums()
        self.n_done = 0
        self.total: Float = np.zeros(values.size)
        self._passes, self._since = passes, 0
        self._filters: DriftFilters | None = None
        self._version = 0
        self._rng = np.random.default_rng(seed)
        self._emitters = {Calibration(): Emitters(specimen.endmembers)}
        self.known: KnownTest | None = None

    def blocks(self, calibration_at: Any = lambda _n: Calibration()) -> Iterator[tuple[Drift | None, bool]]:
        """Measure, with a calibration that is a function of the spectra so far; yield drift found, and CUSUM alarm."""
        n = self.specimen.n_positions
        for _ in range(self._passes):
            for first in range(0, n, BLOCK):
                index = np.arange(first, min(first + BLOCK, n), dtype=np.uint32)
                yield self._step(index, calibration_at(self.n_done))

    def _step(self, index: NDArray[np.uint32], calibration: Calibration) -> tuple[Drift | None, bool]:
        counts = self._measured(index, calibration)
        if self.known is not None:
            self.known.add(COUNTS * self.specimen.abundances[index.astype(np.int64)], counts)
        undone = self.monitor.calibration if self._correct else Calibration()
        counts = restored(counts, self.axis, undone, self._rng)
        result = self.engine.process(index, counts)
        self.n_done += index.size
        self.total += np.asarray(counts.sum(axis=0))
        self._since += index.size
        if self._since >= max(256, self.n_done // 8):
            self._since = 0
            self.engine.promote()
            while self.engine.background():
                pass
        self.rebase()
        kept = np.flatnonzero(result.flag == 0)
        if not kept.size:
            return None, False
        summed = np.asarray(counts[kept].sum(axis=0), dtype=np.float64)
        alarm = False
        if self._filters is not None:
            alarm = self.cusums.add(Readings.of(self._filters.columns(summed[None], np.array([float(kept.size)]))))
        return self.monitor.add(summed, kept.size, undone), alarm

    def _measured(self, index: NDArray[np.uint32], calibration: Calibration) -> sparse.csr_array:
        if calibration not in self._emitters:
            recorded = recorded_spectra(self.specimen.endmembers, self.axis, calibration)
            self._emitters[calibration] = Emitters(recorded)
        events = draw_events(
            self._rng, COUNTS * self.specimen.abundances[index.astype(np.int64)], self._emitters[calibration]
        )
        ones = np.ones(events.channels.size, dtype=np.uint16)
        shape = (index.size, self.axis.size)
        out = sparse.csr_array((ones, events.channels.astype(np.int32), events.offsets.astype(np.int32)), shape=shape)
        out.sum_duplicates()
        return out

    def rebase(self) -> None:
        """Take a new version of the basis over."""
        basis = self.engine.basis
        if basis is None or basis.version == self._version or not basis.rank:
            return
        self._version = basis.version
        self.monitor.rebase(basis.eigenspectra, self.total, self.n_done, learnt(self.engine))
        self._filters = DriftFilters.build(basis.eigenspectra, self.total, self.n_done, self.axis, POISSON)


def learnt(engine: LinearEngine) -> Float:
    """What the engine's eigenspectra were learnt from, (K, K)."""
    published, basis = engine._map.published, engine.basis
    assert published is not None
    assert basis is not None
    out = np.zeros((basis.rank, basis.rank))
    shrinkage = published.shrinkage
    k = shrinkage.centre.size
    spread = (shrinkage.axes * shrinkage.signal) @ shrinkage.axes.T
    out[:k, :k] = float(engine.totals.sum()) * (np.outer(shrinkage.centre, shrinkage.centre) + spread)
    return out


SCENARIOS = (
    ("diffusion_couple", 1, 0.5),
    ("core_shell", 1, 0.5),
    ("exercise", 1, 0.5),
    ("map512", 1, 0.5),
    ("fe_cr_ni", 2, 0.6),
)
CORRECTED = (96, 96)
CHANGES = (
    ("shift 1 eV", Calibration(1e-3, 0.0)),
    ("shift -3 eV", Calibration(-3e-3, 0.0)),
    ("gain 3e-4", Calibration(0.0, 3e-4)),
)


@dataclass
class Found:
    """Of one scan: spectra until found (the joint test, one that knows the spectra, the CUSUMs; None: never), false
    alarms, first and last word."""

    delay: int | None = None
    known_delay: int | None = None
    cusum_delay: int | None = None
    false: int = 0
    cusum_false: int = 0
    told: int | None = None
    last: Drift | None = None


def watch(name: str, shape: tuple[int, int], passes: int, at: float, change: Calibration, seed: int) -> Found:
    """Scan a specimen whose calibration jumps at a part `at` of the scan."""
    bench = Bench(load_specimen(name, seed=seed, shape=shape, channels=CHANNELS), seed, passes=passes)
    jump = int(at * passes * shape[0] * shape[1]) // BLOCK * BLOCK
    bench.known = KnownTest(bench.specimen)
    found = Found()
    for drift, cusum in bench.blocks(lambda n: change if n >= jump else Calibration()):
        since = bench.n_done - jump
        if since > 0 and bench.known is not None and bench.known.has_found:
            found.known_delay, bench.known = since, None
        if cusum:
            bench.cusums = Cusums()
            if since <= 0:
                found.cusum_false += 1
            elif found.cusum_delay is None:
                found.cusum_delay = since
        if drift is None:
            continue
        if since <= 0:
            found.false += 1
            continue
        found.delay = found.delay or since
        if found.told is None and drift.kind in ("shift", "gain"):
            found.told = since
        found.last = drift
    return found


def detect(seeds: int, side: int, missed: list[str]) -> None:
    """Print how soon changes are found and how well they are told."""
    print(
        f"\nspectra until found ({side} x {side} of {COUNTS:g} counts; median / 90 %), {seeds} seeds; "
        "CUSUMs k 0.5, h 10 beside"
    )
    for what, change in CHANGES:
        delays, known = list[int](), list[int]()
        for name, passes, at in SCENARIOS:
            shape = (side, side)
            runs = [watch(name, shape, passes, at, change, seed) for seed in range(seeds)]
            delays += [r.delay or 10**9 for r in runs]
            known += [r.known_delay or 10**9 for r in runs]
            bound = fewest(load_specimen(name, seed=0, shape=shape, channels=CHANNELS), change)
            text = f"bound {bound:.0f}, known {quantiles([r.known_delay for r in runs])}"
            print(f"{what:12s} {name:17s} {line(runs, change)}; {text}", flush=True)
        median = float(np.median(delays))
        text = f"{median:.0f} (<= 500; known: {np.median(known):.0f})"
        report(f"{what}, all specimens, median", text, median <= 500, missed)


def fewest(specimen: Specimen, change: Calibration) -> float:
    """Spectra after which the statistic is expected to reach its threshold, by Fisher information.

    For a test that knows what is at each position, and the calibration before, without error: each spectrum adds
    sum(t^2 / lam) for a spectrum lam that changes by t to the expected chi-squared, which begins at two.
    """
    axis, shapes = axis_of(specimen), specimen.endmembers
    changed = recorded_spectra(shapes, axis, change) - shapes
    some = COUNTS * specimen.abundances[:: max(1, specimen.n_positions // 400)]
    expected = some @ shapes
    squares = np.divide((some @ changed) ** 2, expected, out=np.zeros_like(expected), where=expected > 1e-12)
    return float((DriftConfig().threshold - 2.0) / squares.sum(axis=1).mean())


def line(runs: list[Found], change: Calibration) -> str:
    """What a row of the table says."""
    last = [r.last for r in runs if r.last is not None]
    pulls = [
        ((d.shift - change.shift) / d.shift_error, (d.gain - change.gain) / d.gain_error) for d in last if d.n_spectra
    ]
    kind = "shift" if change.shift else "gain"
    right = sum(d.kind == kind for d in last)
    wrong = sum(d.kind not in (kind, "undetermined") for d in last)
    told = [r.told for r in runs if r.told]
    spread = np.sqrt(np.mean(np.square(pulls))) if pulls else np.nan
    return (
        f"{quantiles([r.delay for r in runs])}  CUSUM {quantiles([r.cusum_delay for r in runs])}  false "
        f"{sum(r.false for r in runs)} (CUSUM {sum(r.cusum_false for r in runs)})  told {kind} {right}, "
        f"wrongly {wrong}, after {np.median(told) if told else np.nan:.0f}; error in stated errors {spread:.2f}"
    )


def quantiles(delays: list[int | None]) -> str:
    """Median and 90 % quantile; runs in which nothing was found count as infinite."""
    values = np.sort([np.inf if d is None else d for d in delays])
    return f"{values[len(values) // 2]:5.0f} / {values[int(0.9 * (len(values) - 1))]:5.0f}"


def report(name: str, figure: str, ok: bool, missed: list[str]) -> None:
    """Print a line, and remember what missed its target."""
    print(f"{name:60s} {figure:34s} {'' if ok else 'MISSED'}", flush=True)
    if not ok:
        missed.append(name)


NULLS = (
    ("map512", (512, 512), 1),
    ("fe_cr_ni", (256, 256), 2),
    ("diffusion_couple", (160, 240), 3),
    ("core_shell", (192, 192), 3),
    ("exercise", (100, 100), 2),
    ("map512", (64, 64), 3),
)


def null(millions: float, first_seed: int, tally: Path | None, missed: list[str]) -> None:
    """Print alarms in scans without drift, from the first spectrum on while the model learns."""
    print("\nscans without drift: spectra, alarms of the joint test, CUSUM alarms")
    lines = tally.read_text().splitlines() if tally and tally.exists() else []
    had = {(name, tuple(shape), seed): found for name, shape, seed, found in map(json.loads, lines)}
    sums = np.zeros(3, dtype=np.int64)
    scans = ((*scan, seed) for seed in count(first_seed) for scan in NULLS)
    while sums[0] < 1e6 * millions:
        name, shape, passes, seed = next(scans)
        found = had.get((name, shape, seed)) or alarms(name, shape, passes, seed)
        if tally and (name, shape, seed) not in had:
            with tally.open("a") as file:
                file.write(json.dumps([name, shape, seed, found]) + "\n")
        sums += found
        print(f"{name:17s} seed {seed} {found[0]:8d}  {found[1]}  CUSUM {found[2]}", flush=True)
    report(f"alarms in {sums[0]} spectra without drift (CUSUM: {sums[2]})", f"{sums[1]} (0)", not sums[1], missed)


def alarms(name: str, shape: tuple[int, int], passes: int, seed: int) -> list[int]:
    """Spectra of a scan without drift, alarms of the joint test, and those of the CUSUMs."""
    bench = Bench(load_specimen(name, seed=seed, shape=shape, channels=CHANNELS), seed, passes=passes)
    joint = cusums = 0
    for drift, cusum in bench.blocks():
        joint += drift is not None
        if cusum:
            cusums += 1
            bench.cusums = Cusums()
    return [bench.n_done, joint, cusums]


def correct(seeds: int, missed: list[str]) -> None:
    """Print the error of the final map of a scan that drifts by 4 eV, uncorrected, corrected, and without drift."""
    print("\nerror of the denoised map (noise-weighted) of a scan whose axis jumps by 4 eV after a third")
    for name, passes, _at in SCENARIOS:
        ratios = []
        for seed in range(seeds):
            specimen = load_specimen(name, seed=seed, shape=CORRECTED, channels=CHANNELS)
            errors = [
                final_error(specimen, seed, passes, *case) for case in ((0.0, False), (4e-3, False), (4e-3, True))
            ]
            ratios.append(np.array(errors[1:]) / errors[0])
        raw, mended = np.median(ratios, axis=0)
        text = f"uncorrected {raw:.2f}, corrected {mended:.2f} times that without drift (<= 1.05 x, and less)"
        report(name, text, mended <= max(1.05, 0.5 * (1 + raw)) and mended <= raw, missed)


def final_error(specimen: Specimen, seed: int, passes: int, shift: float, mend: bool) -> float:
    """Noise-weighted squared error per position of the map at the end."""
    bench = Bench(specimen, seed, passes=passes, correct=mend)
    jump = passes * specimen.n_positions // 3
    for _ in bench.blocks(lambda n: Calibration(shift) if n >= jump else Calibration()):
        pass
    bench.engine.finish()
    truth = passes * COUNTS * specimen.expected()
    return weighted_error(bench.engine.denoise(np.arange(specimen.n_positions)), truth)


def cost(repeats: int, missed: list[str]) -> None:
    """Print the time of the test for a block, beside that of the linear engine for the same block."""
    print("\ntime of a block of 256 x 2048, microseconds a spectrum: engine, drift test (its share)")
    for label, counts, dense in (("list mode, 20 counts", 20.0, False), ("dense, 200 counts", 200.0, True)):
        specimen = load_specimen("map512", shape=(64, 64), channels=CHANNELS)
        engine_s, drift_s = timed(specimen, counts, dense, repeats)
        share = drift_s / engine_s
        text = f"{engine_s * 1e6:6.1f}, {drift_s * 1e6:5.2f} ({share:.1%}; <= 15 %)"
        report(label, text, share <= 0.15, missed)


def timed(specimen: Specimen, counts: float, dense: bool, repeats: int) -> tuple[float, float]:
    """Median seconds a spectrum of `LinearEngine.process` and of `DriftMonitor.add`."""
    rng = np.random.default_rng(0)
    bench = Bench(specimen, 0)
    expected = counts * specimen.expected()
    engine_times, drift_times = [], []
    for repeat in range(repeats + 1):
        for first in range(0, specimen.n_positions, 256):
            index = np.arange(first, first + 256, dtype=np.uint32)
            block = rng.poisson(expected[first : first + 256]).astype(np.uint16)
            given = block if dense else sparse.csr_array(block)
            start = time.perf_counter()
            bench.engine.process(index, given)
            engine_times.append(time.perf_counter() - start)
            summed = block.sum(axis=0).astype(np.float64)
            bench.total += summed
            start = time.perf_counter()
            bench.monitor.add(summed, 256)
            drift_times.append(time.perf_counter() - start)
        bench.n_done += specimen.n_positions
        if repeat == 0:
            bench.engine.promote()
            bench.rebase()
            engine_times, drift_times = [], []
    return float(np.median(engine_times)) / 256, float(np.median(drift_times)) / 256


def main() -> int:
    """Print the tables; with --check, 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--seeds", type=int, default=5, help="scans of each kind")
    parser.add_argument("--side", type=int, default=256, help="of the scans in which drift is to be found")
    parser.add_argument("--nulls", type=float, default=0.3, help="spectra without drift, millions (the target: 3)")
    parser.add_argument("--first-seed", type=int, default=0, help="of the scans without drift")
    parser.add_argument("--tally", type=Path, help="file that keeps scans without drift, which can be run in pieces")
    parser.add_argument("--only", default="detect,null,correct,cost", help="which tables")
    options = parser.parse_args()
    wanted, missed = options.only.split(","), list[str]()
    if "detect" in wanted:
        detect(options.seeds, options.side, missed)
    if "null" in wanted:
        null(options.nulls, options.first_seed, options.tally, missed)
    if "correct" in wanted:
        correct(max(1, options.seeds // 2), missed)
    if "cost" in wanted:
        cost(5, missed)
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
