"""A finished series as its folder keeps it: maps, basis, axis, books; read without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from streamer.wire.data import AxisMap, NavAxisMap

FINAL = "final.npz"
_MOST_NM: Final = 10_000.0
"""From here on the numbers of an axis in nm are too long to stand beside each other."""


@dataclass(frozen=True)
class NavAxis:
    """One axis of the scan: position i lies at offset + i * scale, in units."""

    name: str
    units: str
    offset: float
    scale: float

    @property
    def label(self) -> str:
        """Return name and units as a figure shows them."""
        return f"{self.name} ({self.units})" if self.units else self.name

    def legible(self, n: int) -> NavAxis:
        """Return the axis in µm where `n` positions in nm are numbers that nobody can read."""
        if self.units != "nm" or max(map(abs, self.edges(n))) < _MOST_NM:
            return self
        return NavAxis(self.name, "µm", self.offset / 1000, self.scale / 1000)

    def edges(self, n: int) -> tuple[float, float]:
        """Return where the first of `n` positions begins and the last one ends."""
        return self.offset - 0.5 * self.scale, self.offset + (n - 0.5) * self.scale


@dataclass(frozen=True)
class Run:
    """What is known of a finished series.

    Parameters
    ----------
    header : map
        Fields of the series' header as understood.
    maps : map of arrays
        Over nav_shape, by name without ``map/``.
    axis : f8[D]
        Calibrated spectral axis.
    basis : map of arrays
        mean f4[D], eigenspectra f4[K, D], eigenvalues f4[m]; empty where no model was made.
    endmembers : f4[M, D], optional
        Spectra of the end-members that ``meta`` lists.
    positions : f8[n, d], optional
        Coordinates of positions that are no grid.
    meta : map
        books, noise_edge, rank, model, timings, decisions, status.
    """

    header: Mapping[str, Any]
    maps: Mapping[str, NDArray[Any]]
    axis: NDArray[np.float64]
    basis: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    endmembers: NDArray[np.float32] | None = None
    positions: NDArray[np.float64] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``final.npz`` of a folder.

        Raises
        ------
        OSError
            Where it is not there.
        ValueError
            Where it is no such file.
        """
        with np.load(folder / FINAL, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if "meta" not in arrays:
            raise ValueError(f"{folder / FINAL} has no 'meta': it is no result of scanwise")
        meta = json.loads(str(arrays["meta"]))
        return cls(
            header=meta.get("header", {}),
            maps=_below(arrays, "map/"),
            axis=arrays.get("axis/values", np.empty(0)),
            basis=_below(arrays, "basis/"),
            endmembers=arrays.get("endmembers/spectra"),
            positions=arrays.get("positions"),
            meta={k: v for k, v in meta.items() if k != "header"},
        )

    @property
    def series(self) -> str:
        """Name of the series."""
        return str(self.header.get("series", "?"))

    def as_drawn(self) -> Self:
        """The same; where a grid has one line or one column, it is a line and not a map one pixel high."""
        shape = self.nav_shape
        long = [i for i, n in enumerate(shape) if n > 1]
        if len(shape) < 2 or len(long) != 1:
            return self
        (i,) = long
        header = {**self.header, "nav_shape": [shape[i]]}
        if len(axes := list(self.header.get("nav_axes") or [])) == len(shape):
            header["nav_axes"] = [axes[i]]
        maps = {name: values.reshape(shape[i], *values.shape[len(shape) :]) for name, values in self.maps.items()}
        return replace(self, header=header, maps=maps)

    @property
    def nav_shape(self) -> tuple[int, ...]:
        """Shape of the scan."""
        shape = self.header.get("nav_shape") or next(iter(self.maps.values())).shape
        return tuple(int(n) for n in shape)

    @property
    def nav_axes(self) -> list[NavAxis]:
        """Axes of the scan, slowest first, by index where the header names none."""
        named: Sequence[Any] = self.header.get("nav_axes") or []
        if len(named) != len(self.nav_shape):
            names = ["z", "y", "x"][-len(self.nav_shape) :]
            return [NavAxis(n, "position", 0.0, 1.0) for n in names]
        axes = [NavAxisMap.model_validate(a) for a in named]
        return [
            NavAxis(a.name, a.units, a.offset, a.scale).legible(n) for a, n in zip(axes, self.nav_shape, strict=True)
        ]

    @property
    def axis_label(self) -> str:
        """Return name and units of the spectral axis."""
        if "axis" not in self.header:
            return "channel"
        axis = AxisMap.model_validate(self.header["axis"])
        return f"{axis.name or 'axis'} ({axis.units})" if axis.units else axis.name or "channel"

    @property
    def windows(self) -> list[str]:
        """Labels of energy windows that have a raw and a denoised map."""
        labels = (name.removeprefix("window/") for name in self.maps if name.startswith("window/"))
        return [label for label in labels if f"raw/{label}" in self.maps]

    @property
    def books(self) -> Mapping[str, Any]:
        """n_sent, received, processed, lost, rejected, duplicates, exit_status."""
        books: Mapping[str, Any] = self.meta.get("books") or {}
        return books

    @property
    def balanced(self) -> bool:
        """Whether every spectrum sent is processed or lost for a known reason (protocol.md, 1.2)."""
        lost = sum((self.books.get("lost") or {}).values())
        return bool(self.books) and self.books.get("n_sent") == self.books.get("processed", 0) + lost

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """Each decision once, with its outcome and answer where there are such."""
        merged: dict[Any, dict[str, Any]] = {}
        for entry in self.meta.get("decisions") or []:
            merged.setdefault(entry.get("decision"), {}).update(entry)
        return list(merged.values())


def at_equal_dwell(values: NDArray[Any], dwell_s: NDArray[Any] | None) -> tuple[NDArray[Any], float | None]:
    """Scale counts to what they would be had every position got the median dwell, to be looked at.

    Returns
    -------
    values : array like `values`
    dwell_s : float or None
        The median dwell; None where all got the same (or nobody knows), and `values` are as they were.
    """
    if dwell_s is None or dwell_s.shape != values.shape:
        return values, None
    measured = np.isfinite(dwell_s) & (dwell_s > 0)
    if not measured.any() or np.ptp(dwell_s[measured]) <= 1e-3 * dwell_s[measured].max():
        return values, None
    median_s = float(np.median(dwell_s[measured]))
    return values * np.divide(median_s, dwell_s, out=np.full(dwell_s.shape, np.nan), where=measured), median_s


def _below(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
