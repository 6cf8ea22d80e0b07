"""Maps to and from bytes: MessagePack, or JSON where the sender is an instrument."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from streamer.wire.errors import WireError

Part = bytes | bytearray | memoryview
"""One part of a multipart message."""

MAX_MAP_BYTES = 16 << 20
"""A map larger than this is no header; arrays travel in parts of their own."""


def _plain(value: object) -> object:
    """Turn what numpy users put into maps into what MessagePack knows."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no place in a message map")


def pack_map(value: Mapping[str, Any]) -> bytes:
    """Encode a map as MessagePack."""
    packed: bytes = msgpack.packb(value, default=_plain)
    return packed


def pack_json(value: Mapping[str, Any]) -> bytes:
    """Encode a map as JSON (for senders that speak it, and for tests of those)."""
    return json.dumps(value, default=_plain).encode()


def unpack_map(part: Part, *, json_allowed: bool = False) -> dict[str, Any]:
    """Decode a map.

    Parameters
    ----------
    part : Part
        MessagePack, or JSON when its first byte is ``{`` and `json_allowed`.
    json_allowed : bool
        Only instruments may send JSON.

    Raises
    ------
    WireError
        With reason ``junk`` when it is not a map with string keys.
    """
    view = memoryview(part).cast("B")
    if view.nbytes > MAX_MAP_BYTES:
        raise WireError("junk", f"header part has {view.nbytes} bytes, at most {MAX_MAP_BYTES} are read")
    try:
        if json_allowed and view.nbytes and view[0] == ord("{"):
            value = json.loads(bytes(view))
        else:
            value = msgpack.unpackb(view, raw=False, strict_map_key=False)
    # msgpack raises a dozen kinds over hostile input; RecursionError comes from nested JSON.
    except (
        ValueError,
        TypeError,
        OverflowError,
        RecursionError,
        msgpack.exceptions.UnpackException,
    ) as error:
        kind = type(error).__name__
        raise WireError("junk", f"part 0 is neither MessagePack nor JSON ({kind})") from error
    if not isinstance(value, dict):
        raise WireError("junk", f"part 0 is a {type(value).__name__}, not a map")
    if not all(isinstance(key, str) for key in value):
        raise WireError("junk", "part 0 is a map whose keys are not all strings")
    return value


def little_endian(array: NDArray[Any]) -> NDArray[Any]:
    """Return `array` C-contiguous and little-endian, copying only where it is not."""
    dtype = array.dtype.newbyteorder("<") if array.dtype.byteorder not in "|<" else array.dtype
    return np.ascontiguousarray(array, dtype=dtype)


def raw(array: NDArray[Any]) -> memoryview:
    """Return the bytes of an array as a message part, without a copy where possible."""
    return little_endian(array).reshape(-1).view(np.uint8).data


def describe(arrays: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """List the arrays in the order of their parts, as ``arrays`` in a header has them."""
    return [{"name": name, "dtype": little_endian(a).dtype.str, "shape": list(a.shape)} for name, a in arrays.items()]


_KINDS = frozenset("biuf")


def restore(listed: object, parts: Sequence[Part]) -> dict[str, NDArray[Any]]:
    """Map array parts back to named, read-only arrays.

    Parameters
    ----------
    listed : list of {"name", "dtype", "shape"}
    parts : sequence of bytes-like, one for each

    Raises
    ------
    WireError
        With reason ``invalid`` when list and parts do not agree.
    """
    if listed is None:
        listed = []
    if not isinstance(listed, list) or len(listed) != len(parts):
        raise WireError("invalid", f"{len(parts)} array parts do not match the list 'arrays'")
    return dict(_restore_one(entry, part) for entry, part in zip(listed, parts, strict=True))


def _restore_one(entry: object, part: Part) -> tuple[str, NDArray[Any]]:
    try:
        name, dtype, shape = entry["name"], np.dtype(entry["dtype"]), tuple(entry["shape"])  # type: ignore[index]
        if dtype.kind not in _KINDS or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError(f"dtype {dtype} shape {shape}")
        array = np.frombuffer(part, dtype=dtype).reshape(shape)
    except (TypeError, KeyError, ValueError) as error:
        raise WireError("invalid", f"an array does not fit its entry in 'arrays': {error}") from error
    array.flags.writeable = False
    return str(name), array
