"""A labelled library of known phases as its user gives it: a TOML file that names CSV files beside it.

``library.toml``::

    title = "Steel, diffractometer 2"
    technique = "xrd"              # eds, eels, xrd, xps, raman, other
    units = "deg"                  # of the first column of the spectra, and of the scans it is used for
    wavelength_a = 1.540593        # xrd with lines: of the radiation, angstrom
    # onset = 700.0                # eels: shares are mapped of references whose edge begins above, in units

    [[references]]
    name = "ferrite"               # the same name again: another spectrum of the same phase
    lines = "ferrite.csv"          # xrd: two columns, d in angstrom and integrated intensity

    [[references]]
    name = "glass"
    spectrum = "glass.csv"         # two columns, place on the axis and intensity, background included
    counts = 50000                 # how many counts the spectrum is worth; absent: its sum where it holds whole
                                   # numbers, a million where it was computed

Lines that begin with # are comments in the CSV files, too.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from models.base import Float64

FILE = "library.toml"
TECHNIQUES = ("eds", "eels", "xrd", "xps", "raman", "other")
COMPUTED_COUNTS = 1e6
_MOST_REFERENCES, _MOST_VALUES = 256, 1 << 17
_PER_BASE = {"ev": 1.0, "kev": 1e3, "mev": 1e-3}
_KEYS: dict[str, type] = {
    "title": str,
    "technique": str,
    "units": str,
    "wavelength_a": float,
    "onset": float,
    "references": list,
}


@dataclass(frozen=True, eq=False)
class Reference:
    """A phase's spectrum (`values` on the axis, rising) or diffraction lines (`values` are d in angstrom, rising)."""

    name: str
    kind: Literal["spectrum", "lines"]
    values: Float64
    intensities: Float64
    counts: float


@dataclass(frozen=True, eq=False)
class Library:
    """Known phases of one technique.

    Attributes
    ----------
    path : str
        Where it was read from.
    wavelength_a : float, optional
        Radiation of diffraction lines.
    onset : float, optional
        Edge of the references whose shares are mapped, in `units`.
    """

    path: str
    technique: str
    units: str
    references: tuple[Reference, ...]
    title: str = ""
    wavelength_a: float | None = None
    onset: float | None = None
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(dict.fromkeys(r.name for r in self.references)))
        _check(self)

    @property
    def of_reference(self) -> NDArray[np.int64]:
        """Which of `names` each reference belongs to, (R,)."""
        return np.array([self.names.index(r.name) for r in self.references], dtype=np.int64)

    def on_axis(self, values: Float64, units: str) -> Float64:
        """Reference spectra per channel of another axis, f8[R, D], each with the sum that falls on it.

        Parameters
        ----------
        values : f8[D]
            Channel centres, rising or falling.

        Raises
        ------
        ValueError
            Where units differ in kind, or a spectrum covers less than nine tenths of the axis.
        """
        factor = _unit_factor(self.units, units)
        edges = _edges(values)
        low, high = sorted((float(edges[0]), float(edges[-1])))
        rows = []
        for reference in self.references:
            if reference.kind != "spectrum":
                raise ValueError(f"{reference.name}: lines have no spectrum of their own")
            own = _edges(reference.values * factor)
            covered = min(own[-1], high) - max(own[0], low)
            if covered < 0.9 * (high - low):
                text = f"{own[0]:g} to {own[-1]:g} {units}, the scan {low:g} to {high:g}"
                raise ValueError(f"{reference.name}: the reference goes from {text}")
            total = np.concatenate([[0.0], np.cumsum(reference.intensities)])
            rows.append(np.abs(np.diff(np.interp(edges, own, total))))
        return np.array(rows)

    def to_map(self) -> dict[str, Any]:
        """Return all of it as plain numbers and strings."""
        entries = [asdict(r) for r in self.references]
        for entry in entries:
            entry |= {k: entry[k].tolist() for k in ("values", "intensities")}
        head = {k: getattr(self, k) for k in ("path", "technique", "units", "title", "wavelength_a", "onset")}
        return head | {"references": entries}

    @classmethod
    def from_map(cls, said: Mapping[str, Any]) -> Self:
        """Rebuild it from `to_map`."""
        columns = ("values", "intensities")
        entries = [{**r, **{k: np.asarray(r[k], dtype=np.float64) for k in columns}} for r in said["references"]]
        return cls(**{**said, "references": tuple(Reference(**r) for r in entries)})


