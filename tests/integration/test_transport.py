"""The daemon's sockets against real peers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from streamer.events import AskReplay, Notify, Publish
from streamer.exits import UNAVAILABLE, Exit
from streamer.hub import Hub
from streamer.inbox import Inbox
from streamer.metrics import Metrics
from streamer.outbox import Client, Outbox, Reply
from streamer.timings import Timings
from streamer.transport import Context, DataIn, Front, Source
from streamer.transport.replay import ReplaySocket
from streamer.transport.sockets import open_context
from streamer.wire import (
    Control,
    Part,
    Result,
    decode_control,
    decode_result,
    encode_control,
    encode_image,
    encode_replay_answer,
    encode_replay_refusal,
)
from streamer.wire.items import Arrived, Item, ReplayDone

ANY_PORT = "tcp://127.0.0.1:0"
WAIT_MS = 10_000
Peer = Callable[..., zmq.Socket[bytes]]


@pytest.fixture
def context() -> Iterator[Context]:
    with open_context() as context:
        yield context


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Sockets of the other side, in a context of their own."""
    other: Context = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def make(kind: int, **options: Any) -> zmq.Socket[bytes]:
        socket = other.socket(kind)
        made.append(socket)
        socket.linger = 0
        socket.rcvtimeo = socket.sndtimeo = WAIT_MS
        for name, value in options.items():
            setattr(socket, name, value)
        return socket

    yield make
    other.destroy(0)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox(10_000, 1 << 30, "block")


def bound(socket: zmq.Socket[bytes]) -> str:
    return f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


def image(frame: int, n: int = 1) -> list[Part]:
    return encode_image("s", frame + 1, frame, np.full((n, 8), frame % 60_000, "u2"))


def take(inbox: Inbox, n: int) -> list[Item]:
    """Take `n` items; fail where they do not come."""
    got: list[Item] = []
    deadline = time.monotonic() + WAIT_MS / 1000
    while len(got) < n:
        assert time.monotonic() < deadline, f"{len(got)} of {n} came"
        got += inbox.take(n - len(got), 1 << 40, 0.1)[1]
    return got


def send_until_refused(socket: zmq.Socket[bytes], part: bytes) -> int:
    sent = 0
    try:
        while True:
            socket.send_multipart([b"x", part])
            sent += 1
    except zmq.Again:
        return sent


class Receiving:
    """A DataIn in its thread."""

    def __init__(self, data_in: DataIn) -> None:
        self.endpoint = data_in.endpoint
        self._data_in = data_in
        self._thread = threading.Thread(target=data_in.run)

    def __enter__(self) -> Receiving:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._data_in.stop()
        self._thread.join()


