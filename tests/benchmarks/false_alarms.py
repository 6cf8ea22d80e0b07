"""How often ordinary spectra are flagged, beside the rate that was configured.

`python -m tests.benchmarks.false_alarms [--check] [--spectra 1000000] [--only NAME ...] [--tally FILE]` streams null
spectra of scenes of four phases with a gradient and a thickness wedge through the engine, pass after pass, and counts
p-values at or below 1e-3 and 2e-4. The first pass, in which phases are met for the first time, is given apart. Each
scene gives some 131,000 spectra; with a tally file, scenes that it has are not measured again, so that a million can be
counted in several runs (``--at-most`` scenes each). With ``--check`` it exits with 1 where a rate is not within 25 % of
the configured one (beside the counting error of the measurement); at 20 counts, where scores are discrete, where it is
above.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.linear import LinearEngine
from models.noise import POISSON, NoiseModel
from tests.unit.models.scenes import dead_time_counts, eds_scene

D, SIDE, BATCH, PASSES = 1024, 128, 256, 8
RATES = (1e-3, 2e-4)
CAMERA = NoiseModel("poisson_gaussian", 2.0, 100.0, 4.0)
Draw = Callable[[np.random.Generator, NDArray[np.float64]], NDArray[np.generic]]


def poisson(rng: np.random.Generator, expected: NDArray[np.float64]) -> NDArray[np.generic]:
    """Independent counts."""
    return rng.poisson(expected).astype(np.uint16)


def dead(rng: np.random.Generator, expected: NDArray[np.float64]) -> NDArray[np.generic]:
    """What a detector that is blind for a third of the time after each count lets through: less than Poisson."""
    return dead_time_counts(rng, expected, 1 / 3).astype(np.uint16)


def corrected(rng: np.random.Generator, expected: NDArray[np.float64]) -> NDArray[np.generic]:
    """The same after the usual correction for live time: more than Poisson."""
    return (1.5 * dead_time_counts(rng, expected / 1.5, 1 / 3)).astype(np.float32)


def camera(rng: np.random.Generator, expected: NDArray[np.float64]) -> NDArray[np.generic]:
    """Gain, offset and read noise."""
    quanta = rng.poisson(expected / CAMERA.gain)
    read = CAMERA.read_sigma * rng.standard_normal(expected.shape, dtype=np.float32)
    return (CAMERA.gain * quanta + CAMERA.offset + read).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """Counts a spectrum, how they are drawn, and the noise that the engine is told (None: it estimates it)."""

    counts: float
    draw: Draw
    noise: NoiseModel | None
    discrete: bool = False


CASES = {
    "poisson, 20 counts": Case(20.0, poisson, POISSON, discrete=True),
    "poisson, 200 counts": Case(200.0, poisson, POISSON),
    "poisson, 1000 counts": Case(1000.0, poisson, POISSON),
    "dead time, 200 counts": Case(200.0, dead, POISSON),
    "dead time corrected, 200 counts": Case(200.0, corrected, POISSON),
    "camera, 20000 counts": Case(20_000.0, camera, CAMERA),
    "camera, noise estimated": Case(20_000.0, camera, None),
}


@dataclass(frozen=True)
class Tally:
    """What one scene gave: p-values at or below each rate in its first pass and in the others."""

    case: str
    seed: int
    n_first: int
    first: list[int]
    n: int
    hits: list[int]
    dispersion: float
    seconds: float


def p_values(case: Case, n_passes: int, seed: int) -> tuple[NDArray[np.float64], LinearEngine]:
    """p-values of the visits, (passes, positions), as they were published."""
    scene = eds_scene(case.counts, side=SIDE, d=D, seed=seed)
    n = SIDE * SIDE
    rng = np.random.default_rng(seed)
    engine = LinearEngine(n, D, noise=case.noise)
    found = []
    for _ in range(n_passes):
        for first in range(0, n, BATCH):
            index = np.arange(first, first + BATCH, dtype=np.uint32)
            found.append(engine.process(index, case.draw(rng, scene.expected[first : first + BATCH])).p_value)
            if first % (4 * BATCH) == 0:
                engine.promote()
                for _ in range(20):
                    engine.background()
    return np.concatenate(found).reshape(n_passes, n), engine


def measured(name: str, seed: int) -> Tally:
    """One scene of a case, counted."""
    start = time.perf_counter()
    p, engine = p_values(CASES[name], PASSES + 1, seed)
    first, later = ([int((part <= rate).sum()) for rate in RATES] for part in (p[0], p[1:]))
    dispersion = float(engine.state_summary()["dispersion"])
    return Tally(name, seed, p[0].size, first, p[1:].size, later, dispersion, time.perf_counter() - start)


def told(name: str, tallies: list[Tally]) -> bool:
    """Print the rates of a case; whether they are what was configured."""
    n, good = sum(t.n for t in tallies), True
    dispersion, seconds = (np.mean([getattr(t, key) for t in tallies]) for key in ("dispersion", "seconds"))
    print(f"{name:34s} {n:,} spectra of {len(tallies)} scenes, dispersion {dispersion:.3f}, {seconds:.0f} s a scene")
    for k, rate in enumerate(RATES):
        ratio, error = sum(t.hits[k] for t in tallies) / n / rate, 2.0 / np.sqrt(max(n * rate, 1.0))
        ok = ratio <= 1.0 + error if CASES[name].discrete else abs(ratio - 1.0) <= 0.25 + error
        first = sum(t.first[k] for t in tallies) / sum(t.n_first for t in tallies) / rate
        text = f"at {rate:g}: {ratio:.2f} +- {error / 2:.2f} of it (first pass {first:.1f})"
        print(f"    {text:60s} {'' if ok else 'MISSED'}", flush=True)
        good &= bool(ok)
    return good


def main() -> int:
    """Print rates; with --check, 1 where one is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--spectra", type=int, default=1_000_000, help="null spectra of each case")
    parser.add_argument("--only", nargs="*", default=[], help="names of cases")
    parser.add_argument("--seed", type=int, default=0, help="of the first scene")
    parser.add_argument("--tally", type=Path, help="file (JSON lines) that keeps what was counted")
    parser.add_argument("--at-most", type=int, help="scenes to measure in this run")
    options = parser.parse_args()
    lines = options.tally.read_text().splitlines() if options.tally and options.tally.exists() else []
    kept = [Tally(**json.loads(line)) for line in lines]
    left = options.at_most if options.at_most is not None else sys.maxsize
    good = True
    for name in options.only or CASES:
        tallies = []
        for seed in range(options.seed, options.seed + -(-options.spectra // (PASSES * SIDE**2))):
            known = next((t for t in kept if (t.case, t.seed) == (name, seed)), None)
            if known is None and left > 0:
                left, known = left - 1, measured(name, seed)
                if options.tally:
                    with options.tally.open("a") as file:
                        file.write(json.dumps(asdict(known)) + "\n")
            tallies += [known] if known else []
        good &= not tallies or told(name, tallies)
    return int(options.check and not good)


if __name__ == "__main__":
    sys.exit(main())
