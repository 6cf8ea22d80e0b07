"""The wire for any input: what is encoded comes back, and no bytes at all crash the decoder."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streamer.wire import (
    Block,
    Control,
    Events,
    Result,
    WireError,
    decode,
    decode_control,
    decode_replay_answer,
    decode_result,
    encode_control,
    encode_events,
    encode_image,
    encode_result,
    pack_json,
    pack_map,
)
from streamer.wire.data import DTYPES
from streamer.wire.items import Answer, Arrived, Change, Idle, Item, Overflow, ReplayDone, Resumed, Tick
from streamer.wire.journal import pack_record, read_records

numbers = st.integers(0, 2**53)
texts = st.text(min_size=1, max_size=20)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
blocks = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, st.tuples(st.integers(1, 5), st.integers(1, 9)))
)


@given(blocks, texts, numbers, numbers, st.sampled_from([pack_map, pack_json]), st.booleans())
def test_image_round_trip(counts: Any, series: str, number: int, frame: int, pack: Any, crc: bool) -> None:
    parts = [bytes(p) for p in encode_image(series, number, frame, counts, crc=crc, pack=pack)]
    message = decode(parts)
    assert isinstance(message, Block)
    assert (message.map.series, message.map.msg_number, message.map.frame) == (series, number, frame)
    assert isinstance(message.counts, np.ndarray)
    assert message.counts.tobytes() == counts.tobytes()


@given(st.lists(st.lists(st.integers(0, 63), max_size=6), min_size=1, max_size=6), numbers)
def test_events_round_trip(spectra: list[list[int]], frame: int) -> None:
    offsets = np.cumsum([0, *(len(s) for s in spectra)])
    channels = np.array([c for s in spectra for c in s], np.uint16)
    message = decode([bytes(p) for p in encode_events("s", 1, frame, offsets, channels, 64)])
    assert isinstance(message, Block)
    assert isinstance(message.counts, Events)
    assert message.n == len(spectra)
    ends = message.counts.offsets
    assert [message.counts.channels[a:b].tolist() for a, b in zip(ends[:-1], ends[1:], strict=True)] == spectra


@given(st.lists(st.binary(max_size=64), max_size=4))
@settings(max_examples=300)
def test_no_bytes_crash_a_decoder(parts: list[bytes]) -> None:
    for function in (decode, decode_control, decode_replay_answer, decode_result):
        try:
            function(parts)
        except WireError:
            pass


KEYS = [
    "htype", "msg_number", "series", "nav_shape", "axis", "frame", "shape", "type", "index", "index_part", "pass",
    "dwell_s", "revision", "crc32", "n_sent", "noise", "positions", "exit_status", "replay", "metadata", "actions",
]  # fmt: skip
hostile_maps = st.fixed_dictionaries(
    {"htype": st.sampled_from(["header", "image", "events", "heartbeat", "series_end"])},
    optional={key: plain | st.lists(st.integers(-3, 2**33), max_size=3) for key in KEYS[1:]},
)


@given(hostile_maps, st.lists(st.binary(max_size=32), max_size=3), st.data())
@settings(max_examples=300)
def test_no_map_crashes_the_decoder(value: dict[str, Any], arrays: list[bytes], data: st.DataObject) -> None:
    value.setdefault("msg_number", 1)
    value.setdefault("frame", 0)
    value.setdefault("type", data.draw(st.sampled_from([*DTYPES, "object", "<u2"])))
    try:
        decode([pack_map(value), *arrays])
    except WireError as error:
        assert error.reason in {"junk", "unreadable", "invalid"}


@given(texts, st.dictionaries(texts, plain, max_size=3), st.dictionaries(texts, blocks, max_size=3))
def test_result_and_control_round_trip(topic: str, head: dict[str, Any], arrays: dict[str, Any]) -> None:
    got = decode_result([bytes(p) for p in encode_result(Result(topic, head, arrays), boot="b", seq=0, t_ns=0)])
    assert got.topic == topic
    assert {n: a.tobytes() for n, a in got.arrays.items()} == {n: a.tobytes() for n, a in arrays.items()}
    control = decode_control([bytes(p) for p in encode_control(Control("cmd", 1, topic, head, arrays))])
    assert control.val == topic
    assert set(control.arrays) == set(arrays)


items: st.SearchStrategy[Item] = st.one_of(
    st.builds(Tick, numbers),
    st.builds(Idle, numbers),
    st.builds(Resumed, numbers),
    st.builds(Overflow, numbers, st.none() | texts, numbers, numbers),
    st.builds(ReplayDone, numbers, numbers, st.none() | texts),
    st.builds(Change, numbers, texts, st.dictionaries(texts, plain, max_size=2)),
    st.builds(Answer, numbers, texts, st.booleans(), texts, texts),
    st.builds(Arrived, numbers, st.lists(st.binary(max_size=20), min_size=1, max_size=3), texts, st.booleans()),
)


@given(st.lists(items, max_size=8), st.data())
def test_journal_round_trip_and_cut_anywhere(written: list[Item], data: st.DataObject) -> None:
    records = [b"".join(bytes(p) for p in pack_record(item)) for item in written]
    whole = b"".join(records)
    got = [record for record, _ in read_records(memoryview(whole))]
    assert len(got) == len(written)
    for a, b in zip(got, written, strict=True):
        if isinstance(a, Arrived) and isinstance(b, Arrived):
            assert [bytes(p) for p in a.parts] == list(b.parts)
            assert (a.t_ns, a.peer, a.replayed) == (b.t_ns, b.peer, b.replayed)
        else:
            assert a == b
    cut = data.draw(st.integers(0, len(whole)))
    ends = [end for _, end in read_records(memoryview(whole[:cut]))]
    assert ends == [e for e in np.cumsum([len(r) for r in records]).tolist() if e <= cut]
