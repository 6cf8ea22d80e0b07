"""What phases, unmixing and UMAP take, and that they give way to spectra that wait.

Run `python -m tests.benchmarks.looks [--check] [--quick] [--only SPECIMEN] [--dose COUNTS] [--chain]`. Simulated scans
go through the pipeline in this process, with the three settings of what looks at the model: nothing, phases, phases and
unmixing (the default). Processor time of

- idle: pieces of work where the scan leaves time for all that wants some, with how long the longest of a hundred
  pieces keeps a spectrum waiting;
- end: closing the series, after which everything is up to date;
- busy: messages alone, where there is no idle time at all, per spectrum and over that without any looks.

UMAP is drawn after the end, by a process of the lowest priority, once for each scan; its time is that of the report
with it less that of the report alone. `--chain` asks the same of the daemon over sockets: its rate with and without.
With --check, looks may take a tenth where there is no idle time (a twentieth is meant for them, and more at first,
which shows in a short scan), and a piece a millisecond (the model's own may last longer).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simulator.sample import Specimen, load_specimen
from streamer.closing import Portrait
from streamer.config import PhaseSection, PipelineConfig, UnmixingSection
from streamer.events import Event, Publish, SeriesClosed
from streamer.pipeline import Pipeline
from streamer.warm import warm_up
from streamer.wire import Part, encode_header, encode_image, encode_series_end
from streamer.wire.items import Arrived, Idle, Tick
from tests.benchmarks.chain import CASES, timed

SPECIMENS = ("exercise", "core_shell", "steel_phases")
DOSES = (20.0, 200.0)
SETTINGS: dict[str, tuple[bool, bool]] = {"nothing": (False, False), "phases": (True, False), "both": (True, True)}
BLOCK, PASSES, MOST_PIECES, ROUNDS = 256, 3, 400, 3
MESSAGE_NS, STRAGGLERS_NS = 50_000_000, 20_000_000_000
MOST_SHARE, MOST_PIECE_MS = 1.1, 1.0


@dataclass
class Spent:
    """Seconds of processor time."""

    messages_s: float = 0.0
    pieces_s: list[float] = field(default_factory=list)
    end_s: float = 0.0


def config_of(name: str) -> PipelineConfig:
    """The daemon's defaults, but for what looks at the model."""
    phases, unmixing = SETTINGS[name]
    return PipelineConfig(phases=PhaseSection(enabled=phases), unmixing=UnmixingSection(enabled=unmixing))


@dataclass(frozen=True)
class Scan:
    """Messages of a scan, and the one that ends it."""

    messages: list[list[Part]]
    end: list[Part]
    n_spectra: int

    @classmethod
    def of(cls, specimen: Specimen, dose: float, passes: int) -> Scan:
        """Passes over a specimen, so many counts a visit."""
        values, rng, n = specimen.axis.values, np.random.default_rng(0), specimen.n_positions
        axis: dict[str, Any] = {"name": specimen.axis.name, "units": specimen.axis.units, "size": values.size}
        axis |= {"offset": float(values[0]), "scale": float(values[1] - values[0])}
        keys: dict[str, Any] = {"technique": specimen.technique, "noise": {"model": "poisson"}, "passes": passes}
        messages, expected = [encode_header("looks", specimen.nav_shape, axis, **keys)], dose * specimen.expected()
        for frame in range(0, passes * n, BLOCK):
            rows = np.arange(frame, min(frame + BLOCK, passes * n)) % n
            messages.append(encode_image("looks", len(messages), frame, rng.poisson(expected[rows]).astype(np.uint16)))
        return cls(messages, encode_series_end("looks", len(messages), passes * n), passes * n)


def fed(scan: Scan, config: PipelineConfig, pieces: int) -> tuple[Spent, list[Event], Pipeline]:
    """Feed a scan with at most so many pieces of idle time after each message, and close it."""
    pipeline, spent, events, t_ns = Pipeline(config), Spent(), list[Event](), 0
    for parts in scan.messages:
        t_ns += MESSAGE_NS
        with _timed() as took:
            events += pipeline.feed(Arrived(t_ns, parts))
            events += pipeline.feed(Tick(t_ns))
        spent.messages_s += took[0]
        for _ in range(pieces):
            if not pipeline.wants_idle:
                break
            with _timed() as took:
                events += pipeline.feed(Idle(t_ns))
            spent.pieces_s.append(took[0])
    with _timed() as took:
        events += pipeline.feed(Arrived(t_ns, scan.end))
        events += pipeline.feed(Tick(t_ns + STRAGGLERS_NS))
    spent.end_s = took[0]
    return spent, events, pipeline


