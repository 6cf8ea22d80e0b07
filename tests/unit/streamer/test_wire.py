"""Encoding and decoding of each kind of message."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from streamer.wire import (
    Block,
    Control,
    Events,
    Header,
    Result,
    SeriesEnd,
    Stins,
    WireError,
    decode,
    decode_control,
    decode_replay_answer,
    decode_result,
    encode_control,
    encode_events,
    encode_header,
    encode_heartbeat,
    encode_image,
    encode_replay_answer,
    encode_replay_refusal,
    encode_result,
    encode_series_end,
    pack_json,
    pack_map,
)
from streamer.wire.data import DTYPES, Limits

AXIS = {"name": "Energy", "units": "keV", "size": 8, "offset": -0.1, "scale": 0.01}


def block(parts: list[Any], **keys: Any) -> Block:
    message = decode(parts, **keys)
    assert isinstance(message, Block)
    return message


@pytest.mark.parametrize("pack", [pack_map, pack_json])
def test_header_in_both_encodings(pack: Any) -> None:
    keys: dict[str, Any] = {
        "technique": "eds",
        "dwell_s": 0.001,
        "actions": ["stop"],
        "metadata": {"operator": "x"},
        "unknown": 1,
    }
    message = decode(encode_header("s", [2, 3], AXIS, pack=pack, **keys))
    assert isinstance(message, Header)
    assert message.map.series == "s"
    assert message.map.nav_shape == [2, 3]
    assert message.map.actions == ["stop"]
    np.testing.assert_allclose(message.map.axis.array(), -0.1 + 0.01 * np.arange(8))


def test_listed_axis_and_positions() -> None:
    positions = np.random.default_rng(0).random((5, 2))
    parts = encode_header("s", [5], {"name": "k", "units": "1/cm", "values": [3.0, 2.0, 1.0]}, positions=positions)
    message = decode(parts)
    assert isinstance(message, Header)
    assert message.positions is not None
    np.testing.assert_array_equal(message.positions, positions)
    assert message.map.axis.n_channels == 3


def test_optional_nonsense_does_not_cost_the_scan() -> None:
    message = decode(encode_header("s", [2], AXIS, noise={"model": "gamma"}, dwell_s=-1, technique="xray"))
    assert isinstance(message, Header)
    assert message.map.noise is None
    assert message.map.dwell_s is None
    assert len(message.warnings) == 3
    assert any("dwell_s" in w for w in message.warnings)


@pytest.mark.parametrize("wrong", [{"nav_shape": [True, 3]}, {"axis": {**AXIS, "size": True}}])
def test_true_is_no_number_of_positions_or_channels(wrong: dict[str, Any]) -> None:
    head = {"htype": "header", "series": "s", "msg_number": 0, "nav_shape": [2, 3], "axis": AXIS, **wrong}
    with pytest.raises(WireError, match="expected a number, not true or false"):
        decode([pack_map(head)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pack", [pack_map, pack_json])
def test_image_of_each_type_is_a_read_only_view(dtype: str, pack: Any) -> None:
    counts = np.arange(16).reshape(2, 8).astype(dtype)
    parts = [bytes(p) for p in encode_image("s", 1, 0, counts, crc=True, pack=pack)]
    message = block(parts)
    assert isinstance(message.counts, np.ndarray)
    np.testing.assert_array_equal(message.counts, counts)
    assert not message.counts.flags.writeable
    assert np.shares_memory(message.counts, np.frombuffer(parts[1], np.uint8))


def test_single_spectrum_and_index_forms() -> None:
    one = block(encode_image("s", 1, 7, np.zeros(8, np.uint8)))
    assert one.n == 1
    assert one.index is None
    listed = block(encode_image("s", 1, 0, np.zeros((2, 8), np.uint8), index=[4, 1]))
    assert listed.index is not None
    assert listed.index.tolist() == [4, 1]
    part = block(encode_image("s", 1, 0, np.zeros((2, 8), np.uint8), index=np.array([5, 2], np.uint32), crc=True))
    assert part.index is not None
    assert part.index.tolist() == [5, 2]


def test_events_round_trip() -> None:
    parts = encode_events("s", 1, 0, np.array([0, 2, 2, 3]), np.array([1, 1, 7], np.uint16), 8, index=3)
    message = block(parts)
    assert message.n == 3
    assert isinstance(message.counts, Events)
    assert message.counts.channels.tolist() == [1, 1, 7]


@pytest.mark.parametrize("damage", range(1, 4))
def test_a_flipped_bit_is_caught_by_the_crc(damage: int) -> None:
    parts = [bytearray(p) for p in encode_image("s", 5, 0, np.arange(16, dtype=np.uint16).reshape(2, 8), crc=True)]
    parts[1][damage * 7] ^= 1 << damage
    with pytest.raises(WireError) as caught:
        decode(parts)
    assert caught.value.reason == "unreadable"
    assert (caught.value.series, caught.value.msg_number) == ("s", 5)


def test_message_over_the_limit_is_refused() -> None:
    with pytest.raises(WireError, match="over the limit"):
        decode(encode_image("s", 1, 0, np.zeros((4, 8), np.float64)), limits=Limits(message_bytes=100))


def stins(map_: dict[str, Any], *arrays: np.ndarray[Any, Any]) -> list[bytes]:
    return [json.dumps(map_).encode(), *(a.tobytes() for a in arrays)]


def test_plain_stins_sender() -> None:
    defaults = Stins({"nav_shape": [4], "axis": AXIS})
    header = decode(stins({"htype": "header", "filename": "/data/x.h5", "msg_number": 41}), defaults)
    assert isinstance(header, Header)
    assert header.map.series is None
    assert header.map.msg_number == 41
    image = {"htype": "image", "msg_number": 42, "frame": 0, "shape": [2, 8], "type": "uint16", "compression": "none"}
    counts = np.arange(16, dtype=np.uint16).reshape(2, 8)
    message = block(stins(image, counts), stins=defaults)
    np.testing.assert_array_equal(message.counts, counts)
    end = decode(stins({"htype": "series_end", "msg_number": 43}), defaults)
    assert isinstance(end, SeriesEnd)
    assert end.map.n_sent is None


@pytest.mark.parametrize(
    ("leading", "expected"), [("sum", [8, 10, 12, 14, 16, 18, 20, 22]), ("take", [8, 9, 10, 11, 12, 13, 14, 15])]
)
def test_detector_elements(leading: Any, expected: list[int]) -> None:
    image = {"htype": "image", "msg_number": 1, "frame": 0, "shape": [2, 8], "type": "uint16"}
    counts = np.arange(16, dtype=np.uint16).reshape(2, 8)
    message = block(stins(image, counts), stins=Stins({}, leading, 1))
    assert message.n == 1
    assert isinstance(message.counts, np.ndarray)
    assert message.counts[0].tolist() == expected


def test_stins_header_without_configuration_says_what_to_do() -> None:
    with pytest.raises(WireError, match=r"source\.stins|pipeline\.stins"):
        decode(stins({"htype": "header", "msg_number": 0}))


def test_result_round_trip() -> None:
    arrays = {"mean": np.arange(3, dtype=np.float32), "empty": np.zeros((2, 0), np.float32)}
    sent = Result("basis", {"series": "s", "model": 4, "rank": 0}, arrays)
    got = decode_result([bytes(p) for p in encode_result(sent, boot="b", seq=9, t_ns=5)])
    assert got.topic == "basis"
    assert {k: got.head[k] for k in ("v", "boot", "series", "seq", "t_ns", "model")} == {
        "v": 1, "boot": "b", "series": "s", "seq": 9, "t_ns": 5, "model": 4,
    }  # fmt: skip
    assert got.head["arrays"][0] == {"name": "mean", "dtype": "<f4", "shape": [3]}
    for name, array in arrays.items():
        np.testing.assert_array_equal(got.arrays[name], array)
        assert not got.arrays[name].flags.writeable


def test_control_round_trip_and_junk() -> None:
    sent = Control("ack", "id7", "spectrum", {"boot": "b"}, {"raw": np.ones(4, np.float32)})
    got = decode_control([bytes(p) for p in encode_control(sent)])
    assert (got.msg, got.id, got.val, got.params["boot"]) == ("ack", "id7", "spectrum", "b")
    np.testing.assert_array_equal(got.arrays["raw"], np.ones(4))
    for junk in ([], [b""], [b"\x01"], [pack_map({"msg": "shout", "val": "x"})], [pack_map({"msg": "cmd", "val": 3})]):
        with pytest.raises(WireError):
            decode_control(junk)


def test_replay_answer_round_trip() -> None:
    messages = [encode_heartbeat("s", 3), encode_image("s", 4, 0, np.zeros(8, np.uint8)), encode_series_end("s", 5, 1)]
    answer = decode_replay_answer([bytes(p) for p in encode_replay_answer(12, messages)])
    assert answer.id == 12
    assert [[bytes(p) for p in m] for m in answer.messages] == [[bytes(p) for p in m] for m in messages]
    assert decode_replay_answer(encode_replay_refusal(3, "gone")).error == "gone"
    with pytest.raises(WireError):
        decode_replay_answer(encode_replay_answer(12, messages)[:-1])
