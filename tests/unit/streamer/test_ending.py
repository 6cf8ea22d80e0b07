"""The end of a large series comes in pieces: clients are answered meanwhile, and nothing else is different."""

from __future__ import annotations

import numpy as np
import pytest

from streamer.config import PipelineConfig
from streamer.events import Event, Publish, SeriesClosed
from streamer.pipeline import Pipeline
from streamer.requests import RequestError
from streamer.wire.items import Arrived, Resumed, Tick
from tests.unit.streamer.scene import HOST, MS, Scene, ask, end_of, feed_all, results

_LATE = 10**12


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(nav_shape=(400, 400), passes=1)


def begun(scene: Scene) -> tuple[Pipeline, list[Event]]:
    """A pipeline whose series has just begun to end, and what it told so far."""
    pipeline = Pipeline(PipelineConfig())
    events = feed_all(pipeline, scene.items(block=8192, idle=0))
    while pipeline.wants_tick and not pipeline.ending:
        events += pipeline.feed(Tick(_LATE))
    assert pipeline.ending
    return pipeline, events


def test_the_end_of_a_large_series_comes_in_pieces_between_which_everything_can_be_asked_for(scene: Scene) -> None:
    pipeline, events = begun(scene)
    n = 0
    while pipeline.ending:
        assert not any(isinstance(e, SeriesClosed) for e in events)
        assert not pipeline.wants_idle
        assert pipeline.waiting_positions == 0
        status = pipeline.status()
        assert (status["state"], status["series"], status["processed"]) == ("closing", "scene", scene.n_sent)
        if n % 8 == 0:
            assert ask(pipeline, "spectrum", index=5).arrays["denoised"].shape == (64,)
            assert ask(pipeline, "snapshot", names=["counts"]).arrays["counts"].sum(dtype=float) == scene.counts.sum()
        with pytest.raises(RequestError, match="at its end"):
            pipeline.check_change("accept", {"group": 0, "name": "x"})
        events += pipeline.feed(Tick(_LATE))
        n += 1
    assert n > 20
    assert end_of(events)["processed"] == scene.n_sent
    assert pipeline.series is None
    assert pipeline.status()["state"] == "idle"


def test_what_comes_meanwhile_finds_the_same_end(scene: Scene) -> None:
    (slow, told), (fast, at_once) = begun(scene), begun(scene)
    while slow.ending:
        told += slow.feed(Tick(_LATE))
    fast.feed(Tick(_LATE))
    after = Scene(series="after")
    at_once += fast.feed(Arrived(_LATE, after.header(), HOST))
    assert not fast.ending
    assert fast.series == "after"
    maps = [[r for r in (e.result for e in events if isinstance(e, Publish)) if r.topic.startswith("map/")]
            for events in (told, at_once)]  # fmt: skip
    assert [r.topic for r in maps[0]] == [r.topic for r in maps[1]]
    for one, other in zip(*maps, strict=True):
        for name, array in one.arrays.items():
            np.testing.assert_array_equal(array, other.arrays[name])
    assert [r.head["series"] for r in results(at_once, "series")] == ["scene", "scene", "after"]


def test_a_restart_goes_on_with_the_end(scene: Scene) -> None:
    pipeline, _ = begun(scene)
    for _ in range(3):
        pipeline.feed(Tick(_LATE))
    (started,) = results(pipeline.feed(Resumed(_LATE)), "series")
    assert started.head["resumed"]
    assert pipeline.ending
    events: list[Event] = []
    while pipeline.wants_tick:
        events += pipeline.feed(Tick(_LATE + MS))
    assert end_of(events)["exit_status"] == "success"


def test_a_small_series_ends_at_once() -> None:
    small = Scene()
    pipeline = Pipeline(PipelineConfig())
    events = feed_all(pipeline, small.items())
    assert not pipeline.ending
    assert end_of(events)["processed"] == small.n_sent