@contextmanager
def _timed() -> Iterator[list[float]]:
    took, begun_s = [0.0], time.process_time()
    yield took
    took[0] = time.process_time() - begun_s


def with_idle_time(scan: Scan, missed: list[str]) -> tuple[list[Event], Pipeline]:
    """Print what each setting takes where there is time; return what the default said."""
    before = 0.0
    for name in SETTINGS:
        spent, events, pipeline = fed(scan, config_of(name), MOST_PIECES)
        idle_s, longest_ms = sum(spent.pieces_s), 1e3 * float(np.quantile(spent.pieces_s, 0.99))
        ok = longest_ms <= MOST_PIECE_MS or name == "nothing"
        print(
            f"   {name:8s} messages {spent.messages_s:5.2f} s, idle {idle_s:5.2f} s ({len(spent.pieces_s)} pieces, p99"
            f" {longest_ms:.2f} ms), end {spent.end_s:5.2f} s: {_each(spent, scan):6.1f} us a spectrum"
            f" ({_each(spent, scan) - before:+.1f}) {'' if ok else 'MISSED'}",
            flush=True,
        )
        before = _each(spent, scan)
        missed += [] if ok else [f"piece {name}"]
    return events, pipeline


def _each(spent: Spent, scan: Scan) -> float:
    return 1e6 * (spent.messages_s + sum(spent.pieces_s) + spent.end_s) / scan.n_spectra


def without_idle_time(scan: Scan, missed: list[str]) -> None:
    """Print what messages take where something always waits, with and without looks in turn."""
    took: dict[str, list[float]] = {"nothing": [], "both": []}
    for _ in range(ROUNDS):
        for name, times in took.items():
            times.append(fed(scan, config_of(name), 0)[0].messages_s)
    ratio = float(np.median(np.array(took["both"]) / took["nothing"]))
    ok = ratio <= MOST_SHARE
    each = 1e6 * float(np.median(took["nothing"])) / scan.n_spectra
    print(
        f"   busy     {each:.1f} us a spectrum without looks, {ratio:.3f} times that with both {'' if ok else 'MISSED'}"
    )
    missed += [] if ok else ["busy"]


def umap(events: list[Event], pipeline: Pipeline) -> None:
    """Print what the report of a scan takes without and with UMAP."""
    if importlib.util.find_spec("umap") is None:
        print("   UMAP is not installed: pip install 'scanwise[umap]'")
        return
    portrait = Portrait(status=pipeline.status())
    for event in events:
        if isinstance(event, Publish):
            portrait.see(event.result)
    with tempfile.TemporaryDirectory() as folder:
        portrait.write(Path(folder), next(e.books for e in events if isinstance(e, SeriesClosed)), {})
        took = [_process_s([sys.executable, "-m", "streamer.report", *more, folder]) for more in ([], ["--umap"])]
    print(f"   report   {took[0]:.1f} s in a process of its own after the end, with UMAP {took[1] - took[0]:+.1f} s")


def _process_s(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "MPLBACKEND": "Agg"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def through_the_daemon(seconds: float, missed: list[str]) -> None:
    """Print the rate of the whole chain with and without looks."""
    rate = {}
    for name in ("nothing", "both"):
        os.environ["SCANWISE_PIPELINE__PHASES__ENABLED"] = "true" if name == "both" else "false"
        run = timed(CASES["dense"], seconds)
        rate[name] = run.rate
        print(f"daemon, {name:8s} {run.rate:9,.0f} spectra/s", flush=True)
    ratio = rate["nothing"] / rate["both"]
    print(f"   {ratio:.3f} times as fast without looks")
    missed += [] if ratio <= MOST_SHARE else ["daemon"]


def main() -> int:
    """Print all figures; with --check, 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--quick", action="store_true", help="one specimen and one dose")
    parser.add_argument("--only", choices=SPECIMENS, help="one specimen")
    parser.add_argument("--dose", type=float, help="one dose, in counts a visit")
    parser.add_argument("--chain", action="store_true", help="the daemon over sockets, too; two minutes")
    options = parser.parse_args()
    missed: list[str] = []
    warm_up()
    names = SPECIMENS[:1] if options.quick else SPECIMENS
    for name in names if options.only is None else [options.only]:
        for dose in DOSES[:1] if options.quick else DOSES if options.dose is None else [options.dose]:
            scan = Scan.of(load_specimen(name), dose, PASSES)
            print(f"{name}, {dose:g} counts a visit, {scan.n_spectra:,} spectra in {PASSES} passes:", flush=True)
            umap(*with_idle_time(scan, missed))
            without_idle_time(scan, missed)
    if options.chain:
        through_the_daemon(4.0, missed)
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
