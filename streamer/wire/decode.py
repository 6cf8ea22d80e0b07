"""From message parts to checked messages; no socket, no state."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.wire.codec import Part, unpack_map
from streamer.wire.data import (
    DTYPES,
    Block,
    EndMap,
    Events,
    Header,
    Heartbeat,
    HeartbeatMap,
    ImageMap,
    Limits,
    Message,
    SeriesEnd,
    Stins,
    parse,
    parse_header,
)
from streamer.wire.errors import WireError


def decode(parts: Sequence[Part], stins: Stins | None = None, limits: Limits | None = None) -> Message:
    """Decode one message of an instrument.

    Parameters
    ----------
    parts : sequence of bytes-like
        All parts; arrays in the result are read-only views into them.
    stins : Stins, optional
        What the configuration adds to sparse headers.
    limits : Limits, optional
        Sizes refused whatever the header says.

    Raises
    ------
    WireError
        Saying what is wrong, with the numbers of the message as far as they could be read.
    """
    stins, limits = stins or Stins(), limits or Limits()
    if not parts:
        raise WireError("junk", "a message without parts")
    total = sum(memoryview(p).nbytes for p in parts)
    if total > limits.message_bytes:
        raise WireError("invalid", f"message of {total} bytes is over the limit of {limits.message_bytes}")
    value = unpack_map(parts[0], json_allowed=True)
    try:
        return _decode(value, parts[1:], stins, limits)
    except WireError as error:
        error.msg_number = _natural(value.get("msg_number"))
        series = value.get("series")
        error.series = series if isinstance(series, str) and len(series) <= 256 else None
        error.htype = value["htype"] if value.get("htype") in HTYPES else None
        raise


HTYPES = ("header", "image", "events", "heartbeat", "series_end")


def _natural(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _decode(value: Mapping[str, Any], arrays: Sequence[Part], stins: Stins, limits: Limits) -> Message:
    match value.get("htype"):
        case "header":
            return _header(value, arrays, stins, limits)
        case "image":
            return _image(value, arrays, stins)
        case "events":
            return _events(value, arrays)
        case "heartbeat":
            return Heartbeat(parse(HeartbeatMap, value))
        case "series_end":
            return SeriesEnd(parse(EndMap, value))
        case None:
            raise WireError("junk", "a map without htype")
        case other:
            raise WireError("junk", f"unknown htype {str(other)[:40]!r}")


def _header(value: Mapping[str, Any], arrays: Sequence[Part], stins: Stins, limits: Limits) -> Header:
    filled = {**stins.defaults, **value}
    if "nav_shape" not in filled or "axis" not in filled:
        missing = "nav_shape" if "nav_shape" not in filled else "axis"
        raise WireError("invalid", f"header has no {missing}; a plain STINS sender's goes under [pipeline.stins]")
    head, warnings = parse_header(filled)
    n_positions = math.prod(head.nav_shape)
    if n_positions > limits.positions:
        raise WireError("invalid", f"nav_shape {head.nav_shape} is over the limit of {limits.positions} positions")
    if head.axis.n_channels > limits.channels:
        raise WireError("invalid", f"axis size {head.axis.n_channels} is over the limit of {limits.channels}")
    if not head.positions:
        return Header(head, None, warnings)
    if not arrays:
        raise WireError("unreadable", "header says positions, but part 1 is missing")
    coordinates = _array(arrays[0], "<f8", "positions")
    if len(head.nav_shape) != 1 or coordinates.size == 0 or coordinates.size % head.nav_shape[0]:
        raise WireError("invalid", f"{coordinates.size} coordinates do not fit nav_shape {head.nav_shape}")
    return Header(head, coordinates.reshape(head.nav_shape[0], -1), warnings)


def _array(part: Part, dtype: str, what: str) -> NDArray[Any]:
    size = memoryview(part).nbytes
    if size % np.dtype(dtype).itemsize:
        raise WireError("unreadable", f"{what}: {size} bytes are no whole number of {dtype}")
    array = np.frombuffer(part, dtype=dtype)
    array.flags.writeable = False
    return array


def _block_map(value: Mapping[str, Any], arrays: Sequence[Part], n_arrays: int) -> ImageMap:
    head: ImageMap = parse(ImageMap, value)
    if len(arrays) < n_arrays + head.index_part:
        raise WireError("unreadable", f"{len(arrays)} array parts, {n_arrays + head.index_part} are needed")
    if head.crc32 is not None:
        crc = 0
        for part in arrays:
            crc = zlib.crc32(part, crc)
        if crc != head.crc32:
            raise WireError("unreadable", f"crc32 of the parts is {crc:08x}, the header says {head.crc32:08x}")
    return head


def _dtype(head: ImageMap, allowed: Sequence[str]) -> str:
    if head.type not in allowed:
        raise WireError("invalid", f"type {head.type[:40]!r} is none of {', '.join(allowed)}")
    return _little_endian(head.type)


@cache
def _little_endian(name: str) -> str:
    return np.dtype(name).newbyteorder("<").str


def _image(value: Mapping[str, Any], arrays: Sequence[Part], stins: Stins) -> Block:
    head = _block_map(value, arrays, 1)
    if head.shape is None:
        raise WireError("invalid", "image: shape is missing")
    counts = _array(arrays[0], _dtype(head, DTYPES), "counts")
    if counts.size != math.prod(head.shape) or counts.size == 0:
        raise WireError("invalid", f"image has {counts.size} values, its shape {head.shape} says otherwise")
    counts = _spectra(counts.reshape(head.shape), stins)
    n = counts.shape[0]
    return Block(head, n, counts, _index(head, arrays, n), memoryview(arrays[0]).nbytes)


def _spectra(counts: NDArray[Any], stins: Stins) -> NDArray[Any]:
    """Give (n, D); a leading axis of detector elements is summed or one element is taken."""
    if stins.leading == "spectra" or counts.ndim == 1:
        if counts.ndim > 2:
            raise WireError("invalid", f"shape {list(counts.shape)} is neither [D] nor [n, D]")
        return counts.reshape(-1, counts.shape[-1])
    if stins.leading == "take":
        if stins.element >= counts.shape[-2]:
            raise WireError("invalid", f"shape {list(counts.shape)} has no detector element {stins.element}")
        taken = counts[..., stins.element, :].reshape(-1, counts.shape[-1])
    else:
        wide = np.uint32 if counts.dtype.kind == "u" else np.int32 if counts.dtype.kind == "i" else np.float64
        taken = counts.sum(axis=-2, dtype=wide).reshape(-1, counts.shape[-1])
    taken.flags.writeable = False
    return taken


def _events(value: Mapping[str, Any], arrays: Sequence[Part]) -> Block:
    head = _block_map(value, arrays, 2)
    offsets = _array(arrays[0], "<u4", "offsets").astype(np.int64)
    channels = _array(arrays[1], _dtype(head, ("uint16", "uint32")), "channels")
    n = offsets.size - 1
    if n < 1 or offsets[0] != 0 or offsets[-1] != channels.size or np.any(np.diff(offsets) < 0):
        raise WireError("invalid", f"events: {offsets.size} offsets do not divide {channels.size} counts")
    shape = head.shape
    if shape is not None and len(shape) > 1 and shape[0] != n:
        raise WireError("invalid", f"events: shape {shape}, but offsets for {n} spectra")
    nbytes = sum(memoryview(p).nbytes for p in arrays[:2])
    return Block(head, n, Events(offsets, channels), _index(head, arrays, n), nbytes)


def _index(head: ImageMap, arrays: Sequence[Part], n: int) -> NDArray[np.uint32] | None:
    if isinstance(head.dwell_s, list) and len(head.dwell_s) != n:
        raise WireError("invalid", f"{len(head.dwell_s)} values of dwell_s for {n} spectra")
    if isinstance(head.passes, list) and len(head.passes) != n:
        raise WireError("invalid", f"{len(head.passes)} values of pass for {n} spectra")
    if head.index_part:
        index = _array(arrays[-1], "<u4", "index")
    elif isinstance(head.index, list):
        if max(head.index, default=0) >= 2**32:
            raise WireError("invalid", "an index is past every end")
        index = np.asarray(head.index, dtype=np.uint32)
    else:
        return None
    if index.size != n:
        raise WireError("invalid", f"{index.size} indices for {n} spectra")
    return index
