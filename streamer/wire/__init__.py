"""The wire protocol (protocol.md) as pure functions: bytes to checked messages and back, no socket."""

from streamer.wire.codec import Part, pack_json, pack_map
from streamer.wire.control import (
    Control,
    ReplayAnswer,
    decode_control,
    decode_replay_answer,
    encode_control,
    encode_replay_answer,
    encode_replay_refusal,
    encode_replay_request,
)
from streamer.wire.data import (
    ACTIONS,
    AxisMap,
    Block,
    EndMap,
    Events,
    Header,
    HeaderMap,
    Heartbeat,
    ImageMap,
    Limits,
    Message,
    NoiseMap,
    SeriesEnd,
    Stins,
)
from streamer.wire.decode import decode
from streamer.wire.encode import (
    encode_events,
    encode_header,
    encode_heartbeat,
    encode_image,
    encode_series_end,
)
from streamer.wire.errors import WireError
from streamer.wire.results import Result, decode_result, encode_result, f4

__all__ = [
    "ACTIONS",
    "AxisMap",
    "Block",
    "Control",
    "EndMap",
    "Events",
    "Header",
    "HeaderMap",
    "Heartbeat",
    "ImageMap",
    "Limits",
    "Message",
    "NoiseMap",
    "Part",
    "ReplayAnswer",
    "Result",
    "SeriesEnd",
    "Stins",
    "WireError",
    "decode",
    "decode_control",
    "decode_replay_answer",
    "decode_result",
    "encode_control",
    "encode_events",
    "encode_header",
    "encode_heartbeat",
    "encode_image",
    "encode_replay_answer",
    "encode_replay_refusal",
    "encode_replay_request",
    "encode_result",
    "encode_series_end",
    "f4",
    "pack_json",
    "pack_map",
]
