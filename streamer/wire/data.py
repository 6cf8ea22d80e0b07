"""Messages from an instrument: header, image, events, heartbeat, series_end (protocol.md, 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from streamer.wire.errors import WireError


def _no_truth(value: Any) -> Any:
    """Refuse true and false, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")  # noqa: TRY004 - pydantic reports this one
    return value


MAX_SAFE = 2**53
Count = Annotated[int, Field(ge=0, le=MAX_SAFE)]
Size = Annotated[int, BeforeValidator(_no_truth), Field(ge=1, le=MAX_SAFE)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[
    str,
    BeforeValidator(lambda v: str(v) if isinstance(v, int) and not isinstance(v, bool) else v),
    StringConstraints(min_length=1, max_length=256),
]
DTYPES = ("uint8", "uint16", "uint32", "int16", "int32", "float32", "float64")
TECHNIQUES = ("eds", "eels", "xrd", "xps", "raman", "other")
ACTIONS = ("stop", "dwell", "visit", "extend", "pause", "recalibrate")


class _Map(BaseModel):
    """A map on the wire: unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class AxisMap(_Map):
    """The spectral axis: {size, offset, scale} or {values}, in `units`."""

    name: str = ""
    units: str = ""
    size: Size | None = None
    offset: Finite = 0.0
    scale: Finite | None = None
    values: list[Finite] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.values is not None:
            steps = np.diff(np.asarray(self.values))
            if len(self.values) == 0 or not (np.all(steps > 0) or np.all(steps < 0)):
                raise ValueError("axis values must be strictly increasing or decreasing")
            if self.size is not None and self.size != len(self.values):
                raise ValueError(f"axis has size {self.size} but {len(self.values)} values")
        elif self.size is None or self.scale is None:
            raise ValueError("axis needs size, offset and scale, or values")
        elif self.scale == 0:
            raise ValueError("axis scale is 0")
        return self

    @property
    def n_channels(self) -> int:
        """Number of channels D."""
        return self.size if self.values is None else len(self.values)  # type: ignore[return-value]

    def array(self) -> NDArray[np.float64]:
        """Return the axis as f8[D] in `units`."""
        if self.values is not None:
            return np.asarray(self.values, dtype=np.float64)
        return self.offset + (self.scale or 1.0) * np.arange(self.n_channels, dtype=np.float64)


class NoiseMap(_Map):
    """What the sender knows of its noise: var = gain (mean - offset) + read_sigma^2 in counts^2."""

    model: Literal["poisson", "poisson_gaussian"]
    gain: Positive = 1.0
    offset: Finite = 0.0
    read_sigma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class AbsorptionMap(_Map):
    """X-rays absorbed in a film: mass fractions of its elements (any scale), and the take-off angle."""

    model: Literal["absorption"]
    absorber: Annotated[dict[str, Positive], Field(min_length=1)]
    take_off_deg: Annotated[float, Field(gt=0, le=90)]


class PluralScatteringMap(_Map):
    """Electrons scattered by a plasmon more than once: its energy and width."""

    model: Literal["plural_scattering"]
    plasmon_ev: Positive
    plasmon_width_ev: Positive


ThicknessMap = Annotated[AbsorptionMap | PluralScatteringMap, Field(discriminator="model")]
"""What the thickness of a specimen does to its spectra."""


class NavAxisMap(_Map):
    """One axis of the scan itself."""

    name: str = ""
    units: str = ""
    offset: Finite = 0.0
    scale: Finite = 1.0


class HeaderMap(_Map):
    """The map of a `header` message; everything but the first four is optional."""

    msg_number: Count = 0
    series: Text | None = None
    nav_shape: Annotated[list[Size], Field(min_length=1, max_length=3)]
    axis: AxisMap
    technique: Literal["eds", "eels", "xrd", "xps", "raman", "other"] = "other"
    nav_axes: list[NavAxisMap] | None = None
    positions: bool = False
    dwell_s: Positive | None = None
    passes: Size | None = None
    expected: Count | None = None
    dose_limit_s: Positive | None = None
    noise: NoiseMap | None = None
    thickness: ThicknessMap | None = None
    actions: list[str] = []
    deadline_ms: Positive | None = None
    replay: Annotated[str, Field(max_length=1024)] | None = None
    metadata: dict[str, Any] | None = None

    def planned(self, n_positions: int) -> int:
        """How many of so many positions are planned to be measured: fewer than all in a sparse scan."""
        passes = self.passes or 1
        return min(n_positions, -(-(self.expected or n_positions * passes) // passes))


class ImageMap(_Map):
    """The map of an `image` or `events` message."""

    msg_number: Count
    series: Text | None = None
    frame: Count
    shape: Annotated[list[Count], Field(min_length=1, max_length=3)] | None = None
    type: str
    index: Count | list[Count] | None = None
    index_part: bool = False
    passes: Annotated[Count | list[Count] | None, Field(alias="pass")] = None
    dwell_s: Positive | list[Positive] | None = None
    revision: Literal["add", "replace"] = "add"
    compression: Literal["none"] | None = None
    crc32: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    t_ns: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    axis: AxisMap | None = None


class HeartbeatMap(_Map):
    """The map of a `heartbeat` message."""

    msg_number: Count | None = None
    series: Text | None = None
    last_msg_number: Count | None = None
    n_sent: Count | None = None
    replay: Annotated[str, Field(max_length=1024)] | None = None


class EndMap(_Map):
    """The map of a `series_end` message."""

    msg_number: Count
    series: Text | None = None
    n_sent: Count | None = None
    n_messages: Count | None = None
    exit_status: str = "success"
    reason: str | None = None


@dataclass(frozen=True)
class Header:
    """A series begins. `positions` f8[n, d] for scans that are no grid; `warnings` names what was ignored."""

    map: HeaderMap
    positions: NDArray[np.float64] | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Events:
    """List mode: counts of spectrum i lie in channels[offsets[i]:offsets[i + 1]]."""

    offsets: NDArray[np.int64]
    channels: NDArray[Any]

    def only(self, keep: NDArray[np.bool_]) -> Events:
        """Return the spectra that `keep` (n,) says."""
        length = np.diff(self.offsets)
        offsets = np.concatenate([[0], np.cumsum(length[keep])])
        return Events(offsets, self.channels[np.repeat(keep, length)])


@dataclass(frozen=True)
class Block:
    """Spectra of one `image` or `events` message.

    `counts` is (n, D) read-only, or `Events`; `index` u4[n] where the sender named positions.
    """

    map: ImageMap
    n: int
    counts: NDArray[Any] | Events
    index: NDArray[np.uint32] | None = None
    nbytes: int = 0


@dataclass(frozen=True)
class Heartbeat:
    """The sender lives, and says what it has sent."""

    map: HeartbeatMap


@dataclass(frozen=True)
class SeriesEnd:
    """The sender has sent everything."""

    map: EndMap


Message = Header | Block | Heartbeat | SeriesEnd


@dataclass(frozen=True)
class Stins:
    """What the configuration says for senders whose headers do not (protocol.md, 1.4).

    Parameters
    ----------
    defaults : map
        Keys for headers that lack them: nav_shape, axis, ...
    leading : {"spectra", "sum", "take"}
        Meaning of the leading axis of `shape`; ``sum`` adds detector elements, ``take`` uses `element`.
    element : int
        The detector element taken.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    leading: Literal["spectra", "sum", "take"] = "spectra"
    element: int = 0


@dataclass(frozen=True)
class Limits:
    """What is refused whatever its header says."""

    message_bytes: int = 256 << 20
    positions: int = 1 << 24
    channels: int = 1 << 16


def parse(model: type[_Map], value: Mapping[str, Any]) -> Any:
    """Check a map against its model.

    Raises
    ------
    WireError
        With reason ``invalid``, naming the key.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(p) for p in first["loc"]) or "map"
        raise WireError("invalid", f"{value.get('htype', 'message')}: {where}: {first['msg']}") from error


_REQUIRED = frozenset({"msg_number", "series", "nav_shape", "axis", "positions"})


def parse_header(value: Mapping[str, Any]) -> tuple[HeaderMap, tuple[str, ...]]:
    """Check a header; an optional key that makes no sense is ignored with a warning, not the whole scan.

    Raises
    ------
    WireError
        With reason ``invalid`` where a required key is missing or wrong.
    """
    try:
        head = HeaderMap.model_validate(value)
        return head, _unnamed(head.axis)
    except ValidationError as error:
        wrong = {str(e["loc"][0]): e["msg"] for e in error.errors(include_url=False) if e["loc"]}
    kept = {k: v for k, v in value.items() if k not in wrong or k in _REQUIRED}
    warnings = [f"header: {k} ignored: {m}" for k, m in wrong.items() if k not in _REQUIRED]
    head = parse(HeaderMap, kept)
    return head, (*warnings, *_unnamed(head.axis))


def _unnamed(axis: AxisMap) -> tuple[str, ...]:
    """Warn of an axis without name or units: what does not work without, and what to send."""
    told = []
    if not axis.units:
        lost = "peaks and edges are not named, and no network and no library fits"
        told.append(f"header: axis has no units, so {lost}: send axis.units (keV, eV, deg, 1/cm or what it is in)")
    if not axis.name:
        told.append("header: axis has no name, so figures show none: send axis.name (Energy or what it is)")
    return tuple(told)
