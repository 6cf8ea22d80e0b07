"""The whole chain through the default daemon as a process, beside scikit-learn's model update alone.

`python -m tests.benchmarks.chain [--check] [--quick] [--only CASE] [--profile FILE]`. ZeroMQ in, update, project,
anomaly score, maps, results out; 2,048 channels, blocks of 256. The sender is a process of its own that has prepared
all its messages, no spectrum twice; PUSH to PULL, so that the daemon is fed as fast as it takes and nothing is lost;
another process subscribes to all results. The rate is that from the first message sent to the last result received,
over at least 10 s, after series of the same kind have compiled and warmed everything. The reference,
IncrementalPCA.partial_fit in float64, is timed before the daemon starts, with one BLAS thread and with as many as there
are cores, and the faster counts. `--profile` writes the stacks that py-spy sees in a further run and prints their tops.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from sklearn.decomposition import IncrementalPCA
from threadpoolctl import threadpool_limits

from tests.benchmarks._stream import Drained, Sent, Stream, drain, receiver, sender
from tests.system.outsider import Asker, Bench, Daemon, daemon, free_port

K, BATCH = 16, 256
AT_LEAST_S, MARGIN = 10.0, 1.25
MOST_BYTES = 6 << 30
PATIENCE_S = 120.0
SPY_STARTS_S = 3.0
_STAGE = re.compile(r'scanwise_stage_seconds_(sum|count)\{stage="(\w+)"\} (\S+)')


@dataclass(frozen=True)
class Case:
    """What is sent, and how many times faster than the reference it is to be (0: no target)."""

    stream: Stream
    target: float = 0.0
    events_target: float = 0.0

    @property
    def bytes_per_spectrum(self) -> float:
        """Memory that a prepared spectrum takes in the sender."""
        return 2.0 * self.stream.n_channels if self.stream.kind == "dense" else 2.0 * self.stream.counts + 4.0


CASES = {
    "dense": Case(Stream("dense", "dense", 200.0, 1 << 17), 15.0),
    "dense2000": Case(Stream("dense2000", "dense", 2000.0, 1 << 17), 15.0),
    "list": Case(Stream("list", "events", 20.0, 1 << 20), 50.0, 1e7),
    "list2048": Case(Stream("list2048", "events", 20.0, 1 << 20, block=2048)),
}


def reference_s(repeats: int) -> dict[int, float]:
    """Seconds a spectrum of partial_fit, by the number of BLAS threads."""
    stream = Stream("reference", "dense", 200.0, 9 * BATCH)
    counts = np.concatenate([stream.dense(*block) for block in stream.blocks()]).astype(np.float64)
    rows = counts / np.sqrt(np.maximum(counts.mean(axis=0), 1e-3))
    found = {}
    for threads in sorted({1, os.cpu_count() or 1}):
        with threadpool_limits(threads):
            model = IncrementalPCA(n_components=K)
            model.partial_fit(rows[:BATCH])
            times = []
            for _ in range(repeats):
                begun_s = time.perf_counter()
                for first in range(BATCH, len(rows), BATCH):
                    model.partial_fit(rows[first : first + BATCH])
                times.append((time.perf_counter() - begun_s) / (len(rows) - BATCH))
        found[threads] = median(times)
    return found


def bare_rate(stream: Stream) -> float:
    """Spectra a second from the same sender to a process that only receives."""
    url = f"tcp://127.0.0.1:{free_port()}"
    with sender(url) as source, receiver(url) as sink:
        source.send(stream)
        source.recv()
        time.sleep(0.5)
        source.send("go")
        sent: Sent = source.recv()
        source.send("end")
        got: Drained = sink.recv()
    return got.n_results / (got.end_s - sent.first_s)


@dataclass(frozen=True)
class Run:
    """One series through the daemon."""

    sent: Sent
    result_s: float
    drained: Drained
    stages_s: dict[str, float]

    @property
    def seconds(self) -> float:
        """From the first message sent to the last result received."""
        return self.result_s - self.sent.first_s

    @property
    def rate(self) -> float:
        """Spectra a second."""
        return self.sent.n_spectra / self.seconds

    @property
    def balanced(self) -> bool:
        """Whether every spectrum sent was processed and had a result, and none was lost."""
        books, n = self.drained.end, self.sent.n_spectra
        # Positions that were tested again have further results.
        whole = (books["n_sent"], books["processed"]) == (n, n) and self.drained.n_results >= n
        return whole and not sum(books["lost"].values())


def stages(url: str) -> dict[str, float]:
    """Seconds spent in each stage since the daemon began, from its metrics."""
    with urllib.request.urlopen(url) as answer:
        text = answer.read().decode()
    return {name: float(value) for kind, name, value in _STAGE.findall(text) if kind == "sum"}


class Chain:
    """A default daemon with a sender and a subscriber, each a process."""

    def __init__(self, server: Daemon, metrics: str, source: Any, results: Any) -> None:
        self.server, self._metrics, self._source, self._results = server, metrics, source, results

    def run(self, stream: Stream, profile: Path | None = None) -> Run:
        """Send one series and wait for its end; where the time of its spectra goes is written to `profile`."""
        self._source.send(stream)
        self._source.recv()
        self._results.send(stream)
        before = stages(self._metrics)
        with self._profiled(profile):
            self._source.send("go")
            sent = self._source.recv()
            if not self._results.poll(PATIENCE_S):
                raise TimeoutError(f"{stream.name}: not all results came within {PATIENCE_S} s of the last spectrum")
            result_s = self._results.recv()
        after = stages(self._metrics)
        self._source.send("end")
        return Run(sent, result_s, self._results.recv(), {name: s - before.get(name, 0.0) for name, s in after.items()})

    @contextmanager
    def _profiled(self, file: Path | None) -> Iterator[None]:
        if file is None:
            yield
            return
        assert self.server.process is not None
        command = ["py-spy", "record", "--pid", str(self.server.process.pid), "--format", "raw", "--threads"]
        command += ["--rate", "200", "--duration", "600", "--nonblocking", "--output", str(file)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as spy:
            time.sleep(SPY_STARTS_S)
            yield
            spy.send_signal(signal.SIGINT)


@contextmanager
def chain() -> Iterator[Chain]:
    """Start everything, and wait until the daemon answers."""
    os.environ["SCANWISE_SOURCE__PATTERN"] = "pull"
    listen = f"127.0.0.1:{free_port()}"
    with (
        tempfile.TemporaryDirectory() as folder,
        daemon(Path(folder), "--metrics", listen) as server,
        sender(server.source) as source,
        drain(server.results) as results,
    ):
        bench = Bench()
        Asker(bench, server.control).ask("status")
        bench.close()
        time.sleep(1.0)
        yield Chain(server, f"http://{listen}/metrics", source, results)


def long_enough(case: Case, rate: float, seconds: float) -> Stream:
    """Return the stream with spectra for this long at a rate, and for no more memory than is sensible."""
    most = int(MOST_BYTES / case.bytes_per_spectrum)
    n = min(int(rate * seconds), most) // case.stream.block * case.stream.block
    return replace(case.stream, name=f"{case.stream.name}-timed", n_spectra=n)


def timed(case: Case, seconds: float, profile: Path | None = None) -> Run:
    """Warm up with a short series, then time one that is long enough."""
    with chain() as through:
        short = through.run(replace(case.stream, name=f"{case.stream.name}-first"))
        warm = through.run(replace(case.stream, name=f"{case.stream.name}-second"))
        stream = long_enough(case, max(short.rate, warm.rate), seconds * MARGIN)
        return through.run(stream, profile)


def tops(folded: str, most: int = 25) -> list[str]:
    """Return the functions where the samples of each thread are, own time first, then with what they call."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, n = line.rpartition(" ")
        frames = [f for f in stack.split(";") if f]
        own[frames[-1]] += int(n)
        for frame in set(frames):
            within[frame] += int(n)
    total = sum(own.values()) or 1
    lines = [f"{100 * n / total:5.1f} % own     {name}" for name, n in own.most_common(most)]
    return lines + [f"{100 * n / total:5.1f} % within  {name}" for name, n in within.most_common(2 * most)]


