"""What becomes of decisions: answers that come in time, late, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from streamer.config_decisions import DecisionConfig
from streamer.decisions import Ledger, Proposal
from streamer.events import Count, Event, Publish, Slack
from streamer.wire import AxisMap, HeaderMap

MS = 1_000_000


def outcomes(events: list[Event]) -> list[Any]:
    """What mirrors and counts say became of decisions."""
    mirrors = [e.result.head["outcome"] for e in events if isinstance(e, Publish)]
    assert [f"stop/{outcome}" for outcome in mirrors] == [e.label for e in events if isinstance(e, Count)]
    return mirrors


def asked_to_stop() -> tuple[Ledger, DecisionConfig, Proposal]:
    head = HeaderMap(nav_shape=[2, 2], axis=AxisMap(size=4, scale=1.0), actions=["stop"], deadline_ms=100.0)
    ledger, asked, stop = Ledger("s", head), DecisionConfig(mode="enforce"), Proposal("stop", "", "enough", {})
    assert ledger.issue(stop, 0, model=1, config=asked)
    return ledger, asked, stop


def test_an_answer_that_comes_when_the_decision_has_expired_is_told_as_late_and_has_no_effect() -> None:
    ledger, asked, stop = asked_to_stop()
    assert outcomes(ledger.tick(101 * MS)) == ["expired"]
    order, events = ledger.answered("s/0", 150 * MS, ok=True, error="", controller="me")
    assert outcomes(events) == ["late"]
    assert [e.seconds for e in events if isinstance(e, Slack)] == [pytest.approx(-0.05)]
    assert order.action == ""
    assert not ledger.agreed("stop")
    assert ledger.answered("s/0", 160 * MS, ok=True, error="", controller="me")[1] == []
    # It was not taken: as after a refusal it is asked again, once.
    assert not ledger.may_issue("stop", 4999 * MS)
    assert ledger.issue(stop, 5000 * MS, model=1, config=asked)
    assert not ledger.may_issue("stop", 5001 * MS)


def test_a_late_answer_says_nothing_of_the_decision_that_was_made_meanwhile() -> None:
    ledger, asked, stop = asked_to_stop()
    ledger.tick(101 * MS)
    assert ledger.issue(stop, 5000 * MS, model=1, config=asked)
    assert outcomes(ledger.answered("s/0", 5050 * MS, ok=True, error="", controller="me")[1]) == ["late"]
    assert not ledger.may_issue("stop", 20_000 * MS)
    assert ledger.answered("s/1", 5060 * MS, ok=True, error="", controller="me")[0].action == "stop"


def test_an_answer_in_time_that_waited_here_counts() -> None:
    ledger, _, _ = asked_to_stop()
    ledger.tick(101 * MS)
    order, events = ledger.answered("s/0", 99 * MS, ok=True, error="", controller="me")
    assert outcomes(events) == ["accepted"]
    assert order.action == "stop"
