"""The daemon as a process: how it starts, how it is told to end, and with which code."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
import zmq

from streamer.closing import FINAL
from streamer.exits import CONFIG, INTERNAL, IO_ERROR, UNAVAILABLE, USAGE
from tests.integration.running import Asker, Listener, Outside, outside
from tests.unit.streamer.scene import Scene

WAIT_S = 60.0
ANY = "tcp://127.0.0.1:0"


class Process:
    """`scanwise run` on ports of its own choice, with its log."""

    def __init__(
        self,
        state: Path,
        *arguments: str,
        report: bool = False,
        program: Sequence[str] = ("-m", "streamer"),
    ) -> None:
        command = [sys.executable, *program, "run", "--source", ANY, "--bind-source", "--results", ANY]
        command += ["--control", ANY, "--metrics", "", "--state", str(state), *arguments]
        env = {**os.environ, "SCANWISE_STATE__REPORT": str(report).lower()}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
        self.lines: list[str] = []
        self._seen = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._seen:
                self.lines.append(line.rstrip("\n"))
                self._seen.notify_all()
        with self._seen:
            self.lines.append("")
            self._seen.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def until(self, pattern: str) -> re.Match[str]:
        """Wait for a log line."""
        with self._seen:
            assert self._seen.wait_for(lambda: re.search(pattern, self.log), WAIT_S), self.log
        found = re.search(pattern, self.log)
        assert found is not None
        return found

    def ended(self) -> int:
        """Wait for the end; return the code."""
        code = self.process.wait(WAIT_S)
        self._reader.join()
        return code

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ended()

    @property
    def source(self) -> str:
        return self.until(r"instrument at (\S+)")[1]

    @property
    def results(self) -> str:
        return self.until(r"results at (\S+),")[1]

    @property
    def control(self) -> str:
        return self.until(r"control at (\S+)")[1]

    def sender(self, others: Outside) -> zmq.Socket[bytes]:
        sender = others.socket(zmq.XPUB, self.source, sndhwm=0)
        assert sender.recv() == b"\x01"
        return sender

    def listener(self, others: Outside, *topics: str) -> Listener:
        listener = others.socket(zmq.SUB, self.results, rcvhwm=0)
        for topic in topics:
            listener.subscribe(topic)
        return Listener(listener)

    def asker(self, others: Outside) -> Asker:
        return Asker(others.socket(zmq.DEALER, self.control))


@pytest.fixture
def others() -> Iterator[Outside]:
    with outside() as made:
        yield made


def send(socket: zmq.Socket[bytes], messages: Sequence[Sequence[Any]]) -> None:
    for parts in messages:
        socket.send_multipart(parts)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_an_open_series_is_resumed(tmp_path: Path, others: Outside, number: int) -> None:
    scene = Scene()
    messages = scene.messages()
    with Process(tmp_path) as daemon:
        listener = daemon.listener(others, "map/counts", "status")
        send(daemon.sender(others), messages[:6])
        daemon.asker(others).until_status(processed=5 * 24)
        assert daemon.stop(number) == 0
        assert f"series 'scene' is open at {5 * 24} spectra and will be resumed" in daemon.log
        assert listener.until("status", state="stopped").head["processed"] == 5 * 24
    with Process(tmp_path) as daemon:
        listener = daemon.listener(others, "series", "map/counts")
        send(daemon.sender(others), messages[6:])
        end = listener.until("series", event="end").head
        assert (end["processed"], end["lost"], end["resumed"]) == (scene.n_sent, {}, True)
        counts = listener.last("map/counts").arrays["counts"]
        np.testing.assert_array_equal(counts.ravel(), scene.counts.sum(axis=(0, 2)))
        assert daemon.stop() == 0
        assert "no series is open" in daemon.log


def test_it_ends_at_a_signal_while_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at its first start, when everything is compiled: nobody waits for that."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "compiled"))
    with Process(tmp_path / "state") as daemon:
        daemon.until("state in")
        assert daemon.stop() == 0
        assert "nothing was begun yet" in daemon.log
        assert "ready after" not in daemon.log


def test_what_waits_is_finished_before_the_end(tmp_path: Path, others: Outside) -> None:
    """A stop in the midst of a flood: what was received is in the recording."""
    scene = Scene(nav_shape=(60, 60), passes=4)
    with Process(tmp_path, "--pattern", "pull") as daemon:
        sender, asker = others.socket(zmq.PUSH, daemon.source), daemon.asker(others)
        send(sender, scene.messages(block=8)[:-1])
        asker.until_status(state="running")
        assert daemon.stop() == 0
        stopped = int(daemon.until(r"open at (\d+) spectra")[1])
    with Process(tmp_path) as daemon:
        daemon.until("ready")
        assert daemon.asker(others).until_status(state="running")["processed"] == stopped
        assert daemon.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(tmp_path: Path, others: Outside, number: int) -> None:
    """A pipeline that takes a minute for each message holds up the first, orderly end."""
    slow = variant(tmp_path, "Pipeline.feed = lambda self, item: time.sleep(60) or []")
    with Process(tmp_path / "state", program=(slow,)) as daemon:
        send(daemon.sender(others), Scene().messages())
        daemon.process.send_signal(number)
        daemon.until("stopping")
        assert daemon.stop(number) == 128 + number


def test_a_killed_daemon_leaves_a_recording_that_is_resumed(tmp_path: Path, others: Outside) -> None:
    scene = Scene()
    messages = scene.messages(block=3)
    sent = 1
    for part in (40, len(messages) - 1):
        with Process(tmp_path) as daemon:
            sender, asker = daemon.sender(others), daemon.asker(others)
            send(sender, messages[(sent if sent > 1 else 0) : part])
            asker.until_status(processed=3 * (part - 1))
            sent = part
            assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
    with Process(tmp_path) as daemon:
        listener = daemon.listener(others, "series", "map/counts")
        send(daemon.sender(others), messages[sent:])
        end = listener.until("series", event="end").head
        assert (end["processed"], end["lost"]) == (scene.n_sent, {})
        counts = listener.last("map/counts").arrays["counts"]
        np.testing.assert_array_equal(counts.ravel(), scene.counts.sum(axis=(0, 2)))


def test_a_report_is_drawn_when_a_series_ends(tmp_path: Path, others: Outside) -> None:
    with Process(tmp_path, report=True) as daemon:
        listener = daemon.listener(others, "series")
        send(daemon.sender(others), Scene().messages())
        listener.until("series", event="end")
        assert daemon.stop() == 0, "it waits for the report"
        assert "report of the series is in" in daemon.log
    (final,) = tmp_path.glob(f"*/{FINAL}")
    assert list(final.parent.rglob("*.png"))


@pytest.mark.parametrize("flag", ["--source", "--results", "--control", "--metrics"])
def test_a_taken_port_ends_with_69_and_says_what_to_change(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        value = address if flag == "--metrics" else f"tcp://{address}"
        with Process(tmp_path, flag, value) as daemon:
            assert daemon.ended() == UNAVAILABLE
    assert address in daemon.log
    assert {"--source": "source.url", "--metrics": "metrics.listen"}.get(flag, f"{flag[2:]}.url") in daemon.log
    assert "Traceback" not in daemon.log


def test_a_state_folder_in_use_ends_with_69_and_the_pid(tmp_path: Path) -> None:
    with Process(tmp_path) as first:
        first.until("state in")
        with Process(tmp_path) as second:
            assert second.ended() == UNAVAILABLE
        assert str(first.process.pid) in second.log


def test_a_wrong_configuration_ends_with_78(tmp_path: Path) -> None:
    file = tmp_path / "scanwise.toml"
    file.write_text("[pipeline.linear]\nmax_rank = 0\n")
    with Process(tmp_path, "--config", str(file)) as daemon:
        assert daemon.ended() == CONFIG
    assert "pipeline.linear.max_rank" in daemon.log
    with Process(tmp_path, "--results", "tcp://0.0.0.0:5556") as daemon:
        assert daemon.ended() == CONFIG
    assert "scanwise keys" in daemon.log


def test_a_corrupt_network_ends_with_78_and_the_key(scene_network: Path, tmp_path: Path) -> None:
    folder = tmp_path / "networks"
    shutil.copytree(scene_network.parent, folder)
    content = bytearray((folder / scene_network.name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / scene_network.name).write_bytes(content)
    file = tmp_path / "scanwise.toml"
    file.write_text(f"[networks]\nfolders = [{json.dumps(str(folder))}]\n")
    with Process(tmp_path, "--config", str(file)) as daemon:
        assert daemon.ended() == CONFIG
    assert "networks.folders" in daemon.log
    assert "is not the file that its card describes" in daemon.log


def test_a_wrong_command_line_ends_with_2(tmp_path: Path) -> None:
    with Process(tmp_path, "--no-such-flag") as daemon:
        assert daemon.ended() == USAGE


def test_a_full_disk_ends_with_74_and_the_scan_can_be_resumed(tmp_path: Path, others: Outside) -> None:
    """The limit on the size of a file stands for the full disk: writing fails in the same way."""
    scene = Scene()
    small = variant(tmp_path, "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))")
    with Process(tmp_path / "state", program=(small,)) as daemon:
        send(daemon.sender(others), scene.messages())
        assert daemon.ended() == IO_ERROR
    assert "state.dir" in daemon.log
    assert "Traceback" not in daemon.log
    with Process(tmp_path / "state") as daemon:
        listener = daemon.listener(others, "series")
        send(daemon.sender(others), scene.messages())
        end = listener.until("series", event="end").head
    assert (end["processed"], end["lost"], end["resumed"]) == (scene.n_sent, {}, True)


def test_an_internal_error_ends_with_70_and_its_traceback(tmp_path: Path, others: Outside) -> None:
    broken = variant(tmp_path, "Pipeline.feed = lambda self, item: 1 // 0")
    with Process(tmp_path / "state", program=(broken,)) as daemon:
        send(daemon.sender(others), [Scene().header()])
        assert daemon.ended() == INTERNAL
    assert "ZeroDivisionError" in daemon.log
    assert "variant.py" in daemon.log


def variant(folder: Path, change: str) -> str:
    """Write a program that is scanwise with something changed before it starts; return its path."""
    program = folder / "variant.py"
    program.write_text(
        "import time\n"
        "from streamer.__main__ import main\n"
        "from streamer.pipeline import Pipeline\n"
        "from streamer.warm import warm_up\n"
        "warm_up()\n"
        f"{change}\n"
        "main()\n"
    )
    return str(program)
