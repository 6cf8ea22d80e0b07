"""Control messages that are answered without the worker."""

from __future__ import annotations

import pytest

from streamer.desk import FOR_THE_WORKER, MOST_CONTROLLERS, Desk
from streamer.inbox import Inbox
from streamer.outbox import Client
from streamer.wire import Control
from streamer.wire.items import Answer

ME = Client(b"me", False)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox(10, 1 << 20, "block")


@pytest.fixture
def desk(inbox: Inbox) -> Desk:
    return Desk("boot", inbox)


def hello(role: object = "controller", name: str = "a", identity: int = 7) -> Control:
    return Control("cmd", identity, "hello", {"role": role, "name": name})


def test_hello_is_answered_and_idempotent(desk: Desk) -> None:
    for identity in (1, 2):
        answer = desk.take(ME, hello(identity=identity))
        assert answer is not None
        assert (answer.msg, answer.id, answer.val) == ("ack", identity, "hello")
        assert answer.params["boot"] == "boot"
    assert desk.controllers == {ME: "a"}


def test_a_viewer_hears_no_decisions(desk: Desk) -> None:
    desk.take(ME, hello())
    desk.take(ME, hello("viewer"))
    assert desk.controllers == {}


@pytest.mark.parametrize("role", [None, "boss", 3, ["controller"]])
def test_an_unknown_role_is_refused(desk: Desk, role: object) -> None:
    answer = desk.take(ME, hello(role))
    assert answer is not None
    assert answer.msg == "nack"
    assert "controller, viewer" in answer.params["error"]


def test_controllers_are_bounded(desk: Desk) -> None:
    for k in range(MOST_CONTROLLERS + 3):
        desk.take(Client(b"%d" % k, False), hello())
    assert len(desk.controllers) == MOST_CONTROLLERS
    assert Client(b"0", False) not in desk.controllers


def test_status_is_the_last_published(desk: Desk) -> None:
    desk.status = {"state": "running", "received": 3}
    answer = desk.take(ME, Control("cmd", "x", "status"))
    assert answer is not None
    assert answer.params == {"state": "running", "received": 3, "boot": "boot"}


@pytest.mark.parametrize("val", FOR_THE_WORKER)
def test_other_requests_go_to_the_worker(desk: Desk, inbox: Inbox, val: str) -> None:
    asked = Control("cmd", 1, val, {"index": 3})
    assert desk.take(ME, asked) is None
    (request,) = inbox.take_requests()
    assert (request.client, request.control) == (ME, asked)


def test_too_many_requests_are_refused(desk: Desk) -> None:
    answers = [desk.take(ME, Control("cmd", k, "snapshot")) for k in range(300)]
    refused = [a for a in answers if a is not None]
    assert len(refused) == 300 - 256
    assert all(a.msg == "nack" for a in refused)


def test_unknown_requests_are_refused_with_what_is_known(desk: Desk) -> None:
    answer = desk.take(ME, Control("cmd", 1, "x" * 1000))
    assert answer is not None
    assert answer.msg == "nack"
    assert "snapshot" in answer.params["error"]
    assert len(answer.params["error"]) < 300


def test_answers_to_decisions_are_put_in_the_stream(desk: Desk, inbox: Inbox) -> None:
    desk.take(ME, hello(name="scope"))
    assert desk.take(ME, Control("ack", 1, "decision", {"decision": "d1"})) is None
    assert desk.take(ME, Control("nack", 1, "decision", {"decision": "d2", "error": "busy"})) is None
    items = inbox.take(10, 1 << 20, 0)[1]
    told = [(i.decision, i.ok, i.error, i.controller) for i in items if isinstance(i, Answer)]
    assert told == [("d1", True, "", "scope"), ("d2", False, "busy", "scope")]


@pytest.mark.parametrize(
    "message",
    [
        Control("ack", 1, "decision", {}),
        Control("ack", 1, "decision", {"decision": 3}),
        Control("ack", 1, "other", {"decision": "d"}),
        Control("notify", 1, "decision", {"decision": "d"}),
    ],
)
def test_other_messages_do_nothing(desk: Desk, inbox: Inbox, message: Control) -> None:
    assert desk.take(ME, message) is None
    assert inbox.take(10, 1 << 20, 0) == ([], [])


def test_who_is_gone_is_forgotten(desk: Desk) -> None:
    desk.take(ME, hello())
    desk.gone(ME)
    desk.gone(ME)
    assert desk.controllers == {}
