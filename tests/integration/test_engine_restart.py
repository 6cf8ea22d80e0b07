"""The worker after a restart: a series goes on, and a recording that cannot be used is no obstacle."""

from __future__ import annotations

import json

import numpy as np
import pytest

from streamer.config import PipelineConfig
from streamer.events import Event, Publish
from streamer.pipeline import Pipeline
from streamer.state import BOOKS, JOURNAL, map_file
from streamer.wire.items import Arrived, Item, Resumed, Tick
from streamer.wire.journal import Closed, read_records
from tests.integration.engine_bench import OFTEN, Bench, putting
from tests.unit.streamer.scene import Scene


@pytest.mark.parametrize("cut", [1, 2, 6, 12])
@pytest.mark.parametrize("torn", [0, 11])
def test_a_series_goes_on_after_a_restart_with_the_same_map(bench: Bench, cut: int, torn: int) -> None:
    scene = Scene()
    messages = scene.messages()
    first = bench.run(putting(messages[:cut]))
    assert first.results("status")[-1].head["state"] == "stopped"
    (folder,) = bench.folders()
    assert not (folder / BOOKS).exists()
    with (folder / JOURNAL).open("ab") as file:
        file.write(b"SWJ1xxxxxxxxxxx"[:torn])
    second = bench.run(putting(messages[cut:]))
    starts = [r.head for r in second.results("series") if r.head["event"] == "start"]
    assert [s["resumed"] for s in starts] == [True]
    books = second.end("scene")
    assert (books["processed"], books["lost"]) == (scene.n_sent, {})
    np.testing.assert_array_equal(second.last_map("counts").ravel(), scene.counts.sum(axis=(0, 2)))
    assert second.counted("spectra_processed_total") == scene.n_sent - first.counted("spectra_processed_total")
    (folder,) = bench.folders()
    assert sum(isinstance(i, Resumed) for i in bench.records(folder)) == 1


def test_a_resumed_series_shows_what_it_has_at_once(bench: Bench) -> None:
    messages = Scene().messages()
    first = bench.run(putting(messages[:12]), OFTEN)
    second = bench.run(lambda inbox: None)
    topics = [s.result.topic for s in second.sent if isinstance(s, Publish)]
    assert topics.index("series") < topics.index("basis")
    np.testing.assert_array_equal(second.last_map("counts"), first.last_map("counts"))
    assert second.counted("spectra_processed_total") == 0, "counted by the process before"


def test_an_end_that_was_written_but_not_said_is_said_after_the_restart(bench: Bench) -> None:
    scene = Scene()
    bench.run(putting(scene.messages()))
    (folder,) = bench.folders()
    *_, (last, end) = [(r, e) for r, e in read_records(map_file(folder / JOURNAL)) if not isinstance(r, Closed)]
    assert isinstance(last, Tick)
    with (folder / JOURNAL).open("r+b") as file:
        file.truncate(end)
    (folder / BOOKS).unlink()
    ran = bench.run(lambda inbox: None)
    assert ran.end("scene")["processed"] == scene.n_sent
    assert json.loads((folder / BOOKS).read_text())["processed"] == scene.n_sent
    assert isinstance(bench.records(folder)[-1], Closed)
    assert ran.results("status")[-1].head["state"] == "stopped"
    assert bench.run(lambda inbox: None).results("series") == [], "and only once"


def test_a_recording_that_cannot_be_computed_again_does_not_hold_up_the_next_scan(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever made the last daemon die may be in the journal: it must not kill the next one, too."""
    bench.run(putting(Scene().messages()[:6]))
    (folder,) = bench.folders()
    feed = Pipeline.feed

    def poisoned(self: Pipeline, item: Item) -> list[Event]:
        if isinstance(item, Arrived) and b"scene" in bytes(item.parts[0]) and b"image" in bytes(item.parts[0]):
            raise ZeroDivisionError
        return feed(self, item)

    monkeypatch.setattr(Pipeline, "feed", poisoned)
    ran = bench.run(putting(Scene(series="next").messages()))
    assert ran.end("next")["processed"] == Scene().n_sent
    assert "cannot be computed again" in caplog.text
    assert json.loads((folder / BOOKS).read_text())["exit_status"] == "unrecoverable"
    assert bench.records(folder), "it is kept for whoever looks for the cause"


@pytest.mark.parametrize("block", [24, 3000])
def test_large_batches_are_written_beside_the_work(bench: Bench, block: int) -> None:
    scene = Scene(nav_shape=(100, 120), passes=2)
    messages = scene.messages(block=block)
    bench.run(putting(messages[:-1]), batch=300)
    (folder,) = bench.folders()
    arrived = [i for i in bench.records(folder) if isinstance(i, Arrived)]
    assert [[bytes(p) for p in i.parts] for i in arrived] == [[bytes(p) for p in parts] for parts in messages[:-1]]
    assert bench.run(putting(messages[-1:])).end("scene")["processed"] == scene.n_sent


def test_a_recording_without_a_header_is_closed(bench: Bench) -> None:
    bench.run(putting(Scene().messages()[:3]))
    (folder,) = bench.folders()
    (_, end) = next(read_records(map_file(folder / JOURNAL)))
    with (folder / JOURNAL).open("r+b") as file:
        file.truncate(end + 5)
    ran = bench.run(putting(Scene(series="next").messages()))
    assert json.loads((folder / BOOKS).read_text())["exit_status"] == "empty"
    assert ran.end("next")["processed"] == Scene().n_sent


def test_a_series_keeps_its_settings_over_a_restart_and_the_next_has_the_new_ones(bench: Bench) -> None:
    messages = Scene().messages()
    bench.run(putting(messages[:6]), PipelineConfig(windows={"old": (0.5, 1.0)}))
    ran = bench.run(
        putting([*messages[6:], *Scene(series="next").messages()]),
        PipelineConfig(windows={"new": (1.0, 1.5)}),
        batch=1,
    )
    named = {r.head["series"]: set() for r in ran.results("series")}  # type: ignore[var-annotated]
    for item in ran.sent:
        if isinstance(item, Publish) and item.result.topic.startswith("map/window/"):
            named[item.result.head["series"]].add(item.result.topic)
    assert named == {"scene": {"map/window/old"}, "next": {"map/window/new"}}
