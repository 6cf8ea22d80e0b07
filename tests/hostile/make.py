"""Writes the corpus of hostile messages: one file each, a MessagePack map {about, expect, parts}.

`expect` is the reason under which the daemon rejects it, or "accepted" where it looks odd but is right.
Run `python -m tests.hostile.make` to write the files again; they are kept so that a change of the encoder cannot
change what the decoder is tried with.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

HERE = Path(__file__).parent
SERIES = "hostile"
NAV_SHAPE, N_CHANNELS = [4, 8], 16


def _map(**keys: Any) -> bytes:
    packed: bytes = msgpack.packb(keys)
    return packed


def image(counts: np.ndarray[Any, Any], **keys: Any) -> list[bytes]:
    head = {"htype": "image", "series": SERIES, "msg_number": 1, "frame": 0, "shape": list(counts.shape)}
    return [_map(**{**head, "type": counts.dtype.name, **keys}), counts.tobytes()]


def events(offsets: list[int], channels: list[int], **keys: Any) -> list[bytes]:
    head = {"htype": "events", "series": SERIES, "msg_number": 1, "frame": 0, "shape": [len(offsets) - 1, N_CHANNELS]}
    parts = [np.array(offsets, "<u4").tobytes(), np.array(channels, "<u2").tobytes()]
    return [_map(**{**head, "type": "uint16", **keys}), *parts]


def header(**keys: Any) -> list[bytes]:
    axis = {"name": "Energy", "units": "keV", "size": N_CHANNELS, "offset": 0.0, "scale": 0.1}
    head = {"htype": "header", "msg_number": 0, "series": "another", "nav_shape": NAV_SHAPE, "axis": axis}
    return [_map(**{**head, **keys})]


def corpus() -> dict[str, tuple[str, str, list[bytes]]]:
    """Name: (expect, about, parts)."""
    good = np.ones((2, N_CHANNELS), "<u2")
    nan = np.full((2, N_CHANNELS), np.nan, "<f4")
    inf = np.full((2, N_CHANNELS), np.inf, "<f8")
    deep = b"{" + b'"a":{' * 100_000
    bomb = b"\xdd\xff\xff\xff\xff"
    return {
        "empty-part": ("junk", "one empty part", [b""]),
        "random-bytes": ("junk", "bytes of nothing", [bytes(range(256))]),
        "integer": ("junk", "part 0 is a number", [msgpack.packb(7)]),
        "list": ("junk", "part 0 is a list", [msgpack.packb([1, 2, 3])]),
        "integer-keys": ("junk", "keys are numbers", [msgpack.packb({1: 2})]),
        "array-bomb": ("junk", "announces four thousand million elements", [bomb]),
        "map-bomb": ("junk", "announces four thousand million pairs", [b"\xdf\xff\xff\xff\xff"]),
        "nested-msgpack": ("junk", "nested a hundred thousand deep", [b"\x91" * 100_000]),
        "nested-json": ("junk", "JSON nested a hundred thousand deep", [deep]),
        "cut-json": ("junk", "JSON that ends in the middle", [b'{"htype": "image", "msg_num']),
        "json-not-utf8": ("junk", "JSON with bytes that are no UTF-8", [b'{"htype": "\xff\xfe"}']),
        "json-huge-integer": ("junk", "an integer of ten thousand digits", [b'{"htype": ' + b"9" * 10_000 + b"}"]),
        "no-htype": ("junk", "a map without htype", [_map(msg_number=1)]),
        "unknown-htype": ("junk", "an htype nobody knows", [_map(htype="explode", msg_number=1)]),
        "pickle": ("junk", "a pickle that would run code", [b"cos\nsystem\n(S'true'\ntR."]),
        "text": ("junk", "HTTP from a port scanner", [b"GET / HTTP/1.1\r\n\r\n"]),
        "header-without-axis": ("invalid", "no axis", [_map(htype="header", msg_number=0, nav_shape=[2, 2])]),
        "header-too-many-positions": ("invalid", "10^18 positions", header(nav_shape=[10**9, 10**9])),
        "header-negative-shape": ("invalid", "a negative shape", header(nav_shape=[-4, 8])),
        "header-four-dimensions": ("invalid", "four numbers in nav_shape", header(nav_shape=[2, 2, 2, 2])),
        "header-zero-channels": ("invalid", "an axis of no channels", header(axis={"size": 0, "offset": 0, "scale": 1})),
        "header-huge-axis": ("invalid", "an axis of 10^12 channels", header(axis={"size": 10**12, "offset": 0, "scale": 1})),
        "header-zero-scale": ("invalid", "an axis of scale 0", header(axis={"size": 16, "offset": 0, "scale": 0})),
        "header-nan-offset": ("invalid", "an axis offset that is NaN", header(axis={"size": 16, "offset": float("nan"), "scale": 1})),
        "header-unsorted-values": ("invalid", "axis values in no order", header(axis={"values": [1.0, 3.0, 2.0]})),
        "header-positions-missing": ("unreadable", "positions announced, not sent", header(positions=True, nav_shape=[32])),
        "header-positions-cut": ("unreadable", "positions cut in a number", [*header(positions=True, nav_shape=[32]), b"x" * 13]),
        "image-no-part": ("unreadable", "the counts are missing", image(good)[:1]),
        "image-cut": ("unreadable", "the counts end in the middle of a number", [image(good)[0], image(good)[1][:-1]]),
        "image-short": ("invalid", "one row less than announced", [image(good)[0], image(good)[1][: N_CHANNELS * 2]]),
        "image-wrong-channels": ("invalid", "spectra of 15 channels", image(np.ones((2, 15), "<u2"))),
        "image-three-dimensions": ("invalid", "shape of three numbers", image(np.ones((2, 1, 16), "<u2"))),
        "image-unknown-dtype": ("invalid", "complex counts", image(good, type="complex64")),
        "image-object-dtype": ("invalid", "dtype object", image(good, type="object")),
        "image-dtype-code": ("invalid", "a dtype with code in it", image(good, type="O8,(2,)u2")),
        "image-nan": ("invalid", "NaN", image(nan)),
        "image-infinite": ("invalid", "infinite", image(inf)),
        "image-huge": ("invalid", "1e30 counts", image(np.full((2, N_CHANNELS), 1e30, "<f4"))),
        "image-negative": ("invalid", "negative counts under Poisson noise", image(np.full((2, N_CHANNELS), -1, "<i2"))),
        "image-index-past-end": ("invalid", "position 32 of 32", image(good, index=32)),
        "image-index-runs-past-end": ("invalid", "two spectra from the last position on", image(good, index=31, frame=4)),
        "image-index-negative": ("invalid", "position -1", image(good, index=-1)),
        "image-index-list-short": ("invalid", "one index for two spectra", image(good, index=[0])),
        "image-index-list-past-end": ("invalid", "a listed index past the end", image(good, index=[0, 4_000_000_000])),
        "image-index-part-missing": ("unreadable", "index_part announced, not sent", image(good, index_part=True)),
        "image-index-part-cut": ("unreadable", "index_part cut", [*image(good, index_part=True), b"\0\0\0"]),
        "image-frame-negative": ("invalid", "a negative frame", image(good, frame=-5)),
        "image-frame-text": ("invalid", "a frame that is no number", image(good, frame="first")),
        "image-frame-infinite": ("invalid", "a frame past 2^53", image(good, frame=2**63)),
        "image-dwell-zero": ("invalid", "a dwell of 0 s", image(good, dwell_s=0.0)),
        "image-dwell-list-short": ("invalid", "one dwell for two spectra", image(good, dwell_s=[0.1])),
        "image-compressed": ("invalid", "a compression nobody promised", image(good, compression="lz4")),
        "image-shape-empty": ("invalid", "no spectra at all", image(np.ones((0, N_CHANNELS), "<u2"))),
        "image-shape-overflows": ("invalid", "a shape whose product overflows", image(good, shape=[2**52, 2**52])),
        "image-axis-wrong-size": ("invalid", "a corrected axis of another size", image(good, axis={"size": 9, "offset": 0, "scale": 1})),
        "image-bad-crc": ("unreadable", "a CRC that does not fit", image(good, crc32=zlib.crc32(image(good)[1]) ^ 1)),
        "image-no-msg-number": ("invalid", "no msg_number", [_map(htype="image", frame=0, shape=[1, 16], type="uint8"), b"\0" * 16]),
        "events-no-part": ("unreadable", "the channels are missing", events([0, 1], [3])[:2]),
        "events-channel-past-end": ("invalid", "an event in channel 16 of 16", events([0, 1], [16])),
        "events-offsets-fall": ("invalid", "offsets that fall", events([0, 2, 1], [1, 2])),
        "events-offsets-past-end": ("invalid", "offsets past the end", events([0, 9], [1, 2])),
        "events-offsets-from-one": ("invalid", "offsets that do not begin at 0", events([1, 2], [1, 2])),
        "events-no-offsets": ("invalid", "no offsets", [_map(htype="events", msg_number=1, frame=0, type="uint16"), b"", b""]),
        "events-float": ("invalid", "channels that are floats", events([0, 1], [3], type="float32")),
        "heartbeat-text": ("invalid", "a heartbeat with text for a number", [_map(htype="heartbeat", series=SERIES, n_sent="many")]),
        "end-negative": ("invalid", "fewer than no spectra sent", [_map(htype="series_end", series=SERIES, msg_number=9, n_sent=-1)]),
        "series-too-long": ("invalid", "a name of ten thousand letters", image(good, series="x" * 10_000)),
        "replay-answer": ("junk", "control traffic on the data port", [_map(msg="ack", id=1), struct.pack("<I", 1)]),
    }  # fmt: skip


def main() -> None:
    """Write every file."""
    for name, (expect, about, parts) in corpus().items():
        (HERE / f"{name}.msg").write_bytes(msgpack.packb({"about": about, "expect": expect, "parts": parts}))


if __name__ == "__main__":
    main()
