"""Specimens by name or by TOML file, with their truth kept factored: abundances and end-members."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from simulator.axis import Axis
from simulator.complaints import complaint, unknown
from simulator.layout import Canvas, Stroke
from simulator.techniques.base import Described, EndMembers, Phase, Technique
from simulator.techniques.registry import TECHNIQUES

Floats = NDArray[np.float64]
RARE_SHARE = 0.05
"""A position belongs to an unexpected phase where this share of its counts is of it."""


class AxisRange(Described):
    """An axis from its first channel to just past its last."""

    start: float
    stop: float
    channels: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.start == self.stop:
            raise ValueError(f"an axis that begins and ends at {self.start:g} is empty")
        return self


class SpecimenFile(Described):
    """A specimen as its TOML file describes it."""

    title: str
    technique: str
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    step_nm: Annotated[float, Field(gt=0)] = 5.0
    counts: Annotated[float, Field(gt=0)]
    axis: AxisRange
    phases: Annotated[list[dict[str, Any]], Field(min_length=1)]
    conditions: dict[str, Any] = Field(default_factory=dict)
    layout: Annotated[list[Stroke], Field(min_length=1)]


@dataclass(frozen=True, eq=False)
class Specimen:
    """What is under the beam, with its truth.

    Expected counts of position i at a dose of c counts are ``c * abundances[i] @ endmembers``; over the
    map they have a mean sum of c.

    Parameters
    ----------
    name, title, technique : str
    axis : Axis
    nav_shape : (ny, nx)
    step_nm : float
        Distance of neighbouring positions.
    phases : tuple of str
        Names of the M end-members.
    endmembers : f8[M, D]
        Expected spectra; their mean over the map, weighted by abundance, sums to 1.
    abundances : f8[n, M]
        How much of each phase a position has, thickness and live time included.
    unexpected : tuple of str
        Names of phases that nobody counts on.
    counts : float
        The mean counts of a visit that the specimen suggests.
    bleaching : f8[M, D], optional
        The part of the end-members that light destroys.
    metadata : map
        Type of signal and conditions as HyperSpy names them.
    """

    name: str
    title: str
    technique: str
    axis: Axis
    nav_shape: tuple[int, int]
    step_nm: float
    phases: tuple[str, ...]
    endmembers: Floats
    abundances: Floats
    unexpected: tuple[str, ...]
    counts: float
    bleaching: Floats | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_positions(self) -> int:
        """Number of positions of the map."""
        return len(self.abundances)

    def expected(self, positions: NDArray[Any] | slice = slice(None)) -> Floats:
        """Return expected spectra at unit dose, f8[n, D]."""
        return np.asarray(self.abundances[positions] @ self.endmembers)

    def phase_map(self) -> NDArray[np.int32]:
        """Return the phase with most counts at each position, i4[ny, nx]."""
        best: NDArray[np.int32] = np.argmax(self._shares(), axis=1).astype(np.int32)
        return best.reshape(self.nav_shape)

    def rare_positions(self) -> NDArray[np.int64]:
        """Return flat positions that hold a phase nobody expects, sorted."""
        columns = [self.phases.index(name) for name in self.unexpected]
        return np.flatnonzero(self._shares()[:, columns].max(axis=1, initial=0.0) > RARE_SHARE)

    def _shares(self) -> Floats:
        signal = self.abundances * self.endmembers.sum(axis=1)
        total = signal.sum(axis=1, keepdims=True)
        return np.asarray(np.divide(signal, total, out=np.zeros_like(signal), where=total > 0))

    def truth(self, counts: float) -> dict[str, Any]:
        """Return the truth as arrays; expected counts of one visit are abundances @ endmembers."""
        return {
            "abundances": self.abundances,
            "endmembers": counts * self.endmembers,
            "names": np.array(self.phases),
            "unexpected": np.array(self.unexpected, dtype="U64"),
            "rare": self.rare_positions(),
            "phase": self.phase_map(),
            "axis": self.axis.values,
            "axis_units": np.array(self.axis.units),
            "nav_shape": np.array(self.nav_shape),
            "counts": np.array(counts),
            "specimen": np.array(self.name),
        }

    def save(self, path: Path, counts: float, points: NDArray[np.uint32] | None = None) -> None:
        """Write the truth of the map as .npz, and which of its positions are the points of a list."""
        listed: dict[str, Any] = {} if points is None else {"points": points}
        np.savez_compressed(path, **self.truth(counts), **listed)


def specimen_names() -> list[str]:
    """Return the names of the specimens that come with the simulator."""
    names = [p.name for p in files("simulator.specimens").iterdir()]
    return sorted(n.removesuffix(".toml") for n in names if n.endswith(".toml"))


def load_specimen(
    name: str, *, seed: int = 0, shape: tuple[int, int] | None = None, channels: int | None = None
) -> Specimen:
    """Build a specimen.

    Parameters
    ----------
    name : str
        One of `specimen_names`, or the path of a TOML file.
    seed : int
        Where grains and particles lie.
    shape : (ny, nx), optional
        Another size of the map; layouts scale with it.
    channels : int, optional
        Another number of channels over the same range.

    Raises
    ------
    ValueError
        Saying which key of the file is wrong, or what names there are.
    """
    if shape is not None and min(shape) < 1:
        raise ValueError(f"a map of {shape[0]} x {shape[1]} positions has none")
    described = describe(name, channels=channels)
    if shape is not None:
        described = described.model_copy(update={"shape": shape})
    return build(Path(name).stem, described, seed)


def describe(name: str, *, channels: int | None = None) -> SpecimenFile:
    """Read the description of a specimen, by name or path, perhaps with another number of channels.

    Raises
    ------
    ValueError
        Saying which key of the file is wrong, or what names there are.
    """
    described = _read(name)
    if channels is None:
        return described
    return described.model_copy(update={"axis": described.axis.model_copy(update={"channels": channels})})


def _read(name: str) -> SpecimenFile:
    if name in specimen_names():
        text = files("simulator.specimens").joinpath(f"{name}.toml").read_text("utf-8")
    elif Path(name).is_file():
        text = _text(Path(name))
    else:
        raise ValueError(f"no file {name}, and {unknown('specimen', name, specimen_names())}")
    try:
        return SpecimenFile.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise ValueError(f"specimen {name}: {complaint(error)}") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"specimen {name}: {error}") from error


def _text(path: Path) -> str:
    try:
        # Some editors begin a file with a mark of its encoding.
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"specimen {path}: no text in UTF-8 ({error})") from error


def build(name: str, described: SpecimenFile, seed: int) -> Specimen:
    """Turn a description into a specimen.

    Raises
    ------
    ValueError
        Where technique, phases or layout make no sense, saying of which specimen.
    """
    try:
        return _built(name, described, seed)
    except ValidationError as error:
        raise ValueError(f"specimen {name}: {complaint(error)}") from error
    except ValueError as error:
        raise ValueError(f"specimen {name}: {error}") from error


def _built(name: str, described: SpecimenFile, seed: int) -> Specimen:
    if described.technique not in TECHNIQUES:
        raise ValueError(unknown("technique", described.technique, sorted(TECHNIQUES)))
    technique = TECHNIQUES[described.technique]
    phases = [_phase(technique, k, p) for k, p in enumerate(described.phases)]
    if len({p.name for p in phases}) < len(phases):
        raise ValueError(f"two phases have one name: {', '.join(p.name for p in phases)}")
    conditions = technique.conditions.model_validate(described.conditions)
    ends = described.axis
    axis = Axis.linear(technique.axis_name, technique.units, ends.start, ends.stop, ends.channels)
    canvas = Canvas(described.shape, [p.name for p in phases], np.random.Generator(np.random.Philox(seed)))
    for stroke in described.layout:
        canvas.paint(stroke)
    members = technique.endmembers(phases, conditions, axis)
    specimen = Specimen(
        name, described.title, technique.name, axis, described.shape, described.step_nm,
        tuple(p.name for p in phases), members.spectra, _alive(canvas.abundances(), members),
        tuple(p.name for p in phases if not p.expected), described.counts, metadata=technique.metadata(conditions),
    )  # fmt: skip
    mean = float((specimen.abundances @ members.spectra.sum(axis=1)).mean())
    if not mean > 0:
        raise ValueError(f"nothing of it is seen from {ends.start:g} to {ends.stop:g} {technique.units}")
    bleaching = None if members.bleaching is None else members.bleaching / mean
    return replace(specimen, endmembers=members.spectra / mean, bleaching=bleaching)


def _phase(technique: Technique, k: int, described: dict[str, Any]) -> Phase:
    try:
        return technique.phase.model_validate(described)
    except ValidationError as error:
        named = described.get("name", f"number {k + 1}")
        raise ValueError(f"phase {named}: {complaint(error)}") from error


def _alive(abundances: Floats, members: EndMembers) -> Floats:
    """Scale abundances by the share of time in which a detector with dead time is ready."""
    if members.input_rates_hz is None:
        return abundances
    rates = abundances @ members.input_rates_hz
    return np.asarray(abundances * np.exp(-rates * members.dead_time_s)[:, None])
