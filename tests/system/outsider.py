"""An instrument and a controller by somebody who has only read protocol.md: zmq, msgpack, json and nothing of ours."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zmq

WAIT_S = 120
"""For what a daemon does in a second or two: only a test that fails waits so long, on however busy a machine."""

NAV_SHAPE, D, BLOCK = [16, 16], 256, 32


def free_port() -> int:
    """A port that stays free until a daemon has started: none that is given to whoever asks for any."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as s, suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


@dataclass
class Daemon:
    """The daemon as a process; `start` again after `kill` for a restart on the same ports and state."""

    state: Path
    arguments: list[str] = field(default_factory=list)
    source: str = field(default_factory=lambda: f"tcp://127.0.0.1:{free_port()}")
    results: str = field(default_factory=lambda: f"tcp://127.0.0.1:{free_port()}")
    control: str = field(default_factory=lambda: f"tcp://127.0.0.1:{free_port()}")
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "streamer", "run", "--source", self.source, "--results", self.results]
        command += ["--control", self.control, "--metrics", "", "--state", str(self.state), *self.arguments]
        env = {**os.environ, "SCANWISE_STATE__REPORT": "false"}
        with (self.state.parent / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log, env=env)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def log(self) -> str:
        return (self.state.parent / "daemon.log").read_text()


@contextmanager
def daemon(tmp_path: Path, *arguments: str) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "state", list(arguments))
    made.start()
    try:
        yield made
    except BaseException as error:
        error.add_note(f"the daemon says:\n{made.log()}")
        raise
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait()


class Bench:
    """A context that keeps its sockets until it is closed."""

    def __init__(self) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._sockets: list[zmq.Socket[Any]] = []

    def socket(self, kind: int) -> zmq.Socket[Any]:
        self._sockets.append(self._context.socket(kind))
        self._sockets[-1].setsockopt(zmq.LINGER, 0)
        return self._sockets[-1]

    def close(self) -> None:
        for each in self._sockets:
            each.close()
        self._context.term()


class Instrument:
    """Publishes a series, keeps what it sent, answers replay requests when told to."""

    def __init__(self, bench: Bench, url: str, pattern: int = zmq.XPUB, *, bind: bool = True) -> None:
        self.data = bench.socket(pattern)
        self.data.setsockopt(zmq.SNDHWM, 0)
        (self.data.bind if bind else self.data.connect)(url)
        self.router = bench.socket(zmq.ROUTER)
        port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.replay_url = f"tcp://127.0.0.1:{port}"
        self.kept: list[list[bytes]] = []
        self.asked: list[tuple[int, int]] = []

    def wait_for_subscriber(self) -> None:
        assert self.data.poll(1000 * WAIT_S), "nobody subscribed"
        self.data.recv()

    def send(self, parts: list[bytes], *, lose: bool = False) -> None:
        self.kept.append(parts)
        if not lose:
            self.data.send_multipart(parts)

    @contextmanager
    def serving_replays(self) -> Iterator[None]:
        """Answer requests in another thread until it is left."""
        done = threading.Event()
        with ThreadPoolExecutor(1) as thread:
            served = thread.submit(self._serve_replays, done)
            try:
                yield
            finally:
                done.set()
                served.result()

    def _serve_replays(self, done: threading.Event) -> None:
        while not done.is_set():
            if self.router.poll(20):
                *envelope, request = self.router.recv_multipart()
                self.router.send_multipart([*envelope, *self._replayed(msgpack.unpackb(request))])

    def _replayed(self, ask: dict[str, Any]) -> list[bytes]:
        assert (ask["msg"], ask["val"]) == ("cmd", "replay")
        first, last = ask["params"]["first"], ask["params"]["last"]
        self.asked.append((first, last))
        found = self.kept[first : last + 1]
        if not found:
            return [msgpack.packb({"msg": "nack", "id": ask["id"], "params": {"error": "not yet"}})]
        answer = [msgpack.packb({"msg": "ack", "id": ask["id"]})]
        for message in found:
            answer += [struct.pack("<I", len(message)), *message]
        return answer


def header(series: str, nav_shape: list[int], n_channels: int, *, as_json: bool = False, **keys: Any) -> list[bytes]:
    axis = {"name": "Energy", "units": "keV", "size": n_channels, "offset": 0.0, "scale": 0.01}
    head = {"htype": "header", "msg_number": 0, "series": series, "nav_shape": nav_shape, "axis": axis, **keys}
    return [json.dumps(head).encode() if as_json else msgpack.packb(head)]


def image(
    series: str, number: int, frame: int, counts: np.ndarray[Any, Any], *, as_json: bool = False, **keys: Any
) -> list[bytes]:
    head = {"htype": "image", "msg_number": number, "series": series, "frame": frame, "shape": list(counts.shape)}
    head |= {"type": counts.dtype.name, **keys}
    return [json.dumps(head).encode() if as_json else msgpack.packb(head), counts.tobytes()]


