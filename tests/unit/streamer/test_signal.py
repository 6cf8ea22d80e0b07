"""What rests on counts alone is decided when they arrive: message by message, and before the model takes them."""

from __future__ import annotations

import numpy as np

from streamer.config import PipelineConfig
from streamer.events import Event, Notify
from streamer.pipeline import Pipeline
from streamer.wire import Part
from streamer.wire.items import Arrived, Tick
from tests.unit.streamer.scene import HOST, MS, Scene, feed_all

BLOCK = 24
WEAK = 12
"""Message of the scene below, in its second pass, that has a third of the counts."""


def weakened(block: int) -> tuple[Pipeline, list[list[Part]]]:
    """A scene of two passes; what is before its weak line has been taken in, the other messages are returned."""
    scene = Scene()
    flat = scene.counts.reshape(-1, 64)
    weak = slice((WEAK - 1) * BLOCK, WEAK * BLOCK)
    flat[weak] = np.random.default_rng(1).binomial(flat[weak], 1 / 3)
    messages = scene.messages(block, actions=["pause"])
    pipeline = Pipeline(PipelineConfig())
    for number, parts in enumerate(messages[: 1 + (WEAK - 1) * BLOCK // block]):
        feed_all(pipeline, [Arrived(number * MS, parts, HOST), Tick(number * MS)])
    return pipeline, messages[1 + (WEAK - 1) * BLOCK // block :]


def ratios(events: list[Event]) -> list[float]:
    """Of the pauses that are asked for."""
    told = [event.control.params for event in events if isinstance(event, Notify)]
    assert all(t["action"] == "pause" for t in told)
    return [t["evidence"]["intensity_ratio"] for t in told]


def test_a_weak_line_is_told_when_it_arrives_and_that_it_is_over_though_both_are_processed_together() -> None:
    pipeline, (weak, back, *_) = weakened(BLOCK)
    (fell,) = ratios(pipeline.feed(Arrived(100 * MS, weak, HOST)))
    assert 0.28 < fell < 0.39
    (rose,) = ratios(pipeline.feed(Arrived(101 * MS, back, HOST)))
    assert 2.4 < rose < 3.6
    assert not ratios(pipeline.feed(Tick(102 * MS)))


def test_single_spectra_add_up_until_they_say_something() -> None:
    pipeline, rest = weakened(1)
    events = [
        e for n, parts in enumerate(rest[: 2 * BLOCK]) for e in pipeline.feed(Arrived((900 + n) * MS, parts, HOST))
    ]
    first, *_, last = ratios(events)
    assert first < 0.6
    assert last > 1.5


def test_a_signal_that_stays_as_it_is_asks_for_nothing() -> None:
    scene = Scene()
    assert not ratios(feed_all(Pipeline(PipelineConfig()), scene.items(BLOCK, actions=["pause"])))
