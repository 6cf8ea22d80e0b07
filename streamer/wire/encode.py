"""From values to message parts, for everything that speaks as an instrument."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.wire.codec import Part, pack_map, raw

Pack = Callable[[Mapping[str, Any]], bytes]


def encode_header(
    series: str,
    nav_shape: Sequence[int],
    axis: Mapping[str, Any],
    *,
    positions: NDArray[np.float64] | None = None,
    pack: Pack = pack_map,
    **keys: Any,
) -> list[Part]:
    """Encode the message that opens a series.

    Parameters
    ----------
    series : str
        Unique name.
    nav_shape : 1 to 3 numbers
    axis : map
        {name, units, size, offset, scale} or {name, units, values}.
    positions : f8[n, d], optional
        Real coordinates of positions that are no grid.
    pack : callable
        `pack_map` or `pack_json`.
    **keys
        Optional keys of the header as protocol.md names them.
    """
    head: dict[str, Any] = {"htype": "header", "msg_number": 0, "series": series}
    head |= {"nav_shape": [int(n) for n in nav_shape], "axis": dict(axis), **keys}
    if positions is None:
        return [pack(head)]
    head["positions"] = True
    return [pack(head), raw(np.asarray(positions, dtype="<f8"))]


def _finish(head: dict[str, Any], arrays: list[Part], index: object, crc: bool, pack: Pack) -> list[Part]:
    if isinstance(index, np.ndarray):
        head["index_part"] = True
        arrays.append(raw(index.astype("<u4", copy=False)))
    elif index is not None:
        head["index"] = index
    if crc:
        value = 0
        for part in arrays:
            value = zlib.crc32(part, value)
        head["crc32"] = value
    return [pack(head), *arrays]


def encode_image(
    series: str,
    msg_number: int,
    frame: int,
    counts: NDArray[Any],
    *,
    index: int | Sequence[int] | NDArray[np.uint32] | None = None,
    crc: bool = False,
    pack: Pack = pack_map,
    **keys: Any,
) -> list[Part]:
    """Encode a block of spectra.

    Parameters
    ----------
    series, msg_number
        As in the header; `msg_number` counts messages.
    frame : int
        Number of the first spectrum in the series.
    counts : (D,) or (n, D)
        One of the dtypes of the protocol; sent without a copy where it is contiguous.
    index : optional
        Flat positions; an array travels as a part of its own.
    crc : bool
        Add a ``crc32`` over the array parts.
    **keys
        Optional keys (`dwell_s`, `revision`, `t_ns`, ...); ``pass_`` stands for ``pass``.
    """
    if "pass_" in keys:
        keys["pass"] = keys.pop("pass_")
    head: dict[str, Any] = {"htype": "image", "msg_number": msg_number, "series": series, "frame": frame}
    head |= {"shape": list(counts.shape), "type": counts.dtype.name, **keys}
    return _finish(head, [raw(counts)], index, crc, pack)


def encode_events(
    series: str,
    msg_number: int,
    frame: int,
    offsets: NDArray[Any],
    channels: NDArray[Any],
    n_channels: int,
    *,
    index: int | Sequence[int] | NDArray[np.uint32] | None = None,
    crc: bool = False,
    pack: Pack = pack_map,
    **keys: Any,
) -> list[Part]:
    """Encode spectra as lists of events.

    Parameters
    ----------
    offsets : uint32[n + 1]
        Counts of spectrum i are ``channels[offsets[i]:offsets[i + 1]]``.
    channels : uint16 or uint32
        The channel of every single count.
    n_channels : int
        D.
    """
    if "pass_" in keys:
        keys["pass"] = keys.pop("pass_")
    head: dict[str, Any] = {"htype": "events", "msg_number": msg_number, "series": series, "frame": frame}
    head |= {"shape": [len(offsets) - 1, n_channels], "type": channels.dtype.name, **keys}
    return _finish(head, [raw(offsets.astype("<u4", copy=False)), raw(channels)], index, crc, pack)


def encode_heartbeat(series: str, last_msg_number: int, *, pack: Pack = pack_map, **keys: Any) -> list[Part]:
    """Encode a sign of life (`n_sent`, `replay` as keys)."""
    head = {"htype": "heartbeat", "msg_number": last_msg_number, "series": series}
    return [pack({**head, "last_msg_number": last_msg_number, **keys})]


def encode_series_end(
    series: str,
    msg_number: int,
    n_sent: int,
    *,
    exit_status: str = "success",
    pack: Pack = pack_map,
    **keys: Any,
) -> list[Part]:
    """Encode the end of a series; `n_messages` is filled in."""
    head: dict[str, Any] = {
        "htype": "series_end",
        "msg_number": msg_number,
        "series": series,
        "n_sent": n_sent,
    }
    return [pack({**head, "n_messages": msg_number + 1, "exit_status": exit_status, **keys})]