def show(name: str, case: Case, run: Run, base_s: float, bare: float) -> bool:
    """Print one case; return whether its targets are met."""
    ratio, events = run.rate * base_s, run.sent.n_counts / run.seconds
    held = run.seconds >= AT_LEAST_S or run.sent.nbytes > 0.9 * MOST_BYTES
    met = ratio >= case.target and run.balanced
    aim = f"(>= {case.target:g})" if case.target else ""
    print(f"{name:10s} {run.rate:9,.0f} spectra/s {ratio:6.1f}x {aim:8s} {'' if met else 'MISSED'}")
    print(
        f"   {run.sent.n_spectra:,} spectra in {run.seconds:.1f} s, {1e6 / run.rate:.1f} us each"
        f"{'' if held else ' (SHORT)'}; {events / 1e6:.2f} M counts/s; {run.sent.nbytes / run.seconds / 1e6:.0f} MB/s"
    )
    print(f"   bare ZeroMQ receive {bare:,.0f} spectra/s: the daemon runs at {run.rate / bare:.3f} of it")
    shares = sorted(run.stages_s.items(), key=lambda s: -s[1])
    print("   stages, % of the time: " + ", ".join(f"{k} {100 * s / run.seconds:.1f}" for k, s in shares if s > 0.005))
    books, status = run.drained.end, run.drained.status
    print(
        f"   books: {books['n_sent']:,} sent = {books['processed']:,} processed + {sum(books['lost'].values())} lost;"
        f" results of {run.drained.n_results:,}, lost on the way to the subscriber: {run.drained.missing or 'none'}"
    )
    print(
        f"   rank {status.get('rank')}, update {status.get('engine')}, versions {books['model']}, end of series"
        f" {run.drained.end_s - run.result_s:.1f} s after the last result",
        flush=True,
    )
    if case.events_target:
        reached = "reached" if events >= case.events_target else "not reached"
        print(f"   aim of {case.events_target / 1e6:.0f} M counts/s {reached}")
    return met


