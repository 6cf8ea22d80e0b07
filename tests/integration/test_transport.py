"""The daemon's sockets against real peers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from streamer.events import AskReplay
from streamer.exits import UNAVAILABLE, Exit
from streamer.inbox import Inbox
from streamer.metrics import Metrics
from streamer.transport import Context, DataIn, Source
from streamer.transport.replay import ReplaySocket
from streamer.wire import (
    Control,
    Part,
    decode_control,
    encode_image,
    encode_replay_answer,
    encode_replay_refusal,
)
from streamer.wire.items import Arrived, Item, ReplayDone
from tests.integration.peers import ANY_PORT, WAIT_MS, Peer, bound


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
