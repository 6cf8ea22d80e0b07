"""`scanwise simulate` and `scanwise replay` as processes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from simulator.detector import Integrating
from simulator.effects import Effects
from simulator.faults import Faults
from streamer.__main__ import main
from streamer.wire import Block, Events, Message, SeriesEnd, decode
from tests.unit.simulator.test_store import read_back

PATIENCE_MS = 20_000
ANY = "tcp://127.0.0.1:*"
RUN = "import typer; from simulator.cli import {0}; typer.run({0})"


def command(name: str, *options: str, replay: str = ANY) -> list[str]:
    return [sys.executable, "-c", RUN.format(name), *options, "--replay", replay, "--control", ""]


@pytest.fixture
def puller() -> Iterator[zmq.Socket[bytes]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.PULL)
    socket.set_hwm(0)
    yield socket
    socket.close(0)
    context.term()


def url(socket: zmq.Socket[bytes]) -> str:
    return f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


def receive_all(socket: zmq.Socket[bytes]) -> list[Message]:
    found: list[Message] = []
    while not found or not isinstance(found[-1], SeriesEnd):
        assert socket.poll(PATIENCE_MS), "nothing came"
        found.append(decode(socket.recv_multipart()))
    return found


def test_simulate_sends_what_it_says_and_saves_its_truth(puller: zmq.Socket[bytes], tmp_path: Path) -> None:
    truth = tmp_path / "truth.npz"
    options = ["--specimen", "exercise", "--shape", "8", "9", "--channels", "128", "--counts", "60", "--passes", "3"]
    options += ["--list-mode", "--rate", "0", "--pattern", "push", "--connect", "--data", url(puller)]
    made = subprocess.Popen(
        command("simulate", *options, "--truth", str(truth), "--series", "mine"), stdout=subprocess.PIPE, text=True
    )
    found = receive_all(puller)
    said, _ = made.communicate(timeout=20)
    assert made.returncode == 0
    assert "sent 216 spectra" in said
    assert {m.map.series for m in found} == {"mine"}
    got = np.zeros((72, 128))
    for block in (m for m in found if isinstance(m, Block)):
        assert isinstance(block.counts, Events)
        rows = np.repeat((block.map.frame + np.arange(block.n)) % 72, np.diff(block.counts.offsets))
        np.add.at(got, (rows, block.counts.channels), 1)
    with np.load(truth) as saved:
        expected = 3 * saved["abundances"] @ saved["endmembers"]
    # Chi-square of the map against the truth that was saved: within five standard deviations of its expectation.
    busy = expected > 0.5
    chi2 = float((((got - expected) ** 2) / np.where(busy, expected, 1.0))[busy].sum())
    spread = float(np.sqrt((2 + 1 / expected[busy]).sum()))
    assert abs(chi2 - busy.sum()) < 5 * spread


def test_a_push_hands_over_everything_before_the_process_ends(puller: zmq.Socket[bytes]) -> None:
    options = ["--shape", "40", "50", "--passes", "10", "--block", "500", "--rate", "0", "--preload", "--counts", "5"]
    options += ["--pattern", "push", "--connect", "--data", url(puller)]
    made = subprocess.Popen(command("simulate", *options, replay=""), stdout=subprocess.DEVNULL)
    found = receive_all(puller)
    made.wait(20)
    assert sum(m.n for m in found if isinstance(m, Block)) == 20000


def test_sigterm_ends_the_series_as_aborted(puller: zmq.Socket[bytes]) -> None:
    options = ["--passes", "1000", "--pattern", "push", "--connect", "--data", url(puller), "--shape", "8", "8"]
    made = subprocess.Popen(command("simulate", *options), stdout=subprocess.PIPE, text=True)
    assert puller.poll(PATIENCE_MS)
    puller.recv_multipart()
    made.send_signal(signal.SIGTERM)
    last = receive_all(puller)[-1]
    said, _ = made.communicate(timeout=20)
    assert made.returncode == 0
    assert isinstance(last, SeriesEnd)
    assert (last.map.exit_status, last.map.reason) == ("abort", "interrupted by SIGTERM")
    assert f"sent {last.map.n_sent:,} spectra" in said


def test_replay_sends_a_file_as_it_is(puller: zmq.Socket[bytes], tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(2.0, (5, 6, 32)).astype(np.uint16)
    np.savez(tmp_path / "map.npz", data=counts, axis=np.arange(32.0))
    options = [str(tmp_path / "map.npz"), "--rate", "0", "--pattern", "push", "--connect", "--data", url(puller)]
    made = subprocess.Popen(command("replay", *options), stdout=subprocess.PIPE, text=True)
    found = receive_all(puller)
    made.communicate(timeout=20)
    assert made.returncode == 0
    got = np.concatenate([np.asarray(m.counts) for m in found if isinstance(m, Block)])
    np.testing.assert_array_equal(got.reshape(counts.shape), counts)


def test_simulate_saves_the_scan_that_it_sent(puller: zmq.Socket[bytes], tmp_path: Path) -> None:
    options = ["--specimen", "exercise", "--shape", "8", "8", "--region", "2", "1", "4", "5", "--channels", "64"]
    options += ["--rate", "0", "--pattern", "push", "--connect", "--data", url(puller), "--passes", "2"]
    made = subprocess.Popen(command("simulate", *options, "--save", str(tmp_path / "scan.zspy")))
    sent = np.zeros((64, 64))
    n = 0
    for block in (m for m in receive_all(puller) if isinstance(m, Block)):
        assert not isinstance(block.counts, Events)
        first = block.map.index if isinstance(block.map.index, int) else 0
        np.add.at(sent, first + np.arange(block.n) if block.index is None else block.index, block.counts)
        n += block.n
    assert made.wait(20) == 0
    assert n == 2 * 4 * 5
    np.testing.assert_array_equal(read_back(tmp_path / "scan.zspy")["data"].reshape(64, 64), sent)
    rows, columns = np.nonzero(sent.sum(axis=1).reshape(8, 8))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 5, 1, 5)


def test_simulate_draws_a_specimen_and_sends_nothing(tmp_path: Path) -> None:
    options = ["--specimen", "exercise", "--shape", "9", "9", "--channels", "64", "--plot", str(tmp_path / "one.png")]
    subprocess.run(command("simulate", *options), check=True, timeout=60)
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


SIMULATE, SMALL = "simulate", ["--shape", "4", "4"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (SIMULATE, ["--specimen", "cheese"], "no specimen 'cheese'"),
        (SIMULATE, ["--specimen", "all"], "--plot"),
        (SIMULATE, ["--plot", "drawing.pdf"], "name it *.png"),
        (SIMULATE, ["--save", "scan.zip"], "zspy"),
        (SIMULATE, ["--shape", "0", "4"], "0 x 4 positions"),
        (SIMULATE, ["--region", "0", "0", "200", "5"], "region"),
        (SIMULATE, ["--points", "1000000"], "1000000 points were asked for"),
        (SIMULATE, ["--points", "5", "--region", "0", "0", "2", "2"], "exclude each other"),
        (SIMULATE, [*SMALL, "--actions", "dance"], "dance"),
        (SIMULATE, [*SMALL, "--data", "nonsense"], "--data nonsense: an address looks like tcp://"),
        (SIMULATE, [*SMALL, "--data", "tcp://127.0.0.1:99999"], "an address looks like"),
        (SIMULATE, [*SMALL, "--replay", "127.0.0.1:5558"], "--replay 127.0.0.1:5558: an address looks like"),
        (SIMULATE, [*SMALL, "--effect", "melting=1"], "no switch 'melting'"),
        (SIMULATE, [*SMALL, "--effect", "dead=9999"], "outside"),
        (SIMULATE, [*SMALL, "--fault", "drop"], "drop needs a value"),
        (SIMULATE, [*SMALL, "--fault", "drop=2"], "drop: Input should be less than or equal to 1"),
        (SIMULATE, [*SMALL, "--detector", "gain=2", "--list-mode"], "list mode needs a counting detector"),
        (SIMULATE, [*SMALL, "--preload", "--fault", "restart"], "neither restart"),
        (SIMULATE, [*SMALL, "--calibrated-at", "500"], "the scan has 1 messages"),
        ("replay", ["nowhere.npz"], "nowhere.npz"),
        ("replay", ["/"], "no reader for a folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, options: list[str], said: str
) -> None:
    """In this process: imports take longer than all of it."""
    addresses = [] if {"--data", "--replay"} & set(options) else ["--data", ANY, "--replay", ""]
    monkeypatch.setattr(sys, "argv", ["scanwise", name, *options, *addresses, "--control", ""])
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert said in printed
    assert not re.search(r"sent [\d,]+ spectra", printed)
    assert "pydantic" not in printed


def test_a_taken_port_is_said_with_the_options_that_choose_another(puller: zmq.Socket[bytes]) -> None:
    taken = url(puller)
    done = subprocess.run(
        [*command("simulate", *SMALL, "--data", taken)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "another program has the address of --data" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stderr


def test_the_panel_shows_every_switch_of_faults_effects_and_detector(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scanwise", "simulate", "--help"])
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for panel in ("Scan", "Detector", "What goes wrong", "Network", "Truth"):
        assert f"─ {panel} ─" in shown
    words = set(re.findall(r"\w+", shown))
    switches = {*Effects.model_fields, *Faults.model_fields, *Integrating.__dataclass_fields__}
    assert switches <= words
