"""Whether a red pixel can be trusted from the first spectrum on: flags while the phases of a scan are still being met.

`python -m tests.benchmarks.first_pass [--check] [--only NAME ...] [--counts 20 ...] [--seeds 0 ...]` scans simulated
specimens once, line by line, through the whole pipeline, and reads the flags as they are told. Without their rare
positions (each has what lies between its ordinary neighbours) everything is ordinary: a flag is false. The table has
how many positions were flagged at once, how many after a wait, where in the pass (as shares of it), and how many were
told to wait and then cleared, over the configured rate. With their rare positions: how many of those that came before
the last tenth of the pass, and that a test of the finished scan finds, were flagged in it, and after how many further
spectra in the median. With ``--check`` it exits with 1 where, over all scans at one count rate, flags are more than
1.25 times what was configured (beside the counting error), or fewer than nine tenths of those rare positions are
flagged during the pass.
"""

from __future__ import annotations

import argparse
import sys
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.linear import FLAG_ANOMALOUS, FLAG_WAITS
from simulator.sample import Specimen, load_specimen
from streamer.config import PipelineConfig
from streamer.events import Event, Publish
from streamer.pipeline import Pipeline
from streamer.wire import encode_header, encode_image, encode_series_end
from streamer.wire.items import Arrived, Idle, Item, Tick

SPECIMENS = ("exercise", "sulfide_ore", "steel_phases", "core_shell", "diffusion_couple", "fe_cr_ni")
RARE = ("exercise", "sulfide_ore")
COUNTS = (20.0, 200.0, 1000.0)
BLOCK, IDLE, MS = 64, 40, 20_000_000
PARTS = (0.0, 0.02, 0.1, 0.25, 0.5, 1.0)
RATE = PipelineConfig().anomaly.false_alarm


@dataclass
class Told:
    """Flags as they are told: after how many spectra a position was called anomalous and told to wait (-1: never).

    `at_once` visits were called anomalous with their own results; `last` has the flags as they stand.
    """

    n: int
    processed: int = 0
    at_once: int = 0
    red: NDArray[np.int64] = field(init=False)
    waits: NDArray[np.int64] = field(init=False)
    last: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        self.red, self.waits = np.full(self.n, -1), np.full(self.n, -1)
        self.last = np.zeros(self.n, np.uint8)

    def read(self, events: list[Event]) -> None:
        """Take what was told."""
        for event in events:
            if isinstance(event, Publish) and event.result.topic == "result":
                self.processed += event.n_spectra
                index, flag = event.result.arrays["index"], event.result.arrays["flag"]
                self.last[index] = flag
                self.at_once += int(event.n_spectra > 0) * int(np.count_nonzero(flag & FLAG_ANOMALOUS))
                for bit, first in ((FLAG_ANOMALOUS, self.red), (FLAG_WAITS, self.waits)):
                    new = index[(flag & bit > 0) & (first[index] < 0)]
                    first[new] = self.processed


def ordinary(specimen: Specimen) -> Specimen:
    """Replace what is rare by what lies between its ordinary neighbours in the line: no step, no composition twice.

    With the composition of the nearest one instead, a layer would become a plateau in a gradient: a phase.
    """
    rare = np.zeros(specimen.n_positions, dtype=np.bool_)
    rare[specimen.rare_positions()] = True
    lines = specimen.abundances.reshape(*specimen.nav_shape, -1).copy()
    for line, gone in zip(lines, rare.reshape(specimen.nav_shape), strict=True):
        there, x = ~gone, np.arange(len(line))
        for phase in range(line.shape[1] if gone.any() else 0):
            line[gone, phase] = np.interp(x[gone], x[there], line[there, phase])
    return replace(specimen, abundances=lines.reshape(specimen.abundances.shape))


