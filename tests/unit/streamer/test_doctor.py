"""What the doctor finds, against real packages, ports and folders of this machine."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from streamer import doctor
from streamer.doctor import Finding, examine
from streamer.probe import onnx_providers
from streamer.recorder import Recorder
from streamer.settings import Settings, load
from streamer.state import StateFolder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose ports are free."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    source, results, control, metrics = (s.getsockname()[1] for s in held)
    for s in held:
        s.close()
    flags: dict[str, dict[str, Any]] = {
        "source": {"url": f"tcp://127.0.0.1:{source}"},
        "results": {"url": f"tcp://127.0.0.1:{results}"},
        "control": {"url": f"tcp://127.0.0.1:{control}"},
        "metrics": {"listen": f"127.0.0.1:{metrics}"},
        "state": {"dir": tmp_path / "state", "keep_gib": 1e-6},
    }
    return load(flags=flags)


def levels(findings: list[Finding]) -> list[str]:
    return [f.level for f in findings]


def test_free_ports_are_free_and_a_taken_one_says_what_to_change(settings: Settings) -> None:
    assert levels(list(doctor.check_ports(settings))) == ["ok", "ok", "ok", "note"]
    port = int(settings.control.url.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        _, control, *others = doctor.check_ports(settings)
    assert control.level == "problem"
    assert "problem" not in levels(others)
    assert "control.url" in control.text
    assert "control.url" in control.advice


def test_an_instrument_that_is_there_and_one_that_is_not(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as instrument:
        settings.source.url = f"tcp://127.0.0.1:{instrument.getsockname()[1]}"
        *_, found = doctor.check_ports(settings)
        assert (found.level, "something listens" in found.text) == ("ok", True)
    *_, found = doctor.check_ports(settings)
    assert found.level == "note"
    assert "source.url" in found.advice


def test_a_state_folder_is_looked_at_and_not_made(settings: Settings) -> None:
    assert levels(list(doctor.check_state(settings))) == ["ok"]
    assert not settings.state.dir.exists()


def test_an_open_series_is_named(settings: Settings) -> None:
    state = StateFolder(settings.state.dir)
    recorder = Recorder(state, 8, 1 << 30)
    recorder.open("scan 7", {"series": "scan 7", "opened_ns": 1})
    recorder.leave()
    state.close()
    found = list(doctor.check_state(settings))
    assert levels(found) == ["ok", "note"]
    assert "'scan 7'" in found[1].text
    assert "resumes" in found[1].advice


def test_a_state_folder_in_use_is_a_problem(settings: Settings) -> None:
    state = StateFolder(settings.state.dir)
    (found,) = doctor.check_state(settings)
    state.close()
    assert found.level == "problem"
    assert "pid" in found.text


def test_too_little_room_is_told(settings: Settings) -> None:
    settings.state.keep_gib = 1e9
    (found,) = doctor.check_state(settings)
    assert found.level == "note"
    assert "state.keep_gib" in found.advice


def test_missing_and_old_packages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = ["numpy>=2.0", "pyzmq>=9999.1", 'no-such-package>=1.0; extra == "daemon"']
    monkeypatch.setattr(doctor, "requires", lambda name: listed)
    client, _, daemon, *_ = doctor.check_packages()
    assert client.level == "problem"
    assert "pyzmq>=9999.1 (there is" in client.text
    assert "numpy" not in client.text
    assert daemon.level == "note"
    assert "no-such-package>=1.0" in daemon.text
    assert daemon.advice == "pip install 'scanwise[daemon]'"


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="ONNX Runtime is not installed")
def test_the_shipped_model_runs_on_the_cpu() -> None:
    found = onnx_providers()
    assert isinstance(found, dict), found
    assert found["working"]["CPUExecutionProvider"] is True
    assert set(found["working"]) == set(found["claimed"])


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="ONNX Runtime is not installed")
def test_a_provider_that_only_claims_to_be_there_is_not_called_working(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"version": "1", "claimed": ["CUDA", "CPUExecutionProvider"], "working": {"CPUExecutionProvider": True}}
    monkeypatch.setattr(doctor, "onnx_providers", lambda: answer)
    found = [f for f in doctor.check_onnx() if "both" not in f.text]
    assert "CUDA" not in found[0].text
    assert found[0].level == "ok"
    assert "CUDA" in found[1].text
    assert found[1].level == "note"


def test_a_library_that_crashes_is_told_not_suffered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.probe._ONNX", "import os; os.abort()")
    found = onnx_providers()
    assert isinstance(found, str)
    assert "-6" in found or "134" in found


def test_threads_and_clock_are_told() -> None:
    assert all(f.level != "problem" for f in doctor.check_threads())
    assert any("threads" in f.text for f in doctor.check_threads())
    assert all(f.level != "problem" for f in doctor.check_clock())


def test_the_whole_examination_counts_its_problems(tmp_path: Path, settings: Settings) -> None:
    from streamer.example import as_toml

    file = tmp_path / "scanwise.toml"
    file.write_text(as_toml(settings))
    lines: list[str] = []
    port = int(settings.control.url.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        assert examine(file, lines.append) == 1
    assert any(line.startswith("PROBLEM control.url") for line in lines)
    assert int(lines[-1].split()[0]) == sum(line.startswith("PROBLEM") for line in lines)


def test_a_wrong_configuration_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "scanwise.toml"
    file.write_text("[source]\nulr = 1\n")
    lines: list[str] = []
    assert examine(file, lines.append) == 1
    assert any("source.ulr" in line for line in lines)
