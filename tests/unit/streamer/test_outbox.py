"""From the worker to the sockets: order, waking, bounds."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator

import pytest

from streamer.events import Publish
from streamer.outbox import Outbox
from streamer.wire import Result


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    outbox = Outbox(most=4)
    yield outbox
    outbox.dispose()


def item(k: int) -> Publish:
    return Publish(Result(str(k), {}))


def readable(outbox: Outbox) -> bool:
    return bool(select.select([outbox], [], [], 0)[0])


def topics(outbox: Outbox) -> list[str]:
    return [i.result.topic for i in outbox.take() if isinstance(i, Publish)]


def test_the_descriptor_is_readable_while_something_waits(outbox: Outbox) -> None:
    assert not readable(outbox)
    for k in range(3):
        outbox.put(item(k))
    assert readable(outbox)
    assert topics(outbox) == ["0", "1", "2"]
    assert not readable(outbox)
    assert topics(outbox) == []


def test_a_full_outbox_makes_the_worker_wait(outbox: Outbox) -> None:
    def work() -> None:
        for k in range(100):
            outbox.put(item(k))

    worker = threading.Thread(target=work)
    worker.start()
    got: list[str] = []
    while len(got) < 100:
        select.select([outbox], [], [], 10)
        taken = topics(outbox)
        assert len(taken) <= 4
        got += taken
    worker.join()
    assert got == [str(k) for k in range(100)]


def test_close_wakes_both_sides(outbox: Outbox) -> None:
    for k in range(4):
        outbox.put(item(k))
    worker = threading.Thread(target=lambda: outbox.put(item(4)))
    worker.start()
    outbox.close()
    worker.join()
    assert readable(outbox)
    assert not outbox.finished
    assert len(topics(outbox)) == 5
    assert outbox.finished


def test_settling_waits_until_what_was_put_is_sent(outbox: Outbox) -> None:
    outbox.settle(30.0)
    outbox.put(item(0))
    settled = threading.Event()

    def work() -> None:
        outbox.settle(30.0)
        settled.set()

    worker = threading.Thread(target=work)
    worker.start()
    assert topics(outbox) == ["0"]
    assert not settled.is_set(), "taken is not sent"
    outbox.sent()
    worker.join()
    assert settled.is_set()
    outbox.put(item(1))
    outbox.settle(0.0)
