"""How fast a simulated instrument sends what it has drawn beforehand: it must never be what limits a throughput test.

`python -m tests.benchmarks.preload [--check]` starts ``scanwise simulate --preload --rate 0`` as a process and takes
its messages in this one, which reads their headers and drops them; beside it, a bare ZeroMQ sender of messages of the
same size in the same run. A PUB loses what its reader is too slow for: of that only what came counts. With ``--check``
it exits with 1 where fewer than 1,000,000 spectra a second come in list mode at 20 counts, or fewer than 100,000 dense
ones of 2,048 channels.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass

import zmq

from streamer.wire import Block, SeriesEnd, decode
from tests.system.outsider import Bench, free_port

PATIENCE_MS, END_MS = 100_000, 2_000
COUNTS, CHANNELS, PASSES = 20, 2048, 4

BARE = """
import sys, zmq
context = zmq.Context()
socket = context.socket(getattr(zmq, sys.argv[2])); socket.setsockopt(zmq.SNDHWM, 0); socket.bind(sys.argv[1])
n, sizes = int(sys.argv[3]), [int(s) for s in sys.argv[4:]]
parts = [bytes(s) for s in sizes]
if sys.argv[2] == "XPUB":
    socket.recv()
for _ in range(n):
    socket.send_multipart(parts, copy=False)
socket.send(b"")
socket.close()
context.term()
"""


@dataclass(frozen=True)
class Case:
    """A scan that is preloaded, and how many spectra a second are asked of it."""

    name: str
    target: float
    block: int
    side: int
    mode: tuple[str, ...] = ()

    @property
    def spectra(self) -> int:
        """Spectra of the whole scan."""
        return PASSES * self.side**2


CASES = (
    Case("list mode, 20 counts", 1e6, 1024, 512, ("--list-mode",)),
    Case("dense, 2,048 channels", 1e5, 256, 128),
)


@dataclass
class Flow:
    """What came: spectra, messages, bytes, the sizes of one message's parts, and the seconds from first to last."""

    spectra: int = 0
    messages: int = 0
    n_bytes: int = 0
    sizes: tuple[int, ...] = ()
    seconds: float = 0.0


def receiver(bench: Bench, pattern: str, url: str) -> zmq.Socket[bytes]:
    socket = bench.socket(zmq.PULL if pattern == "push" else zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, 0)
    if pattern == "pub":
        socket.subscribe("")
    socket.connect(url)
    return socket


def simulated(case: Case, pattern: str) -> Flow:
    """Take all messages of a preloaded scan."""
    bench, url, flow, began = Bench(), f"tcp://127.0.0.1:{free_port()}", Flow(), 0.0
    socket = receiver(bench, pattern, url)
    options = f"--specimen map512 --channels {CHANNELS} --counts {COUNTS} --block {case.block} --preload --rate 0"
    options += f" --pattern {pattern} --data {url} --replay= --control= --wait-subscriber 60"
    options += f" --shape {case.side} {case.side} --passes {PASSES}"
    command = [sys.executable, "-m", "streamer", "simulate", *options.split(), *case.mode]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        # A PUB may lose the end, too: then nothing comes any more.
        while socket.poll(END_MS if began else PATIENCE_MS):
            frames = socket.recv_multipart(copy=False)
            now = time.perf_counter()
            message = decode([f.buffer for f in frames])
            if isinstance(message, Block):
                began = began or now
                flow.spectra += message.n
                flow.messages += 1
                flow.sizes = flow.sizes or tuple(len(f) for f in frames)
                flow.n_bytes += sum(len(f) for f in frames)
                flow.seconds = now - began
            elif isinstance(message, SeriesEnd):
                break
        process.wait()
    bench.close()
    return flow


def bare(flow: Flow, pattern: str) -> float:
    """Return the seconds that a bare sender takes for as many messages of the same size."""
    bench, url = Bench(), f"tcp://127.0.0.1:{free_port()}"
    socket = receiver(bench, pattern, url)
    kind = "PUSH" if pattern == "push" else "XPUB"
    command = [sys.executable, "-c", BARE, url, kind, str(flow.messages), *map(str, flow.sizes)]
    began = last = 0.0
    with subprocess.Popen(command):
        while socket.poll(PATIENCE_MS) and len(socket.recv_multipart(copy=False)) > 1:
            last = time.perf_counter()
            began = began or last
    bench.close()
    return last - began


def main() -> int:
    """Run and print; 1 where a target is missed under --check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    missed = False
    print("scan                     socket   spectra/s  came %    GB/s   bare GB/s   of bare   target")
    for case in CASES:
        for pattern in ("push", "pub"):
            flow = simulated(case, pattern)
            rate, came = flow.spectra / flow.seconds, 100 * flow.spectra / case.spectra
            gb, bare_s = flow.n_bytes / 1e9, bare(flow, pattern)
            print(
                f"{case.name:24s} {pattern:6s} {rate:12,.0f} {came:7.1f} {gb / flow.seconds:7.2f} {gb / bare_s:11.2f} "
                f"{bare_s / flow.seconds:9.2f} {case.target:10,.0f}",
                flush=True,
            )
            missed |= rate < case.target or (pattern == "push" and flow.spectra != case.spectra)
    if options.check and missed:
        print("target missed")
    return int(options.check and missed)


if __name__ == "__main__":
    sys.exit(main())
