"""The simulated instrument over real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import zmq

from simulator.instrument import Instrument
from simulator.raster import scan_order
from simulator.sample import load_specimen
from simulator.scene import SimulatedScene
from simulator.schedule import Plan
from simulator.server import Server
from streamer.client import Controller, Outlet
from streamer.wire import (
    Block,
    Control,
    Header,
    Heartbeat,
    Message,
    SeriesEnd,
    decode,
    decode_control,
    decode_replay_answer,
    encode_control,
    encode_replay_request,
)

PATIENCE_MS = 10_000


class Sockets:
    """Sockets of a test's other side, closed at its end."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._open: list[zmq.Socket[bytes]] = []

    def socket(self, kind: int) -> zmq.Socket[bytes]:
        self._open.append(self._context.socket(kind))
        return self._open[-1]

    def close(self) -> None:
        for socket in self._open:
            socket.close(0)
        self._context.term()


@pytest.fixture
def context() -> Iterator[Sockets]:
    sockets = Sockets()
    yield sockets
    sockets.close()


def machine(passes: int = 2, replay: str | None = None, **plan: Any) -> Instrument:
    specimen = load_specimen("exercise", seed=1, shape=(10, 10), channels=128)
    scene = SimulatedScene(specimen, counts=30.0, dwell_s=0.001, seed=2)
    header = {} if replay is None else {"replay": replay}
    planned = Plan(scan_order(specimen.nav_shape), passes=passes, dwell_s=0.001, **plan)
    return Instrument(scene, planned, series="s", block=8, header=header)


def receive(socket: zmq.Socket[bytes]) -> Message:
    assert socket.poll(PATIENCE_MS), "nothing came"
    return decode(socket.recv_multipart())


def receive_all(socket: zmq.Socket[bytes]) -> list[Message]:
    found = [receive(socket)]
    while not isinstance(found[-1], SeriesEnd):
        found.append(receive(socket))
    return [m for m in found if not isinstance(m, Heartbeat)]


@pytest.mark.parametrize("pattern", ["pub", "push"])
@pytest.mark.parametrize("bind", [True, False])
def test_everything_arrives_whoever_binds(context: Sockets, pattern: Any, bind: bool) -> None:
    reader = context.socket(zmq.SUB if pattern == "pub" else zmq.PULL)
    reader.set_hwm(0)
    url = "tcp://127.0.0.1:*"
    if not bind:
        url = f"tcp://127.0.0.1:{reader.bind_to_random_port('tcp://127.0.0.1')}"
    if pattern == "pub":
        reader.subscribe(b"")
    with Outlet(url, pattern, bind) as outlet, ThreadPoolExecutor(1) as pool:
        if bind:
            reader.connect(outlet.url)
        # A bound SUB subscribes only while somebody reads from it.
        reading = pool.submit(receive_all, reader)
        assert outlet.wait_for_subscriber(10.0)
        sent = Server(machine(), outlet).run()
        found = reading.result()
    assert isinstance(found[0], Header)
    assert [m.map.msg_number for m in found] == list(range(len(found)))
    assert sum(m.n for m in found if isinstance(m, Block)) == sent.spectra == 200
    assert sent.messages == len(found)


def test_nobody_there_holds_nothing_up(context: Sockets) -> None:
    with Outlet("tcp://127.0.0.1:*", "pub") as outlet:
        assert not outlet.wait_for_subscriber(0.05)
        controller = Controller("tcp://127.0.0.1:1", "alone")
        with controller:
            sent = Server(machine(), outlet, controller, speed=10.0).run()
    assert sent.spectra == 200


@pytest.mark.parametrize("queue_messages", [5])
def test_a_push_without_a_peer_finishes_as_planned_and_replays_all(context: Sockets, queue_messages: int) -> None:
    with Outlet("tcp://127.0.0.1:*", "push", queue_messages=queue_messages) as outlet:
        apparatus = machine(replay=outlet.replay)
        sent = Server(apparatus, outlet, speed=10.0).run()
        assert apparatus.finished
        assert sent.dropped > 0
        messages = ask(context, str(outlet.replay), "s", 0, apparatus.n_messages - 1)
    assert sum(m.n for m in messages if isinstance(m, Block)) == 200


def ask(context: Sockets, url: str, series: str, first: int, last: int) -> list[Message]:
    socket = context.socket(zmq.DEALER)
    socket.connect(url)
    socket.send_multipart(encode_replay_request(5, series, first, last))
    assert socket.poll(PATIENCE_MS)
    answer = decode_replay_answer(socket.recv_multipart())
    assert answer.id == 5
    if answer.error is not None:
        raise LookupError(answer.error)
    return [decode(parts) for parts in answer.messages]


