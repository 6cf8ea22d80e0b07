"""The queue between receiving and working: its bounds, and what happens at them."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from streamer.inbox import Inbox
from streamer.outbox import Client, Request
from streamer.wire import Control, Part, encode_events, encode_header, encode_image, encode_series_end, pack_map
from streamer.wire.items import Arrived, Item, Overflow, ReplayDone

AXIS = {"name": "", "units": "", "size": 8, "offset": 0.0, "scale": 1.0}


def image(frame: int, n: int = 1, series: str = "s") -> Arrived:
    return Arrived(frame, encode_image(series, frame + 1, frame, np.ones((n, 8), "u2")))


def receive(inbox: Inbox, n: int) -> None:
    inbox.put([image(k) for k in range(n)])
    inbox.close()


def everything(inbox: Inbox) -> list[Item]:
    return inbox.take(1000, 1 << 30, 0)[1]


def overflows(items: list[Item]) -> list[tuple[str | None, int, int]]:
    return [(i.series, i.frame, i.n) for i in items if isinstance(i, Overflow)]


def test_items_come_out_in_order_and_in_batches() -> None:
    inbox = Inbox(100, 1 << 20, "block")
    inbox.put([image(k) for k in range(10)])
    assert [i.t_ns for i in inbox.take(4, 1 << 20, 0)[1]] == [0, 1, 2, 3]
    assert [i.t_ns for i in inbox.take(100, 1, 0)[1]] == [4], "one item comes out however large it is"
    assert [i.t_ns for i in everything(inbox)] == [5, 6, 7, 8, 9]
    assert everything(inbox) == []


def test_depth_counts_what_the_instrument_sent() -> None:
    inbox = Inbox(100, 1 << 20, "block")
    nbytes = inbox.put([image(3), image(4)])
    inbox.push([ReplayDone(5, 1)])
    depth = inbox.depth()
    assert (depth.messages, depth.nbytes, depth.oldest_ns) == (2, nbytes, 3)
    everything(inbox)
    depth = inbox.depth()
    assert (depth.messages, depth.nbytes, depth.oldest_ns) == (0, 0, 0)


def test_a_full_inbox_drops_the_newest_and_says_which_frames() -> None:
    inbox = Inbox(2, 1 << 20, "drop_newest")
    inbox.put([image(k * 3, n=3) for k in range(5)])
    items = everything(inbox)
    assert [i.t_ns for i in items[:2]] == [0, 3]
    assert overflows(items) == [("s", 6, 9)], "neighbouring losses are one"
    assert inbox.dropped == 3


def test_losses_stand_at_their_place_in_the_stream() -> None:
    inbox = Inbox(1, 1 << 20, "drop_newest")
    inbox.put([image(0), image(1)])
    first = everything(inbox)
    inbox.put([image(2), image(3), image(0, series="other")])
    assert overflows(first) == [("s", 1, 1)]
    second = everything(inbox)
    assert isinstance(second[0], Arrived)
    assert overflows(second) == [("s", 3, 1), ("other", 0, 1)]


def test_a_full_inbox_is_full_by_bytes_too() -> None:
    one = image(0, n=100)
    nbytes = Inbox(10, 1 << 20, "block").put([one])
    inbox = Inbox(100, 2 * nbytes, "drop_newest")
    inbox.put([image(k, n=100) for k in (0, 100, 200)])
    assert overflows(everything(inbox)) == [("s", 200, 100)]


def test_a_message_larger_than_the_bound_passes_an_empty_inbox() -> None:
    inbox = Inbox(10, 16, "block")
    inbox.put([image(0, n=100)])
    assert len(everything(inbox)) == 1


def test_what_begins_and_ends_a_series_passes_a_full_inbox() -> None:
    inbox = Inbox(2, 1 << 20, "drop_newest")
    header = Arrived(8, encode_header("t", [1], AXIS))
    end = Arrived(9, encode_series_end("s", 3, 2))
    inbox.put([image(0), image(1), header, end])
    assert [i.t_ns for i in everything(inbox)] == [0, 1, 8, 9]


def test_small_messages_do_not_pass_without_bound() -> None:
    inbox = Inbox(4, 1 << 20, "drop_newest")
    inbox.put([Arrived(k, encode_series_end("s", 1, 1)) for k in range(100)])
    assert sum(isinstance(i, Arrived) for i in everything(inbox)) == 8


def test_what_cannot_be_read_is_dropped_without_a_frame() -> None:
    inbox = Inbox(1, 1 << 20, "drop_newest")
    junk: list[list[Part]] = [[b"\xc1 junk"], [], [b"\x80"], [pack_map({"htype": ["header"]})]]
    inbox.put([image(0), *(Arrived(1, parts) for parts in junk)])
    assert overflows(everything(inbox)) == [(None, 0, 0)]
    assert inbox.dropped == 4


def test_events_are_counted_by_their_offsets() -> None:
    inbox = Inbox(1, 1 << 20, "drop_newest")
    offsets, channels = np.array([0, 2, 3, 3], "u4"), np.array([1, 1, 5], "u2")
    inbox.put([image(0), Arrived(1, encode_events("s", 2, 7, offsets, channels, 8))])
    assert overflows(everything(inbox)) == [("s", 7, 3)]


def test_scattered_losses_are_bounded() -> None:
    inbox = Inbox(4, 1 << 20, "drop_newest")
    inbox.put([image(10 * k) for k in range(500)])
    assert len(everything(inbox)) == 16
    assert inbox.dropped == 496


def test_block_makes_the_receiver_wait_and_loses_nothing() -> None:
    inbox = Inbox(3, 1 << 20, "block")
    receiver = threading.Thread(target=receive, args=(inbox, 200))
    receiver.start()
    got: list[int] = []
    while not inbox.drained:
        assert inbox.depth().messages <= 3
        got += [i.t_ns for i in inbox.take(2, 1 << 20, 1.0)[1]]
    receiver.join()
    assert got == list(range(200))


def test_release_lets_a_waiting_receiver_finish_with_what_it_holds() -> None:
    inbox = Inbox(1, 1 << 20, "block")
    receiver = threading.Thread(target=receive, args=(inbox, 5))
    receiver.start()
    inbox.release()
    receiver.join()
    assert not inbox.drained
    assert len(everything(inbox)) == 5
    assert inbox.drained


def test_requests_overtake_and_are_bounded() -> None:
    inbox = Inbox(10, 1 << 20, "block")
    inbox.put([image(0)])
    requests = [Request(Client(b"x", False), Control("cmd", k, "snapshot")) for k in range(3)]
    assert [inbox.request(r, most=2) for r in requests] == [True, True, False]
    taken, items = inbox.take(10, 1 << 20, 0)
    assert taken == requests[:2]
    assert len(items) == 1
    assert inbox.take_requests() == []


def test_take_wakes_for_a_request() -> None:
    inbox = Inbox(10, 1 << 20, "block")
    request = Request(Client(b"x", False), Control("cmd", 1, "snapshot"))
    asker = threading.Thread(target=lambda: inbox.request(request))
    asker.start()
    requests, items = inbox.take(10, 1 << 20, 30.0)
    asker.join()
    assert (requests or inbox.take_requests()) == [request]
    assert items == []


def test_what_is_being_received_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.inbox._PATIENCE_S", 30.0)
    inbox = Inbox(10, 1 << 20, "block")
    assert everything(inbox) == [], "nothing is on its way"
    with inbox.expecting():
        receiver = threading.Thread(target=inbox.put, args=([image(3)],))
        receiver.start()
        assert [i.t_ns for i in everything(inbox)] == [3]
        receiver.join()
    assert everything(inbox) == []


def test_room_is_half_of_the_bounds() -> None:
    inbox = Inbox(4, 1 << 20, "block")
    inbox.put([image(0), image(1)])
    assert inbox.roomy
    inbox.put([image(2)])
    assert not inbox.roomy
