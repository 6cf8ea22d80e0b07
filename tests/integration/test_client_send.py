"""The sender against raw sockets that speak the protocol."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from streamer.client import CurveKeys, Sender
from streamer.wire import (
    Block,
    Events,
    Header,
    Heartbeat,
    Message,
    SeriesEnd,
    decode,
    decode_replay_answer,
    encode_replay_request,
)

NewSocket = Callable[[int], zmq.Socket[Any]]
AXIS = {"name": "energy", "units": "keV", "size": 8, "offset": 0.0, "scale": 0.01}
WAIT_MS = 10_000


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


def _receive(socket: zmq.Socket[Any]) -> Message:
    assert socket.poll(WAIT_MS), "nothing came"
    return decode(socket.recv_multipart())


def _receive_data(socket: zmq.Socket[Any]) -> Message:
    while isinstance(message := _receive(socket), Heartbeat):
        pass
    return message


def _spectra(n: int, start: int = 0) -> np.ndarray[Any, Any]:
    return np.arange(start, start + n * 8, dtype=np.uint16).reshape(n, 8)


def test_a_series_over_push_arrives_whole_and_numbered(new_socket: NewSocket) -> None:
    pull = new_socket(zmq.PULL)
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    with Sender(f"tcp://127.0.0.1:{port}", "push", bind=False, series="one") as sender:
        assert sender.open([2, 3], AXIS, technique="eds", actions=["stop"]) == "one"
        assert sender.send(_spectra(4), dwell_s=0.1, crc=True)
        assert sender.send(_spectra(1)[0], index=5, pass_=1)
        assert sender.send(_spectra(2), index=np.array([4, 2], "u4"))
        sender.end("stopped", reason="enough")
        header, *blocks, end = [_receive_data(pull) for _ in range(5)]
        replay = sender.replay
    assert isinstance(header, Header)
    assert isinstance(end, SeriesEnd)
    assert (header.map.series, header.map.nav_shape, header.map.replay) == ("one", [2, 3], replay)
    assert all(isinstance(b, Block) for b in blocks)
    assert [(b.map.msg_number, b.map.frame, b.n) for b in blocks if isinstance(b, Block)] == [
        (1, 0, 4),
        (2, 4, 1),
        (3, 5, 2),
    ]
    first, second, third = (b for b in blocks if isinstance(b, Block))
    assert np.array_equal(np.asarray(first.counts), _spectra(4))
    assert (second.map.index, second.map.passes) == (5, 1)
    assert third.index is not None
    assert third.index.tolist() == [4, 2]
    assert (end.map.msg_number, end.map.n_sent, end.map.n_messages) == (4, 7, 5)
    assert (end.map.exit_status, end.map.reason) == ("stopped", "enough")


def test_events_arrive_as_events(new_socket: NewSocket) -> None:
    pull = new_socket(zmq.PULL)
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    with Sender(f"tcp://127.0.0.1:{port}", "push", bind=False) as sender:
        sender.open([4], AXIS)
        sender.send_events(np.array([0, 2, 3]), np.array([1, 7, 4], "u2"))
        _receive_data(pull)
        block = _receive_data(pull)
    assert isinstance(block, Block)
    assert isinstance(block.counts, Events)
    assert block.n == 2
    assert block.counts.channels.tolist() == [1, 7, 4]


def test_the_callers_buffer_may_be_used_again_at_once(new_socket: NewSocket) -> None:
    buffer = np.zeros((64, 8), np.uint16)
    pull = new_socket(zmq.PULL)
    with Sender("tcp://127.0.0.1:*", "push") as sender:
        sender.open([64], AXIS)
        for value in range(20):
            buffer[:] = value
            sender.send(buffer)
        buffer[:] = 999
        pull.connect(sender.url)  # only now does anybody take them
        assert isinstance(_receive_data(pull), Header)
        blocks = [_receive_data(pull) for _ in range(20)]
    assert [int(np.asarray(b.counts).max()) for b in blocks if isinstance(b, Block)] == list(range(20))


def _ask(dealer: zmq.Socket[Any], series: str, first: int, last: int) -> list[Message]:
    dealer.send_multipart(encode_replay_request(1, series, first, last))
    assert dealer.poll(WAIT_MS)
    answer = decode_replay_answer(dealer.recv_multipart())
    assert answer.id == 1
    return [decode(parts) for parts in answer.messages]


def test_a_streamer_that_was_not_there_gets_everything_by_replay(new_socket: NewSocket) -> None:
    sender = Sender("tcp://127.0.0.1:*")
    try:
        sender.open([10], AXIS)
        for start in range(5):
            sender.send(_spectra(2, start))
        sub = new_socket(zmq.SUB)
        sub.connect(sender.url)
        sub.subscribe(b"")
        beat = _receive(sub)  # comes by itself
        assert isinstance(beat, Heartbeat)
        assert beat.map.replay
        assert beat.map.series
        assert (beat.map.last_msg_number, beat.map.n_sent) == (5, 10)
        dealer = new_socket(zmq.DEALER)
        dealer.connect(beat.map.replay)
        messages = _ask(dealer, beat.map.series, 0, 5)
        assert isinstance(messages[0], Header)
        assert [m.map.frame for m in messages[1:] if isinstance(m, Block)] == [0, 2, 4, 6, 8]
        assert _ask(dealer, beat.map.series, 6, 9) == []
        assert sender.replayed == 6
    finally:
        sender.close(0)


def test_replay_answers_while_the_sender_closes(new_socket: NewSocket) -> None:
    sender = Sender("tcp://127.0.0.1:*", series="tail")
    sender.open([4], AXIS)
    sender.send(_spectra(4))
    sender.end()
    dealer = new_socket(zmq.DEALER)
    dealer.connect(str(sender.replay))
    closing = threading.Thread(target=sender.close)
    closing.start()
    messages = _ask(dealer, "tail", 1, 2)
    closing.join()
    assert [type(m) for m in messages] == [Block, SeriesEnd]


@pytest.mark.parametrize("junk", [[b""], [b"\xc1"], [b"\x80"], [b"{}", b"x"]])
def test_junk_at_the_replay_service_is_survived(new_socket: NewSocket, junk: list[bytes]) -> None:
    sender = Sender("tcp://127.0.0.1:*", series="s")
    dealer = new_socket(zmq.DEALER)
    dealer.connect(str(sender.replay))
    sender.open([4], AXIS)
    dealer.send_multipart(junk)
    assert len(_ask(dealer, "s", 0, 0)) == 1
    sender.close(0)


def test_a_push_nobody_takes_never_blocks_and_tells_what_was_dropped() -> None:
    sender = Sender("tcp://127.0.0.1:*", "push", queue_messages=3)
    sender.open([100], AXIS)
    taken = [sender.send(_spectra(2)) for _ in range(10)]
    assert taken == [True, True] + [False] * 8  # header and two blocks wait
    assert sender.waiting == 3
    assert (sender.n_sent, sender.n_dropped) == (20, 16)
    sender.close(0)


def test_what_waited_is_sent_in_order_once_somebody_takes_it(new_socket: NewSocket) -> None:
    sender = Sender("tcp://127.0.0.1:*", "push", queue_messages=100)
    sender.open([100], AXIS)
    for _ in range(50):
        sender.send(_spectra(1))
    pull = new_socket(zmq.PULL)
    pull.connect(sender.url)
    numbers: list[int] = []
    while len(numbers) < 51:
        message = _receive_data(pull)
        assert isinstance(message, Header | Block)
        numbers.append(message.map.msg_number)
    assert numbers == list(range(51))
    assert sender.waiting == 0
    sender.close(0)


def test_misuse_is_told() -> None:
    sender = Sender("tcp://127.0.0.1:*", series="s", replay=None)
    with pytest.raises(RuntimeError, match="open"):
        sender.send(_spectra(1))
    sender.open([4], AXIS)
    with pytest.raises(RuntimeError, match="still open"):
        sender.open([4], AXIS)
    with pytest.raises(ValueError, match="8 channels"):
        sender.send(np.zeros((2, 7), np.uint16))
    with pytest.raises(ValueError, match="int64"):
        sender.send(np.zeros((2, 8), np.int64))
    with pytest.raises(ValueError, match="divide"):
        sender.send_events(np.array([0, 5]), np.array([1, 2], "u2"))
    assert sender.n_sent == 0
    sender.end()
    with pytest.raises(RuntimeError, match="is over"):
        sender.open([4], AXIS, series="s")
    assert sender.open([4], AXIS) != "s"
    sender.close(0)


def test_an_exception_in_the_scan_ends_the_series_as_aborted(new_socket: NewSocket) -> None:
    pull = new_socket(zmq.PULL)
    port = pull.bind_to_random_port("tcp://127.0.0.1")

    def scan() -> None:
        with Sender(f"tcp://127.0.0.1:{port}", "push", bind=False) as sender:
            sender.open([4], AXIS)
            raise OSError("detector is cold")

    with pytest.raises(OSError, match="cold"):
        scan()
    _receive_data(pull)
    end = _receive_data(pull)
    assert isinstance(end, SeriesEnd)
    assert (end.map.exit_status, end.map.reason) == ("abort", "OSError: detector is cold")


def test_curve_lets_only_those_in_who_know_the_key(new_socket: NewSocket) -> None:
    server_public, server_secret = zmq.curve_keypair()
    public, secret = zmq.curve_keypair()
    sender = Sender("tcp://127.0.0.1:*", "push", curve=CurveKeys(server_public, server_secret))
    sender.open([4], AXIS)
    plain = new_socket(zmq.PULL)
    plain.connect(sender.url)
    assert not plain.poll(300)
    pull = new_socket(zmq.PULL)
    CurveKeys(public, secret, server_public).apply(pull)
    pull.connect(sender.url)
    assert isinstance(_receive_data(pull), Header)
    sender.close(0)
