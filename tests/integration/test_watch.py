"""`scanwise watch` as a process, against raw sockets that speak the protocol."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from streamer.wire import Control, Result, decode_control, encode_control, encode_result

STATUS = {"state": "running", "series": "s1", "received": 50, "processed": 50, "lost": {}, "rejected": {},
          "in_flight": 0, "rate_hz": 12.0, "lag_ms": 0.5, "level": 0}  # fmt: skip
SERIES = {"event": "start", "series": "s1", "nav_shape": [4, 5], "passes": 5}


class Daemon:
    """Publishes what it is told to, again and again, and answers requests for windows."""

    def __init__(self) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._publisher = self._context.socket(zmq.PUB)
        self._router = self._context.socket(zmq.ROUTER)
        self.results, self.control = (f"tcp://127.0.0.1:{_bind(s)}" for s in (self._publisher, self._router))
        self.said: list[Result] = [Result("series", SERIES), Result("status", STATUS)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        seq = 0
        while not self._stop.is_set():
            for result in list(self.said):
                self._publisher.send_multipart(encode_result(result, boot="b", seq=seq, t_ns=time.time_ns()))
            seq += 1
            while self._router.poll(50):
                self._answer(*self._router.recv_multipart())

    def _answer(self, client: bytes, *parts: bytes) -> None:
        asked = decode_control(parts)
        arrays = {"denoised": np.full((4, 5), 6.25, "f4")} if asked.val == "window" else {}
        self._router.send_multipart(
            [client, *encode_control(Control("ack", asked.id, asked.val, {"boot": "b"}, arrays))]
        )

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._publisher.close(0)
        self._router.close(0)
        self._context.term()


def _bind(socket: zmq.Socket[Any]) -> int:
    return socket.bind_to_random_port("tcp://127.0.0.1")


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    daemon = Daemon()
    yield daemon
    daemon.close()


def _watch(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "streamer", "watch", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_without_a_terminal_it_prints_lines_until_the_series_ends(daemon: Daemon) -> None:
    with _watch("--results", daemon.results, "--until-end") as watch:
        assert watch.stdout is not None
        line = ""
        while "running; s1; 50 of 100 spectra" not in line:
            line = watch.stdout.readline()
            assert line
        daemon.said = [Result("series", SERIES | {"event": "end", "processed": 100})]
        rest, _ = watch.communicate(timeout=30)
    assert watch.returncode == 0
    assert "100 of 100 spectra" in rest


def test_once_prints_one_view(daemon: Daemon) -> None:
    with _watch("--results", daemon.results, "--once") as watch:
        said, _ = watch.communicate(timeout=30)
    assert watch.returncode == 0
    assert said.count("running; s1") == 1


def test_once_without_a_daemon_says_so_and_fails() -> None:
    with _watch("--results", "tcp://127.0.0.1:1", "--once") as watch:
        said, _ = watch.communicate(timeout=30)
    assert watch.returncode == 1
    assert said.strip() == "waiting for the daemon at tcp://127.0.0.1:1"


def test_a_wrong_address_is_an_error_in_words() -> None:
    with _watch("--results", "nonsense", "--once") as watch:
        said, _ = watch.communicate(timeout=30)
    assert watch.returncode == 2
    assert said.startswith("scanwise watch: ")
    assert "Traceback" not in said
