"""The viewer against a raw XPUB that speaks the protocol."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from streamer.client import Viewer
from streamer.wire import Result, encode_result

NewSocket = Callable[[int], zmq.Socket[Any]]


@pytest.fixture
def new_socket() -> Iterator[NewSocket]:
    context: zmq.Context[Any] = zmq.Context()
    made: list[zmq.Socket[Any]] = []

    def new(kind: int) -> zmq.Socket[Any]:
        made.append(context.socket(kind))
        return made[-1]

    yield new
    for socket in made:
        socket.close(0)
    context.term()


class Peer:
    """A streamer's results socket, worked by hand."""

    def __init__(self, new_socket: NewSocket) -> None:
        self._socket = new_socket(zmq.XPUB)
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")

    def wait_for_subscriber(self) -> bytes:
        assert self._socket.poll(10_000)
        return bytes(self._socket.recv()[1:])

    def send(self, topic: str, seq: int, boot: str = "b", value: float = 0.0) -> None:
        result = Result(topic, {"series": "s", "model": 1}, {"x": np.full((2, 2), value, "f4")})
        self._socket.send_multipart(encode_result(result, boot=boot, seq=seq, t_ns=1))

    def send_raw(self, *parts: bytes) -> None:
        self._socket.send_multipart(parts)


@pytest.fixture
def peer(new_socket: NewSocket) -> Peer:
    return Peer(new_socket)


@pytest.fixture
def viewer(peer: Peer) -> Iterator[Viewer]:
    with Viewer(f"tcp://127.0.0.1:{peer.port}") as viewer:
        assert peer.wait_for_subscriber() == b""
        yield viewer


def _next(viewer: Viewer) -> tuple[str, int]:
    result = viewer.poll(10)
    assert result is not None
    return result.topic, result.head["seq"]


def test_results_arrive_decoded_and_the_last_maps_are_kept(peer: Peer, viewer: Viewer) -> None:
    peer.send("map/counts", 0, value=1.0)
    peer.send("map/window/Fe", 0, value=2.0)
    peer.send("map/counts", 1, value=3.0)
    results = list(itertools.islice(viewer, 3))
    assert [r.topic for r in results] == ["map/counts", "map/window/Fe", "map/counts"]
    assert viewer.maps["counts"].arrays["x"].tolist() == [[3, 3], [3, 3]]
    assert viewer.maps["window/Fe"].arrays["x"][0, 0] == 2
    assert viewer.missed == {}


def test_what_is_missing_is_counted_by_topic(peer: Peer, viewer: Viewer) -> None:
    for topic, seq in [("status", 5), ("result", 0), ("status", 6), ("status", 9), ("result", 1)]:
        peer.send(topic, seq)
        _next(viewer)
    assert viewer.missed == {"status": 2}


def test_repeats_for_others_are_skipped(peer: Peer, viewer: Viewer) -> None:
    for seq in (3, 3, 4):
        peer.send("status", seq)
    assert [_next(viewer), _next(viewer)] == [("status", 3), ("status", 4)]
    assert viewer.missed == {}


def test_a_new_boot_starts_counting_again(peer: Peer, viewer: Viewer) -> None:
    peer.send("status", 100)
    peer.send("status", 0, boot="next")
    assert [_next(viewer), _next(viewer)] == [("status", 100), ("status", 0)]
    assert (viewer.boot, viewer.missed) == ("next", {})


def test_junk_is_counted_and_survived(peer: Peer, viewer: Viewer) -> None:
    peer.send_raw(b"status")
    peer.send_raw(b"status", b"\xc1")
    peer.send_raw(b"\xff\xfe", b"\x80")
    peer.send("status", 0)
    assert _next(viewer) == ("status", 0)
    assert viewer.unreadable == 3


def test_only_chosen_topics_are_asked_for(peer: Peer) -> None:
    with Viewer(f"tcp://127.0.0.1:{peer.port}", ["map/", "status"]) as viewer:
        assert {peer.wait_for_subscriber(), peer.wait_for_subscriber()} == {b"map/", b"status"}
        peer.send("result", 0)
        peer.send("map/counts", 0)
        assert _next(viewer) == ("map/counts", 0)


def test_silence_is_none(viewer: Viewer) -> None:
    assert viewer.poll(0.01) is None