class TestDataIn:
    @pytest.mark.parametrize("kinds", [("sub", zmq.PUB), ("pull", zmq.PUSH)])
    def test_instrument_bound(self, context: Context, peer: Peer, inbox: Inbox, kinds: tuple[Any, int]) -> None:
        sender = peer(zmq.XPUB if kinds[1] == zmq.PUB else zmq.PUSH)
        url = bound(sender)
        with Receiving(DataIn(context, Source(url, kinds[0]), inbox, Metrics())):
            if kinds[0] == "sub":
                assert sender.recv() == b"\x01", "subscribed to everything"
            for k in range(300):
                sender.send_multipart(image(k))
            items = take(inbox, 300)
        assert [list(i.parts) for i in items if isinstance(i, Arrived)] == [image(k) for k in range(300)]
        assert {i.peer for i in items if isinstance(i, Arrived)} == {"127.0.0.1"}
        assert inbox.drained

    @pytest.mark.parametrize("kinds", [("sub", zmq.XPUB), ("pull", zmq.PUSH)])
    def test_instrument_connects(self, context: Context, peer: Peer, inbox: Inbox, kinds: tuple[Any, int]) -> None:
        with Receiving(DataIn(context, Source(ANY_PORT, kinds[0], bind=True), inbox, Metrics())) as receiving:
            sender = peer(kinds[1])
            sender.connect(receiving.endpoint)
            if kinds[0] == "sub":
                assert sender.recv() == b"\x01"
            sender.send_multipart(image(1))
            (item,) = take(inbox, 1)
        assert isinstance(item, Arrived)
        assert item.peer == "127.0.0.1"

    def test_several_instruments_push_to_one_socket(self, context: Context, peer: Peer, inbox: Inbox) -> None:
        with Receiving(DataIn(context, Source(ANY_PORT, "pull", bind=True), inbox, Metrics())) as receiving:
            senders = [peer(zmq.PUSH) for _ in range(3)]
            for sender in senders:
                sender.connect(receiving.endpoint)
            for k in range(30):
                senders[k % 3].send_multipart(image(k))
            assert len(take(inbox, 30)) == 30

    def test_a_sender_that_comes_back_is_heard_again(self, context: Context, peer: Peer, inbox: Inbox) -> None:
        first = peer(zmq.XPUB)
        url = bound(first)
        with Receiving(DataIn(context, Source(url), inbox, Metrics())):
            first.recv()
            first.send_multipart(image(1))
            take(inbox, 1)
            first.close()
            second = peer(zmq.XPUB)
            while True:
                try:
                    second.bind(url)
                except zmq.ZMQError:  # the port of the first is still closing
                    time.sleep(0.01)
                else:
                    break
            begun = time.monotonic()
            assert second.recv() == b"\x01"
            waited_s = time.monotonic() - begun
            second.send_multipart(image(2))
            take(inbox, 1)
        assert waited_s < 5, "tried again each 100 ms; seconds only where the machine is busy"

    def test_large_messages_arrive_and_too_large_ones_do_not_stop_it(
        self, context: Context, peer: Peer, inbox: Inbox
    ) -> None:
        source = Source(ANY_PORT, "pull", bind=True, max_message_bytes=1 << 20)
        with Receiving(DataIn(context, source, inbox, Metrics())) as receiving:
            hostile, good = peer(zmq.PUSH), peer(zmq.PUSH)
            hostile.connect(receiving.endpoint)
            good.connect(receiving.endpoint)
            hostile.send_multipart([b"x", bytes(2 << 20)])
            good.send_multipart([b"x", bytes(1 << 20)])
            (item,) = take(inbox, 1)
        assert isinstance(item, Arrived)
        assert len(item.parts[1]) == 1 << 20

    def test_a_full_inbox_holds_a_pushing_sender(self, context: Context, peer: Peer) -> None:
        inbox = Inbox(10, 1 << 30, "block")
        source = Source(ANY_PORT, "pull", bind=True, queued_messages=1)
        with Receiving(DataIn(context, source, inbox, Metrics())) as receiving:
            sender = peer(zmq.PUSH, sndhwm=1, sndtimeo=200)
            sender.connect(receiving.endpoint)
            sent = send_until_refused(sender, bytes(1 << 20))
            assert inbox.depth().messages == 10
            assert sent < 1000, "some megabytes wait in the kernel's buffers"
            assert len(take(inbox, sent)) == sent, "and none is lost"

    def test_a_taken_or_senseless_endpoint_is_told(self, context: Context, peer: Peer, inbox: Inbox) -> None:
        url = bound(peer(zmq.REP))
        for wrong in (url, "tcp://256.0.0.1:1", "nonsense"):
            with pytest.raises(Exit) as refused:
                DataIn(context, Source(wrong, bind=True), inbox, Metrics())
            assert refused.value.code == UNAVAILABLE
            assert "source.url" in refused.value.text
            assert wrong in refused.value.text


class Replaying:
    """A ReplaySocket driven by hand, and an instrument's ROUTER."""

    def __init__(self, context: Context, peer: Peer, inbox: Inbox) -> None:
        self.socket = ReplaySocket(context, inbox)
        self.inbox = inbox
        self.router = peer(zmq.ROUTER)
        self.url = bound(self.router)

    def ask(self, number: int = 1, first: int = 3, last: int = 5) -> None:
        self.socket.ask(AskReplay(number, self.url, "s", first, last))
        self.socket.work(0.0)

    def request(self) -> tuple[bytes, Control]:
        identity, *parts = self.router.recv_multipart()
        return identity, decode_control(parts)

    def receive(self) -> list[Item]:
        assert self.socket.socket is not None
        assert self.socket.socket.poll(WAIT_MS)
        self.socket.receive()
        return self.inbox.take(1000, 1 << 30, 0)[1]


