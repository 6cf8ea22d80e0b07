"""Prepared streams of simulated spectra, and the processes at both ends of whatever is measured."""

from __future__ import annotations

import multiprocessing as mp
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

import msgpack
import numpy as np
import zmq
from numpy.typing import NDArray

from tests.system.outsider import Bench, end, header
from tests.unit.models.scenes import peak

Kind = Literal["dense", "events"]
_TABLE = 1 << 16
_QUEUED = 64


@dataclass(frozen=True)
class Stream:
    """A scan of a patchwork of four phases with a thickness wedge, pass after pass, in blocks; no spectrum comes twice.

    Attributes
    ----------
    kind : {"dense", "events"}
        ``image`` messages of uint16, or list mode.
    counts : float
        Mean counts of a spectrum.
    n_spectra, side, n_channels, block : int
        Spectra in all, positions along each axis, channels, spectra in a message.
    rate : float
        Spectra a second; 0 for as fast as they are taken.
    """

    name: str
    kind: Kind
    counts: float
    n_spectra: int
    side: int = 512
    n_channels: int = 2048
    block: int = 256
    rate: float = 0.0

    @property
    def n_blocks(self) -> int:
        """Messages with spectra."""
        return -(-self.n_spectra // self.block)

    def header(self) -> list[bytes]:
        """Return the header message."""
        keys: dict[str, Any] = {"technique": "eds", "noise": {"model": "poisson"}, "expected": self.n_spectra}
        return header(self.name, [self.side, self.side], self.n_channels, **keys)

    def end(self) -> list[bytes]:
        """Return the series_end message."""
        return end(self.name, self.n_blocks + 1, self.n_spectra)

    def shapes(self) -> NDArray[np.float64]:
        """Return the spectra of the phases (4, D), each of sum 1."""
        d = self.n_channels
        lines = ((0.08, 0.3), (0.15, 0.32), (0.5, 0.6), (0.08, 0.62))
        background = np.exp(-np.arange(d) / (0.35 * d)) + 0.03
        phases = [background + 7 * peak(d, a * d, 0.006 * d) + 4 * peak(d, b * d, 0.006 * d) for a, b in lines]
        return np.stack([p / p.sum() for p in phases])

    def blocks(self, seed: int = 0) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint16]]]:
        """Draw the spectra of each message: offsets (n + 1,) and channels of single counts.

        Channels come from tables of 65,536 equally likely entries, which is fast.
        """
        rng = np.random.default_rng(seed)
        steps = (np.arange(_TABLE) + 0.5) / _TABLE
        tables = np.stack([np.searchsorted(np.cumsum(s), steps) for s in self.shapes()]).astype(np.uint16)
        for first in range(0, self.n_spectra, self.block):
            frame = np.arange(first, min(first + self.block, self.n_spectra))
            y, x = np.divmod(frame % self.side**2, self.side)
            phase = (y * 8 // self.side + 3 * (x * 8 // self.side)) % len(tables)
            size = rng.poisson(self.counts * (0.6 + 0.8 * x / self.side))
            offsets = np.concatenate([[0], np.cumsum(size)])
            drawn = rng.integers(0, _TABLE, int(offsets[-1]), dtype=np.uint16)
            yield offsets.astype(np.uint32), tables[np.repeat(phase, size), drawn]

    def dense(self, offsets: NDArray[np.uint32], channels: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Return a block as counts (n, D)."""
        n = offsets.size - 1
        cell = np.repeat(np.arange(n) * self.n_channels, np.diff(offsets)) + channels
        return np.bincount(cell, minlength=n * self.n_channels).reshape(n, -1).astype(np.uint16)

    def messages(self) -> Iterator[list[Any]]:
        """Make every message with spectra."""
        for number, (offsets, channels) in enumerate(self.blocks()):
            head: dict[str, Any] = {"msg_number": number + 1, "series": self.name, "frame": number * self.block}
            head |= {"shape": [offsets.size - 1, self.n_channels], "type": "uint16"}
            if self.kind == "events":
                yield [msgpack.packb({"htype": "events", **head}), offsets, channels]
            else:
                yield [msgpack.packb({"htype": "image", **head}), self.dense(offsets, channels)]


@dataclass(frozen=True)
class Sent:
    """What a sender did: spectra, single counts, bytes, and when the first and the last message left (monotonic)."""

    n_spectra: int
    n_counts: int
    nbytes: int
    first_s: float
    last_s: float


@dataclass(frozen=True)
class Drained:
    """What a subscriber got until the end of a series.

    Attributes
    ----------
    end : dict
        The ``series`` message of the end; empty for a bare receiver.
    n_results : int
        Spectra in ``result`` messages.
    end_s : float
        When the end came (monotonic).
    topics, missing : dict
        Messages by topic, and by topic those that `seq` says were lost on the way here.
    status : dict
        The last status before the end.
    """

    end: dict[str, Any]
    n_results: int
    end_s: float
    topics: dict[str, int]
    missing: dict[str, int]
    status: dict[str, Any]


def _send(pipe: Connection, url: str) -> None:
    """Process: bind a PUSH, prepare a stream when asked, send its spectra at a first word and its end at a second."""
    bench = Bench()
    push = bench.socket(zmq.PUSH)
    push.setsockopt(zmq.SNDHWM, _QUEUED)
    push.bind(url)
    while (stream := pipe.recv()) is not None:
        messages = list(stream.messages())
        nbytes = sum(len(head) + sum(a.nbytes for a in arrays) for head, *arrays in messages)
        n_counts = sum(int(m[-1].size if stream.kind == "events" else m[-1].sum()) for m in messages)
        pipe.send(nbytes)
        pipe.recv()
        push.send_multipart(stream.header())
        first_s = time.monotonic()
        for number, message in enumerate(messages):
            if stream.rate:
                time.sleep(max(0.0, first_s + number * stream.block / stream.rate - time.monotonic()))
            push.send_multipart(message, copy=False)
        pipe.send(Sent(stream.n_spectra, n_counts, nbytes, first_s, time.monotonic()))
        pipe.recv()
        push.send_multipart(stream.end())
    push.close(linger=1000)
    bench.close()


def _receive(pipe: Connection, url: str) -> None:
    """Process: a PULL that takes messages without copying and does nothing with them."""
    bench = Bench()
    pull = bench.socket(zmq.PULL)
    pull.setsockopt(zmq.RCVHWM, _QUEUED)
    pull.connect(url)
    n = 0
    while True:
        head = msgpack.unpackb(pull.recv_multipart(copy=False)[0].buffer)
        if head["htype"] == "series_end":
            break
        n += head["shape"][0] if "shape" in head else 0
    pipe.send(Drained({}, n, time.monotonic(), {}, {}, {}))
    bench.close()


def _drain(pipe: Connection, url: str) -> None:
    """Process: subscribe to everything but ``denoised``, as a viewer does, and read it as it comes."""
    bench = Bench()
    results = bench.socket(zmq.SUB)
    results.setsockopt(zmq.RCVHWM, 0)
    for topic in ("result", "map/", "basis", "status", "series", "anomaly", "decision"):
        results.subscribe(topic)
    results.connect(url)
    while (stream := pipe.recv()) is not None:
        pipe.send(_drained(results, stream, pipe))
    bench.close()


def _drained(results: zmq.Socket[Any], stream: Stream, pipe: Connection) -> Drained:
    """Read until the series has ended; say when every spectrum has had its result."""
    topics: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    last: dict[str, int] = {}
    n_results, status = 0, {}
    while True:
        topic, head = results.recv_multipart(copy=False)[:2]
        name, read = topic.bytes.decode(), msgpack.unpackb(head.buffer)
        if read["seq"] <= last.get(name, -1) or read["series"] != stream.name:
            continue
        topics[name] += 1
        missing[name] += read["seq"] - last.get(name, read["seq"] - 1) - 1
        last[name] = read["seq"]
        if name == "result":
            before, n_results = n_results, n_results + read["arrays"][0]["shape"][0]
            if before < stream.n_spectra <= n_results:
                pipe.send(time.monotonic())
        elif name == "status" and read["processed"]:
            status = read
        elif name == "series" and read["event"] == "end":
            return Drained(read, n_results, time.monotonic(), dict(topics), dict(+missing), status)


@contextmanager
def process(target: Any, url: str) -> Iterator[Connection]:
    """Run `target` in a process of its own, with a pipe to it."""
    context = mp.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=target, args=(there, url), daemon=True)
    child.start()
    there.close()
    try:
        yield here
    finally:
        child.terminate()
        child.join()


def sender(url: str) -> Any:
    """Return a context with a sender process: give it a `Stream`, get its bytes, say go, get a `Sent`, say end."""
    return process(_send, url)


def receiver(url: str) -> Any:
    """Return a context with a bare receiver process: get a `Drained` when the series has ended."""
    return process(_receive, url)


def drain(url: str) -> Any:
    """Return a context with a subscriber process: give it a `Stream`, get when it has all results, then a `Drained`."""
    return process(_drain, url)
