"""Spectrum images from files: whatever RosettaSciIO reads, and .npz files of the layouts described below.

An .npz has either ``data`` (y, x, D) or (n, D), or one row for each non-empty channel: ``frame``, ``y``, ``x``,
``ch``, ``count`` and ``shape`` (frames, y, x, D). Both have ``axis`` (D values) and may have ``axis_name``,
``axis_units``, ``pos`` (coordinates of a list of points) and ``meta`` (JSON).
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from simulator.axis import Axis
from simulator.velox import has_streams, read_streams
from streamer.wire.data import DTYPES

MOST_SPARSE = 0.05
"""Integer data with fewer non-empty channels than this are kept sparse."""
PROBED_SPECTRA = 4096
"""Spectra, evenly spread, on which that is judged."""
PART_BYTES = 1 << 26
"""Data are searched for counts in parts of this size: what is empty of a huge file need not be in memory."""


class UnreadableError(ValueError):
    """No reader could make anything of a file."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """A measured spectrum image.

    Parameters
    ----------
    counts : array (frames * n, D) or scipy.sparse.csr_array
        Frame after frame, each in C order of `nav_shape`.
    frames : int
        Complete measurements of all n positions.
    nav_shape : tuple of int
    axis : Axis
    technique : str
        As the wire names it.
    nav_axes : list of maps
    positions : f8[n, d], optional
        Coordinates of points that are no grid.
    dwell_s : float, optional
        Of one position and frame.
    """

    title: str
    counts: Any
    frames: int
    nav_shape: tuple[int, ...]
    axis: Axis
    technique: str = "other"
    nav_axes: tuple[Mapping[str, Any], ...] = ()
    positions: NDArray[np.float64] | None = None
    dwell_s: float | None = None

    @property
    def is_sparse(self) -> bool:
        """Whether `counts` is a sparse matrix."""
        return bool(sp.issparse(self.counts))

    @property
    def is_counts(self) -> bool:
        """Whether every value is a whole number that is not negative."""
        values = self.counts.data if self.is_sparse else self.counts
        whole = np.issubdtype(values.dtype, np.integer) or bool(np.all(values == np.rint(values)))
        return whole and bool(values.size == 0 or values.min() >= 0)

    def mean_counts(self) -> float:
        """Return the mean sum of a spectrum of one frame."""
        total, n = float(self.counts.sum(dtype=np.float64)), int(self.counts.shape[0])
        return total / n

    def measured(self) -> NDArray[np.bool_]:
        """Return which positions have numbers in all channels and frames, bool[n]."""
        n = int(np.prod(self.nav_shape))
        if self.is_sparse or self.counts.dtype.kind != "f":
            return np.ones(n, dtype=bool)
        finite: NDArray[np.bool_] = np.isfinite(self.counts).all(axis=1).reshape(self.frames, n).all(axis=0)
        return finite


def read(path: Path) -> Recorded:
    """Read a file.

    Raises
    ------
    ValueError
        Where it holds no spectrum image, or no reader knows it.
    OSError
        Where it cannot be opened.
    """
    if path.suffix.lower() == ".npz":
        try:
            archive = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, BadZipFile) as error:
            raise UnreadableError(f"{path.name} is no .npz file ({error})") from error
        with archive:
            return _from_npz(path.stem, dict(archive))
    try:
        return _from_rosetta(path)
    except UnreadableError:
        # RosettaSciIO needs a package of its own for event streams, and all of Velox's metadata.
        if not has_streams(path):
            raise
        return _from_velox(path)


def _from_npz(name: str, arrays: dict[str, NDArray[Any]]) -> Recorded:
    if "axis" not in arrays or not ({"data", "count"} & set(arrays)):
        raise ValueError(f"{name}: an .npz needs 'axis', and 'data' or 'frame', 'y', 'x', 'ch', 'count', 'shape'")
    meta: dict[str, Any] = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
    axis = Axis(str(arrays.get("axis_name", "")), str(arrays.get("axis_units", "")), arrays["axis"].astype(np.float64))
    if "data" in arrays:
        data = arrays["data"]
        counts, frames, nav_shape = data.reshape(-1, data.shape[-1]), 1, data.shape[:-1]
    else:
        frames, *nav, n_channels = (int(n) for n in arrays["shape"])
        counts, nav_shape = _sparse(arrays, frames, nav, n_channels), tuple(nav)
    if counts.shape[1] != axis.size:
        raise ValueError(f"{name}: {counts.shape[1]} channels, but the axis has {axis.size}")
    places = arrays.get("pos")
    if places is not None:
        places = places.reshape(len(places), -1).astype(np.float64)
        # Points that were never located stay a plain list.
        places = places if len(places) == counts.shape[0] and bool(np.isfinite(places).all()) else None
    dwell_s = meta.get("dwell_s")
    return Recorded(
        name, counts if sp.issparse(counts) else _wire_dtype(name, counts), frames, nav_shape, axis,
        _technique(str(meta.get("technique", ""))), _nav_axes(meta.get("nav_axes"), len(nav_shape)), places,
        float(dwell_s) if dwell_s else None,
    )  # fmt: skip


def _sparse(arrays: Mapping[str, NDArray[Any]], frames: int, nav: Sequence[int], n_channels: int) -> Any:
    ny, nx = nav
    rows = (arrays["frame"].astype(np.int64) * ny + arrays["y"]) * nx + arrays["x"]
    values = arrays["count"].astype(np.int64)
    matrix = sp.coo_array((values, (rows, arrays["ch"])), shape=(frames * ny * nx, n_channels))
    return matrix.tocsr()


def _wire_dtype(name: str, data: NDArray[Any]) -> NDArray[Any]:
    """Return data in a dtype of the wire, without loss of counts."""
    if data.dtype.name in DTYPES:
        return data
    if np.issubdtype(data.dtype, np.integer):
        for candidate in (np.uint32, np.int32):
            limits = np.iinfo(candidate)
            if data.min() >= limits.min and data.max() <= limits.max:
                return data.astype(candidate)
        raise ValueError(f"{name}: whole numbers beyond 32 bits")
    if np.issubdtype(data.dtype, np.floating):
        return data.astype(np.float32 if data.dtype.itemsize < 4 else np.float64)
    if data.dtype == np.bool_:
        return data.astype(np.uint8)
    raise ValueError(f"{name}: values of type {data.dtype} are no counts")


def _technique(said: str) -> str:
    upper = said.upper()
    return next((t for t in ("eels", "eds", "xrd", "xps", "raman") if t.upper() in upper), "other")


def _nav_axes(listed: Any, dimensions: int) -> tuple[Mapping[str, Any], ...]:
    keys = ("name", "units", "offset", "scale")
    axes = [{k: a[k] for k in keys if k in a} for a in listed or []]
    # A leading time axis belongs to the frames.
    return tuple(axes[-dimensions:]) if len(axes) >= dimensions else ()


def _from_rosetta(path: Path) -> Recorded:
    if not path.is_file() and not path.is_dir():
        raise FileNotFoundError(f"no file {path}")
    found = _signals(path)
    images = [s for s in found if _is_image(s)]
    if not images:
        shapes = ", ".join(" x ".join(map(str, np.shape(s["data"]))) for s in found)
        raise ValueError(f"{path.name}: no spectra of several positions in it, only data of {shapes or 'no'} values")
    largest = max(images, key=lambda s: np.asarray(s["data"]).size)
    return _from_signal(path.stem, largest)


def _navigates(signal: Mapping[str, Any]) -> list[bool]:
    """Return for each axis whether it is one of positions; old files say only that there are spectra."""
    axes = signal["axes"]
    if all("navigate" in a for a in axes):
        return [bool(a["navigate"]) for a in axes]
    spectra = signal.get("metadata", {}).get("Signal", {}).get("record_by") == "spectrum"
    return [True] * (len(axes) - 1) + [not spectra]


def _is_image(signal: Mapping[str, Any]) -> bool:
    navigates = _navigates(signal)
    return navigates.count(False) == 1 and navigates.count(True) in (1, 2, 3) and np.size(signal["data"]) > 0


def _from_velox(path: Path) -> Recorded:
    found = read_streams(path)
    return Recorded(
        path.stem, found.counts, found.frames, found.nav_shape, found.axis, "eds", found.nav_axes,
        dwell_s=found.dwell_s,
    )  # fmt: skip


def _signals(path: Path) -> list[dict[str, Any]]:
    from rsciio import IO_PLUGINS

    extension = path.suffix.lower().lstrip(".")
    readers = [p for p in IO_PLUGINS if extension in {e.lower() for e in p["file_extensions"]}]
    kind = f"files *.{extension}" if extension else "a folder" if path.is_dir() else "files without an ending"
    problems = [] if readers else [f"no reader for {kind}"]
    for plugin in readers:
        try:
            reader = importlib.import_module(plugin["api"]).file_reader
            options = {"sum_frames": False} if "sum_frames" in inspect.signature(reader).parameters else {}
            signals: list[dict[str, Any]] = reader(str(path), **options)
        except Exception as error:
            # Several readers share an extension; each fails over the others' files in its own way.
            problems.append(f"{plugin['name']}: {type(error).__name__}: {error}")
        else:
            return signals
    raise UnreadableError(f"{path.name} cannot be read ({'; '.join(problems)})")


def _from_signal(name: str, signal: Mapping[str, Any]) -> Recorded:
    axes, navigates = signal["axes"], _navigates(signal)
    spectral = navigates.index(False)
    data = np.moveaxis(np.asarray(signal["data"]), spectral, -1)
    navigation = [a for a, is_position in zip(axes, navigates, strict=True) if is_position]
    frames, nav_shape = 1, data.shape[:-1]
    if len(nav_shape) == 3:
        # Three navigation axes of a map are its frames, lines and columns.
        frames, nav_shape, navigation = nav_shape[0], nav_shape[1:], navigation[1:]
    kind = str(signal.get("metadata", {}).get("Signal", {}).get("signal_type", ""))
    counts: Any = _wire_dtype(name, np.ascontiguousarray(data.reshape(-1, data.shape[-1])))
    probe = counts[:: max(1, len(counts) // PROBED_SPECTRA)]
    if counts.dtype.kind in "iu" and np.count_nonzero(probe) < MOST_SPARSE * probe.size:
        counts = _without_empty(counts)
    axis = _signal_axis(axes[spectral], data.shape[-1])
    return Recorded(name, counts, frames, nav_shape, axis, _technique(kind), _plain_axes(navigation))


def _without_empty(counts: NDArray[Any]) -> Any:
    """Return counts (n, D) as a sparse matrix of int64."""
    rows = max(1, PART_BYTES // (counts.shape[1] * counts.itemsize))
    parts = [sp.csr_array(counts[i : i + rows]).astype(np.int64) for i in range(0, len(counts), rows)]
    return sp.vstack(parts, format="csr")


def _plain_axes(axes: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    if not all("scale" in a for a in axes):
        return ()
    return tuple(
        {"name": str(a.get("name") or ""), "units": str(a.get("units") or ""),
         "offset": float(a.get("offset", 0.0)), "scale": float(a["scale"])}
        for a in axes
    )  # fmt: skip


def _signal_axis(axis: Mapping[str, Any], size: int) -> Axis:
    name, units = str(axis.get("name") or ""), str(axis.get("units") or "")
    values = axis.get("axis")
    if values is None:
        values = float(axis.get("offset", 0.0)) + float(axis.get("scale", 1.0)) * np.arange(size)
    return Axis(name, units, np.asarray(values, dtype=np.float64))
