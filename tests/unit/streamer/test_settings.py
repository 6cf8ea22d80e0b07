"""Where a setting comes from, and how a wrong one is told."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from streamer.example import as_toml
from streamer.exits import CONFIG, Exit
from streamer.settings import Settings, load

EXAMPLE = Path(__file__).parents[3] / "deploy" / "config" / "example.toml"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [n for n in os.environ if n.upper().startswith("SCANWISE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "scanwise.toml"
        path.write_text(text)
        return path

    return write


def refused(file: Path | None = None, flags: Any = None) -> str:
    with pytest.raises(Exit) as error:
        load(file, flags)
    assert error.value.code == CONFIG
    return error.value.text


def test_defaults_are_those_of_the_protocol_and_loopback() -> None:
    settings = load()
    assert settings.source.url == "tcp://127.0.0.1:5555"
    assert (settings.source.pattern, settings.source.bind) == ("sub", False)
    assert settings.results.url == "tcp://127.0.0.1:5556"
    assert settings.control.url == "tcp://127.0.0.1:5557"
    assert settings.metrics.listen == "127.0.0.1:9109"
    assert settings.pipeline.series_timeout_s == 300


def test_environment_overrides_the_file_and_flags_override_both(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("[inbox]\nmessages = 1\nmib = 2\n[state]\nkeep_series = 3\n[log]\nlevel = 'error'\n")
    monkeypatch.setenv("SCANWISE_INBOX__MESSAGES", "10")
    monkeypatch.setenv("SCANWISE_STATE__KEEP_SERIES", "30")
    settings = load(file, {"state": {"keep_series": 300, "dir": None}})
    assert settings.inbox.messages == 10
    assert settings.inbox.mib == 2
    assert settings.state.keep_series == 300
    assert settings.log.level == "error"


def test_a_section_deep_down_comes_from_all_three(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("[pipeline.decisions]\nmode = 'enforce'\nvalid_s = 3.0\n")
    monkeypatch.setenv("SCANWISE_PIPELINE__DECISIONS__VALID_S", "4.5")
    monkeypatch.setenv("SCANWISE_PIPELINE__WINDOWS", '{"Fe": [6.2, 6.6]}')
    pipeline = load(file).pipeline
    assert (pipeline.decisions.mode, pipeline.decisions.valid_s) == ("enforce", 4.5)
    assert pipeline.windows == {"Fe": (6.2, 6.6)}


def test_flags_that_were_not_given_change_nothing(write: Any) -> None:
    file = write("[source]\nbind = true\npattern = 'pull'\n")
    settings = load(file, {"source": {"url": None, "pattern": None, "bind": None}})
    assert settings.source.bind
    assert settings.source.pattern == "pull"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[source]\nulr = 'x'", ["source.ulr", "no such key", "url"]),
        ("[sorce]\nurl = 'x'", ["sorce", "no such key", "source"]),
        ("[pipeline.linear]\nmax_rnak = 3", ["pipeline.linear.max_rnak", "max_rank"]),
        ("[source]\npattern = 'sup'", ["source.pattern", "'sup'", "'sub' or 'pull'"]),
        ("[source]\nurl = '127.0.0.1:5555'", ["source.url", "127.0.0.1:5555", "tcp://HOST:PORT"]),
        ("[source]\nurl = 'tcp://127.0.0.1:99999'", ["source.url", "99999"]),
        ("[source]\nurl = 'udp://127.0.0.1:5555'", ["source.url", "tcp://"]),
        ("[inbox]\nmessages = 0", ["inbox.messages", "0", "greater than or equal to 1"]),
        ("[inbox]\nmessages = 'many'", ["inbox.messages", "'many'"]),
        ("[metrics]\nlisten = 'localhost'", ["metrics.listen", "HOST:PORT"]),
        ("[metrics]\nlisten = '0.0.0.0:9109'", ["metrics.listen", "loopback"]),
        ("[pipeline.windows]\nFe = [7.0, 6.0]", ["pipeline", "Fe", "empty"]),
        ("source = 3", ["source"]),
    ],
)
def test_a_wrong_key_is_named_with_its_value_and_what_is_allowed(write: Any, text: str, parts: list[str]) -> None:
    told = refused(write(text))
    for part in parts:
        assert part in told


def test_every_wrong_key_is_told_at_once(write: Any) -> None:
    told = refused(write("[source]\npattern = 'a'\n[log]\nlevel = 'b'\n[inbox]\nnothing = 1\n"))
    assert len(told.splitlines()) == 3


def test_a_file_that_is_missing_or_no_toml(tmp_path: Path, write: Any) -> None:
    assert "nowhere.toml" in refused(tmp_path / "nowhere.toml")
    assert "line 2" in refused(write("[source]\nurl = tcp"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "no TOML" in refused(tmp_path / "binary")


@pytest.mark.parametrize("name", ["SCANWISE_SORCE__URL", "SCANWISE_URL", "SCANWISE_SOURCE", "scanwise_nothing"])
def test_a_misspelt_variable_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    assert name.upper() in refused().upper()


def test_a_misspelt_key_or_value_in_a_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANWISE_SOURCE__ULR", "x")
    assert "source.ulr" in refused()
    monkeypatch.delenv("SCANWISE_SOURCE__ULR")
    monkeypatch.setenv("SCANWISE_PIPELINE__WINDOWS", "{")
    assert "SCANWISE_PIPELINE__WINDOWS" in refused()


@pytest.mark.parametrize(
    ("section", "url"),
    [
        ("results", "tcp://0.0.0.0:5556"),
        ("results", "tcp://*:5556"),
        ("control", "tcp://192.168.1.5:5557"),
        ("control", "tcp://[::]:5557"),
        ("source", "tcp://microscope.lab:5555"),
    ],
)
def test_beyond_loopback_needs_keys(section: str, url: str) -> None:
    told = refused(flags={section: {"url": url}})
    assert f"{section}.url" in told
    assert "scanwise keys" in told


@pytest.mark.parametrize("url", ["tcp://localhost:1", "tcp://127.1.2.3:1", "tcp://[::1]:1", "ipc:///tmp/x"])
def test_what_stays_on_this_machine_needs_none(url: str) -> None:
    assert load(flags={"results": {"url": url}}).results.url == url


class TestKeys:
    @pytest.fixture
    def keys(self, tmp_path: Path) -> dict[str, Any]:
        from streamer.transport.curve import make_keys

        _, secret = make_keys(tmp_path / "own", "daemon")
        public, _ = make_keys(tmp_path / "source", "instrument")
        clients = tmp_path / "clients"
        clients.mkdir()
        return {"secret_key": secret, "clients": clients, "source_key": public}

    def test_with_keys_anything_may_be_spoken_to(self, keys: dict[str, Any]) -> None:
        flags = {"security": keys, "results": {"url": "tcp://*:5556"}, "source": {"url": "tcp://scope:5555"}}
        assert load(flags=flags).security.secret_key == keys["secret_key"]

    def test_a_source_elsewhere_needs_its_own_key(self, keys: dict[str, Any]) -> None:
        flags = {"security": {**keys, "source_key": None}, "source": {"url": "tcp://scope:5555"}}
        assert "source_key" in refused(flags=flags)

    def test_a_secret_that_others_can_read_is_refused(self, keys: dict[str, Any]) -> None:
        keys["secret_key"].chmod(0o640)
        assert "chmod 600" in refused(flags={"security": keys})

    def test_missing_files_are_told(self, keys: dict[str, Any], tmp_path: Path) -> None:
        assert "nothing" in refused(flags={"security": {**keys, "secret_key": tmp_path / "nothing"}})
        assert "clients" in refused(flags={"security": {**keys, "clients": tmp_path / "nothing"}})
        assert "source_key" in refused(flags={"security": {**keys, "source_key": tmp_path / "nothing"}})
        assert "secret_key" in refused(flags={"security": {**keys, "secret_key": None}})

    def test_a_key_pair_is_never_overwritten_and_its_secret_is_private(self, tmp_path: Path) -> None:
        from streamer.transport.curve import make_keys

        public, secret = make_keys(tmp_path / "k", "me")
        assert secret.stat().st_mode & 0o777 == 0o600
        assert "secret" not in public.read_text().splitlines()[-1]
        with pytest.raises(FileExistsError):
            make_keys(tmp_path / "k", "me")


@pytest.mark.parametrize(
    ("pattern", "policy", "decided"),
    [
        ("sub", "auto", "drop_newest"),
        ("pull", "auto", "block"),
        ("sub", "block", "block"),
        ("pull", "drop_newest", "drop_newest"),
    ],
)
def test_the_policy_follows_the_pattern(pattern: str, policy: str, decided: str) -> None:
    assert load(flags={"source": {"pattern": pattern}, "inbox": {"policy": policy}}).policy == decided


def test_the_example_is_the_generated_text() -> None:
    assert EXAMPLE.read_text() == as_toml(load()), "run `scanwise config > deploy/config/example.toml`"


def test_the_example_loads_to_the_defaults() -> None:
    assert load(EXAMPLE).model_dump() == load().model_dump()


def test_every_key_is_in_the_example_and_explained() -> None:
    lines = EXAMPLE.read_text().splitlines()
    given = tomllib.loads(EXAMPLE.read_text())
    assert set(given) == set(Settings.model_fields)
    for before, line in zip(lines, lines[1:], strict=False):
        if " =" in line and not line.startswith("#"):
            assert before.startswith("# "), f"{line} has no explanation"
            assert len(before) > 5


def test_settings_other_than_the_defaults_survive_being_written(tmp_path: Path) -> None:
    flags: dict[str, dict[str, Any]] = {
        "pipeline": {"windows": {"Fe Ka": (6.2, 6.6), 'odd "name"': (1.0, 2.0)}, "replay_hosts": ["a", "b"]},
        "state": {"dir": tmp_path / 'with "quotes" \\ and Ü'},
        "metrics": {"listen": ""},
    }
    settings = load(flags=flags)
    file = tmp_path / "written.toml"
    file.write_text(as_toml(settings))
    assert load(file).model_dump() == settings.model_dump()
