"""Whoever scans goes on as planned when the daemon is killed, or stands still, in the middle of the scan."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer.client import Controller, Sender
from streamer.client_control import NoAnswer
from tests.system.outsider import BLOCK, WAIT_S, Bench, D, Daemon, Listener, daemon, free_port, scene

GONE = [signal.SIGKILL, signal.SIGSTOP]
AXIS = {"name": "Energy", "units": "keV", "size": D, "offset": 0.0, "scale": 0.01}


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def lose(server: Daemon, number: signal.Signals) -> None:
    """Kill it, or let it stand still with all its sockets open."""
    assert server.process is not None
    server.process.send_signal(number)
    if number == signal.SIGKILL:
        server.process.wait(WAIT_S)


@pytest.mark.parametrize("pattern", ["pub", "push"])
@pytest.mark.parametrize("gone", GONE)
def test_the_simulator_finishes_as_planned(tmp_path: Path, bench: Bench, gone: signal.Signals, pattern: str) -> None:
    listens = ["--pattern", "pull"] if pattern == "push" else []
    with daemon(tmp_path, *listens) as server:
        command = [sys.executable, "-m", "streamer", "simulate", "--shape", "40", "40", "--channels", "512"]
        command += ["--passes", "3", "--rate", "2400", "--counts", "30", "--pattern", pattern, "--data", server.source]
        command += ["--control", server.control, "--replay", f"tcp://127.0.0.1:{free_port()}"]
        results = Listener(bench, server.results, "result")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as simulator:
            assert results.socket.poll(1000 * WAIT_S), "the scan did not start"
            lose(server, gone)
            output, _ = simulator.communicate(timeout=WAIT_S)
    assert simulator.returncode == 0
    assert "sent 4,800 spectra" in " ".join(output.split())


@pytest.mark.parametrize("gone", GONE)
def test_a_program_of_ones_own_finishes_and_the_daemon_gets_the_rest_later(
    tmp_path: Path, bench: Bench, gone: signal.Signals
) -> None:
    counts = scene(passes=4)
    with daemon(tmp_path) as server:
        results = Listener(bench, server.results, "series", "result")
        with (
            Sender(server.source, series="alone") as sender,
            Controller(server.control, "scope", timeout_s=0.2) as controller,
        ):
            keys: dict[str, Any] = {
                "technique": "eds",
                "noise": {"model": "poisson"},
                "dwell_s": 0.01,
                "actions": ["stop", "dwell"],
            }
            sender.open([16, 16], AXIS, passes=4, **keys)
            first, *rest = range(0, len(counts), BLOCK)
            sender.send(counts[first : first + BLOCK])
            # By replay, if the daemon was not there yet.
            assert results.socket.poll(1000 * WAIT_S), "the scan did not start"
            lose(server, gone)
            for frame in rest:
                sender.send(counts[frame : frame + BLOCK])
                decision = controller.poll(0)
                assert decision is None or decision.action in {"stop", "dwell"}
            with pytest.raises(NoAnswer):
                controller.status()
            sender.end()
            assert (sender.n_sent, sender.n_dropped) == (len(counts), 0)
            come_back(server, gone)
            books = results.until_end("alone")
    assert (books["n_sent"], books["processed"], books["lost"]) == (len(counts), len(counts), {})
    assert books["resumed"] == (gone == signal.SIGKILL)


def come_back(server: Daemon, gone: signal.Signals) -> None:
    if gone == signal.SIGKILL:
        server.start()
    else:
        assert server.process is not None
        server.process.send_signal(signal.SIGCONT)
