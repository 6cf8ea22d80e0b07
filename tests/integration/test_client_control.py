"""The controller against a raw ROUTER that speaks the protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
import zmq.auth

from streamer.client import Controller, CurveKeys, Decision, NoAnswer, RequestRefused
from streamer.wire import Control, decode_control, encode_control

NewSocket = Callable[[int], zmq.Socket[Any]]
WAIT_MS = 10_000


class Peer:
    """A streamer's control socket, worked by hand."""

    def __init__(self, new_socket: NewSocket, port: int | None = None) -> None:
        self._socket = new_socket(zmq.ROUTER)
        if port is None:
            self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        else:
            self.port = port
            self._bind_again()
        self.client = b""

    def _bind_again(self) -> None:
        """Bind to a port whose last socket may still be closing."""
        for _ in range(1000):
            try:
                self._socket.bind(f"tcp://127.0.0.1:{self.port}")
            except zmq.ZMQError:
                time.sleep(0.01)
            else:
                return
        raise AssertionError(f"port {self.port} stays taken")

    def receive(self, val: str) -> Control:
        """Return the next message about `val`; a hello may come at any time, nothing else may be skipped."""
        while True:
            assert self._socket.poll(WAIT_MS), f"no {val} came"
            self.client, *parts = self._socket.recv_multipart()
            message = decode_control(parts)
            if message.val == val:
                return message
            assert message.val == "hello"

    def send(self, message: Control) -> None:
        self._socket.send_multipart([self.client, *encode_control(message)])

    def send_raw(self, *parts: bytes) -> None:
        self._socket.send_multipart([self.client, *parts])

    def answer(self, val: str, arrays: dict[str, Any] | None = None, **params: Any) -> Control:
        request = self.receive(val)
        self.send(Control("ack", request.id, val, {"boot": "b1", **params}, arrays or {}))
        return request

    def decide(self, action: str, valid_s: float = 60.0) -> None:
        params = {"decision": f"{action}-1", "series": "s", "action": action, "mode": "enforce",
                  "issued_ns": time.time_ns(), "valid_until_ns": time.time_ns() + int(valid_s * 1e9),
                  "reason": "the map has what was asked for"}  # fmt: skip
        self.send(Control("notify", 17, "decision", params))

    def close(self) -> None:
        self._socket.close(0)


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


@pytest.fixture
def peer(new_socket: NewSocket) -> Peer:
    return Peer(new_socket)


@pytest.fixture
def controller(peer: Peer) -> Iterator[Controller]:
    with Controller(f"tcp://127.0.0.1:{peer.port}", "test scope") as controller:
        yield controller


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_it_says_hello_by_itself(peer: Peer, controller: Controller) -> None:
    hello = peer.receive("hello")
    assert (hello.msg, dict(hello.params)) == ("cmd", {"role": "controller", "name": "test scope"})


def test_a_decision_is_heard_and_answered(peer: Peer, controller: Controller) -> None:
    peer.receive("hello")
    peer.decide("stop")
    decision = controller.poll(10)
    assert decision is not None
    assert (decision.action, decision.mode, decision.series) == ("stop", "enforce", "s")
    assert not decision.expired
    controller.accept(decision)
    answer = peer.receive("decision")
    assert (answer.msg, answer.id, answer.params["decision"]) == ("ack", 17, "stop-1")
    controller.refuse(decision, "the stage is locked")
    answer = peer.receive("decision")
    assert (answer.msg, answer.params["error"]) == ("nack", "the stage is locked")


def test_a_late_decision_is_marked(peer: Peer, controller: Controller) -> None:
    peer.receive("hello")
    peer.decide("stop", valid_s=-1.0)
    decision = controller.poll(10)
    assert decision is not None
    assert decision.expired


def test_a_callback_gets_decisions_and_its_error_refuses_them(peer: Peer) -> None:
    def obey(decision: Decision) -> None:
        if decision.action != "stop":
            raise ValueError("no such knob")
        client.accept(decision)

    with Controller(f"tcp://127.0.0.1:{peer.port}", "callback", obey) as client:
        peer.receive("hello")
        peer.decide("stop")
        assert peer.receive("decision").msg == "ack"
        peer.decide("visit")
        answer = peer.receive("decision")
        assert (answer.msg, answer.params["error"]) == ("nack", "ValueError: no such knob")
        assert client.poll(0) is None


