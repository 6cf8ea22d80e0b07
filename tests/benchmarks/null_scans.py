"""Whether a red pixel can be trusted at the end of a pass and of a scan: several passes over what has nothing rare.

`python -m tests.benchmarks.null_scans [--check] [--only NAME ...] [--few] [--seeds 0 ...] [--tally FILE]` scans
simulated specimens without their rare positions several times, line by line, through the whole pipeline. The table has
how many visits after the first pass were flagged at once over the configured rate, how many positions that are of no
minor phase stood flagged after each pass and at the end of the series, and how many of minor phases did then. A minor
phase is one that by the truth has most counts at no more than the share `anomaly.minor_phase` of the positions: it is
proposed, and flagged, on purpose, where it has a quarter of the counts or more. With ``--check`` it exits with 1 where
visits flagged at once, or positions flagged after a pass or at the end beside minor phases, are more than 1.25 times
what was configured (beside the counting error) over all scans, or fewer than nine tenths of what is mostly of minor
phases is flagged at the end. A tally file keeps what was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from simulator.sample import load_specimen
from streamer.config import PipelineConfig
from tests.benchmarks.first_pass import RATE, ordinary, scanned

COUNTS = {
    "exercise": (50.0, 200.0),
    "sulfide_ore": (50.0, 200.0),
    "core_shell": (50.0, 200.0),
    "diffusion_couple": (50.0, 200.0),
    "fe_cr_ni": (50.0, 200.0),
    "steel_phases": (200.0, 2000.0),
    "fe_oxidation": (2000.0, 20_000.0),
    "tungsten_flakes": (200.0, 2000.0),
    "polymer_blend": (2000.0, 20_000.0),
}
"""Specimens, and their counts a visit: few and many, as the technique has it."""
PASSES, LEAST = 4, 0.9
MINOR, PART = PipelineConfig().anomaly.minor_phase, 0.25


@dataclass(frozen=True)
class Tally:
    """What one scan gave; visits are those after the first pass."""

    name: str
    counts: float
    seed: int
    visits: int
    at_once: int
    positions: int
    after_passes: list[int]
    false: int
    minor: int
    of_minor: int


def measured(name: str, counts: float, seed: int) -> Tally:
    """Scan a specimen without its rare positions, and count flags."""
    specimen = ordinary(load_specimen(name, seed=seed))
    n, phase = specimen.n_positions, specimen.phase_map().ravel()
    passes, end = scanned(specimen, counts, seed, PASSES)
    minor = np.bincount(phase, minlength=len(specimen.phases)) <= MINOR * n
    counted = specimen.abundances * specimen.endmembers.sum(axis=1)
    part = counted[:, minor].sum(axis=1) >= PART * counted.sum(axis=1)
    beside = [int(np.count_nonzero((told.last & 1 > 0) & ~part)) for told in (*passes, end)]
    flagged = int(np.count_nonzero((end.last & 1 > 0) & minor[phase]))
    at_once = passes[-1].at_once - passes[0].at_once
    return Tally(
        name, counts, seed, n * (PASSES - 1), at_once, n, beside[:-1], beside[-1], int(minor[phase].sum()), flagged
    )  # fmt: skip


def rate(label: str, hits: int, n: int) -> bool:
    """Print a rate over the configured one; whether it is not above."""
    ratio, error = hits / n / RATE, 1.0 / np.sqrt(n * RATE)
    ok = ratio <= 1.25 + 2.0 * error
    print(f"    {label}: {hits} of {n:,}, {ratio:.2f} +- {error:.2f} of {RATE:g} {'' if ok else 'MISSED'}", flush=True)
    return bool(ok)


def main() -> int:
    """Print the table; with --check, 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--only", nargs="*", default=list(COUNTS), help="names of specimens")
    parser.add_argument("--few", action="store_true", help="the lower count rate of each only")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="of specimens and counts")
    parser.add_argument("--tally", type=Path, help="file (JSON lines) that keeps what was measured")
    options = parser.parse_args()
    lines = options.tally.read_text().splitlines() if options.tally and options.tally.exists() else []
    known = {(t.name, t.counts, t.seed): t for t in (Tally(**json.loads(line)) for line in lines)}
    tallies = []
    for name in options.only:
        for counts in COUNTS[name][: 1 if options.few else None]:
            for seed in options.seeds:
                tally = known.get((name, counts, seed)) or measured(name, counts, seed)
                if options.tally and (name, counts, seed) not in known:
                    with options.tally.open("a") as file:
                        file.write(json.dumps(asdict(tally)) + "\n")
                print(
                    f"{name:18s} {counts:6g} seed {seed}: {tally.at_once / tally.visits / RATE:5.2f} at once;"
                    f" {tally.after_passes} after the passes, {tally.false} at the end;"
                    f" of minor phases {tally.of_minor} of {tally.minor}",
                    flush=True,
                )
                tallies.append(tally)
    positions = sum(t.positions for t in tallies)
    good = rate("visits flagged at once", sum(t.at_once for t in tallies), sum(t.visits for t in tallies))
    good &= rate("flagged after a pass", sum(sum(t.after_passes) for t in tallies), PASSES * positions)
    good &= rate("flagged at the end", sum(t.false for t in tallies), positions)
    found, there = sum(t.of_minor for t in tallies), sum(t.minor for t in tallies)
    print(f"    {found} of {there} positions of minor phases flagged {'' if found >= LEAST * there else 'MISSED'}")
    return int(options.check and not (good and found >= LEAST * there))


if __name__ == "__main__":
    sys.exit(main())
