"""Faults of line and sender, and senders that do what none should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.faults import Faults, FaultyLine
from simulator.instrument import Instrument, Outgoing
from simulator.mishaps import Entangled, Restarted
from simulator.preload import Preloaded
from simulator.raster import scan_order
from simulator.sample import Specimen, load_specimen
from simulator.scene import SimulatedScene
from simulator.schedule import Decision, Plan
from streamer.wire import Block, Header, Message, SeriesEnd, WireError, decode

FOREVER = float("inf")


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    return load_specimen("exercise", seed=1, shape=(20, 20), channels=64)


def machine(specimen: Specimen, series: str = "s", list_mode: bool = False, **options: Any) -> Instrument:
    scene = SimulatedScene(specimen, counts=20.0, dwell_s=0.01, seed=2, list_mode=list_mode)
    plan = Plan(scan_order(specimen.nav_shape), dwell_s=0.01)
    return Instrument(scene, plan, series=series, block=4, **options)


def raw(messages: list[list[Any]]) -> list[list[bytes]]:
    return [[bytes(p) for p in parts] for parts in messages]


def spoil(messages: list[Outgoing], **faults: Any) -> tuple[list[list[Any]], list[Outgoing], FaultyLine]:
    """Return what goes over the line, what is kept for replay, and the line."""
    line = FaultyLine(Faults(**faults), seed=3, expected=len(messages))
    deliveries = [line.pass_on(m) for m in messages]
    sent = [parts for d in deliveries for parts in d.sent]
    return sent, [d.message for d in deliveries if d.kept], line


def why(parts: list[Any]) -> str:
    """Return the reason for which the wire refuses a message, or ok."""
    try:
        decode(parts)
    except WireError as error:
        return error.reason
    return "ok"


def test_a_line_without_faults_passes_everything_on(specimen: Specimen) -> None:
    messages = machine(specimen).step(FOREVER)
    sent, kept, _ = spoil(messages)
    assert raw(sent) == raw([m.parts for m in messages])
    assert kept == messages


@pytest.mark.parametrize("fault", ["drop", "double", "reorder", "cut", "corrupt"])
def test_a_bad_line_leaves_the_replay_service_intact(specimen: Specimen, fault: str) -> None:
    messages = machine(specimen, crc=True).step(FOREVER)
    sent, kept, line = spoil(messages, **{fault: 0.2})
    assert line.spoiled[fault] > 5
    assert [m.parts for m in kept] == [m.parts for m in messages]
    n, bad = len(messages), line.spoiled[fault]
    before, after = raw([m.parts for m in messages]), raw(sent)
    if fault == "drop":
        assert len(after) == n - bad
    elif fault == "double":
        assert len(after) == n + bad
        assert {b"".join(m) for m in after} == {b"".join(m) for m in before}
    elif fault == "reorder":
        assert sorted(after) == sorted(before)
        assert after != before
    else:
        assert sum(a != b for a, b in zip(before, after, strict=True)) == bad
        # A letter of a title may change unnoticed; counts may not.
        blocks = [(a, b) for a, b in zip(after, before, strict=True) if isinstance(decode(b), Block)]
        wrong = [why(a) for a, b in blocks if a != b]
        assert "ok" not in wrong


@pytest.mark.parametrize("fault", ["wrong_dtype", "not_a_number", "negative", "huge"])
def test_a_bad_sender_spoils_what_is_kept_too(specimen: Specimen, fault: str) -> None:
    messages = machine(specimen).step(FOREVER)
    sent, kept, line = spoil(messages, **{fault: 0.2})
    assert line.spoiled[fault] > 5
    assert raw(sent) == raw([m.parts for m in kept])
    found = [why(parts) for parts in sent]
    if fault in ("negative", "not_a_number"):
        # Single messages are sound; what is wrong with their values is for the scan to see.
        blocks = [m for m in map(decode, sent) if isinstance(m, Block)]
        assert sum(not np.all(np.asarray(b.counts) >= 0) for b in blocks) == line.spoiled[fault]
    else:
        assert found.count("ok") == len(found) - line.spoiled[fault]


def test_events_are_spoiled_only_where_that_makes_sense(specimen: Specimen) -> None:
    messages = machine(specimen, list_mode=True).step(FOREVER)
    _, _, line = spoil(messages, negative=1.0, not_a_number=1.0)
    assert line.spoiled == {}


def test_an_end_may_never_come_and_a_clock_may_jump(specimen: Specimen) -> None:
    messages = machine(specimen, start_ns=10**18).step(FOREVER)
    sent, kept, _ = spoil(messages, no_end=True, clock_jump_s=-100.0)
    found = [decode(parts) for parts in sent]
    assert not any(isinstance(m, SeriesEnd) for m in found)
    assert len(kept) == len(messages) - 1
    times = [m.map.t_ns for m in found if isinstance(m, Block) and m.map.t_ns is not None]
    jumps = [b - a for a, b in zip(times, times[1:], strict=False) if b < a]
    assert len(jumps) == 1
    assert -100e9 < jumps[0] < -99e9


def test_same_seed_same_faults_whatever_else_is_switched_on(specimen: Specimen) -> None:
    messages = machine(specimen).step(FOREVER)
    alone, _, _ = spoil(messages, drop=0.2)
    with_more, _, _ = spoil(messages, drop=0.2, clock_jump_s=1.0)
    numbers = [[decode(p).map.msg_number for p in sent] for sent in (alone, with_more)]
    assert numbers[0] == numbers[1]


def test_stall_is_once_and_in_the_middle(specimen: Specimen) -> None:
    messages = machine(specimen).step(FOREVER)
    line = FaultyLine(Faults(stall_s=3.0), 0, expected=len(messages))
    pauses = [line.pause_s(m) for m in messages]
    assert sum(pauses) == 3.0
    assert pauses[len(messages) // 2] == 3.0


def run(apparatus: Any) -> list[Message]:
    found: list[Message] = []
    while not apparatus.finished:
        found += [decode(o.parts) for o in apparatus.step(apparatus.due_s + 1e-9)]
    return found


def test_a_restarted_sender_leaves_half_a_series_without_an_end(specimen: Specimen) -> None:
    found = run(Restarted(machine(specimen, "a"), machine(specimen, "b")))
    first = [m for m in found if m.map.series == "a"]
    second = [m for m in found if m.map.series == "b"]
    assert not any(isinstance(m, SeriesEnd) for m in first)
    assert sum(m.n for m in first if isinstance(m, Block)) == 200
    assert isinstance(second[0], Header)
    assert isinstance(second[-1], SeriesEnd)
    assert found.index(second[0]) == len(first)


def test_two_series_at_once_are_both_complete(specimen: Specimen) -> None:
    found = run(Entangled(machine(specimen, "a"), machine(specimen, "b")))
    for series in "ab":
        own = [m for m in found if m.map.series == series]
        assert sum(m.n for m in own if isinstance(m, Block)) == 400
        assert isinstance(own[-1], SeriesEnd)
    order = "".join(str(m.map.series) for m in found)
    assert "ababab" in order


def test_a_late_calibration_comes_once(specimen: Specimen) -> None:
    found = [decode(o.parts) for o in machine(specimen, calibrated_at=5).step(FOREVER)]
    header = found[0]
    assert isinstance(header, Header)
    assert (header.map.axis.name, header.map.axis.scale) == ("channel", 1.0)
    late = [m for m in found if isinstance(m, Block) and m.map.axis is not None]
    assert [m.map.msg_number for m in late] == [5]
    assert late[0].map.axis is not None
    assert late[0].map.axis.array() == pytest.approx(specimen.axis.values)


def test_preloading_changes_no_byte(specimen: Specimen) -> None:
    loaded, sent = Preloaded(machine(specimen)), []
    while not loaded.finished:
        sent += loaded.step(0.03)
    assert raw([o.parts for o in sent]) == raw([o.parts for o in machine(specimen).step(FOREVER)])
    assert loaded.n_sent == 400


def test_a_preloaded_scan_can_be_stopped_and_nothing_else(specimen: Specimen) -> None:
    loaded = Preloaded(machine(specimen))
    sent = loaded.step(0.2)
    assert loaded.obey(Decision("pause", "s")) == (False, "a preloaded scan cannot pause")
    assert loaded.obey(Decision("stop", "s")) == (True, None)
    sent += loaded.step(0.2)
    last = decode(sent[-1].parts)
    assert isinstance(last, SeriesEnd)
    assert (last.map.exit_status, last.map.n_sent, last.map.n_messages) == ("stopped", 20, len(sent))
    assert loaded.finished
