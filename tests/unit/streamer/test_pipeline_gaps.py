"""What is missing, late or foreign: held, asked for again, or counted as lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamer.config import PipelineConfig
from streamer.events import AskReplay, Log, Publish, SeriesClosed, SeriesOpened
from streamer.pipeline import Pipeline
from streamer.wire import (
    encode_heartbeat,
    encode_image,
)
from streamer.wire.items import Arrived, Overflow, ReplayDone, Resumed, Tick
from tests.unit.streamer.scene import HOST, MS, Scene, ask, end_of, feed_all, results, run


def test_messages_before_the_header_are_held() -> None:
    scene = Scene()
    messages = scene.messages()
    pipeline = Pipeline(PipelineConfig())
    (told,) = feed_all(pipeline, [Arrived(n, m, HOST) for n, m in enumerate(messages[1:5])])
    assert isinstance(told, Log), "once, and nothing else"
    events = pipeline.feed(Arrived(9, messages[0], HOST))
    opened = next(e for e in events if isinstance(e, SeriesOpened))
    assert len(opened.held) == 5
    rest = [*opened.held[1:], *(Arrived(10, m, HOST) for m in messages[5:]), Tick(11)]
    assert end_of(feed_all(pipeline, rest))["processed"] == scene.n_sent


def test_missed_header_is_asked_for_when_a_heartbeat_names_the_replay() -> None:
    pipeline = Pipeline(PipelineConfig())
    beat = encode_heartbeat("scene", 4, replay="tcp://127.0.0.1:5558", n_sent=96)
    events = pipeline.feed(Arrived(5_000 * MS, beat, HOST))
    assert [(e.series, e.first, e.last) for e in events if isinstance(e, AskReplay)] == [("scene", 0, 0)]
    assert not pipeline.feed(Arrived(5_100 * MS, beat, HOST)), "not asked again within a second"
    elsewhere = encode_heartbeat("other", 4, replay="tcp://192.0.2.7:5558")
    assert not pipeline.feed(Arrived(9_000 * MS, elsewhere, HOST)), "a foreign host is not connected to"


def test_a_second_header_supersedes_and_the_next_series_loses_nothing() -> None:
    first, second = Scene(series="first"), Scene(series="second", seed=3)
    pipeline = Pipeline(PipelineConfig())
    stream = [Arrived(0, m, HOST) for m in first.messages()[:4]] + [Tick(1)]
    stream += [Arrived(2, m, HOST) for m in second.messages()]
    events = feed_all(pipeline, stream)
    assert not any(isinstance(e, SeriesClosed) for e in events)
    events = pipeline.feed(Tick(3))
    books = end_of(events)
    assert (books["series"], books["exit_status"], books["processed"], books["lost"]) == ("first", "superseded", 72, {})
    order = [type(e) for e in events if isinstance(e, SeriesClosed | SeriesOpened)]
    assert order == [SeriesClosed, SeriesOpened]
    opened = next(e for e in events if isinstance(e, SeriesOpened))
    rest = feed_all(pipeline, [*opened.held[1:], Tick(4)])
    assert end_of(rest)["processed"] == second.n_sent


def test_silence_closes_only_after_the_timeout() -> None:
    scene = Scene()
    pipeline = Pipeline(PipelineConfig(series_timeout_s=5))
    feed_all(pipeline, [Arrived(0, m, HOST) for m in scene.messages()[:3]])
    assert not results(pipeline.feed(Tick(4_900 * MS)), "series")
    books = end_of(pipeline.feed(Tick(5_100 * MS)))
    assert (books["exit_status"], books["n_sent"], books["processed"]) == ("timeout", 48, 48)


def test_series_after_series_and_late_messages_of_a_closed_one() -> None:
    pipeline = Pipeline(PipelineConfig())
    for number in range(3):
        scene = Scene(series=f"series-{number}", seed=number)
        events = feed_all(pipeline, scene.items())
        assert end_of(events)["exit_status"] == "success"
    late = pipeline.feed(Arrived(0, encode_image("series-1", 5, 0, np.zeros((1, 64), np.uint8)), HOST))
    assert pipeline.rejected["foreign"] == 1
    assert not any(isinstance(e, Publish) for e in late)
    assert ask(pipeline, "snapshot", names=["counts"]).params["series"] == "series-2"


def test_heartbeats_of_a_closed_name_are_an_echo_or_another_run() -> None:
    scene = Scene()
    pipeline, _ = run(scene)
    last = len(scene.messages()) - 1
    t_ns = 100_000 * MS
    echo = encode_heartbeat("scene", last, replay="tcp://127.0.0.1:5558", n_sent=scene.n_sent)
    assert not pipeline.feed(Arrived(t_ns, echo, HOST))
    assert not pipeline.rejected
    again = encode_heartbeat("scene", 3, replay="tcp://127.0.0.1:5558", n_sent=48)
    assert [e.first for e in pipeline.feed(Arrived(t_ns, again, HOST)) if isinstance(e, AskReplay)] == [0]
    assert end_of(feed_all(pipeline, scene.items()))["processed"] == scene.n_sent


def test_gap_is_asked_for_at_once_and_again_until_answered() -> None:
    scene = Scene()
    messages = scene.messages(replay="tcp://*:5558")
    pipeline = Pipeline(PipelineConfig())
    stream = [Arrived(0, m, HOST) for m in (*messages[:3], messages[5])]
    events = feed_all(pipeline, [*stream, Tick(1)])
    asks = [e for e in events if isinstance(e, AskReplay)]
    assert [(a.endpoint, a.first, a.last) for a in asks] == [("tcp://127.0.0.1:5558", 3, 4)]
    events = feed_all(pipeline, [ReplayDone(2 * MS, asks[0].id, "not yet"), Tick(3 * MS)])
    assert not [e for e in events if isinstance(e, AskReplay)], "backs off"
    events = feed_all(pipeline, [Tick(500 * MS), Tick(1_000 * MS)])
    again = [e for e in events if isinstance(e, AskReplay)]
    assert [(a.first, a.last) for a in again] == [(3, 4)]
    answer = [Arrived(1_000 * MS, m, HOST, True) for m in messages[3:5]]
    feed_all(pipeline, [*answer, ReplayDone(1_000 * MS, again[0].id), Tick(1_001 * MS)])
    feed_all(pipeline, [Arrived(1_002 * MS, m, HOST) for m in messages[6:]])
    assert end_of(pipeline.feed(Tick(1_003 * MS)))["lost"] == {}


def test_series_end_waits_ten_seconds_for_replays_and_no_longer() -> None:
    scene = Scene()
    messages = scene.messages(replay="tcp://127.0.0.1:5558")
    pipeline = Pipeline(PipelineConfig())
    feed_all(pipeline, [Arrived(0, m, HOST) for n, m in enumerate(messages) if n != 3])
    events = pipeline.feed(Tick(1))
    assert [e.first for e in events if isinstance(e, AskReplay)] == [3]
    assert not results(pipeline.feed(Tick(9_900 * MS)), "series")
    books = end_of(pipeline.feed(Tick(10_100 * MS)))
    assert books["lost"] == {"gap": 24}
    assert books["n_sent"] == books["processed"] + 24


def damaged(parts: list[Any]) -> list[Any]:
    return [parts[0], bytes(parts[1])[:-2] + b"xx"]


@pytest.mark.parametrize("replay_is_damaged", [False, True])
def test_a_damaged_message_is_asked_for_once_even_when_it_is_repeated(replay_is_damaged: bool) -> None:
    scene = Scene()
    messages = scene.messages(replay="tcp://127.0.0.1:5558")
    messages[2] = encode_image("scene", 2, 24, scene.counts[0][24:48], crc=True)
    pipeline = Pipeline(PipelineConfig())
    stream = [messages[0], messages[1], damaged(messages[2]), damaged(messages[2]), *messages[3:]]
    events = feed_all(pipeline, [*(Arrived(0, m, HOST) for m in stream), Tick(1)])
    request = next(e for e in events if isinstance(e, AskReplay))
    assert (request.first, request.last) == (2, 2)
    answer = damaged(messages[2]) if replay_is_damaged else messages[2]
    events = feed_all(pipeline, [Arrived(2, answer, HOST, True), ReplayDone(2, request.id), Tick(3)])
    books = end_of(events)
    assert not [e for e in events if isinstance(e, AskReplay)]
    assert books["rejected"] == {"unreadable": 2 + replay_is_damaged}
    assert books["lost"] == ({"gap": 24} if replay_is_damaged else {})


def test_overflow_is_told_apart_from_gaps() -> None:
    scene = Scene()
    messages = scene.messages()
    pipeline = Pipeline(PipelineConfig())
    kept = [m for n, m in enumerate(messages) if n not in {2, 5}]
    feed_all(pipeline, [*(Arrived(0, m, HOST) for m in kept), Overflow(1, "scene", 24, 24)])
    feed_all(pipeline, [Tick(2)])
    assert end_of(pipeline.feed(Tick(1_000 * MS)))["lost"] == {"gap": 24, "overflow": 24}


def test_lost_positions_are_marked_on_the_quality_map() -> None:
    scene = Scene(passes=1)
    messages = scene.messages()
    pipeline = Pipeline(PipelineConfig())
    feed_all(pipeline, [*(Arrived(0, m, HOST) for n, m in enumerate(messages) if n != 2), Tick(1), Tick(1_000 * MS)])
    maps = {r.topic: next(iter(r.arrays.values())).ravel() for r in pipeline.maps()}
    assert np.isnan(maps["map/counts"][24:48]).all()
    assert (maps["map/quality"][24:48] == 0).all()
    assert (maps["map/quality"][:24] == 1).all()


def test_what_is_lost_at_the_tail_is_on_the_quality_map_too() -> None:
    """No later frame shows that gap: only what the end says was sent."""
    scene = Scene(passes=1)
    messages = scene.messages()
    del messages[-2]
    pipeline = Pipeline(PipelineConfig())
    assert end_of(feed_all(pipeline, [*(Arrived(0, m, HOST) for m in messages), Tick(0), Tick(2000 * MS)]))["lost"]
    quality = ask(pipeline, "snapshot", names=["quality"]).arrays["quality"].ravel()
    assert (quality[-24:] == 0).all()
    assert (quality[:-24] == 1).all()


def test_restart_asks_for_everything_later_and_ends_with_the_same_map() -> None:
    scene = Scene()
    messages = scene.messages(replay="tcp://127.0.0.1:5558")
    _, whole = run(scene, replay="tcp://127.0.0.1:5558")
    again = Pipeline(PipelineConfig())
    before = [i for n, m in enumerate(messages[:6]) for i in (Arrived(n * 100 * MS, m, HOST), Tick(n * 100 * MS))]
    feed_all(again, before)
    t_ns = 10_000 * MS
    events = feed_all(again, [Resumed(t_ns), Tick(t_ns)])
    start = results(events, "series")[0].head
    assert (start["event"], start["resumed"]) == ("start", True)
    request = next(e for e in events if isinstance(e, AskReplay))
    assert request.first == 6
    assert request.last > 6
    rest = [Arrived(t_ns, m, HOST, True) for m in messages[6:]]
    events = feed_all(again, [*rest, ReplayDone(t_ns, request.id), Tick(t_ns + MS)])
    assert end_of(events)["lost"] == {}
    for name in ("counts", "dwell"):
        a, b = (results(e, f"map/{name}")[-1].arrays[name] for e in (whole, events))
        np.testing.assert_array_equal(a, b)
