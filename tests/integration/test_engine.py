"""The worker with real queues and a real state folder, without sockets: it runs until its inbox is closed."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest

from streamer.closing import FINAL
from streamer.config import PipelineConfig
from streamer.events import Notify, Publish
from streamer.inbox import Inbox
from streamer.outbox import Outbox, Outgoing, Reply
from streamer.pipeline import Pipeline
from streamer.wire import Control, Part, decode, encode_heartbeat
from streamer.wire.items import Answer, Arrived, Change
from streamer.wire.journal import Closed, Opened
from tests.integration.engine_bench import OFTEN, Bench, published, putting
from tests.unit.streamer.scene import Scene


def test_a_scan_from_header_to_end(bench: Bench) -> None:
    scene = Scene()
    ran = bench.run(putting(scene.messages()))
    books = ran.end("scene")
    assert (books["processed"], books["lost"], books["exit_status"]) == (scene.n_sent, {}, "success")
    np.testing.assert_array_equal(ran.last_map("counts").ravel(), scene.counts.sum(axis=(0, 2)))
    assert ran.results("series")[0].head["event"] == "start"
    assert ran.counted("spectra_received_total") == scene.n_sent
    assert ran.counted("spectra_processed_total") == scene.n_sent
    assert ran.counted("series_closed_total", exit_status="success") == 1
    assert ran.counted("stage_seconds_count", stage="process") > 0


def test_the_end_is_published_after_the_final_maps_and_basis(bench: Bench) -> None:
    ran = bench.run(putting(Scene().messages()))
    topics = [s.result.topic for s in ran.sent if isinstance(s, Publish)]
    end = len(topics) - 1 - topics[::-1].index("series")
    assert "basis" in topics[:end]
    assert set(topics[end + 1 :]) <= {"status"}
    assert "endmembers" in topics[:end]
    model = ran.results("series")[-1].head["model"]
    for name in ("counts", "scores", "anomaly"):
        assert ran.results(f"map/{name}")[-1].head["model"] == model


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_the_journal_gives_the_same_again_bit_for_bit(bench: Bench, batch: int) -> None:
    ran = bench.run(putting(Scene(passes=3).messages(actions=["stop"])), batch=batch)
    (folder,) = bench.folders()
    opened, *items, closed = bench.records(folder)
    assert isinstance(opened, Opened)
    assert isinstance(closed, Closed)
    assert closed["processed"] == Scene(passes=3).n_sent
    pipeline = Pipeline(PipelineConfig.model_validate(opened["settings"]))
    again = [event for item in items for event in pipeline.feed(item)]
    by_itself = {"status", "endmembers"} | {t for t, _, _ in published(again) if t.startswith("map/")}
    live = [p for p in published([s for s in ran.sent if isinstance(s, Publish)]) if p[0] not in by_itself]
    assert live == [p for p in published(again) if p[0] not in by_itself]
    assert {t: a for t, _, a in published(again) if t in by_itself} == {
        t: a for t, _, a in published([s for s in ran.sent if isinstance(s, Publish)]) if t in by_itself - {"status"}
    }
    assert [s.control for s in ran.sent if isinstance(s, Notify)] == [e.control for e in again if isinstance(e, Notify)]


def test_series_after_series_each_with_its_own_recording(bench: Bench) -> None:
    scenes = [Scene(series=f"s{k}", seed=k) for k in range(3)]
    ran = bench.run(putting([m for scene in scenes for m in scene.messages()]))
    for scene in scenes:
        assert ran.end(scene.series)["processed"] == scene.n_sent
    assert len(bench.folders()) == 3
    assert ran.counted("spectra_processed_total") == sum(s.n_sent for s in scenes)
    for folder in bench.folders():
        opened, *items, closed = bench.records(folder)
        names = {opened["series"], closed["exit_status"]}
        assert names == {opened["series"], "success"}
        mine = {decode(i.parts).map.series for i in items if isinstance(i, Arrived)}
        assert opened["series"] in mine


def test_a_second_header_closes_the_first_series_and_both_are_recorded(bench: Bench) -> None:
    first, second = Scene(series="first"), Scene(series="second", seed=1)
    ran = bench.run(putting([*first.messages()[:5], *second.messages()]), batch=1)
    assert ran.end("first")["exit_status"] == "superseded"
    assert ran.end("first")["processed"] == 4 * 24
    assert ran.end("second")["processed"] == second.n_sent
    for folder in bench.folders():
        opened, *items, closed = bench.records(folder)
        pipeline = Pipeline(PipelineConfig.model_validate(opened["settings"]))
        again = [event for item in items for event in pipeline.feed(item)]
        ends = [
            e.result.head
            for e in again
            if isinstance(e, Publish) and e.result.topic == "series" and e.result.head["event"] == "end"
        ]
        assert ends[0]["series"] == opened["series"]
        assert ends[0]["processed"] == closed["processed"]


def test_messages_before_their_header_are_fed_and_recorded_after_it(bench: Bench) -> None:
    scene = Scene()
    header, *rest = scene.messages()
    ran = bench.run(putting([*rest[:3], header, *rest[3:]]))
    assert ran.end("scene")["processed"] == scene.n_sent
    (folder,) = bench.folders()
    arrived = [i for i in bench.records(folder) if isinstance(i, Arrived)]
    assert bytes(arrived[0].parts[0]) == bytes(header[0])
    assert len(arrived) == len(rest) + 1


def test_requests_are_answered_and_changes_recorded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    # However slow the machine is, nothing is asked before the series has been read again.
    monkeypatch.setattr("streamer.recovery._SERVE_S", float("inf"))
    asked = [
        Control("cmd", 1, "snapshot"),
        Control("cmd", 2, "settings"),
        Control("cmd", 3, "settings", {"windows": {"Fe": [0.5, 1.0]}}),
        Control("cmd", 4, "settings", {"nonsense": 1}),
        Control("cmd", 5, "accept", {"group": 9}),
    ]
    messages = Scene().messages()
    bench.run(putting(messages[:4]))
    ran = bench.run(putting(messages[4:]), requests=asked)
    answers = {c.id: c for c in ran.replies()}
    assert answers[1].msg == "ack"
    assert answers[1].arrays["counts"].shape == (12, 16)
    assert answers[2].params["windows"] == {}
    assert answers[3].params["windows"] == {"Fe": [0.5, 1.0]}
    assert answers[4].msg == answers[5].msg == "nack"
    assert all(a.params["boot"] == "boot" for a in answers.values())
    assert ran.results("map/window/Fe"), "the window is mapped from then on"
    (folder,) = bench.folders()
    assert [i.val for i in bench.records(folder) if isinstance(i, Change)] == ["settings"]


def test_before_any_data_requests_are_refused_with_a_sentence(bench: Bench) -> None:
    asked = [Control("cmd", k, val) for k, val in enumerate(("snapshot", "basis", "spectrum", "window"))]
    ran = bench.run(lambda inbox: None, requests=asked)
    assert [(c.msg, c.params["error"]) for c in ran.replies()] == [("nack", "no series yet")] * 4


def test_answers_of_controllers_are_in_the_recording(bench: Bench) -> None:
    messages = Scene().messages()

    def fill(inbox: Inbox) -> None:
        putting(messages[:3])(inbox)
        inbox.push([Answer(time.time_ns(), "d", True, "", "scope")])
        putting(messages[3:])(inbox)

    bench.run(fill)
    (folder,) = bench.folders()
    (answer,) = [i for i in bench.records(folder) if isinstance(i, Answer)]
    assert (answer.decision, answer.ok, answer.controller) == ("d", True, "scope")


def test_denoised_goes_with_each_batch_while_somebody_listens(bench: Bench) -> None:
    ran = bench.run(putting(Scene(passes=4).messages()), OFTEN, denoised=True)
    bases = {r.head["model"]: r for r in ran.results("basis")}
    denoised = ran.results("denoised")
    assert denoised
    # What is said again of positions that were tested anew is no batch.
    batches = [s.result for s in ran.sent if isinstance(s, Publish) and s.result.topic == "result" and s.n_spectra]
    by_model = [r for r in batches if r.head["model"] in bases]
    assert len(denoised) == len(by_model)
    for result, dense in zip(by_model, denoised, strict=True):
        basis = bases[result.head["model"]].arrays
        np.testing.assert_array_equal(dense.arrays["index"], result.arrays["index"])
        expected = basis["mean"] + result.arrays["scores"] @ basis["eigenspectra"]
        np.testing.assert_allclose(dense.arrays["denoised"], expected, rtol=1e-6)
        assert dense.head["kind"] == "pca"
    assert bench.run(putting(Scene(series="x").messages())).results("denoised") == []


def test_what_was_sent_does_not_change_afterwards(bench: Bench) -> None:
    """It leaves without a copy, perhaps much later than it was made."""
    messages = Scene().messages()
    asked = [Control("cmd", 1, "snapshot"), Control("cmd", 2, "basis"), Control("cmd", 3, "spectrum", {"index": 3})]
    kept: list[tuple[str, Any, bytes]] = []

    class Watched(Outbox):
        def put(self, item: Outgoing) -> None:
            if isinstance(item, Publish):
                kept.extend((item.result.topic, a, a.tobytes()) for a in item.result.arrays.values())
            elif isinstance(item, Reply):
                kept.extend((item.control.val, a, a.tobytes()) for a in item.control.arrays.values())
            super().put(item)

    bench.run(putting(messages[:3]))
    bench.run(putting(messages[3:]), requests=asked, batch=1, outbox=Watched(most=1_000_000))
    assert {"map/counts", "basis", "result", "snapshot", "spectrum"} <= {name for name, _, _ in kept}
    for name, array, before in kept:
        assert array.tobytes() == before, name


def test_status_says_how_it_goes(bench: Bench) -> None:
    ran = bench.run(putting(Scene().messages()[:5]))
    first, last = ran.results("status")[0].head, ran.results("status")[-1].head
    assert (first["state"], first["series"], first["in_flight"]) == ("starting", None, 5)
    assert (last["state"], last["series"], last["processed"], last["in_flight"]) == ("stopped", "scene", 96, 0)
    assert last["level"] == 0
    assert max(r.head["rate_hz"] for r in ran.results("status")) > 0
    assert last["lag_ms"] >= 0


def test_the_final_state_is_written_for_the_report(bench: Bench) -> None:
    scene = Scene(passes=3)
    ran = bench.run(putting(scene.messages(actions=["stop"])))
    (folder,) = bench.folders()
    with np.load(folder / FINAL, allow_pickle=False) as final:
        meta = json.loads(str(final["meta"]))
        np.testing.assert_array_equal(final["map/counts"], ran.last_map("counts"))
        np.testing.assert_array_equal(final["basis/eigenspectra"], ran.results("basis")[-1].arrays["eigenspectra"])
        assert {"basis/mean", "basis/eigenvalues", "map/scores", "map/anomaly"} <= set(final.files)
        np.testing.assert_allclose(final["axis/values"], 0.05 * np.arange(64))
    assert meta["header"]["series"] == "scene"
    assert meta["books"]["processed"] == scene.n_sent
    assert meta["rank"] == ran.results("basis")[-1].head["rank"]
    assert len(meta["decisions"]) == len(ran.results("decision"))
    assert meta["timings"]["stages"]["feed"]["n"] > 0
    assert meta["status"]["series"] == "scene"


def test_junk_before_and_in_a_series_is_counted_and_harms_nothing(bench: Bench) -> None:
    scene = Scene()
    junk: list[list[Part]] = [[b"\xc1"], [b"{"], [b""], [b"\x80", b"x"]]
    header, *rest = scene.messages()
    ran = bench.run(putting([*junk, header, *junk, *rest]))
    books = ran.end("scene")
    assert (books["processed"], books["lost"]) == (scene.n_sent, {})
    assert books["rejected"] == {"junk": 4}
    assert ran.counted("rejected_messages_total", reason="junk") == 8


def test_old_recordings_make_room(bench: Bench) -> None:
    bench.run(putting([m for k in range(5) for m in Scene(series=f"s{k}").messages()]), keep=2)
    assert len(bench.folders()) <= 3


def test_silence_is_no_end(bench: Bench) -> None:
    messages: list[list[Part]] = [*Scene().messages()[:4], encode_heartbeat("scene", 3)]
    ran = bench.run(putting(messages))
    assert [r.head["event"] for r in ran.results("series")] == ["start"]


def test_items_are_fed_in_the_order_they_came(bench: Bench) -> None:
    messages = Scene().messages(block=1)
    bench.run(putting(messages), batch=50)
    (folder,) = bench.folders()
    items = [i for i in bench.records(folder) if isinstance(i, Arrived)]
    assert [i.t_ns - items[0].t_ns for i in items] == list(range(len(messages)))
