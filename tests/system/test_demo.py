"""`scanwise demo` as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ENVIRONMENT = os.environ | {"OPENBLAS_NUM_THREADS": "1", "COLUMNS": "120"}
PICTURES = {"abundances.png", "phases.png", "maps.png", "scores.png", "scree.png", "eigenspectra.png", "overview.png"}


def _demo(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "streamer", "demo", "--out", str(out), "--seed", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)


def _members(out: Path) -> list[int]:
    """Return processes whose command line names `out`: the demo's children."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(out).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_the_whole_loop(tmp_path: Path) -> None:
    with _demo(tmp_path / "out") as demo:
        said, _ = demo.communicate(timeout=240)
    assert demo.returncode == 0, said
    out = tmp_path / "out"
    assert {p.name for p in out.glob("*.png")} == PICTURES
    assert not list(out.glob("state-*"))
    measured = json.loads((out / "demo.json").read_text())
    books = measured["books"]
    assert measured["balanced"]
    assert books["n_sent"] == books["processed"] + sum(books["lost"].values())
    # What was decided was obeyed, and seen to be: fewer spectra than planned. Whether a stop comes before the last of
    # the shortened passes is over depends on how fast the machine is.
    assert {(d["mode"], d["outcome"]) for d in measured["decisions"]} == {("enforce", "accepted")}
    *earlier, last = [d["action"] for d in measured["decisions"]]
    assert set(earlier) <= {"dwell"}
    assert last in {"dwell", "stop"}
    assert books["exit_status"] == ("stopped" if last == "stop" else "success")
    assert books["n_sent"] < 0.8 * measured["planned"]
    assert 0.2 < measured["dose"] < 0.75
    whole = measured["errors"][0]
    assert whole["raw"] == pytest.approx(1.0, abs=0.1)
    assert whole["dose_factor"] > 20
    # A network comes with the program, and had something to say.
    assert measured["network"]["name"] == "eds"
    assert measured["network"]["speaks"]
    told = [e for e in measured["errors"] if e["network"] is not None]
    assert {e["what"] for e in told} >= {"window Fe K", "window Ni K"}
    assert all(e["network"] < 1.2 * e["denoised"] for e in told if e["what"] in {"window Fe K", "window Ni K"})
    for words in ("spectra", "dose factor", "p99", str(out)):
        assert words in said.replace("\n", "")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to find the demo's children")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    with _demo(out) as demo:
        while "series" not in _read(out / "daemon.log"):  # the scan has begun
            assert demo.poll() is None
            time.sleep(0.1)
        assert len(_members(out)) > 1
        demo.send_signal(number)
        said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, said
    assert _members(out) == []
    assert not list(out.glob("state-*"))


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to find the demo's children")
def test_a_daemon_that_dies_is_an_error_with_its_last_lines(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with _demo(out) as demo:
        while "series" not in _read(out / "daemon.log"):
            assert demo.poll() is None
            time.sleep(0.1)
        daemon = next(p for p in _members(out) if b"\0run\0" in (Path("/proc") / str(p) / "cmdline").read_bytes())
        os.kill(daemon, signal.SIGKILL)
        said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert "the daemon ended with exit code -9; its last lines" in said
    assert "results at" in said
    assert "Traceback" not in said
    assert _members(out) == []
