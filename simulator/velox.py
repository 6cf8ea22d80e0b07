"""Event streams as Velox keeps them in its EMD files: in scan order, each count by its channel.

A stream is uint16: 65535 ends a pixel, every other value is the channel of one count. Frame follows frame, and
each segment of the detector has a stream of its own (RosettaSciIO, ``emd._emd_velox`` and
``utils._fei_stream_readers``, reads them so).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from simulator.axis import Axis
from streamer.wire import Events

NEXT_PIXEL = 65535
STREAMS = "Data/SpectrumStream"
Stream = NDArray[np.uint16]


def to_events(stream: Stream) -> Events:
    """Return the events of a stream; counts after the last mark are those of one more pixel."""
    is_mark = stream == NEXT_PIXEL
    marks = np.flatnonzero(is_mark)
    ends = marks - np.arange(len(marks))
    channels = stream[~is_mark]
    if len(channels) > (ends[-1] if len(ends) else 0):
        ends = np.append(ends, len(channels))
    return Events(np.concatenate([[0], ends]).astype(np.int64), channels)


@dataclass(frozen=True, eq=False)
class VeloxMap:
    """What the streams of a file hold, all segments summed.

    Parameters
    ----------
    counts : scipy.sparse.csr_array
        (frames * ny * nx, D).
    frames : int
    nav_shape : (ny, nx)
    axis : Axis
    nav_axes : tuple of maps
        Empty where the file does not tell them.
    dwell_s : float, optional
    """

    counts: Any
    frames: int
    nav_shape: tuple[int, int]
    axis: Axis
    nav_axes: tuple[Mapping[str, Any], ...] = ()
    dwell_s: float | None = None


def has_streams(path: Path) -> bool:
    """Whether a file is HDF5 with event streams in it."""
    # Slow to import, and needed by few files.
    import h5py

    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return len(file.get(STREAMS, ())) > 0


def read_streams(path: Path) -> VeloxMap:
    """Read the event streams of a Velox file; a frame that was not finished is empty in what is missing.

    Raises
    ------
    ValueError
        Where the file contradicts itself, or does not tell how large the scan is.
    """
    import h5py

    with h5py.File(path, "r") as file:
        groups = list(file[STREAMS].values())
        settings = _json(groups[0]["AcquisitionSettings"][0])
        if settings.get("StreamEncoding", "uint16") != "uint16":
            raise ValueError(f"{path.name}: event streams of {settings['StreamEncoding']}, only uint16 is known")
        n_channels, nav_shape = int(settings["bincount"]), _scan_size(path.name, file, settings)
        events = [to_events(group["Data"][:, 0]) for group in groups]
        said = _json(groups[0]["Metadata"][:, 0].tobytes()) if "Metadata" in groups[0] else {}
        n = nav_shape[0] * nav_shape[1]
        frames = _frames(file) or max(1, -(-max(len(e.offsets) - 1 for e in events) // n))
    dwell = said.get("Scan", {}).get("DwellTime")
    return VeloxMap(
        _summed(path.name, events, frames * n, n_channels), frames, nav_shape, _axis(said, n_channels),
        _nav_axes(said), float(dwell) if dwell else None,
    )  # fmt: skip


def _json(value: Any) -> dict[str, Any]:
    text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
    found: dict[str, Any] = json.loads(text.rstrip("\x00"))
    return found


def _scan_size(name: str, file: Any, settings: Mapping[str, Any]) -> tuple[int, int]:
    # The raster may be larger than the part of it that was scanned; an image has the size of that.
    for image in file.get("Data/Image", {}).values():
        ny, nx = image["Data"].shape[:2]
        return int(ny), int(nx)
    raster = settings.get("RasterScanDefinition")
    if raster is None:
        raise ValueError(f"{name}: neither an image nor the acquisition settings tell the size of the scan")
    return int(raster["Height"]), int(raster["Width"])


def _frames(file: Any) -> int | None:
    for image in file.get("Data/SpectrumImage", {}).values():
        if "SpectrumImageSettings" in image:
            return int(_json(image["SpectrumImageSettings"][0])["endFramePosition"])
    return None


def _summed(name: str, streams: Sequence[Events], n_spectra: int, n_channels: int) -> Any:
    rows = np.concatenate([np.repeat(np.arange(len(e.offsets) - 1), np.diff(e.offsets)) for e in streams])
    channels = np.concatenate([e.channels for e in streams]).astype(np.int64)
    if channels.size and channels.max() >= n_channels:
        raise ValueError(f"{name}: a count in channel {channels.max()}, the settings have {n_channels}")
    # What was measured after the last frame that the file counts belongs to no frame.
    inside = rows < n_spectra
    ones = np.ones(np.count_nonzero(inside), dtype=np.int64)
    return sp.coo_array((ones, (rows[inside], channels[inside])), shape=(n_spectra, n_channels)).tocsr()


def _axis(said: Mapping[str, Any], n_channels: int) -> Axis:
    name = said.get("BinaryResult", {}).get("Detector", "")
    for detector in said.get("Detectors", {}).values():
        if name and name in detector.get("DetectorName", "") and "Dispersion" in detector:
            offset, step = float(detector.get("OffsetEnergy", 0)) / 1000, float(detector["Dispersion"]) / 1000
            return Axis("Energy", "keV", offset + step * np.arange(n_channels, dtype=np.float64))
    return Axis("channel", "", np.arange(n_channels, dtype=np.float64))


def _nav_axes(said: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    result = said.get("BinaryResult", {})
    if "PixelSize" not in result:
        return ()
    units, offset = str(result.get("PixelUnitX", "")), result.get("Offset", {})
    sides = (("y", "height"), ("x", "width"))
    return tuple(
        {"name": n, "units": units, "offset": float(offset.get(n, 0.0)), "scale": float(result["PixelSize"][side])}
        for n, side in sides
    )