@pytest.fixture
def replaying(context: Context, peer: Peer, inbox: Inbox) -> Iterator[Replaying]:
    replaying = Replaying(context, peer, inbox)
    yield replaying
    replaying.socket.close()


class TestReplay:
    def test_what_is_sent_again_comes_before_the_end_of_the_answer(self, replaying: Replaying) -> None:
        replaying.ask()
        identity, request = replaying.request()
        assert (request.msg, request.val) == ("cmd", "replay")
        assert request.params == {"series": "s", "first": 3, "last": 5}
        replaying.router.send_multipart([identity, *encode_replay_answer(request.id, [image(3), image(4)])])
        *messages, done = replaying.receive()
        assert [list(m.parts) for m in messages if isinstance(m, Arrived) and m.replayed] == [image(3), image(4)]
        assert isinstance(done, ReplayDone)
        assert (done.id, done.error) == (1, None)

    def test_a_refusal_is_told(self, replaying: Replaying) -> None:
        replaying.ask()
        identity, request = replaying.request()
        replaying.router.send_multipart([identity, *encode_replay_refusal(request.id, "too old")])
        (done,) = replaying.receive()
        assert isinstance(done, ReplayDone)
        assert done.error == "too old"

    @pytest.mark.parametrize("answer", [[b"junk"], [b""], [b"x"] * 5])
    def test_an_answer_that_cannot_be_read_is_an_end(self, replaying: Replaying, answer: list[bytes]) -> None:
        replaying.ask()
        identity, _ = replaying.request()
        replaying.router.send_multipart([identity, *answer])
        (done,) = replaying.receive()
        assert isinstance(done, ReplayDone)
        assert done.error

    def test_one_request_at_a_time_and_the_next_after_the_answer(self, replaying: Replaying) -> None:
        replaying.ask(1)
        replaying.ask(2)
        identity, request = replaying.request()
        assert not replaying.router.poll(100)
        replaying.router.send_multipart([identity, *encode_replay_answer(request.id, [])])
        replaying.receive()
        replaying.socket.work(0.1)
        assert replaying.request()[1].id == 2

    def test_silence_is_an_end_and_a_late_answer_is_not_the_next_ones(self, replaying: Replaying) -> None:
        replaying.ask(1)
        identity, request = replaying.request()
        replaying.socket.ask(AskReplay(2, replaying.url, "s", 9, 9))
        replaying.socket.work(1.9)
        assert replaying.inbox.take(10, 1 << 30, 0)[1] == []
        replaying.socket.work(2.0)
        (done,) = replaying.inbox.take(10, 1 << 30, 0)[1]
        assert isinstance(done, ReplayDone)
        assert done.error is not None
        assert "no answer" in done.error
        replaying.router.send_multipart([identity, *encode_replay_answer(request.id, [image(3)])])
        second, request = replaying.request()
        assert request.id == 2
        replaying.router.send_multipart([second, *encode_replay_answer(request.id, [image(9)])])
        again, done = replaying.receive()
        assert isinstance(again, Arrived)
        assert list(again.parts) == image(9)
        assert isinstance(done, ReplayDone)
        assert done.id == 2

    def test_nothing_is_asked_for_while_the_inbox_is_full(self, context: Context, peer: Peer) -> None:
        inbox = Inbox(10, 1 << 30, "block")
        inbox.put([Arrived(k, image(k)) for k in range(9)])
        replaying = Replaying(context, peer, inbox)
        replaying.ask()
        assert replaying.socket.socket is None
        inbox.take(9, 1 << 30, 0)
        replaying.socket.work(0.0)
        assert replaying.request()[1].id == 1
        replaying.socket.close()

    def test_an_endpoint_that_makes_no_sense_is_an_end(self, replaying: Replaying) -> None:
        replaying.socket.ask(AskReplay(7, "tcp://nonsense", "s", 1, 2))
        replaying.socket.work(0.0)
        (done,) = replaying.inbox.take(10, 1 << 30, 0)[1]
        assert isinstance(done, ReplayDone)
        assert done.error


class Fronting:
    """A Front in its thread, with an outbox to be filled by hand."""

    def __init__(self, context: Context, inbox: Inbox) -> None:
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
