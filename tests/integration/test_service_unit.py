"""The systemd unit fits the program it starts."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamer.cli import app
from streamer.exits import CONFIG, USAGE
from streamer.service import REPORTS_S

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "scanwise.service"
ANALYZE = shutil.which("systemd-analyze")


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    return unit["Service"]


def test_it_starts_a_command_that_exists(service: configparser.SectionProxy) -> None:
    program, command, *arguments = service["ExecStart"].split()
    assert program.endswith("/bin/scanwise")
    known = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    for flag in (a for a in arguments if a.startswith("--")):
        assert flag in known


def test_it_does_not_try_again_where_that_cannot_help(service: configparser.SectionProxy) -> None:
    assert service["Restart"] == "on-failure"
    assert set(map(int, service["RestartPreventExitStatus"].split())) == {USAGE, CONFIG}


def test_it_leaves_time_for_the_reports(service: configparser.SectionProxy) -> None:
    assert service["KillSignal"] == "SIGTERM"
    assert int(service["TimeoutStopSec"]) > REPORTS_S


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_reads_it(tmp_path: Path) -> None:
    assert ANALYZE is not None
    unit = tmp_path / "scanwise.service"
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.M))
    done = subprocess.run([ANALYZE, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
