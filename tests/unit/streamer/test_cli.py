"""The command line, without running the daemon."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streamer import command_group
from streamer.cli import app
from streamer.exits import CONFIG, PROBLEM, USAGE
from streamer.settings import load

runner = CliRunner()


def scanwise(*arguments: str) -> Any:
    return runner.invoke(app, arguments, prog_name="scanwise")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def register(monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    points = EntryPoints(EntryPoint(name, value, command_group.GROUP) for name, value in commands.items())
    monkeypatch.setattr(command_group, "entry_points", points.select)


INTERRUPTED = """
import signal, sys
class Interrupts:
    def find_spec(self, name, *more):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
sys.argv = ["scanwise", {command!r}]
from streamer.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("command", "module", "code"),
    [("run", "streamer.cli", 0), ("run", "streamer.service", 0), ("config", "streamer.cli", 130)],
)
def test_an_interrupt_while_modules_are_imported_is_a_clean_end(command: str, module: str, code: int) -> None:
    ended = python("-c", INTERRUPTED.format(command=command, module=module))
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")


def test_help_lists_our_commands_and_version_is_told() -> None:
    told = scanwise("--help")
    assert told.exit_code == 0
    for name in ("run", "config", "keys", "doctor"):
        assert name in told.output
    assert scanwise("--version").output.startswith("scanwise ")


def test_without_a_command_the_help_is_shown() -> None:
    assert "Usage" in scanwise().output


@pytest.mark.parametrize("arguments", [["nonsense"], ["run", "--nonsense"], ["run", "--pattern", "sup"]])
def test_a_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    assert scanwise(*arguments).exit_code == USAGE


def test_flags_of_run_tell_the_key_of_the_configuration_that_they_override() -> None:
    told = "".join(scanwise("run", "--help").output.split())
    keys = "source.url source.pattern source.bind results.url control.url metrics.listen state.dir log.level"
    for key in keys.split():
        assert key in told


def test_run_tells_its_exit_codes() -> None:
    told = scanwise("run", "--help").output
    for code in ("69", "70", "74", "78"):
        assert code in told


def test_a_wrong_configuration_ends_with_78_and_names_the_key(tmp_path: Path) -> None:
    file = tmp_path / "scanwise.toml"
    file.write_text("[source]\nulr = 'x'\n")
    told = scanwise("run", "--config", str(file))
    assert told.exit_code == CONFIG
    assert "source.ulr" in told.stderr
    assert "Traceback" not in told.stderr
    assert scanwise("run", "--source", "nonsense").exit_code == CONFIG
    assert scanwise("config", "--config", str(file)).exit_code == CONFIG


def test_config_prints_what_loads(tmp_path: Path) -> None:
    file = tmp_path / "printed.toml"
    file.write_text(scanwise("config").output)
    assert load(file).model_dump() == load().model_dump()


def test_config_prints_what_is_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[inbox]\nmessages = 17\n")
    monkeypatch.setenv("SCANWISE_LOG__LEVEL", "debug")
    told = scanwise("config", "--config", str(file), "--effective").output
    assert "messages = 17" in told
    assert 'level = "debug"' in told
    assert 'level = "debug"' not in scanwise("config").output, "the example does not depend on the environment"


def test_keys_are_made_once(tmp_path: Path) -> None:
    told = scanwise("keys", str(tmp_path), "--name", "me")
    assert told.exit_code == 0
    assert (tmp_path / "me.key").exists()
    assert str(tmp_path / "me.key_secret") in told.output.replace("\n", "")
    again = scanwise("keys", str(tmp_path), "--name", "me")
    assert again.exit_code == USAGE
    assert "exists" in again.stderr


def test_doctor_ends_with_1_where_there_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "scanwise.toml"
    file.write_text("[log]\nlevel = 'loud'\n")
    told = scanwise("doctor", "--config", str(file))
    assert told.exit_code == PROBLEM
    assert "log.level" in told.output


class TestCommandsOfOthers:
    """Entry points of the group ``scanwise.commands``."""

    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "otherpackage"
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "cli.py").write_text(
            "import sys\n"
            "sys.modules['otherpackage_was_imported'] = sys\n"
            "import typer\n\n"
            "def measure(rate: float = 1.5, name: str = 'x') -> None:\n"
            '    """Measure something.\n\n    At length.\n    """\n'
            "    typer.echo(f'{name} at {rate}')\n"
            "    raise typer.Exit(3)\n\n"
            "several = typer.Typer(no_args_is_help=True, help='Do several things.')\n"
        )
        (folder / "broken.py").write_text("import no_such_package_at_all\n\ndef f() -> None:\n    '''Break.'''\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "otherpackage_was_imported", raising=False)
        return folder

    def test_are_listed_with_their_help_line_and_not_imported(
        self, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        points = {"measure": "otherpackage.cli:measure", "several": "otherpackage.cli:several"}
        register(monkeypatch, **points, gone="no_such_package.cli:f")
        told = scanwise("--help").output
        assert "Measure something." in told
        assert "Do several things." in told
        assert "gone" in told
        assert "otherpackage_was_imported" not in sys.modules

    def test_run_with_their_options_and_exit_code(self, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        register(monkeypatch, measure="otherpackage.cli:measure")
        told = scanwise("measure", "--rate", "7.25")
        assert told.exit_code == 3
        assert told.output.strip() == "x at 7.25"
        assert "--rate" in scanwise("measure", "--help").output
        assert scanwise("measure", "--nonsense").exit_code == USAGE

    def test_a_missing_package_is_one_line_with_the_extra(self, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        register(monkeypatch, simulate="otherpackage.broken:f")
        monkeypatch.setitem(command_group._EXTRAS, "otherpackage", "simulator")
        told = scanwise("simulate")
        assert told.exit_code == USAGE
        assert "needs scanwise[simulator]" in told.stderr
        assert "no_such_package_at_all" in told.stderr
        assert len(told.stderr.strip().splitlines()) == 1

    def test_those_that_are_registered_here_can_be_loaded(self) -> None:
        listed = scanwise("--help").output
        for name in ("simulate", "replay"):
            assert name in listed
            assert scanwise(name, "--help").exit_code == 0


def test_help_is_fast_because_it_imports_nothing_heavy() -> None:
    program = "import sys, streamer.cli; print(' '.join(sys.modules))"
    loaded = python("-c", program).stdout.split()
    assert "streamer.cli" in loaded
    assert not {"numpy", "scipy", "zmq", "pydantic", "prometheus_client", "numba", "simulator"} & set(loaded)


def test_a_bare_install_says_which_extra_is_missing() -> None:
    program = "import sys; sys.modules['typer'] = None; from streamer.__main__ import main; main()"
    ended = python("-c", program)
    assert ended.returncode == USAGE
    assert "scanwise[cli]" in ended.stderr
    assert "Traceback" not in ended.stderr
