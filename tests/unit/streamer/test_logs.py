"""Lines for the operator: the first few of a kind, then summaries."""

from __future__ import annotations

import logging

import pytest

from streamer.logs import FIRST, Bounded


@pytest.fixture
def bounded(caplog: pytest.LogCaptureFixture) -> Bounded:
    caplog.set_level(logging.DEBUG)
    return Bounded(logging.getLogger("test"))


def test_the_first_lines_are_written_and_the_rest_summed_up(bounded: Bounded, caplog: pytest.LogCaptureFixture) -> None:
    for k in range(1000):
        bounded.write(logging.WARNING, "junk", f"line {k}", now_s=k / 1000)
        bounded.summarise(k / 1000)
    assert caplog.messages == [f"line {k}" for k in range(FIRST)]
    bounded.summarise(10.0)
    bounded.summarise(10.1)
    assert caplog.messages[FIRST:] == [f"{1000 - FIRST} more like this (junk); the latest: line 999"]
    assert caplog.records[-1].levelno == logging.WARNING


def test_kinds_are_apart(bounded: Bounded, caplog: pytest.LogCaptureFixture) -> None:
    for k in range(2 * FIRST):
        bounded.write(logging.INFO, "a", f"a{k}", 0.0)
    bounded.write(logging.ERROR, "b", "b0", 0.0)
    assert caplog.messages[-1] == "b0"
    assert caplog.records[-1].levelno == logging.ERROR


def test_a_kind_that_was_quiet_starts_anew(bounded: Bounded, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(FIRST + 1):
        bounded.write(logging.INFO, "a", "again", 0.0)
    bounded.summarise(10.0)
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    bounded.summarise(20.0)
    caplog.clear()
    bounded.write(logging.INFO, "a", "fresh", 21.0)
    assert caplog.messages == ["fresh"]


def test_a_sender_of_junk_for_hours_costs_a_line_each_10_s(bounded: Bounded, caplog: pytest.LogCaptureFixture) -> None:
    for second in range(3600):
        for _ in range(10):
            bounded.write(logging.WARNING, "junk", "x", float(second))
        bounded.summarise(float(second))
    assert len(caplog.messages) <= FIRST + 360
    told = sum(int(m.split()[0]) for m in caplog.messages if m != "x")
    assert told > 0.99 * (36_000 - FIRST)
