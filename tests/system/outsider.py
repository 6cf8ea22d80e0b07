"""An instrument and a controller by somebody who has only read protocol.md: zmq, msgpack, json and nothing of ours."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import zmq


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


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

    def wait_for_subscriber(self, timeout_s: float = 20) -> None:
        assert self.data.poll(int(timeout_s * 1000)), "nobody subscribed"
        self.data.recv()

    def send(self, parts: list[bytes], *, lose: bool = False) -> None:
        self.kept.append(parts)
        if not lose:
            self.data.send_multipart(parts)

    def serve_replays(self, duration_s: float) -> None:
        end = time.monotonic() + duration_s
        while (left := end - time.monotonic()) > 0:
            if not self.router.poll(max(1, int(left * 1000))):
                return
            *envelope, request = self.router.recv_multipart()
            ask = msgpack.unpackb(request)
            assert (ask["msg"], ask["val"]) == ("cmd", "replay")
            first, last = ask["params"]["first"], ask["params"]["last"]
            self.asked.append((first, last))
            found = self.kept[first : last + 1]
            if found:
                answer = [msgpack.packb({"msg": "ack", "id": ask["id"]})]
                for message in found:
                    answer += [struct.pack("<I", len(message)), *message]
            else:
                answer = [msgpack.packb({"msg": "nack", "id": ask["id"], "params": {"error": "not yet"}})]
            self.router.send_multipart([*envelope, *answer])


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

    def until_end(self, series: str, timeout_s: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.socket.poll(100):
                topic, head, _ = self.read()
                if topic == "series" and head["event"] == "end" and head["series"] == series:
                    return head
        raise AssertionError(f"no end of {series} within {timeout_s} s")

    def last(self, topic: str) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        return next((head, arrays) for t, head, arrays in reversed(self.got) if t == topic)


class Asker:
    """A DEALER (or REQ) that asks and waits."""

    def __init__(self, bench: Bench, url: str, kind: int = zmq.DEALER) -> None:
        self.socket = bench.socket(kind)
        self.socket.connect(url)
        self.n = 0

    def ask(self, val: str, timeout_s: float = 20, **params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        self.n += 1
        self.socket.send_multipart([msgpack.packb({"msg": "cmd", "id": self.n, "val": val, "params": params})])
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.socket.poll(200):
                continue
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
