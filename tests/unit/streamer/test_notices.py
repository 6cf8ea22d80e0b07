"""What the status tells of a sender's mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamer.config import PipelineConfig
from streamer.events import Count, Log
from streamer.pipeline import Pipeline
from streamer.wire import encode_header, encode_image, encode_series_end
from streamer.wire.items import Arrived, Tick
from tests.unit.streamer.scene import HOST, MS, Scene, feed_all, run

AXIS: dict[str, Any] = {"name": "Energy", "units": "keV", "size": 8, "offset": 0.0, "scale": 0.1}
COUNTS = np.ones((4, 8), dtype=np.uint16)


def header(series: str = "s", axis: dict[str, Any] = AXIS, **keys: Any) -> Arrived:
    return Arrived(5 * MS, encode_header(series, [2, 2], axis, **keys), HOST)


def image(series: str = "s", number: int = 1, counts: Any = COUNTS) -> Arrived:
    return Arrived(6 * MS, encode_image(series, number, 0, counts), HOST)


def test_a_refused_header_is_told_with_the_key_and_what_to_do() -> None:
    pipeline = Pipeline(PipelineConfig())
    assert (pipeline.status()["last_rejected"], pipeline.status()["warnings"]) == (None, [])
    events = pipeline.feed(header(axis={**AXIS, "scale": "fine"}))
    refused = pipeline.status()["last_rejected"]
    expected = {"reason": "invalid", "htype": "header", "series": "s", "msg_number": 0, "t_ns": 5 * MS}
    assert {key: refused[key] for key in expected} == expected
    assert "axis.scale" in refused["detail"]
    assert "send the header again" in refused["advice"]
    assert Count("rejected_headers", "invalid") in events


def test_the_refused_header_is_the_reason_that_its_messages_wait() -> None:
    config = PipelineConfig.model_validate({"limits": {"held_mib": 1}})
    pipeline = Pipeline(config)
    feed_all(pipeline, [header(axis={**AXIS, "scale": 0}), image()])
    (held,) = pipeline.status()["warnings"]
    assert held["kind"] == "held"
    assert "its header was refused (header: axis" in held["text"]
    feed_all(pipeline, [image(number=2, counts=np.ones((1 << 13, 64), dtype=np.uint16))])
    gone = pipeline.status()["last_rejected"]
    assert (gone["reason"], gone["series"]) == ("foreign", "s")
    assert "its header was refused" in gone["detail"]


def test_what_was_told_of_a_header_ends_with_the_one_that_is_right() -> None:
    pipeline = Pipeline(PipelineConfig())
    feed_all(pipeline, [header(axis={**AXIS, "scale": 0}), image(), header(dwell_s=-1.0)])
    status = pipeline.status()
    assert status["state"] == "running"
    assert status["last_rejected"] is None
    assert [w["kind"] for w in status["warnings"]] == ["header"]
    assert "dwell_s ignored" in status["warnings"][0]["text"]


def test_all_that_is_wrong_with_a_header_is_told() -> None:
    pipeline = Pipeline(PipelineConfig())
    pipeline.feed(header(axis={"size": 8, "scale": 0.1}, dwell_s=-1.0, technique="magic"))
    told = " ".join(w["text"] for w in pipeline.status()["warnings"])
    for words in ("axis has no name", "axis has no units", "dwell_s ignored", "technique ignored"):
        assert words in told


@pytest.mark.parametrize(
    ("missing", "told"), [("units", "no network and no library fits: send axis.units"), ("name", "send axis.name")]
)
def test_what_an_axis_lacks_is_told_with_what_follows_from_it_and_what_to_do(missing: str, told: str) -> None:
    pipeline = Pipeline(PipelineConfig())
    pipeline.feed(header(axis={**AXIS, "name": "Energy", "units": "keV"} | {missing: ""}))
    (warning,) = pipeline.status()["warnings"]
    assert told in warning["text"]
    assert ("network" in warning["text"]) is (missing == "units")


def test_a_message_that_contradicts_its_header_is_told_by_its_number() -> None:
    pipeline = Pipeline(PipelineConfig())
    feed_all(pipeline, [header(), image(counts=np.ones((4, 9), dtype=np.uint16))])
    refused = pipeline.status()["last_rejected"]
    assert (refused["htype"], refused["series"], refused["msg_number"]) == ("image", "s", 1)
    assert "spectra of 9 channels, the axis has 8" in refused["detail"]


@pytest.mark.parametrize(("keys", "differs"), [({}, ""), ({"technique": "xrd", "passes": 3}, "technique, passes")])
def test_a_repeated_header_is_a_duplicate_and_warns_where_it_contradicts_the_first(
    keys: dict[str, Any], differs: str
) -> None:
    pipeline = Pipeline(PipelineConfig())
    feed_all(pipeline, [header(technique="eds"), image(), header(**{"technique": "eds", **keys}), Tick(7 * MS)])
    status = pipeline.status()
    assert (status["duplicates"], status["received"], status["state"]) == (1, 4, "running")
    assert pipeline.open_series is not None
    assert pipeline.open_series.header.technique == "eds"
    told = [w["text"] for w in status["warnings"] if w["kind"] == "header-again"]
    assert len(told) == bool(differs)
    assert all(f"contradicts the first in {differs}:" in text for text in told)


def test_an_end_that_claims_too_little_closes_the_series_and_is_told() -> None:
    pipeline = Pipeline(PipelineConfig())
    end = Arrived(7 * MS, encode_series_end("s", 2, 3), HOST)
    events = feed_all(pipeline, [header(), image(), end, Tick(8 * MS)])
    status = pipeline.status()
    assert (status["state"], status["n_sent"], status["n_sent_claimed"]) == ("idle", 4, 3)
    assert any(isinstance(e, Log) and e.kind == "series_end" and "n_sent 3, but 4" in e.text for e in events)


def test_an_end_that_cannot_be_read_leaves_the_series_open_and_is_told() -> None:
    pipeline = Pipeline(PipelineConfig())
    end = Arrived(7 * MS, encode_series_end("s", 2, -3), HOST)
    feed_all(pipeline, [header(), image(), end, Tick(8 * MS)])
    status = pipeline.status()
    assert status["state"] == "running"
    assert status["last_rejected"]["htype"] == "series_end"
    assert "n_sent" in status["last_rejected"]["detail"]
    assert "the series stays open" in status["last_rejected"]["advice"]


def test_a_scan_without_a_mistake_has_nothing_to_tell() -> None:
    pipeline, _ = run(Scene())
    assert (pipeline.status()["last_rejected"], pipeline.status()["warnings"]) == (None, [])
    assert "n_sent_claimed" not in pipeline.status()
