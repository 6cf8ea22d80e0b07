"""What an instrument keeps for replay, and how a decision is read."""

from __future__ import annotations

import time

import numpy as np
import pytest

from streamer.client_control import Decision
from streamer.client_outlet import Outlet, SentMessages
from streamer.wire import Control


def _filled(limit_bytes: int, n: int, series: str = "s") -> SentMessages:
    sent = SentMessages(limit_bytes)
    for number in range(n):
        sent.add(series, number, [bytes([number]) * 10])
    return sent


def test_between_gives_what_is_kept_in_order() -> None:
    sent = _filled(1000, 6)
    assert [m[0][0] for m in sent.between("s", 2, 4)] == [2, 3, 4]
    assert [m[0][0] for m in sent.between("s", 4, 10**12)] == [4, 5]
    assert sent.between("other", 0, 3) == []
    assert sent.between("s", 5, 4) == []


def test_the_oldest_go_first_and_the_header_stays() -> None:
    sent = _filled(40, 10)
    assert [m[0][0] for m in sent.between("s", 0, 9)] == [0, 7, 8, 9]


def test_a_new_series_pushes_out_the_old_one_whole() -> None:
    sent = _filled(50, 5, "old")
    for number in range(5):
        sent.add("new", number, [bytes([number]) * 10])
    assert sent.between("old", 0, 9) == []
    assert len(sent.between("new", 0, 9)) == 5


def test_a_message_over_the_limit_is_not_kept_and_breaks_nothing() -> None:
    sent = SentMessages(15)
    sent.add("s", 0, [b"x" * 100])
    assert len(sent) == 0
    sent.add("s", 1, [b"x" * 10])
    assert sent.between("s", 0, 5) == [[b"x" * 10]]


def test_a_number_kept_twice_is_counted_once() -> None:
    sent = SentMessages(30)
    for _ in range(5):
        sent.add("s", 1, [b"x" * 10])
    sent.add("s", 2, [b"y" * 10])
    assert len(sent.between("s", 1, 2)) == 2


@pytest.mark.parametrize("url", ["tcp://*:5558", "tcp://0.0.0.0:*", "tcp://[::]:*"])
def test_a_replay_address_nobody_could_connect_to_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="name the address"):
        Outlet("tcp://127.0.0.1:*", replay=url)


def test_decision_from_a_notification() -> None:
    later = time.time_ns() + 10**12
    params = {"decision": "d7", "series": "s", "action": "dwell", "mode": "enforce", "reason": "because",
              "issued_ns": 5, "valid_until_ns": later, "evidence": {"slope": 0.004}, "model": 3}  # fmt: skip
    arrays = {"index": np.arange(3, dtype="u4"), "dwell_s": np.full(3, 0.1, "f4")}
    decision = Decision.from_control(Control("notify", 12, "decision", params, arrays))
    assert (decision.id, decision.action, decision.mode, decision.model) == ("d7", "dwell", "enforce", 3)
    assert decision.index is not None
    assert decision.index.tolist() == [0, 1, 2]
    assert decision.message_id == 12
    assert not decision.expired


def test_a_decision_past_its_time_says_so() -> None:
    params = {"decision": 1, "action": "stop", "valid_until_ns": time.time_ns() - 1}
    assert Decision.from_control(Control("notify", 1, "decision", params)).expired


@pytest.mark.parametrize("params", [{}, {"decision": 1}, {"decision": 1, "action": "stop", "issued_ns": "now"}])
def test_a_notification_without_the_needful_is_an_error(params: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError)):
        Decision.from_control(Control("notify", 1, "decision", params))