def main() -> int:
    """Run and print; 1 where a target is missed under --check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--quick", action="store_true", help="3 s of each instead of 10 and more")
    parser.add_argument("--only", choices=list(CASES), action="append", help="one case; may be repeated")
    parser.add_argument("--profile", type=Path, help="file for py-spy's stacks of a further run")
    options = parser.parse_args()
    if options.profile and not shutil.which("py-spy"):
        parser.error("--profile needs py-spy (pip install 'scanwise[bench]')")
    base = reference_s(3 if options.quick else 5)
    for threads, seconds in base.items():
        print(
            f"scikit-learn IncrementalPCA.partial_fit, float64, batch {BATCH}, K {K}, BLAS threads {threads}:"
            f" {1e6 * seconds:.1f} us/spectrum"
        )
    base_s = min(base.values())
    print(f"the daemon: its defaults ({os.cpu_count()} cores, BLAS threads 1), recording to {tempfile.gettempdir()}")
    missed = []
    for name in options.only or CASES:
        case = CASES[name]
        bare = bare_rate(case.stream)
        run = timed(case, 3.0 if options.quick else AT_LEAST_S)
        if not show(name, case, run, base_s, bare):
            missed.append(name)
        if options.profile:
            timed(case, 3.0 if options.quick else AT_LEAST_S, options.profile)
            print("\n".join(tops(options.profile.read_text())))
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
