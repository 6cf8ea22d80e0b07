"""The pipeline as a whole, without sockets: series, results, decisions, requests, recordings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamer.config import PipelineConfig
from streamer.config_decisions import DecisionConfig
from streamer.events import Notify, Publish
from streamer.pipeline import Pipeline
from streamer.requests import RequestError
from streamer.wire import (
    encode_events,
    encode_header,
    encode_image,
    encode_result,
    encode_series_end,
)
from streamer.wire.items import Answer, Arrived, Change, Tick
from streamer.wire.journal import pack_record, read_records
from tests.unit.streamer.scene import HOST, MS, Scene, ask, end_of, feed_all, results, run


def test_a_scan_from_header_to_end() -> None:
    scene = Scene()
    _, events = run(scene)
    assert end_of(events)["processed"] == scene.n_sent
    topics = [e.result.topic for e in events if isinstance(e, Publish)]
    assert topics[0] == "series"
    assert topics[-1] == "series"
    assert topics.index("map/counts") > topics.index("result")
    totals = results(events, "map/counts")[-1].arrays["counts"]
    np.testing.assert_array_equal(totals.ravel(), scene.counts.sum(axis=(0, 2)))
    dwell = results(events, "map/dwell")[-1].arrays["dwell"]
    np.testing.assert_allclose(dwell, 0.01 * scene.passes, rtol=1e-6)


def test_denoised_is_mean_plus_scores_times_eigenspectra_and_better_than_raw() -> None:
    scene = Scene()
    pipeline, events = run(scene)
    basis = results(events, "basis")[-1]
    scores = results(events, "map/scores")[-1]
    assert basis.head["model"] == scores.head["model"]
    assert basis.head["rank"] == basis.arrays["eigenspectra"].shape[0] == 3
    denoised = basis.arrays["mean"] + scores.arrays["scores"].reshape(-1, 3) @ basis.arrays["eigenspectra"]
    truth = scene.passes * scene.expected
    raw = scene.counts.sum(axis=0)
    assert ((denoised - truth) ** 2).mean() < 0.15 * ((raw - truth) ** 2).mean()
    answer = ask(pipeline, "spectrum", index=5)
    np.testing.assert_allclose(answer.arrays["denoised"], denoised[5], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(answer.arrays["raw"], raw[5])


def test_every_model_in_results_was_published_as_basis_before() -> None:
    _, events = run(Scene())
    known: set[int] = set()
    for result in (e.result for e in events if isinstance(e, Publish)):
        if result.topic == "basis":
            assert result.head["model"] not in known or result.head["model"] == max(known)
            known.add(result.head["model"])
        elif result.topic == "result":
            assert result.head["model"] in known


def test_a_recording_gives_the_same_bytes() -> None:
    scene = Scene(passes=3)
    items = list(scene.items(actions=["stop"]))
    items.insert(20, Change(items[19].t_ns, "settings", {"windows": {"peak": [0.9, 1.2]}}))
    config = PipelineConfig(decisions=DecisionConfig(stop_relative_error=0.3))

    def published(stream: Any) -> list[bytes]:
        events = feed_all(Pipeline(config), stream)
        parts = [encode_result(e.result, boot="b", seq=0, t_ns=0) for e in events if isinstance(e, Publish)]
        return [b"".join(bytes(p) for p in message) for message in parts]

    journal = b"".join(bytes(p) for item in items for p in pack_record(item))
    again = [record for record, _ in read_records(memoryview(journal))]
    first = published(items)
    assert len(first) > 20
    assert published(again) == first


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "int32", "float32", "float64"])
def test_every_type_gives_the_same_map(dtype: str) -> None:
    scene = Scene(passes=1)
    flat = scene.counts[0].astype(dtype)
    pipeline = Pipeline(PipelineConfig())
    feed_all(pipeline, [Arrived(0, scene.header(), HOST), Arrived(1, encode_image("scene", 1, 0, flat), HOST), Tick(2)])
    np.testing.assert_array_equal(
        ask(pipeline, "snapshot", names=["counts"]).arrays["counts"].ravel(), flat.sum(axis=1)
    )


def test_events_and_images_give_the_same_map() -> None:
    scene = Scene(passes=1)
    _, dense = run(scene)
    flat = scene.counts[0]
    row, channel = np.nonzero(flat)
    channels = np.repeat(channel, flat[row, channel]).astype(np.uint16)
    offsets = np.concatenate([[0], np.cumsum(flat.sum(axis=1, dtype=np.int64))])
    pipeline = Pipeline(PipelineConfig())
    parts = encode_events("scene", 1, 0, offsets, channels, 64)
    stream = [
        Arrived(0, scene.header(), HOST),
        Arrived(1, parts, HOST),
        Arrived(2, encode_series_end("scene", 2, 192), HOST),
    ]
    events = feed_all(pipeline, [*stream, Tick(3)])
    for name in ("counts", "scores"):
        a, b = (results(e, f"map/{name}")[-1].arrays[name] for e in (dense, events))
        np.testing.assert_allclose(np.abs(a), np.abs(b), rtol=1e-2, atol=0.5)


def test_list_mode_blocks_that_overlap_count_each_spectrum_once() -> None:
    scene = Scene(nav_shape=(4, 4), passes=1)
    flat = scene.counts.reshape(-1, 64)
    messages = [scene.header()]
    for number, (first, last) in enumerate([(0, 3), (3, 6), (5, 9), (1, 2), (12, 16), (8, 13)]):
        row, channel = np.nonzero(flat[first:last])
        channels = np.repeat(channel, flat[first:last][row, channel]).astype(np.uint16)
        offsets = np.concatenate([[0], np.cumsum(flat[first:last].sum(axis=1, dtype=np.int64))])
        messages.append(encode_events("scene", number + 1, first, offsets, channels, 64))
    pipeline = Pipeline(PipelineConfig())
    feed_all(pipeline, [Arrived(n, m, HOST) for n, m in enumerate(messages)] + [Tick(9)])
    snapshot = ask(pipeline, "snapshot", names=["counts"])
    np.testing.assert_array_equal(snapshot.arrays["counts"].ravel(), flat.sum(axis=1))
    for position in range(16):
        np.testing.assert_array_equal(ask(pipeline, "spectrum", index=position).arrays["raw"], flat[position])


def test_blocks_across_rows_and_passes_with_every_kind_of_index() -> None:
    scene = Scene(nav_shape=(4, 4), passes=2)
    flat = scene.counts.reshape(-1, 64)
    pipeline = Pipeline(PipelineConfig())
    messages = [
        encode_image("scene", 1, 0, flat[:13], index=0),
        encode_image("scene", 2, 13, flat[13:20], index=13),  # across the end of the pass, as its frames say
        encode_image("scene", 3, 20, flat[20:25], index=list(range(4, 9))),
        encode_image("scene", 4, 25, flat[25:], index=np.arange(9, 16, dtype=np.uint32)),
    ]
    feed_all(pipeline, [Arrived(n, m, HOST) for n, m in enumerate([scene.header(), *messages])] + [Tick(9)])
    snapshot = ask(pipeline, "snapshot", names=["counts"])
    np.testing.assert_array_equal(snapshot.arrays["counts"].ravel(), scene.counts.sum(axis=(0, 2)))


def test_replace_takes_the_place_of_what_a_position_had() -> None:
    scene = Scene(nav_shape=(4, 4), passes=1)
    pipeline = Pipeline(PipelineConfig())
    flat = scene.counts[0]
    first = encode_image("scene", 1, 0, flat)
    better = encode_image("scene", 2, 16, flat[3:5] + 7, index=3, revision="replace")
    feed_all(pipeline, [Arrived(0, scene.header(), HOST), Arrived(1, first, HOST), Arrived(2, better, HOST), Tick(3)])
    counts = ask(pipeline, "snapshot", names=["counts"]).arrays["counts"].ravel()
    expected = flat.sum(axis=1, dtype=np.int64)
    expected[3:5] += 7 * 64
    np.testing.assert_array_equal(counts, expected)


def test_results_leave_before_a_promotion() -> None:
    scene = Scene(passes=8)
    pipeline, promoted = Pipeline(PipelineConfig()), 0
    for number, parts in enumerate(scene.messages()[:-1]):
        t_ns = number * 500 * MS
        events = feed_all(pipeline, [Arrived(t_ns, parts, HOST), Tick(t_ns)])
        if not pipeline.wants_tick:
            continue
        assert len(results(events, "result")) == 1
        assert not results(events, "basis")
        promoted += len(results(pipeline.feed(Tick(t_ns)), "basis"))
        assert pipeline.wants_tick, "what follows from it comes after it"
        assert not results(pipeline.feed(Tick(t_ns)), "basis")
        assert not pipeline.wants_tick
    assert promoted > 1


def test_stop_is_decided_once_answered_and_mirrored() -> None:
    scene = Scene(passes=4)
    config = PipelineConfig(decisions=DecisionConfig(mode="enforce", stop_relative_error=0.3))
    _, events = run(scene, config, actions=["stop"], deadline_ms=2_000, idle=60)
    decisions = [e.control for e in events if isinstance(e, Notify)]
    assert len(decisions) >= 1
    params = decisions[0].params
    assert (params["action"], params["mode"], params["series"]) == ("stop", "enforce", "scene")
    assert params["valid_until_ns"] - params["issued_ns"] == 2_000 * MS
    evidence = params["evidence"]
    assert evidence["coverage"] == 1.0
    assert evidence["relative_error"] <= 0.3
    assert "%" in params["reason"]


def test_decision_outcomes() -> None:
    scene = Scene(passes=6)
    config = PipelineConfig(decisions=DecisionConfig(stop_relative_error=0.3))
    pipeline = Pipeline(config)
    outcomes = []
    for item in scene.items(actions=["stop"], idle=30):
        for event in pipeline.feed(item):
            if isinstance(event, Notify):
                answer = Answer(item.t_ns, event.control.params["decision"], ok=True, controller="test")
                outcomes += [r.head["outcome"] for r in results(pipeline.feed(answer), "decision")]
                assert not pipeline.feed(answer), "a second answer changes nothing"
    assert outcomes == ["accepted"]


def test_no_decision_that_the_controller_cannot_obey() -> None:
    config = PipelineConfig(decisions=DecisionConfig(stop_relative_error=0.5))
    for actions in ({}, {"actions": ["dwell", "pause"]}):
        _, events = run(Scene(passes=4), config, **actions)
        assert not [e for e in events if isinstance(e, Notify)]


def test_requests_before_and_during_a_series() -> None:
    pipeline = Pipeline(PipelineConfig())
    for val in ("snapshot", "basis", "spectrum", "window"):
        answer = ask(pipeline, val)
        assert (answer.msg, answer.params["error"], answer.params["boot"]) == ("nack", "no series yet", "boot")
    assert ask(pipeline, "status").params["state"] == "idle"
    scene = Scene(passes=1)
    feed_all(pipeline, list(scene.items())[:-3])
    assert ask(pipeline, "status").params["state"] == "running"
    answer = ask(pipeline, "window", lo=0.9, hi=1.2)
    assert answer.arrays["denoised"].shape == answer.arrays["raw"].shape == scene.nav_shape
    channels = slice(*answer.params["channels"])
    np.testing.assert_array_equal(answer.arrays["raw"].ravel(), scene.counts[0][:, channels].sum(axis=1))
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("window", {"lo": 2, "hi": 1}, "lo < hi"),
        ("window", {"lo": 99, "hi": 100}, "axis goes from"),
        ("window", {"lo": float("nan"), "hi": 1}, "lo < hi"),
        ("spectrum", {"index": 192}, "below 192"),
        ("spectrum", {"index": "3"}, "whole number"),
        ("snapshot", {"names": ["nonsense"]}, "there is no map 'nonsense'"),
        ("snapshot", {"names": 3}, "list of strings"),
        ("dance", {}, "unknown request"),
    ]
    for val, params, text in refused:
        nack = ask(pipeline, val, **params)
        assert nack.msg == "nack", (val, params)
        assert text in nack.params["error"]


def test_settings_are_read_and_changed() -> None:
    pipeline, _ = run(Scene(passes=1))
    change = {"windows": {"line": [0.4, 0.6]}, "decisions": {"mode": "enforce"}}
    pipeline.check_change("settings", change)
    pipeline.feed(Change(0, "settings", change))
    params = ask(pipeline, "settings").params
    assert params["decisions"]["mode"] == "enforce"
    assert "map/window/line" in {r.topic for r in pipeline.maps()}
    pipeline.feed(Change(0, "settings", {"windows": {"line": None}}))
    assert "map/window/line" not in {r.topic for r in pipeline.maps()}
    refused: list[tuple[dict[str, Any], str]] = [
        ({"decisions": {"mode": "maybe"}}, "decisions.mode"),
        ({"limits": {"positions": 1}}, "limits cannot be changed"),
        ({"linear": {"max_rank": 3}}, "linear cannot be changed"),
        ({"windows": {"x": [3, 2]}}, "empty"),
    ]
    for wrong, text in refused:
        with pytest.raises(RequestError, match=text):
            pipeline.check_change("settings", wrong)


def test_corrected_axis_comes_with_the_first_data() -> None:
    scene = Scene(passes=1)
    pipeline = Pipeline(PipelineConfig(windows={"line": (1.9, 2.1)}))
    axis = {"name": "Energy", "units": "keV", "size": 64, "offset": 1.0, "scale": 0.05}
    parts = encode_image("scene", 1, 0, scene.counts[0], axis=axis)
    feed_all(pipeline, [Arrived(0, scene.header(), HOST), Arrived(1, parts, HOST), Tick(2)])
    raw = next(r for r in pipeline.maps() if r.topic == "map/raw/line").arrays["raw/line"].ravel()
    expected = scene.counts[0][:, 18:23].sum(axis=1)
    np.testing.assert_array_equal(raw, expected)


def test_point_list_with_positions() -> None:
    rng = np.random.default_rng(0)
    positions = rng.random((30, 2))
    axis = {"name": "Energy", "units": "eV", "values": list(range(64))}
    pipeline = Pipeline(PipelineConfig())
    counts = rng.poisson(20, (30, 64)).astype(np.uint16)
    stream = [encode_header("points", [30], axis, positions=positions), encode_image("points", 1, 0, counts)]
    events = feed_all(pipeline, [*(Arrived(0, m, HOST) for m in stream), Tick(1)])
    np.testing.assert_array_equal(results(events, "series")[0].arrays["positions"], positions)
    assert ask(pipeline, "snapshot", names=["counts"]).arrays["counts"].shape == (30,)
