"""Results out: topic, header map, arrays (protocol.md, 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.wire.codec import Part, describe, pack_map, raw, restore, unpack_map
from streamer.wire.errors import WireError

VERSION = 1


@dataclass(frozen=True)
class Result:
    """One published message: `topic`, the header's keys, its arrays by name."""

    topic: str
    head: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def encode_result(result: Result, *, boot: str, seq: int, t_ns: int) -> list[Part]:
    """Encode a result for the wire; `series` and `model` stand in its head already."""
    head = {"v": VERSION, "boot": boot, "series": None, "seq": seq, "t_ns": t_ns, "model": 0}
    head |= {**result.head, "arrays": describe(result.arrays)}
    return [result.topic.encode(), pack_map(head), *(raw(a) for a in result.arrays.values())]


def decode_result(parts: Sequence[Part]) -> Result:
    """Decode a published message; arrays are read-only views.

    Raises
    ------
    WireError
        Where topic, header or arrays cannot be read.
    """
    if len(parts) < 2:
        raise WireError("junk", "a result has at least a topic and a header")
    try:
        topic = bytes(parts[0]).decode()
    except UnicodeDecodeError as error:
        raise WireError("junk", "topic is not UTF-8") from error
    head = unpack_map(parts[1])
    return Result(topic, head, restore(head.get("arrays"), parts[2:]))


def f4(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return `array` as published: float32, contiguous."""
    return np.ascontiguousarray(array, dtype=np.float32)
