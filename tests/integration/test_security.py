"""CURVE on every socket of the daemon: who is known passes, everybody else hears nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.auth

from streamer.exits import UNAVAILABLE, Exit
from streamer.transport.curve import Curve, make_keys
from streamer.wire import Control, encode_control, encode_replay_answer
from tests.integration.running import Listener, Outside, Running, outside, settings
from tests.unit.streamer.scene import Scene

HEARS_NOTHING_MS = 700


@dataclass
class Keys:
    """Key files of a daemon and of others."""

    folder: Path

    def make(self, name: str, *, known: bool = False) -> dict[str, Any]:
        """Return a client's socket options; `known` puts its public key where the daemon looks."""
        public, secret = make_keys(self.folder / "others", name)
        if known:
            (self.folder / "clients" / public.name).write_bytes(public.read_bytes())
        key, own = zmq.auth.load_certificate(secret)
        assert own is not None
        server, _ = zmq.auth.load_certificate(self.folder / "daemon.key")
        return {"curve_publickey": key, "curve_secretkey": own, "curve_serverkey": server}

    @property
    def section(self) -> dict[str, Any]:
        return {"secret_key": self.folder / "daemon.key_secret", "clients": self.folder / "clients"}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    (tmp_path / "keys" / "clients").mkdir(parents=True)
    make_keys(tmp_path / "keys", "daemon")
    return Keys(tmp_path / "keys")


@pytest.fixture
def others() -> Iterator[Outside]:
    with outside() as made:
        yield made


@pytest.fixture
def daemon(tmp_path: Path, keys: Keys) -> Iterator[Running]:
    with Running(settings(tmp_path / "state", security=keys.section)) as running:
        yield running


def test_who_is_known_uses_every_socket(daemon: Running, others: Outside, keys: Keys) -> None:
    me, scene = keys.make("me", known=True), Scene()
    listener = others.listener(daemon, "series", **me)
    asker = others.asker(daemon, **me)
    assert asker.ask("hello", role="controller", name="me").msg == "ack"
    others.instrument(daemon, **me).send(*scene.messages())
    assert listener.until("series", event="end").head["processed"] == scene.n_sent


@pytest.mark.parametrize("kind", ["unknown key", "no key", "wrong server key"])
def test_everybody_else_hears_nothing(daemon: Running, others: Outside, keys: Keys, kind: str) -> None:
    options = {} if kind == "no key" else keys.make("stranger", known=kind == "wrong server key")
    if kind == "wrong server key":
        options["curve_serverkey"] = keys.make("impostor")["curve_publickey"]
    listener = others.socket(zmq.SUB, daemon.results, **options)
    listener.subscribe("")
    asker = others.socket(zmq.DEALER, daemon.control, **options)
    asker.send_multipart(encode_control(Control("cmd", 1, "hello", {"role": "viewer"})))
    sender = others.socket(zmq.XPUB, daemon.source, **options)
    assert not listener.poll(HEARS_NOTHING_MS)
    assert not asker.poll(0)
    assert not sender.poll(0), "the daemon has not subscribed"
    known = others.asker(daemon, **keys.make("friend", known=True))
    assert known.ask("hello", role="viewer", name="").msg == "ack", "and the daemon goes on"


def test_a_key_that_is_added_or_taken_away_counts_at_the_next_connection(
    daemon: Running, others: Outside, keys: Keys
) -> None:
    late = keys.make("late")
    early = others.asker(daemon, **late)
    early.socket.send_multipart(encode_control(Control("cmd", 1, "hello", {"role": "viewer"})))
    assert not early.socket.poll(HEARS_NOTHING_MS)
    public = keys.folder / "others" / "late.key"
    known = keys.folder / "clients" / "late.key"
    known.write_bytes(public.read_bytes())
    assert others.asker(daemon, **late).ask("hello", role="viewer", name="").msg == "ack"
    known.unlink()
    again = others.asker(daemon, **late)
    again.socket.send_multipart(encode_control(Control("cmd", 1, "hello", {"role": "viewer"})))
    assert not again.socket.poll(HEARS_NOTHING_MS)


def test_the_daemon_connects_to_an_instrument_with_a_key_and_asks_its_replay_service(
    tmp_path: Path, others: Outside, keys: Keys
) -> None:
    """The instrument is the server: its key is configured, and it sees the daemon's."""
    scene = Scene()
    public, secret = make_keys(keys.folder / "instrument", "instrument")
    key, own = zmq.auth.load_certificate(secret)
    assert own is not None
    server = {"curve_server": True, "curve_publickey": key, "curve_secretkey": own}
    data, url = others.bound(zmq.XPUB, **server)
    router, replay = others.bound(zmq.ROUTER, **server)
    section = {**keys.section, "source_key": public}
    config = settings(tmp_path / "state", security=section, source={"url": url, "bind": False})
    with Running(config) as daemon:
        listener = others.listener(daemon, "series", **keys.make("me", known=True))
        assert data.recv() == b"\x01"
        messages = scene.messages(replay=replay)
        for parts in [*messages[:2], *messages[4:]]:
            data.send_multipart(parts)
        identity, *_ = router.recv_multipart()
        router.send_multipart([identity, *encode_replay_answer(0, messages[2:4])])
        end = listener.until("series", event="end").head
    assert (end["processed"], end["lost"]) == (scene.n_sent, {})


def test_an_impostor_of_the_instrument_is_not_believed(tmp_path: Path, others: Outside, keys: Keys) -> None:
    public, _ = make_keys(keys.folder / "instrument", "instrument")
    _, secret = make_keys(keys.folder / "impostor", "impostor")
    key, own = zmq.auth.load_certificate(secret)
    assert own is not None
    data, url = others.bound(zmq.XPUB, curve_server=True, curve_publickey=key, curve_secretkey=own)
    section = {**keys.section, "source_key": public}
    with Running(settings(tmp_path / "state", security=section, source={"url": url, "bind": False})):
        assert not data.poll(HEARS_NOTHING_MS)


def test_plain_listeners_of_a_plain_daemon_still_work_beside_it(
    tmp_path: Path, daemon: Running, others: Outside
) -> None:
    with Running(settings(tmp_path / "other")) as plain:
        listener: Listener = others.listener(plain, "status")
        listener.until("status", state="idle")


def test_key_files_that_hold_no_key_are_told(keys: Keys) -> None:
    empty = keys.folder / "empty"
    empty.write_text("nothing\n")
    for arguments in ((empty, None), (keys.folder / "daemon.key", None), (keys.folder / "daemon.key_secret", empty)):
        with pytest.raises(Exit) as refused:
            Curve(arguments[0], keys.folder / "clients", arguments[1])
        assert refused.value.code == UNAVAILABLE
        assert "key" in refused.value.text
