"""The whole daemon in this process, over sockets."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from streamer.exits import IO_ERROR, UNAVAILABLE, Exit
from streamer.service import Service
from streamer.state import JOURNAL
from streamer.wire import Control, encode_control, encode_heartbeat, encode_image, encode_replay_answer
from tests.integration.running import ANY_PORT, Outside, Running, outside, settings
from tests.unit.streamer.scene import Scene


@pytest.fixture
def others() -> Iterator[Outside]:
    with outside() as made:
        yield made


def test_a_scan_over_every_socket(tmp_path: Path, others: Outside) -> None:
    scene = Scene()
    with Running(settings(tmp_path)) as daemon:
        instrument, listener, asker = others.instrument(daemon), others.listener(daemon), others.asker(daemon)
        listener.until("status", state="idle")
        instrument.send(*scene.messages())
        end = listener.until("series", event="end")
        assert (end.head["processed"], end.head["lost"], end.head["exit_status"]) == (scene.n_sent, {}, "success")
        counts = listener.last("map/counts").arrays["counts"]
        np.testing.assert_array_equal(counts.ravel(), scene.counts.sum(axis=(0, 2)))
        assert asker.until_status(processed=scene.n_sent)["state"] == "idle"
        snapshot = asker.ask("snapshot", names=["counts"])
        np.testing.assert_array_equal(snapshot.arrays["counts"], counts)
    boots = {r.head["boot"] for r in listener.got}
    assert boots == {snapshot.params["boot"]}
    numbers: dict[str, list[int]] = {}
    for result in listener.got:
        numbers.setdefault(result.topic, []).append(result.head["seq"])
    for topic, seq in numbers.items():
        # A new subscriber is given the last value, which may be one that it has had already.
        assert sorted(set(seq)) == list(range(seq[0], seq[-1] + 1)), f"{topic} has gaps"
        assert seq == sorted(seq)


def test_a_gap_is_asked_for_and_filled(tmp_path: Path, others: Outside) -> None:
    scene = Scene()
    with Running(settings(tmp_path)) as daemon:
        instrument, listener = others.instrument(daemon), others.listener(daemon, "series")
        router, url = others.bound(zmq.ROUTER)
        messages = scene.messages(replay=url)
        instrument.send(*messages[:3], *messages[6:])
        identity, _ = router.recv_multipart()
        router.send_multipart([identity, *encode_replay_answer(0, messages[3:6])])
        end = listener.until("series", event="end")
    assert (end.head["processed"], end.head["lost"]) == (scene.n_sent, {})


def test_what_is_held_at_the_stop_is_finished_and_resumed_later(
    tmp_path: Path, others: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene, pull = Scene(), {"source": {"pattern": "pull"}}
    messages = scene.messages(block=2)
    with Running(settings(tmp_path, **pull)) as daemon:
        pusher, asker = others.pusher(daemon), others.asker(daemon)
        for parts in messages[:100]:
            pusher.send_multipart(parts)
        asker.until_status(processed=198)
    assert "series 'scene' is open at 198 spectra and will be resumed" in caplog.text
    with Running(settings(tmp_path, **pull)) as daemon:
        listener, pusher = others.listener(daemon, "series", "map/counts"), others.pusher(daemon)
        start = listener.until("series", event="start")
        assert start.head["resumed"] is True
        for parts in messages[100:]:
            pusher.send_multipart(parts)
        end = listener.until("series", event="end")
    assert (end.head["processed"], end.head["lost"]) == (scene.n_sent, {})
    counts = listener.last("map/counts").arrays["counts"]
    np.testing.assert_array_equal(counts.ravel(), scene.counts.sum(axis=(0, 2)))


def test_a_stop_without_a_series_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Running(settings(tmp_path)):
        pass
    assert "stopped; no series is open" in caplog.text


def test_a_flood_is_dropped_by_the_message_and_the_books_balance(tmp_path: Path, others: Outside) -> None:
    """A tiny inbox and large blocks: whatever is dropped, each spectrum is counted once."""
    scene = Scene(nav_shape=(40, 50), passes=10)
    with Running(settings(tmp_path, inbox={"messages": 3})) as daemon:
        instrument, listener = others.instrument(daemon), others.listener(daemon, "series")
        instrument.send(*scene.messages(block=500))
        books = listener.until("series", event="end").head
    assert books["n_sent"] == scene.n_sent
    assert books["n_sent"] == books["processed"] + sum(books["lost"].values())
    assert set(books["lost"]) <= {"overflow", "gap"}


def test_everything_works_over_ipc_too(tmp_path: Path, others: Outside) -> None:
    scene, names = Scene(), ("source", "results", "control")
    urls: dict[str, Any] = {name: {"url": f"ipc://{tmp_path}/{name}"} for name in names}
    with Running(settings(tmp_path / "state", **urls)) as daemon:
        instrument, listener, asker = others.instrument(daemon), others.listener(daemon, "series"), others.asker(daemon)
        asker.until_status(state="idle")
        instrument.send(*scene.messages())
        assert listener.until("series", event="end").head["processed"] == scene.n_sent


def test_a_second_daemon_on_the_same_state_is_refused(tmp_path: Path) -> None:
    with Running(settings(tmp_path)):
        with pytest.raises(Exit) as refused:
            Service(settings(tmp_path))
        assert refused.value.code == UNAVAILABLE
        assert "state.dir" in refused.value.text


@pytest.mark.parametrize("key", ["source.url", "results.url", "control.url", "metrics.listen"])
def test_a_taken_port_is_told_with_its_key(tmp_path: Path, key: str) -> None:
    section, name = key.split(".")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        value = address if section == "metrics" else f"tcp://{address}"
        with pytest.raises(Exit) as refused:
            Service(settings(tmp_path, **{section: {name: value}}))
    assert refused.value.code == UNAVAILABLE
    assert key in refused.value.text
    assert address in refused.value.text
    with Running(settings(tmp_path)):
        pass  # everything that had been opened before was given back


def until_it_ends(daemon: Running, provoke: Callable[[], object]) -> None:
    """Start a daemon, do something to it, and wait for its end; raise what it raised."""
    with daemon:
        provoke()
        daemon.wait()


class TestFailure:
    """A thread that dies ends the daemon: nothing is logged and passed over."""

    def test_of_the_worker(self, tmp_path: Path, others: Outside) -> None:
        daemon = Running(settings(tmp_path))
        daemon.service.engine.pipeline.feed = lambda item: [1 // 0]  # type: ignore[method-assign,list-item]
        with pytest.raises(ZeroDivisionError):
            until_it_ends(daemon, lambda: others.instrument(daemon).send(Scene().header()))

    def test_of_the_front(self, tmp_path: Path, others: Outside) -> None:
        daemon = Running(settings(tmp_path))
        daemon.service.front._desk.take = lambda *_: 1 // 0  # type: ignore[method-assign,assignment]
        hello = encode_control(Control("cmd", 1, "hello"))
        with pytest.raises(ZeroDivisionError):
            until_it_ends(daemon, lambda: others.socket(zmq.DEALER, daemon.control).send_multipart(hello))

    def test_of_the_receiver(self, tmp_path: Path, others: Outside) -> None:
        daemon = Running(settings(tmp_path))
        daemon.service.data_in._receive = lambda: 1 // 0  # type: ignore[method-assign,assignment]
        with pytest.raises(ZeroDivisionError):
            until_it_ends(daemon, lambda: others.instrument(daemon).send(Scene().header()))

    def test_of_the_recording(self, tmp_path: Path, others: Outside) -> None:
        daemon = Running(settings(tmp_path))

        def fill_the_disk() -> None:
            instrument, listener = others.instrument(daemon), others.listener(daemon, "series")
            instrument.send(Scene().header())
            listener.until("series", event="start")
            recorder = daemon.service.engine.parts.recorder
            file = recorder._file
            assert file is not None
            with Path("/dev/full").open("wb") as full:
                os.dup2(full.fileno(), file)
            instrument.send(*Scene().messages()[1:5])

        with pytest.raises(Exit) as failed:
            until_it_ends(daemon, fill_the_disk)
        assert failed.value.code == IO_ERROR

    def test_another_daemon_can_take_over_after_it(self, tmp_path: Path, others: Outside) -> None:
        scene = Scene()
        daemon = Running(settings(tmp_path))

        def break_it() -> None:
            instrument, listener = others.instrument(daemon), others.listener(daemon, "result")
            instrument.send(*scene.messages()[:5])
            listener.until("result")
            daemon.service.engine.pipeline.map_round = lambda: iter([1 // 0])  # type: ignore[method-assign,list-item]
            instrument.send(*scene.messages()[5:9])

        with pytest.raises(ZeroDivisionError):
            until_it_ends(daemon, break_it)
        with Running(settings(tmp_path)) as daemon:
            listener, instrument = others.listener(daemon, "series"), others.instrument(daemon)
            listener.until("series", event="start", resumed=True)
            instrument.send(*scene.messages())
            books = listener.until("series", event="end").head
        assert (books["processed"], books["lost"]) == (scene.n_sent, {})


def test_while_it_recovers_clients_are_answered(tmp_path: Path, others: Outside) -> None:
    """A recording of many small messages takes a while to be read again."""
    scene = Scene(nav_shape=(100, 100), passes=1)
    config = settings(tmp_path, source={"pattern": "pull"})
    with Running(config) as daemon:
        pusher, asker = others.pusher(daemon), others.asker(daemon)
        for parts in scene.messages(block=1)[:5000]:
            pusher.send_multipart(parts)
        asker.until_status(processed=4999)
    with Running(config) as daemon:
        asker, listener = others.asker(daemon), others.listener(daemon, "status", "series")
        seen: list[tuple[Any, Any]] = []
        while not seen or seen[-1][0] not in {"running", "closing"}:
            assert asker.ask("hello", role="viewer", name="").msg == "ack"
            status = asker.ask("status").params
            refused = asker.ask("settings", decisions={"mode": "enforce"}).msg
            seen.append((status["state"], refused))
        assert ("recovering", "nack") in seen
        assert asker.ask("settings", decisions={"mode": "enforce"}).msg == "ack"
        listener.until("series", event="start", resumed=True)


def test_heartbeats_alone_open_nothing(tmp_path: Path, others: Outside) -> None:
    with Running(settings(tmp_path)) as daemon:
        instrument, asker = others.instrument(daemon), others.asker(daemon)
        instrument.send(*[encode_heartbeat("unknown", k) for k in range(50)], [b"\xc1"])
        asker.until_status(rejected={"junk": 1}, state="idle")
    assert not list(tmp_path.glob(f"*/{JOURNAL}"))


def test_hostile_requests_are_refused_and_harm_nothing(tmp_path: Path, others: Outside) -> None:
    """Whatever a client puts into `params`, it gets an answer and the daemon lives."""
    nasty: list[Any] = [None, -1, 1e308, float("nan"), "x" * 1000, [], {}, [[1]], {"a": {"b": 1}}, True, b"\x00", 2**63]
    keys = {
        "snapshot": ["names"], "spectrum": ["index"], "window": ["lo", "hi"], "accept": ["group", "name"],
        "dismiss": ["group", "reason"], "settings": ["decisions", "windows", "linear"], "basis": ["x"],
    }  # fmt: skip
    with Running(settings(tmp_path)) as daemon:
        instrument, listener, asker = others.instrument(daemon), others.listener(daemon, "basis"), others.asker(daemon)
        instrument.send(*Scene().messages())
        listener.until("basis")
        for val, names in keys.items():
            for value in nasty:
                answer = asker.ask(val, **dict.fromkeys(names, value))
                assert answer.msg in {"ack", "nack"}
                assert answer.msg == "ack" or answer.params["error"]
        assert asker.ask("snapshot").msg == "ack"


def test_messages_over_the_limit_do_not_stop_the_stream(tmp_path: Path, others: Outside) -> None:
    scene = Scene()
    pipeline = {"limits": {"message_mib": 1}}
    with Running(settings(tmp_path, pipeline=pipeline)) as daemon:
        instrument, hostile = others.instrument(daemon), others.instrument(daemon)
        listener = others.listener(daemon, "series")
        messages = scene.messages()
        instrument.send(*messages[:5])
        hostile.send(encode_image("scene", 99, 0, np.zeros((100_000, 64), "u2")))
        instrument.send(*messages[5:])
        books = listener.until("series", event="end").head
    assert (books["processed"], books["lost"]) == (scene.n_sent, {})


def test_results_survive_without_any_listener(tmp_path: Path, others: Outside) -> None:
    scene = Scene()
    with Running(settings(tmp_path, results={"url": ANY_PORT})) as daemon:
        others.instrument(daemon).send(*scene.messages())
        status = others.asker(daemon).until_status(processed=scene.n_sent)
    assert status["lost"] == {}
