"""Every message of the hostile corpus is named for what it is, and a scan goes on around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from streamer.config import PipelineConfig
from streamer.events import Publish
from streamer.pipeline import Pipeline
from streamer.scan import Scan
from streamer.wire import Block, Header, WireError, decode, encode_header, encode_image, encode_series_end
from streamer.wire.items import Arrived, Tick
from tests.hostile.make import N_CHANNELS, NAV_SHAPE, SERIES

FILES = sorted((Path(__file__).parents[2] / "hostile").glob("*.msg"))
AXIS = {"name": "Energy", "units": "keV", "size": N_CHANNELS, "offset": 0.0, "scale": 0.1}


def load(path: Path) -> tuple[str, list[bytes]]:
    case: dict[str, Any] = msgpack.unpackb(path.read_bytes())
    return case["expect"], case["parts"]


def open_header() -> list[Any]:
    return encode_header(SERIES, NAV_SHAPE, AXIS, noise={"model": "poisson"})


def judge(parts: list[bytes]) -> str:
    header = decode(open_header())
    assert isinstance(header, Header)
    try:
        message = decode(parts)
        if isinstance(message, Block):
            Scan(header).place(message, 0)
    except WireError as error:
        assert error.text
        return error.reason
    return "accepted"


def test_corpus_is_there() -> None:
    assert len(FILES) > 60


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_hostile_message_is_rejected_for_its_reason(path: Path) -> None:
    expect, parts = load(path)
    assert judge(parts) == expect


def test_scan_goes_on_around_every_hostile_message() -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(5.0, (32, N_CHANNELS)).astype(np.uint16)
    pipeline = Pipeline(PipelineConfig())
    pipeline.feed(Arrived(0, open_header(), "127.0.0.1"))
    expected: dict[str, int] = {}
    for number, path in enumerate(FILES):
        expect, parts = load(path)
        expected[expect] = expected.get(expect, 0) + 1
        pipeline.feed(Arrived(number, parts, "127.0.0.1"))
        if number < 32:
            message = encode_image(SERIES, 100 + number, number, counts[number])
            pipeline.feed(Arrived(number, message, "127.0.0.1"))
        pipeline.feed(Tick(number))
    events = pipeline.feed(Arrived(99, encode_series_end(SERIES, 132, 32), "127.0.0.1"))
    events += pipeline.feed(Tick(100))
    end = next(e.result.head for e in events if isinstance(e, Publish) and e.result.topic == "series")
    assert end["event"] == "end"
    assert (end["n_sent"], end["received"], end["processed"], end["lost"]) == (32, 32, 32, {})
    assert end["rejected"] == expected
    totals = next(
        e.result.arrays["counts"] for e in events if isinstance(e, Publish) and e.result.topic == "map/counts"
    )
    np.testing.assert_array_equal(totals.ravel(), counts.sum(axis=1))
