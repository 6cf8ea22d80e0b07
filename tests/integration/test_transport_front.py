"""Results, control and the values for those who come late, against real peers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from streamer.events import Notify, Publish
from streamer.exits import UNAVAILABLE, Exit
from streamer.hub import Hub
from streamer.inbox import Inbox
from streamer.metrics import Metrics
from streamer.outbox import Client, Outbox, Reply
from streamer.timings import Timings
from streamer.transport import Context, Front
from streamer.wire import (
    Control,
    Result,
    decode_control,
    decode_result,
    encode_control,
)
from tests.integration.peers import ANY_PORT, Peer, bound


class Fronting:
    """A Front in its thread, with an outbox to be filled by hand."""

    def __init__(self, context: Context, inbox: Inbox, silent_s: float = 1e6) -> None:
        self.outbox, self.metrics, self.hub = Outbox(), Metrics(), Hub("boot")
        self.front = Front(
            context,
            ANY_PORT,
            ANY_PORT,
            hub=self.hub,
            inbox=inbox,
            outbox=self.outbox,
            metrics=self.metrics,
            timings=Timings(self.metrics),
            max_queue=10,
            silent_s=silent_s,
        )
        self._thread = threading.Thread(target=self.front.run)

    def __enter__(self) -> Fronting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.outbox.close()
        self._thread.join()
        self.outbox.dispose()

    def publish(self, topic: str, value: float = 0.0, **head: Any) -> None:
        array = np.full(3, value, "f4")
        self.outbox.put(Publish(Result(topic, {"series": "s", "model": 1, **head}, {"x": array})))

    def rejected(self) -> float:
        return self.metrics.registry.get_sample_value("scanwise_rejected_messages_total", {"reason": "control"}) or 0


@pytest.fixture
def fronting(context: Context, inbox: Inbox) -> Iterator[Fronting]:
    with Fronting(context, inbox) as fronting:
        yield fronting


def subscriber(fronting: Fronting, peer: Peer, *topics: str) -> zmq.Socket[bytes]:
    socket = peer(zmq.SUB)
    for topic in topics:
        socket.subscribe(topic)
    socket.connect(fronting.front.results_endpoint)
    return socket


def client(fronting: Fronting, peer: Peer, kind: int = zmq.DEALER) -> zmq.Socket[bytes]:
    socket = peer(kind)
    socket.connect(fronting.front.control_endpoint)
    return socket


def ask(socket: zmq.Socket[bytes], val: str, **params: Any) -> Control:
    socket.send_multipart(encode_control(Control("cmd", "id", val, params)))
    return decode_control(socket.recv_multipart())


class TestFront:
    def test_a_late_subscriber_gets_the_last_values_at_once(self, fronting: Fronting, peer: Peer) -> None:
        for value in (1.0, 2.0):
            for topic in ("series", "basis", "map/counts", "map/window/Fe", "result", "status"):
                fronting.publish(topic, value)
        control = client(fronting, peer)
        while "series" not in ask(control, "status").params:
            pass
        late = subscriber(fronting, peer, "map/", "status", "result")
        got = [decode_result(late.recv_multipart()) for _ in range(3)]
        assert [(r.topic, r.head["seq"], r.arrays["x"][0]) for r in got] == [
            ("status", 1, 2.0), ("map/counts", 1, 2.0), ("map/window/Fe", 1, 2.0),
        ]  # fmt: skip
        assert not late.poll(100), "results are not repeated"

    def test_denoised_is_wanted_only_while_somebody_listens(self, fronting: Fronting, peer: Peer) -> None:
        control = client(fronting, peer)
        assert not fronting.hub.denoised_wanted
        first, second = subscriber(fronting, peer, "denoised"), subscriber(fronting, peer, "denoised")
        self._until(fronting, control, wanted=True)
        first.close()
        second.unsubscribe("denoised")
        self._until(fronting, control, wanted=False)

    @staticmethod
    def _until(fronting: Fronting, control: zmq.Socket[bytes], *, wanted: bool) -> None:
        deadline = time.monotonic() + 10
        while fronting.hub.denoised_wanted != wanted:
            assert time.monotonic() < deadline
            ask(control, "hello", role="viewer", name="")

    def test_latency_is_added_when_published(self, fronting: Fronting, peer: Peer) -> None:
        listener = subscriber(fronting, peer, "result")
        result, done = Result("result", {"series": "s", "model": 1}), threading.Event()

        def publish() -> None:
            while not done.wait(0.01):
                fronting.outbox.put(Publish(result, time.time_ns() - 5_000_000, 1))

        sender = threading.Thread(target=publish)
        sender.start()
        head = decode_result(listener.recv_multipart()).head
        done.set()
        sender.join()
        assert head["latency_ms"] >= 5
        assert fronting.metrics.registry.get_sample_value("scanwise_latency_seconds_count") >= 1  # type: ignore[operator]

    @pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ])
    def test_requests_of_both_kinds_of_socket(self, fronting: Fronting, peer: Peer, inbox: Inbox, kind: int) -> None:
        socket = client(fronting, peer, kind)
        hello = ask(socket, "hello", role="controller", name="me")
        assert (hello.msg, hello.id, hello.val, hello.params["boot"]) == ("ack", "id", "hello", "boot")
        socket.send_multipart(encode_control(Control("cmd", 7, "snapshot")))
        (request,) = self._requests(inbox)
        fronting.outbox.put(Reply(request.client, Control("ack", 7, "snapshot", {}, {"counts": np.ones((2, 2), "f4")})))
        answer = decode_control(socket.recv_multipart())
        assert answer.arrays["counts"].tolist() == [[1, 1], [1, 1]]

    @staticmethod
    def _requests(inbox: Inbox) -> list[Any]:
        deadline = time.monotonic() + 10
        while True:
            requests, _ = inbox.take(10, 1 << 30, 0.1)
            if requests:
                return requests
            assert time.monotonic() < deadline

    def test_what_cannot_be_read_is_dropped_and_counted(self, fronting: Fronting, peer: Peer) -> None:
        socket = client(fronting, peer)
        junk = [
            [b"junk"],
            [b""],
            [b"", b""],
            [json.dumps({"msg": "cmd", "val": "hello"}).encode()],
            [b"\x80"],
            [b"x"] * 9,
        ]
        for parts in junk:
            socket.send_multipart(parts)
        assert ask(socket, "hello", role="viewer", name="").msg == "ack"
        assert fronting.rejected() == len(junk)

    def test_a_request_over_the_limit_costs_only_its_own_connection(self, fronting: Fronting, peer: Peer) -> None:
        good, hostile = client(fronting, peer), client(fronting, peer)
        hostile.send(bytes(2 << 20))
        assert ask(good, "hello", role="viewer", name="").msg == "ack"

    def test_decisions_reach_every_controller_and_no_viewer(self, fronting: Fronting, peer: Peer) -> None:
        controllers = [client(fronting, peer) for _ in range(3)]
        viewer = client(fronting, peer)
        for k, socket in enumerate(controllers):
            ask(socket, "hello", role="controller", name=str(k))
        ask(viewer, "hello", role="viewer", name="")
        controllers.pop().close()
        for _ in range(2):
            fronting.outbox.put(Notify(Control("notify", "d1", "decision", {"decision": "d1", "action": "stop"})))
        for socket in controllers:
            for _ in range(2):
                heard = decode_control(socket.recv_multipart())
                assert (heard.msg, heard.val, heard.params["action"]) == ("notify", "decision", "stop")
        assert not viewer.poll(100)

    def test_a_client_that_is_gone_harms_nothing(self, fronting: Fronting, peer: Peer) -> None:
        fronting.outbox.put(Reply(Client(b"nobody", False), Control("ack", 1, "snapshot")))
        assert ask(client(fronting, peer), "hello", role="viewer", name="").msg == "ack"

    def test_a_slow_subscriber_loses_messages_and_slows_nobody(self, fronting: Fronting, peer: Peer) -> None:
        slow = peer(zmq.SUB, rcvhwm=1)
        slow.subscribe("map/")
        slow.connect(fronting.front.results_endpoint)
        fast = subscriber(fronting, peer, "map/", "result")
        control = client(fronting, peer)
        fronting.publish("map/a")
        for socket in (slow, fast):
            socket.recv_multipart()
        big = np.zeros(1 << 18, "f4")
        for k in range(300):
            fronting.outbox.put(Publish(Result("map/a", {"k": k}, {"x": big})))
            decode_result(fast.recv_multipart())
        assert ask(control, "hello", role="viewer", name="").msg == "ack"
        numbers = []
        while slow.poll(200):
            numbers.append(decode_result(slow.recv_multipart()).head["seq"])
        assert len(numbers) < 300
        assert numbers == sorted(numbers)

    def test_what_is_queued_at_the_end_still_leaves(self, context: Context, peer: Peer, inbox: Inbox) -> None:
        with Fronting(context, inbox) as fronting:
            listener = subscriber(fronting, peer, "series")
            fronting.publish("series")
            listener.recv_multipart()
            for k in range(5):
                fronting.publish("series", float(k))
        heard: set[int] = set()
        while 5 not in heard:  # a new subscriber may have been given the first one twice
            heard.add(decode_result(listener.recv_multipart()).head["seq"])
        assert heard | {0} == {0, 1, 2, 3, 4, 5}

    def test_a_taken_port_is_told_with_its_setting(self, context: Context, peer: Peer, inbox: Inbox) -> None:
        taken = bound(peer(zmq.REP))
        outbox, metrics = Outbox(), Metrics()
        for key, urls in (("results.url", (taken, ANY_PORT)), ("control.url", (ANY_PORT, taken))):
            with pytest.raises(Exit) as refused:
                Front(
                    context,
                    *urls,
                    hub=Hub("b"),
                    inbox=inbox,
                    outbox=outbox,
                    metrics=metrics,
                    timings=Timings(metrics),
                )
            assert refused.value.code == UNAVAILABLE
            assert key in refused.value.text
            assert "taken" in refused.value.text
        outbox.dispose()


def test_the_status_is_told_again_while_the_worker_is_silent(context: Context, inbox: Inbox, peer: Peer) -> None:
    with Fronting(context, inbox, silent_s=0.01) as fronting:
        socket = subscriber(fronting, peer, "status")
        fronting.publish("status", state="closing", rate_hz=5.0, lag_ms=0.0)
        told = [decode_result(socket.recv_multipart()) for _ in range(3)]
    assert [result.head["state"] for result in told] == ["closing"] * 3
    assert told[1].head["seq"] > told[0].head["seq"], "and a slow reader may have lost some"
    assert told[-1].head["rate_hz"] == 0.0