def end(series: str, number: int, n_sent: int) -> list[bytes]:
    head = {"htype": "series_end", "msg_number": number, "series": series, "n_sent": n_sent}
    return [msgpack.packb({**head, "n_messages": number + 1, "exit_status": "success"})]


class Listener:
    """Subscribes to results and keeps everything it gets, by topic."""

    def __init__(self, bench: Bench, url: str, *topics: str) -> None:
        self.socket = bench.socket(zmq.SUB)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        for topic in topics or ("",):
            self.socket.subscribe(topic)
        self.socket.connect(url)
        self.got: list[tuple[str, dict[str, Any], dict[str, np.ndarray[Any, Any]]]] = []

    def read(self) -> tuple[str, dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        topic, head, *arrays = self.socket.recv_multipart()
        unpacked = msgpack.unpackb(head)
        listed = unpacked["arrays"]
        assert len(listed) == len(arrays)
        named = {
            a["name"]: np.frombuffer(part, a["dtype"]).reshape(a["shape"])
            for a, part in zip(listed, arrays, strict=True)
        }
        self.got.append((topic.decode(), unpacked, named))
        return self.got[-1]

    @property
    def n_results(self) -> int:
        return sum(topic == "result" for topic, _, _ in self.got)

    def until_end(self, series: str) -> dict[str, Any]:
        silences = 0  # a machine that lets neither this nor the daemon run for a while has not run out the time
        while silences < WAIT_S / 0.1:
            if not self.socket.poll(100):
                silences += 1
                continue
            topic, head, _ = self.read()
            if topic == "series" and head["event"] == "end" and head["series"] == series:
                return head
        raise AssertionError(f"no end of {series} within {WAIT_S} s")

    def last(self, topic: str) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        return next((head, arrays) for t, head, arrays in reversed(self.got) if t == topic)


class Asker:
    """A DEALER (or REQ) that asks and waits."""

    def __init__(self, bench: Bench, url: str, kind: int = zmq.DEALER) -> None:
        self.socket = bench.socket(kind)
        self.socket.connect(url)
        self.n = 0

    def ask(self, val: str, **params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        self.n += 1
        self.socket.send_multipart([msgpack.packb({"msg": "cmd", "id": self.n, "val": val, "params": params})])
        while self.socket.poll(1000 * WAIT_S):
            answer, arrays = self.read()
            if answer["msg"] in {"ack", "nack"} and answer["id"] == self.n:
                assert answer["val"] == val
                assert answer["params"]["boot"]
                return answer, arrays
        raise AssertionError(f"no answer to {val}")

    def read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        head, *parts = self.socket.recv_multipart()
        answer = msgpack.unpackb(head)
        listed = answer["params"].get("arrays", [])
        arrays = {
            a["name"]: np.frombuffer(p, a["dtype"]).reshape(a["shape"]) for a, p in zip(listed, parts, strict=True)
        }
        return answer, arrays


def scene(passes: int = 2, seed: int = 0) -> np.ndarray[Any, Any]:
    """Counts (n, D) of `passes` rasters over two phases."""
    rng = np.random.default_rng(seed)
    channels = np.arange(D)
    shapes = np.array([0.1 + 5 * np.exp(-0.5 * ((channels - c) / 4) ** 2) for c in (60, 150)])
    shapes /= shapes.sum(axis=1, keepdims=True)
    phase = (np.arange(256) % 16 > 7).astype(int)
    return rng.poisson(150 * np.tile(shapes[phase], (passes, 1))).astype(np.uint16)


def messages(series: str, counts: np.ndarray[Any, Any], *, as_json: bool = False, **keys: Any) -> list[list[bytes]]:
    known: dict[str, Any] = {"technique": "eds", "noise": {"model": "poisson"}, "dwell_s": 0.01}
    out = [header(series, NAV_SHAPE, D, as_json=as_json, **{**known, **keys})]
    for frame in range(0, len(counts), BLOCK):
        out.append(image(series, len(out), frame, counts[frame : frame + BLOCK], as_json=as_json))
    return [*out, end(series, len(out), len(counts))]


def send_paced(instrument: Instrument, listener: Listener, parts: list[bytes]) -> None:
    """Send a block and wait for its result, as long as it takes; what a clock makes due has its time too."""
    before = listener.n_results
    instrument.send(parts)
    time.sleep(0.04)
    while listener.n_results == before:
        assert listener.socket.poll(1000 * WAIT_S), "a block has no result"
        listener.read()


def wait_for_status(bench: Bench, url: str, processed: int) -> None:
    asker = Asker(bench, url)
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        answer, _ = asker.ask("status")
        if answer["params"].get("processed", 0) >= processed:
            return
        time.sleep(0.05)
    raise AssertionError(f"not processed: {answer}")
