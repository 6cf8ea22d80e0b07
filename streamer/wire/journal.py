"""The format of a recording: items one after another, appended, readable up to the last whole one.

A record is a fixed head (magic, kind, sizes, CRC of head and map), a MessagePack map with the item's fields and
the sizes of its parts, then the parts as received, long ones compressed where that pays (`stored`: their sizes in the
file). A file cut anywhere (power, SIGKILL) loses its last record only.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, Final

import lz4.block

from streamer.wire.codec import Part, pack_map, unpack_map
from streamer.wire.errors import WireError
from streamer.wire.items import (
    Answer,
    Arrived,
    Change,
    Denoise,
    Idle,
    Item,
    NewNetwork,
    Overflow,
    ReplayDone,
    Resumed,
    Tick,
)

MAGIC: Final = b"SWJ1"
_HEAD = struct.Struct("<4sBxxxIQI")  # magic, kind, bytes of map, bytes of parts, crc
_LONG: Final = 4096
OPEN: Final = 1
CLOSED: Final = 2
_KINDS: Final[dict[int, type[Any]]] = {
    16: Arrived, 17: Tick, 18: Idle, 19: Overflow, 20: ReplayDone, 21: Resumed, 22: Change, 23: Answer,
    24: Denoise, 25: NewNetwork,
}  # fmt: skip
_NUMBERS: Final = {kind: number for number, kind in _KINDS.items()}


class Opened(dict[str, Any]):
    """First record: series name, what opened it, the settings in force."""


class Closed(dict[str, Any]):
    """Last record of a series that was closed: how, and its books."""


Record = Item | Opened | Closed


def pack_record(record: Record) -> list[Part]:
    """Encode a record as buffers to be appended one after another, parts without a copy."""
    parts: Sequence[Part] = ()
    if isinstance(record, Opened):
        kind, value = OPEN, dict(record)
    elif isinstance(record, Closed):
        kind, value = CLOSED, dict(record)
    else:
        kind = _NUMBERS[type(record)]
        value = {f.name: getattr(record, f.name) for f in fields(record) if f.name != "parts"}
        if isinstance(record, Arrived | NewNetwork):
            parts = [_compressed(p) for p in record.parts]
            value["sizes"] = [memoryview(p).nbytes for p in record.parts]
            value["stored"] = [memoryview(p).nbytes for p in parts]
    packed = pack_map(value)
    size = sum(memoryview(p).nbytes for p in parts)
    head = _HEAD.pack(MAGIC, kind, len(packed), size, 0)
    crc = zlib.crc32(packed, zlib.crc32(head))
    return [_HEAD.pack(MAGIC, kind, len(packed), size, crc), packed, *parts]


def read_records(buffer: memoryview, start: int = 0) -> Iterator[tuple[Record, int]]:
    """Yield each whole record and the offset of its end; stop at the first that is cut or damaged.

    Parameters
    ----------
    buffer : memoryview of bytes
        A recording, e.g. a memory map; parts of messages are views into it.
    start : int
        Offset of the first record.
    """
    at = start
    while at + _HEAD.size <= buffer.nbytes:
        magic, kind, map_size, parts_size, crc = _HEAD.unpack_from(buffer, at)
        body = at + _HEAD.size
        end = body + map_size + parts_size
        if magic != MAGIC or end > buffer.nbytes:
            return
        packed = buffer[body : body + map_size]
        if zlib.crc32(packed, zlib.crc32(_HEAD.pack(magic, kind, map_size, parts_size, 0))) != crc:
            return
        try:
            record = _record(kind, unpack_map(packed), buffer[body + map_size : end])
        except (WireError, TypeError, ValueError, lz4.block.LZ4BlockError):
            return
        yield record, end
        at = end


def _record(kind: int, value: dict[str, Any], payload: memoryview) -> Record:
    if kind == OPEN:
        return Opened(value)
    if kind == CLOSED:
        return Closed(value)
    made = _KINDS.get(kind)
    if made is None:
        raise ValueError(f"record of unknown kind {kind}")
    if made not in {Arrived, NewNetwork}:
        item: Item = made(**value)
        return item
    parts: list[Part] = []
    at, sizes = 0, value.pop("sizes")
    # Recordings of before compression have no `stored`.
    for size, stored in zip(sizes, value.pop("stored", sizes), strict=True):
        part = payload[at : at + stored]
        parts.append(part if stored == size else lz4.block.decompress(part, uncompressed_size=size))
        at += stored
    whole: Item = made(parts=parts, **value)
    return whole


def _compressed(part: Part) -> Part:
    """A long part compressed, if it gets shorter by a fifth: counts are mostly zeros and small numbers."""
    nbytes = memoryview(part).nbytes
    if nbytes < _LONG:
        return part
    packed: bytes = lz4.block.compress(part, store_size=False)
    return packed if len(packed) <= 0.8 * nbytes else part