def test_replay_gives_what_was_asked_for_and_refuses_what_is_not_there(context: Sockets) -> None:
    with Outlet("tcp://127.0.0.1:*", "pub") as outlet:
        Server(machine(), outlet).run()
        found = ask(context, str(outlet.replay), "s", 3, 6)
        assert [m.map.msg_number for m in found] == [3, 4, 5, 6]
        with pytest.raises(LookupError):
            ask(context, str(outlet.replay), "s", 1000, 1001)
        with pytest.raises(LookupError):
            ask(context, str(outlet.replay), "another", 0, 1)


def decide(router: zmq.Socket[bytes], **params: Any) -> Control:
    """Be the daemon: wait for the controller's hello, send one decision, return the answer."""
    peer = None
    while peer is None:
        assert router.poll(PATIENCE_MS)
        peer, *parts = router.recv_multipart()
        assert decode_control(parts).val == "hello"
    arrays = {k: v for k, v in params.items() if isinstance(v, np.ndarray)}
    plain = {k: v for k, v in params.items() if k not in arrays}
    asked = {"decision": "s/0", "series": "s", "issued_ns": 0, "mode": "enforce", "reason": "a test", **plain}
    router.send_multipart([peer, *encode_control(Control("notify", "s/0", "decision", asked, arrays))])
    while True:
        assert router.poll(PATIENCE_MS)
        _, *parts = router.recv_multipart()
        answer = decode_control(parts)
        if answer.val == "decision":
            return answer


LATER_NS = 2**62


@pytest.mark.parametrize(
    ("params", "answer", "status", "books"),
    [
        ({"action": "stop", "valid_until_ns": LATER_NS}, "ack", "stopped", (1, 0, 0)),
        ({"action": "stop", "valid_until_ns": LATER_NS, "mode": "advise"}, "ack", "abort", (0, 0, 1)),
        ({"action": "stop", "valid_until_ns": 1}, "nack", "abort", (0, 1, 0)),
        ({"action": "recalibrate", "valid_until_ns": LATER_NS}, "nack", "abort", (0, 1, 0)),
        (
            {
                "action": "dwell",
                "valid_until_ns": LATER_NS,
                "index": np.array([3], "<u4"),
                "dwell_s": np.array([0.01], "<f4"),
            },
            "ack",
            "abort",
            (1, 0, 0),
        ),
    ],
)
def test_decisions_are_answered_and_only_orders_in_time_obeyed(
    context: Sockets, params: dict[str, Any], answer: str, status: str, books: tuple[int, int, int]
) -> None:
    router, reader = context.socket(zmq.ROUTER), context.socket(zmq.SUB)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    reader.set_hwm(0)
    reader.subscribe(b"")
    with Outlet("tcp://127.0.0.1:*", "pub") as outlet, Controller(f"tcp://127.0.0.1:{port}", "s") as controller:
        reader.connect(outlet.url)
        assert outlet.wait_for_subscriber(10.0)
        # Far more passes than the test has time for: it ends by the decision or by hand.
        server = Server(machine(passes=10**6), outlet, controller, speed=1.0)
        thread = threading.Thread(target=server.run)
        thread.start()
        got = decide(router, **params)
        if status == "abort":
            server.stop("enough")
        thread.join(10.0)
        assert not thread.is_alive()
        found = receive_all(reader)
    assert got.msg == answer
    assert got.params["decision"] == "s/0"
    last = found[-1]
    assert isinstance(last, SeriesEnd)
    assert last.map.exit_status == status
    assert last.map.n_sent == server.sent.spectra
    assert (server.sent.obeyed, server.sent.refused, server.sent.noted) == books


def test_heartbeats_tell_what_was_sent_and_where_to_ask(context: Sockets) -> None:
    reader = context.socket(zmq.SUB)
    reader.subscribe(b"")
    with Outlet("tcp://127.0.0.1:*", "pub") as outlet:
        reader.connect(outlet.url)
        assert outlet.wait_for_subscriber(10.0)
        server = Server(machine(), outlet)
        server.run()
        server.linger(0.0)
        found = receive(reader)
        while not isinstance(found, Heartbeat):
            found = receive(reader)
    assert (found.map.n_sent, found.map.last_msg_number) == (200, server.sent.messages - 1)
    assert found.map.replay == outlet.replay


def test_it_keeps_the_pace_it_was_given() -> None:
    """200 visits of 1 ms at twice the speed take 0.1 s at least, whatever else the computer does."""
    with Outlet("tcp://127.0.0.1:*", "pub") as outlet:
        before = time.monotonic()
        Server(machine(), outlet, speed=2.0).run()
        assert time.monotonic() - before > 0.09
