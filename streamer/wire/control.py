"""Control and decisions: one map, then arrays (protocol.md, 3), and the replay service (1.3)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from streamer.wire.codec import Part, describe, pack_map, raw, restore, unpack_map
from streamer.wire.errors import WireError

Kind = Literal["cmd", "ack", "nack", "notify"]
KINDS: tuple[Kind, ...] = ("cmd", "ack", "nack", "notify")


@dataclass(frozen=True)
class Control:
    """A message between controller or viewer and streamer."""

    msg: Kind
    id: Any
    val: str
    params: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def encode_control(message: Control) -> list[Part]:
    """Encode a control message; arrays are listed in ``params.arrays``."""
    params = dict(message.params)
    if message.arrays:
        params["arrays"] = describe(message.arrays)
    head = {"msg": message.msg, "id": message.id, "val": message.val, "params": params}
    return [pack_map(head), *(raw(a) for a in message.arrays.values())]


def decode_control(parts: Sequence[Part]) -> Control:
    """Decode a control message.

    Raises
    ------
    WireError
        Where it cannot be read; such a message is dropped and counted.
    """
    if not parts:
        raise WireError("junk", "a control message without parts")
    head = unpack_map(parts[0])
    msg, val, params = head.get("msg"), head.get("val", ""), head.get("params")
    if params is None:
        params = {}
    if msg not in KINDS or not isinstance(val, str) or not isinstance(params, dict):
        raise WireError("junk", "a control message needs msg (cmd, ack, nack, notify), val and params")
    return Control(msg, head.get("id"), val, params, restore(params.get("arrays"), parts[1:]))


def encode_replay_request(request_id: int, series: str, first: int, last: int) -> list[Part]:
    """Ask an instrument for its messages `first` to `last`, both inclusive."""
    params = {"series": series, "first": first, "last": last}
    return encode_control(Control("cmd", request_id, "replay", params))


def encode_replay_answer(request_id: Any, messages: Sequence[Sequence[Part]]) -> list[Part]:
    """Answer a replay request: for each message its number of parts as uint32, then its parts."""
    parts: list[Part] = [pack_map({"msg": "ack", "id": request_id, "val": "replay", "params": {}})]
    for message in messages:
        parts.append(struct.pack("<I", len(message)))
        parts.extend(message)
    return parts


def encode_replay_refusal(request_id: Any, error: str) -> list[Part]:
    """Answer a replay request of which nothing is there."""
    return encode_control(Control("nack", request_id, "replay", {"error": error}))


@dataclass(frozen=True)
class ReplayAnswer:
    """What an instrument answered: its messages, or `error`."""

    id: Any
    messages: list[list[Part]]
    error: str | None = None


def decode_replay_answer(parts: Sequence[Part]) -> ReplayAnswer:
    """Decode the answer to a replay request.

    Raises
    ------
    WireError
        Where it cannot be read.
    """
    if not parts:
        raise WireError("junk", "a replay answer without parts")
    head = unpack_map(parts[0])
    if head.get("msg") == "nack":
        params = head.get("params")
        error = params.get("error") if isinstance(params, dict) else None
        return ReplayAnswer(head.get("id"), [], str(error or "refused"))
    if head.get("msg") != "ack":
        raise WireError("junk", "a replay answer is neither ack nor nack")
    messages: list[list[Part]] = []
    at = 1
    while at < len(parts):
        size = memoryview(parts[at])
        if size.nbytes != 4:
            raise WireError("unreadable", f"part {at} of a replay answer is no uint32")
        n = struct.unpack("<I", size)[0]
        if n == 0 or at + 1 + n > len(parts):
            raise WireError("unreadable", f"a replay answer announces {n} parts past its end")
        messages.append(list(parts[at + 1 : at + 1 + n]))
        at += 1 + n
    return ReplayAnswer(head.get("id"), messages)
