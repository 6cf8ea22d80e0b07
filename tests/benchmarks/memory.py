"""Memory of the daemon over a million spectra: bounded by the limit on stored counts, all else flat.

`python -m tests.benchmarks.memory [--check] [--quick] [--only CASE]`. A daemon as a process with its defaults, but for
a limit on stored counts that the scan exceeds, and a short queue, which has a limit of its own; four passes over 512 x
512 positions of 2,048 channels, in list mode and dense, and then four more series of one pass. At each eighth the
stream waits until everything sent is processed; then the resident memory of the process (Linux) stands beside what the
engine's own books say of stored counts, and what is left over is all else: code, the map's scores, the model, and what
was not yet given back of earlier series. Exact are positions whose scores are of the newest model, projected from
stored counts. With ``--check`` it exits with 1 where stored counts are ever over their limit, or all else grows by more
than 64 MiB after the first pass, or its least value by as much from two series to the next two.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import zmq

from tests.benchmarks._stream import Stream
from tests.system.outsider import Asker, Bench, Daemon, Listener, daemon

SIDE, BLOCK, PASSES = 512, 256, 4
N_PASS = SIDE * SIDE
SAMPLES, FLAT_MIB, INBOX_MIB, PATIENCE_S = 8, 64.0, 16, 180.0
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """What is sent, and the memory that its counts may take."""

    stream: Stream
    store_mib: int


CASES = {
    "list": Case(Stream("list", "events", 20.0, N_PASS, side=SIDE), 64),
    "dense": Case(Stream("dense", "dense", 200.0, N_PASS, side=SIDE), 256),
}


@dataclass(frozen=True)
class Sample:
    """Memory in MiB at one moment: resident, its peak so far, stored counts; and how many positions are exact."""

    spectra: int
    resident: float
    peak: float
    stored: float
    exact: int

    @property
    def other(self) -> float:
        """All that is not stored counts."""
        return self.resident - self.stored


class Source:
    """Sends one series after another, and looks at the daemon in between."""

    def __init__(self, bench: Bench, server: Daemon) -> None:
        self._asker, self._server = Asker(bench, server.control), server
        self._ends = Listener(bench, server.results, "series")
        self._push = bench.socket(zmq.PUSH)
        self._push.setsockopt(zmq.SNDHWM, 64)
        self._push.bind(server.source)
        self._asker.ask("status")

    def run(self, stream: Stream, n_spectra: int, every: int) -> Iterator[Sample]:
        """Send a series of so many spectra; look after each `every` of them, and after the end."""
        whole = replace(stream, n_spectra=n_spectra)
        self._push.send_multipart(whole.header())
        # No counts come twice: noise that repeats would be taken for what the specimen is like.
        for number, message in enumerate(whole.messages()):
            self._push.send_multipart(message, copy=False)
            sent = (number + 1) * BLOCK
            if sent % every == 0:
                yield self._sample(whole.name, sent)
        self._push.send_multipart(whole.end())
        books = self._ends.until_end(whole.name)
        if (books["processed"], books["lost"]) != (n_spectra, {}):
            raise RuntimeError(f"not all spectra were processed: {books}")
        yield self._sample(whole.name, n_spectra)

    def _processed(self, series: str, spectra: int) -> dict[str, Any]:
        """Wait until so many spectra of a series are processed, and return the status."""
        deadline = time.monotonic() + PATIENCE_S
        status: dict[str, Any] = {}
        while status.get("series") != series or status["processed"] < spectra:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{spectra} spectra were not processed in {PATIENCE_S} s")
            time.sleep(0.02)
            status = self._asker.ask("status")[0]["params"]
        return status

    def _sample(self, series: str, spectra: int) -> Sample:
        status = self._processed(series, spectra)
        assert self._server.process is not None
        memory = process_memory(self._server.process.pid)
        return Sample(
            spectra, memory["VmRSS"], memory["VmHWM"], status["store_bytes"] / MIB, status["exact_positions"]
        )  # fmt: skip


def process_memory(pid: int) -> dict[str, float]:
    """Return what Linux says of a process, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name: float(value.split()[0]) / 1024 for name, _, value in pairs if name in ("VmRSS", "VmHWM")}


@contextmanager
def source(case: Case) -> Iterator[Source]:
    """Start a daemon with the case's limit."""
    os.environ["SCANWISE_SOURCE__PATTERN"] = "pull"
    os.environ["SCANWISE_INBOX__MIB"] = str(INBOX_MIB)
    os.environ["SCANWISE_PIPELINE__LINEAR__STORE_MIB"] = str(case.store_mib)
    bench = Bench()
    with tempfile.TemporaryDirectory() as folder, daemon(Path(folder)) as server:
        yield Source(bench, server)
        bench.close()


def show(where: str, sample: Sample) -> None:
    """Print a line."""
    print(
        f"   {where:20s} {sample.spectra:9,} {sample.resident:9.0f} {sample.stored:9.1f} {sample.other:9.0f} "
        f"{sample.peak:9.0f} {100 * sample.exact / SIDE**2:7.1f}",
        flush=True,
    )


def one(name: str, case: Case, passes: int) -> list[str]:
    """Run a case and print it; return what misses its target."""
    n, missed = passes * N_PASS, []
    print(f"{name}: limit on stored counts {case.store_mib} MiB, {case.stream.counts:g} counts a spectrum")
    print("   when                   spectra  resident    stored  all else      peak  exact %   (MiB)")
    with source(case) as sender:
        first = []
        for sample in sender.run(replace(case.stream, name=f"{name}-first"), n, n // SAMPLES):
            first.append(sample)
            show("after the end" if len(first) > SAMPLES else f"{len(first)}/{SAMPLES}", sample)
        later = []
        for which in ("second", "third", "fourth", "fifth"):
            samples = sender.run(replace(case.stream, name=f"{name}-{which}"), N_PASS, N_PASS)
            for sample, where in zip(samples, (f"{which} series", "after its end"), strict=True):
                later.append(sample)
                show(where, sample)
    worst = max(s.stored for s in first + later)
    if worst > case.store_mib:
        missed.append(f"{name}: {worst:.1f} MiB of counts are stored, over the limit of {case.store_mib} MiB")
    passed = next(s for s in first if s.spectra >= N_PASS)
    grown = max(s.other for s in first[:SAMPLES] if s.spectra >= N_PASS) - passed.other
    # Earlier series are given back by and by: what is never given back shows in the least values.
    between = min(s.other for s in later[4:]) - min(s.other for s in later[:4])
    print(f"   all else: {grown:+.0f} MiB after the first pass, {between:+.0f} MiB over four more series")
    for what, by in (("after the first pass", grown), ("over four more series", between)):
        if by > FLAT_MIB:
            missed.append(f"{name}: all else grew by {by:.0f} MiB {what} (<= {FLAT_MIB:g})")
    return missed


def main() -> int:
    """Run and print; 1 where a target is missed under --check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--quick", action="store_true", help="two passes instead of four")
    parser.add_argument("--only", choices=list(CASES), action="append", help="one case; may be repeated")
    options = parser.parse_args()
    if not Path("/proc/self/status").exists():
        parser.error("resident memory is read from /proc, which Linux has")
    missed = []
    for name in options.only or CASES:
        missed += one(name, CASES[name], 2 if options.quick else PASSES)
    for line in missed:
        print(f"MISSED {line}")
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