def read_library(path: Path) -> Library:
    """Read a library.

    Parameters
    ----------
    path : Path
        The TOML file, or its folder.

    Raises
    ------
    ValueError
        Saying which file, which key and what is wrong; also where a file cannot be read.
    """
    file = path / FILE if path.is_dir() else path
    try:
        said = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"library {file} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"library {file} is no TOML: {error}") from error
    try:
        return _library(file, said)
    except ValueError as error:
        raise ValueError(f"library {file}: {error}") from error


def _library(file: Path, said: Mapping[str, Any]) -> Library:
    for key, value in said.items():
        if key not in _KEYS:
            raise ValueError(f"no such key {key!r}; there are {', '.join(_KEYS)}")
        wanted: tuple[type, ...] = (int, float) if _KEYS[key] is float else (_KEYS[key],)
        if type(value) not in wanted:
            raise ValueError(f"{key} = {value!r}: a {_KEYS[key].__name__} is wanted")
    missing = [key for key in ("technique", "units", "references") if key not in said]
    if missing:
        raise ValueError(f"the key {missing[0]!r} is missing")
    if len(said["references"]) > _MOST_REFERENCES:
        raise ValueError(f"{len(said['references'])} references are more than {_MOST_REFERENCES}")
    references = tuple(_reference(file.parent, entry) for entry in said["references"])
    numbers = {k: float(said[k]) for k in ("wavelength_a", "onset") if k in said}
    return Library(str(file), said["technique"], said["units"], references, said.get("title", ""), **numbers)


def _reference(folder: Path, entry: Any) -> Reference:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise ValueError("each of [[references]] needs a name")
    name = entry["name"]
    kinds = [k for k in ("spectrum", "lines") if k in entry]
    unknown = set(entry) - {"name", "spectrum", "lines", "counts"}
    if unknown or len(kinds) != 1:
        what = f"no such key {sorted(unknown)[0]!r}" if unknown else "give either 'spectrum' or 'lines'"
        raise ValueError(f"{name}: {what}")
    kind: Literal["spectrum", "lines"] = "spectrum" if kinds == ["spectrum"] else "lines"
    values, intensities = _columns(name, folder / str(entry[kind]))
    counts = entry.get("counts", _worth(intensities))
    if not isinstance(counts, int | float) or not counts > 0:
        raise ValueError(f"{name}: counts = {counts!r} must be a positive number")
    return Reference(name, kind, values, intensities, float(counts))


def _columns(name: str, file: Path) -> tuple[Float64, Float64]:
    """Two columns of a CSV file, sorted by the first."""
    try:
        table = np.loadtxt(file, delimiter=",", comments="#", ndmin=2, dtype=np.float64)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: {file.name} cannot be read: {error}") from error
    if table.shape[1] != 2 or len(table) > _MOST_VALUES:
        raise ValueError(f"{name}: {file.name} needs two columns and at most {_MOST_VALUES} rows, not {table.shape}")
    order = np.argsort(table[:, 0], kind="stable")
    return table[order, 0], table[order, 1]


def _worth(intensities: Float64) -> float:
    whole = bool(np.all(intensities == np.rint(intensities)))
    return max(float(intensities.sum()), 1.0) if whole else COMPUTED_COUNTS


def _check(library: Library) -> None:
    if library.technique not in TECHNIQUES:
        raise ValueError(f"technique {library.technique!r} is none of {', '.join(TECHNIQUES)}")
    if not library.references:
        raise ValueError("it holds no references")
    for r in library.references:
        least = 8 if r.kind == "spectrum" else 1
        if len(r.values) < least or not (np.isfinite(r.values).all() and np.isfinite(r.intensities).all()):
            raise ValueError(f"{r.name}: at least {least} rows of finite numbers are needed")
        if (np.diff(r.values) <= 0).any():
            raise ValueError(f"{r.name}: two rows have the same first column")
        if (r.intensities < 0).any() or not r.intensities.any():
            raise ValueError(f"{r.name}: intensities must not be negative, nor all zero")
        if r.kind == "lines" and (library.technique != "xrd" or not library.wavelength_a or r.values[0] <= 0):
            raise ValueError(f"{r.name}: lines need technique 'xrd', wavelength_a, and positive spacings")


def _unit_factor(own: str, wanted: str) -> float:
    first, second = own.strip().lower(), wanted.strip().lower()
    if first == second:
        return 1.0
    if first in _PER_BASE and second in _PER_BASE:
        return _PER_BASE[first] / _PER_BASE[second]
    raise ValueError(f"the library is in {own or 'no units'}, the scan in {wanted or 'no units'}")


def _edges(values: Float64) -> Float64:
    inner = 0.5 * (values[1:] + values[:-1])
    return np.concatenate([[2 * values[0] - inner[0]], inner, [2 * values[-1] - inner[-1]]])
