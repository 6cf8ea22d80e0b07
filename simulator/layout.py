"""Where the phases of a specimen lie: strokes painted one over another onto abundance maps.

Coordinates are fractions of the map (0 to 1, y before x), so that a specimen keeps its looks at any size;
grains of mixing and precipitates are in pixels, because what matters about them is how few there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from scipy.special import erf

Floats = NDArray[np.float64]
Direction = Literal["x", "y"]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class _Stroke(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fill(_Stroke):
    """One phase everywhere."""

    kind: Literal["fill"]
    phase: str

    def coverage(self, canvas: Canvas) -> list[tuple[str, Floats]]:
        return [(self.phase, np.ones(canvas.shape))]


class Grains(_Stroke):
    """Voronoi grains, each of one of `phases` drawn with `weights`; borders mixed over `mixing_px`."""

    kind: Literal["grains"]
    phases: list[str]
    count: Annotated[int, Field(ge=1)] = 30
    weights: list[Annotated[float, Field(ge=0)]] | None = None
    mixing_px: NotNegative = 0.0

    @model_validator(mode="after")
    def _weighted(self) -> Self:
        if self.weights is not None and (len(self.weights) != len(self.phases) or sum(self.weights) <= 0):
            raise ValueError(f"{len(self.phases)} phases need as many weights, not all of them 0")
        return self

    def coverage(self, canvas: Canvas) -> list[tuple[str, Floats]]:
        seeds = canvas.rng.random((self.count, 2))
        nearest = cKDTree(seeds).query(np.stack([canvas.y, canvas.x], axis=-1))[1]
        weights = np.asarray(self.weights or np.ones(len(self.phases)))
        of_grain = canvas.rng.choice(len(self.phases), size=self.count, p=weights / weights.sum())
        # Every phase gets a grain: a specimen must have what its name promises.
        of_grain[: len(self.phases)] = np.arange(len(self.phases))[: self.count]
        label = of_grain[nearest]
        maps = [gaussian_filter((label == k).astype(float), self.mixing_px) for k in range(len(self.phases))]
        # Painting phase k over those before it with its share of what is left keeps all shares.
        left, strokes = np.ones(canvas.shape), []
        for name, share in zip(reversed(self.phases), reversed(maps), strict=True):
            strokes.append((name, np.divide(share, left, out=np.zeros_like(share), where=left > 1e-9)))
            left = left - share
        return [(name, np.clip(c, 0, 1)) for name, c in reversed(strokes)]


class Gradient(_Stroke):
    """Coverage that runs linearly from `first` to `last` across the map."""

    kind: Literal["gradient"]
    phase: str
    direction: Direction = "x"
    first: float = 0.0
    last: float = 1.0

    def coverage(self, canvas: Canvas) -> list[tuple[str, Floats]]:
        return [(self.phase, self.first + (self.last - self.first) * canvas.along(self.direction))]


class Interface(_Stroke):
    """A phase beyond a border, mixed by diffusion: an error function of the given width."""

    kind: Literal["interface"]
    phase: str
    direction: Direction = "x"
    at: float = 0.5
    width: Positive = 0.02

    def coverage(self, canvas: Canvas) -> list[tuple[str, Floats]]:
        return [(self.phase, 0.5 * (1 + erf((canvas.along(self.direction) - self.at) / self.width)))]


class Band(_Stroke):
    """A layer between two borders."""

    kind: Literal["band"]
    phase: str
    direction: Direction = "x"
    at: float = 0.5
    thickness: Positive = 0.1
    width: Positive = 0.01

    def coverage(self, canvas: Canvas) -> list[tuple[str, Floats]]:
        away = canvas.along(self.direction) - self.at
        low, high = away + self.thickness / 2, away - self.thickness / 2
        return [(self.phase, 0.5 * (erf(low / self.width) - erf(high / self.width)))]


class Particles(_Stroke):
    """Round particles with radii between the two given, and, if `shell` is named, a rim of it."""

    kind: Literal["particles"]
    phase: str
    count: Annotated[int, Field(ge=1)] = 1
    radius: tuple[Positive, Positive] = (0.05, 0.1)
    centre: tuple[float, float] | None = None
    shell: str | None = None
    shell_thickness: NotNegative = 0.02
    width: Positive = 0.005

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.radius[0] > self.radius[1]:
            raise ValueError(f"radius: the smallest comes first, not {list(self.radius)}")
        return self

    def coverage(self, canvas: Canvas) -> list[tuple[str, Floats]]:
        core, whole = np.zeros(canvas.shape), np.zeros(canvas.shape)
        for _ in range(self.count):
            y, x = canvas.rng.random(2) if self.centre is None else self.centre
            radius = canvas.rng.uniform(*self.radius)
            away = np.hypot(canvas.y - y, canvas.x - x)
            core = np.maximum(core, 0.5 * (1 - erf((away - radius) / self.width)))
            whole = np.maximum(whole, 0.5 * (1 - erf((away - radius - self.shell_thickness) / self.width)))
        return [(self.phase, core)] if self.shell is None else [(self.shell, whole), (self.phase, core)]


class Precipitates(_Stroke):
    """Specks of `pixels` (least, most) positions each; they begin within `within` if that is named."""

    kind: Literal["precipitates"]
    phase: str
    count: Annotated[int, Field(ge=1)] = 5
    pixels: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (1, 4)
    within: str | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.pixels[0] > self.pixels[1]:
            raise ValueError(f"pixels: the fewest come first, not {list(self.pixels)}")
        return self

    def coverage(self, canvas: Canvas) -> list[tuple[str, Floats]]:
        allowed = np.ones(canvas.shape, dtype=bool)
        if self.within is not None:
            allowed = canvas.abundance(self.within) > 0.5
        candidates = np.flatnonzero(allowed)
        if len(candidates) == 0:
            raise ValueError(f"layout: no place for {self.phase} within {self.within}")
        chosen = np.zeros(canvas.shape)
        ny, nx = canvas.shape
        for place in canvas.rng.choice(candidates, size=min(self.count, len(candidates)), replace=False):
            size = int(canvas.rng.integers(self.pixels[0], self.pixels[1] + 1))
            side = int(np.ceil(np.sqrt(size)))
            dy, dx = np.divmod(np.arange(size), side)
            # At the border of the map a speck lies inside of it, whole.
            y, x = min(place // nx, ny - 1 - int(dy.max())), min(place % nx, nx - 1 - int(dx.max()))
            chosen[np.maximum(y + dy, 0), np.maximum(x + dx, 0)] = 1.0
        return [(self.phase, chosen)]


class Wedge(_Stroke):
    """Thickness from `first` to `last` of the nominal one, across the map."""

    kind: Literal["wedge"]
    direction: Direction = "y"
    first: NotNegative = 0.5
    last: NotNegative = 1.5

    def coverage(self, canvas: Canvas) -> list[tuple[str, Floats]]:
        canvas.thickness *= self.first + (self.last - self.first) * canvas.along(self.direction)
        return []


Stroke = Annotated[
    Fill | Grains | Gradient | Interface | Band | Particles | Precipitates | Wedge,
    Field(discriminator="kind"),
]


class Canvas:
    """Abundance maps under construction: shares of phases that add up to 1, and a thickness factor."""

    def __init__(self, shape: tuple[int, int], phases: Sequence[str], rng: np.random.Generator) -> None:
        self.shape = shape
        self.phases = list(phases)
        self.rng = rng
        self.shares = np.zeros((len(phases), *shape))
        self.thickness = np.ones(shape)
        ny, nx = shape
        self.y, self.x = np.meshgrid((np.arange(ny) + 0.5) / ny, (np.arange(nx) + 0.5) / nx, indexing="ij")

    def along(self, direction: Direction) -> Floats:
        """Return the coordinate that runs from 0 to 1 in a direction."""
        return self.x if direction == "x" else self.y

    def abundance(self, phase: str) -> Floats:
        """Return the share of a phase so far.

        Raises
        ------
        ValueError
            Where no such phase is declared.
        """
        if phase not in self.phases:
            raise ValueError(f"layout: no phase {phase!r} among {self.phases}")
        share: Floats = self.shares[self.phases.index(phase)]
        return share

    def paint(self, stroke: Stroke) -> None:
        """Lay a stroke over what is there."""
        for phase, coverage in stroke.coverage(self):
            self.abundance(phase)
            self.shares *= 1 - coverage
            self.shares[self.phases.index(phase)] += coverage

    def abundances(self) -> Floats:
        """Return shares times thickness, f8[ny * nx, M].

        Raises
        ------
        ValueError
            Where the strokes leave a part of the map empty.
        """
        if np.any(np.abs(self.shares.sum(axis=0) - 1) > 1e-6):
            raise ValueError("layout: the first stroke must cover the whole map")
        maps: Floats = (self.shares * self.thickness).reshape(len(self.phases), -1).T
        return np.ascontiguousarray(maps)
