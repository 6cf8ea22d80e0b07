"""Event streams in Velox's layout: there and back, and replayed from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.files import read
from simulator.instrument import Instrument
from simulator.raster import scan_order
from simulator.replay import FileScene
from simulator.schedule import Plan
from simulator.velox import NEXT_PIXEL, has_streams, to_events
from streamer.wire import Block, Events, decode

FRAMES, NY, NX, D = 3, 4, 5, 32
N = NY * NX
SEGMENTS = 2


def events_of(counts: NDArray[Any]) -> Events:
    """Return counts (n, D) as events."""
    rows, channels = np.nonzero(counts)
    values = counts[rows, channels]
    offsets = np.concatenate([[0], np.cumsum(counts.sum(axis=1))]).astype(np.int64)
    return Events(offsets, np.repeat(channels, values).astype(np.uint16))


def to_stream(blocks: Sequence[Events]) -> NDArray[np.uint16]:
    """Return the stream of blocks of events that follow one another, with a mark after every spectrum."""
    pieces = [np.insert(b.channels.astype(np.uint16), b.offsets[1:], NEXT_PIXEL) for b in blocks]
    return np.concatenate([np.zeros(0, np.uint16), *pieces])


@pytest.fixture
def segments() -> NDArray[Any]:
    """Counts (segments, frames * positions, D), few enough that many pixels are empty, the last among them."""
    drawn = np.random.default_rng(0).poisson(0.03, (SEGMENTS, FRAMES * N, D))
    drawn[:, -1] = 0
    return drawn


def write(path: Path, streams: list[NDArray[np.uint16]], *, metadata: bool = True, frames: int | None = None) -> Path:
    settings = {"bincount": str(D), "StreamEncoding": "uint16", "RasterScanDefinition": {"Width": NX, "Height": NY}}
    said = {
        "BinaryResult": {"Detector": "SuperX", "PixelSize": {"width": "2e-9", "height": "3e-9"}, "PixelUnitX": "m"},
        "Detectors": {"Detector-0": {"DetectorName": "SuperX-1", "Dispersion": "10", "OffsetEnergy": "-250"}},
        "Scan": {"DwellTime": "2e-06"},
    }
    text = np.frombuffer(json.dumps(said).encode().ljust(2000, b"\x00"), np.uint8)[:, None]
    with h5py.File(path, "w") as file:
        for k, stream in enumerate(streams):
            group = file.create_group(f"Data/SpectrumStream/segment{k}")
            group["Data"] = stream[:, None]
            group["AcquisitionSettings"] = np.array([json.dumps(settings)], dtype=h5py.string_dtype())
            if metadata:
                group["Metadata"] = text
        if frames is not None:
            counted = np.array([json.dumps({"endFramePosition": str(frames)})], dtype=h5py.string_dtype())
            file["Data/SpectrumImage/all/SpectrumImageSettings"] = counted
    return path


def test_a_stream_marks_the_end_of_every_pixel() -> None:
    stream = to_stream([Events(np.array([0, 2, 2, 3]), np.array([7, 7, 1])), Events(np.array([0, 1]), np.array([0]))])
    assert stream.dtype == np.uint16
    assert stream.tolist() == [7, 7, NEXT_PIXEL, NEXT_PIXEL, 1, NEXT_PIXEL, 0, NEXT_PIXEL]


def test_a_stream_without_its_last_mark_has_its_last_pixel() -> None:
    events = to_events(np.array([NEXT_PIXEL, 3, NEXT_PIXEL, 4, 4], np.uint16))
    assert (events.offsets.tolist(), events.channels.tolist()) == ([0, 0, 1, 3], [3, 4, 4])
    assert to_events(np.zeros(0, np.uint16)).offsets.tolist() == [0]


def test_events_come_back_from_the_stream_of_their_blocks(segments: NDArray[Any]) -> None:
    blocks = [events_of(part) for part in np.array_split(segments[0], 7)]
    events, whole = to_events(to_stream(blocks)), events_of(segments[0])
    np.testing.assert_array_equal(events.offsets, whole.offsets)
    np.testing.assert_array_equal(events.channels, whole.channels)


def test_rosettasciio_reads_the_same_out_of_a_stream(segments: NDArray[Any]) -> None:
    pytest.importorskip("sparse", reason="RosettaSciIO reads event streams only with sparse")
    from rsciio.utils._fei_stream_readers import _fill_array_with_stream

    found = np.zeros((FRAMES, NY, NX, D), np.int64)
    # Without compilation, which takes longer than the reading.
    plain = getattr(_fill_array_with_stream, "py_func", _fill_array_with_stream)
    plain(found, to_stream([events_of(segments[0])]), 0, FRAMES)
    np.testing.assert_array_equal(found.reshape(segments[0].shape), segments[0])


def replayed(path: Path) -> list[Events]:
    recorded = read(path)
    scene = FileScene(recorded, list_mode=True)
    plan = Plan(scan_order(recorded.nav_shape), passes=recorded.frames)
    messages = [decode(o.parts) for o in Instrument(scene, plan, series="s", block=7).step(float("inf"))]
    return [m.counts for m in messages if isinstance(m, Block) and isinstance(m.counts, Events)]


def test_a_file_is_replayed_frame_by_frame_in_list_mode(tmp_path: Path, segments: NDArray[Any]) -> None:
    path = write(tmp_path / "map.emd", [to_stream([events_of(s)]) for s in segments])
    recorded = read(path)
    assert (recorded.frames, recorded.nav_shape, recorded.technique) == (FRAMES, (NY, NX), "eds")
    assert recorded.dwell_s == 2e-6
    assert [(a["name"], a["units"], a["scale"]) for a in recorded.nav_axes] == [("y", "m", 3e-9), ("x", "m", 2e-9)]
    np.testing.assert_allclose(recorded.axis.values, -0.25 + 0.01 * np.arange(D))
    # Segment by segment the order within a pixel differs; the events of their sum are sorted, so must be the stream.
    np.testing.assert_array_equal(to_stream(replayed(path)), to_stream([events_of(segments.sum(axis=0))]))


def test_frames_are_counted_without_metadata_and_cut_where_they_are_told(
    tmp_path: Path, segments: NDArray[Any]
) -> None:
    whole = to_stream([events_of(segments[0])])
    plain = read(write(tmp_path / "plain.emd", [whole[:-1]], metadata=False))
    assert (plain.frames, plain.nav_axes, plain.axis.units) == (FRAMES, (), "")
    np.testing.assert_array_equal(plain.counts.toarray(), segments[0])
    told = read(write(tmp_path / "told.emd", [whole], frames=2))
    np.testing.assert_array_equal(told.counts.toarray(), segments[0][: 2 * N])


def test_what_contradicts_itself_or_is_no_stream_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"channel {D}"):
        read(write(tmp_path / "wrong.emd", [np.array([D, NEXT_PIXEL], np.uint16)]))
    (tmp_path / "text.emd").write_text("no")
    assert not has_streams(tmp_path / "text.emd")
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / "text.emd")