def scanned(specimen: Specimen, counts: float, seed: int, passes: int = 1) -> tuple[list[Told], Told]:
    """Scan a specimen; what was told until the end of each pass, and at the end of the series."""
    told, pipeline, t_ns = Told(specimen.n_positions), Pipeline(PipelineConfig()), 0
    rng, values = np.random.default_rng(seed), specimen.axis.values
    axis: dict[str, Any] = {"name": specimen.axis.name, "units": specimen.axis.units, "size": values.size}
    axis |= {"offset": float(values[0]), "scale": float(values[1] - values[0])}

    def message(parts: list[Any]) -> None:
        nonlocal t_ns
        t_ns += MS
        items: list[Item] = [Arrived(t_ns, parts, "127.0.0.1"), Tick(t_ns), *[Idle(t_ns)] * IDLE]
        for item in items:
            told.read(list(pipeline.feed(item)))

    plan: dict[str, Any] = {"technique": specimen.technique, "noise": {"model": "poisson"}, "passes": passes}
    message(encode_header("scan", specimen.nav_shape, axis, **plan))
    number, after = 0, []
    for first in range(0, passes * told.n, told.n):
        for place in range(0, told.n, BLOCK):
            number, expected = number + 1, specimen.expected(slice(place, place + BLOCK))
            message(encode_image("scan", number, first + place, rng.poisson(counts * expected).astype(np.uint16)))
        after.append(deepcopy(told))
    message(encode_series_end("scan", number + 1, passes * told.n))
    return after, told


def null(names: list[str], counts: float, seeds: list[int]) -> bool:
    """Scan without rare positions; whether flags are as rare as they should be."""
    n, false = 0, 0
    for name in names:
        for seed in seeds:
            (told,), end = scanned(ordinary(load_specimen(name, seed=seed)), counts, seed)
            at_once = (told.red >= 0) & (told.red - np.arange(told.n) <= BLOCK)
            later, cleared = (told.red >= 0) & ~at_once, (told.waits >= 0) & (told.red < 0)
            where = np.histogram(np.flatnonzero(told.red >= 0) / told.n, PARTS)[0]
            unit = RATE * told.n
            print(
                f"{name:18s} {counts:5g} seed {seed}: {at_once.sum() / unit:6.1f} at once, {later.sum() / unit:5.1f}"
                f" after a wait, {cleared.sum() / unit:6.1f} cleared; flags by part of the pass {where.tolist()};"
                f" left {np.count_nonzero(told.last & 1)}, at the end {np.count_nonzero(end.last & 1)}",
                flush=True,
            )
            n, false = n + told.n, false + int(np.count_nonzero(told.red >= 0))
    ratio, error = false / n / RATE, 1.0 / np.sqrt(n * RATE)
    ok = ratio <= 1.25 + 2.0 * error
    print(f"    {counts:g} counts: {ratio:.2f} +- {error:.2f} of {RATE:g} {'' if ok else 'MISSED'}", flush=True)
    return bool(ok)


def rare(names: list[str], counts: float, seeds: list[int]) -> bool:
    """Scan with rare positions; whether those that can be found are flagged during the pass."""
    found, missed, waits = 0, 0, []
    for name in names:
        for seed in seeds:
            specimen = load_specimen(name, seed=seed)
            places = specimen.rare_positions()
            (told,), end = scanned(specimen, counts, seed)
            can = places[(end.last[places] & 1 > 0) & (places < 0.9 * told.n)]
            early = can[told.red[can] >= 0]
            found, missed = found + early.size, missed + can.size - early.size
            waits += (told.red[early] - early).tolist()
    wait = float(np.median(waits)) if waits else 0.0
    ok = found >= 0.9 * (found + missed)
    print(
        f"    {counts:g} counts: {found} of {found + missed} rare positions flagged during the pass,"
        f" {wait:.0f} spectra after they came {'' if ok else 'MISSED'}",
        flush=True,
    )
    return ok


def main() -> int:
    """Print the table; with --check, 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--only", nargs="*", default=list(SPECIMENS), help="names of specimens")
    parser.add_argument("--counts", type=float, nargs="*", default=list(COUNTS), help="counts a spectrum")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="of specimens and counts")
    options = parser.parse_args()
    good = True
    for counts in options.counts:
        good &= null(options.only, counts, options.seeds)
        good &= rare([name for name in options.only if name in RARE], counts, options.seeds)
    return int(options.check and not good)


if __name__ == "__main__":
    sys.exit(main())