def test_requests_bring_what_was_asked_for(peer: Peer, controller: Controller, pool: ThreadPoolExecutor) -> None:
    peer.receive("hello")
    asked = pool.submit(controller.status)
    peer.answer("status", state="running", received=7)
    assert asked.result()["received"] == 7
    assert controller.boot == "b1"
    snapshot = pool.submit(controller.snapshot, ["counts"])
    request = peer.answer("snapshot", {"counts": np.ones((2, 2), "f4")}, model=4)
    assert request.params == {"names": ["counts"]}
    assert snapshot.result().head["model"] == 4
    assert snapshot.result().arrays["counts"].sum() == 4
    basis = pool.submit(controller.basis)
    assert peer.answer("basis", {"mean": np.ones(3, "f4")}).params == {}
    assert basis.result().arrays["mean"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("method", "arguments", "val", "params"),
    [
        ("spectrum", (5,), "spectrum", {"index": 5}),
        ("window", (1.5, 1.7), "window", {"lo": 1.5, "hi": 1.7}),
        ("accept_group", (3, "spinel"), "accept", {"group": 3, "name": "spinel"}),
        ("dismiss_group", (3, "cosmic"), "dismiss", {"group": 3, "reason": "cosmic"}),
        ("snapshot", (), "snapshot", {}),
    ],
)
def test_each_request_has_the_words_of_the_protocol(
    peer: Peer,
    controller: Controller,
    pool: ThreadPoolExecutor,
    method: str,
    arguments: tuple[Any, ...],
    val: str,
    params: dict[str, Any],
) -> None:
    asked = pool.submit(getattr(controller, method), *arguments)
    request = peer.answer(val)
    assert (request.msg, dict(request.params)) == ("cmd", params)
    assert asked.result().topic == val


def test_settings_are_read_and_changed(peer: Peer, controller: Controller, pool: ThreadPoolExecutor) -> None:
    asked = pool.submit(controller.settings, mode="enforce")
    assert peer.answer("settings", mode="enforce").params == {"mode": "enforce"}
    assert asked.result()["mode"] == "enforce"


def test_a_nack_is_an_error_with_its_text(peer: Peer, controller: Controller, pool: ThreadPoolExecutor) -> None:
    asked = pool.submit(controller.basis)
    request = peer.receive("basis")
    peer.send(Control("nack", request.id, "basis", {"error": "no series yet"}))
    with pytest.raises(RequestRefused, match="no series yet"):
        asked.result()


def test_many_threads_ask_and_each_gets_its_own_answer(
    peer: Peer, controller: Controller, pool: ThreadPoolExecutor
) -> None:
    asked = [pool.submit(controller.spectrum, i) for i in range(4)]
    requests = [peer.receive("spectrum") for _ in range(4)]
    for request in reversed(requests):
        peer.send(Control("ack", request.id, "spectrum", {"index": request.params["index"]}))
    assert [f.result().head["index"] for f in asked] == [0, 1, 2, 3]


def test_silence_is_no_error_but_a_request_without_answer_is() -> None:
    with Controller("tcp://127.0.0.1:1", "alone", timeout_s=0.2) as controller:
        assert controller.poll(0) is None
        assert controller.poll(0.05) is None
        assert controller.silent_s is None
        controller.accept(Decision("d", "s", "stop", "advise", "", 0, 0))
        with pytest.raises(NoAnswer, match="status"):
            controller.status()


def test_it_finds_a_restarted_streamer_and_says_hello_again(new_socket: NewSocket, pool: ThreadPoolExecutor) -> None:
    first = Peer(new_socket)
    with Controller(f"tcp://127.0.0.1:{first.port}", "patient") as controller:
        first.receive("hello")
        first.close()
        second = Peer(new_socket, first.port)
        assert second.receive("hello").params["name"] == "patient"
        second.decide("stop")
        assert controller.poll(10) is not None
        asked = pool.submit(controller.status)
        second.answer("status", state="idle")
        assert asked.result()["state"] == "idle"


def test_junk_from_the_other_end_is_survived(peer: Peer, controller: Controller) -> None:
    peer.receive("hello")
    peer.send_raw(b"\xc1\xff")
    peer.send_raw(b"")
    peer.send(Control("notify", 1, "decision", {"action": "stop"}))
    peer.send(Control("ack", 4711, "status"))
    peer.decide("pause")
    decision = controller.poll(10)
    assert decision is not None
    assert decision.action == "pause"


def test_curve_with_keys_from_files(new_socket: NewSocket, tmp_path: Path) -> None:
    for name in ("daemon", "scope"):
        zmq.auth.create_certificates(tmp_path, name)
    router = new_socket(zmq.ROUTER)
    CurveKeys.from_files(tmp_path / "daemon.key_secret").apply(router)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    keys = CurveKeys.from_files(tmp_path / "scope.key_secret", tmp_path / "daemon.key")
    with Controller(f"tcp://127.0.0.1:{port}", "keys", curve=keys):
        assert router.poll(WAIT_MS)
        assert decode_control(router.recv_multipart()[1:]).val == "hello"


def test_a_public_file_is_no_secret_one(tmp_path: Path) -> None:
    public, _ = zmq.auth.create_certificates(tmp_path, "scope")
    with pytest.raises(ValueError, match="no secret key"):
        CurveKeys.from_files(Path(public))
