"""Drawing one map, whatever the scan was: a grid, a line, a volume, or a list of points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize, PowerNorm
from numpy.typing import NDArray

from streamer.run_data import NavAxis, Run

UNMEASURED: Final = "0.75"
"""Grey of what was not measured."""
_SPREAD: Final = (0.5, 99.5)
"""Percentiles between which colours are spread: a few odd positions must not own the scale."""
_FAR: Final = 1.0
"""What lies farther beyond them than they are apart is no noise of a denoised map: few positions have the element."""


@dataclass(frozen=True)
class Look:
    """How a map is coloured.

    Parameters
    ----------
    cmap : str
        Perceptually uniform, unless a sign or a class is shown.
    limits : (lo, hi), optional
        Ends of the colour scale; from the data where absent.
    unit : str
        At the colour bar.
    symmetric : bool
        Zero is in the middle.
    root : bool
        Colours follow the square root, so that much smaller values than the largest can be told from zero.
    classes : tuple of (value, name, colour)
        Instead of all this: named values, ascending.
    """

    cmap: str = "viridis"
    limits: tuple[float, float] | None = None
    unit: str = ""
    symmetric: bool = False
    root: bool = False
    classes: tuple[tuple[float, str, str], ...] = ()


QUALITY: Final = Look(
    classes=((0.0, "lost", "#d1495b"), (0.5, "rotated", "#edae49"), (1.0, "exact", "#2b59a2")),
    limits=(0.0, 1.0),
)
"""Quality map: scores of the present model from stored counts, turned from an older one, or something lost."""

SHOWN: Final = Look(classes=((0.0, "linear model", "#2b59a2"), (1.0, "network", "#edae49")))
"""Network map: whose spectrum is shown."""


def limits_of(values: NDArray[Any], *, symmetric: bool = False) -> tuple[float, float]:
    """Return ends of a colour scale for `values`, without their few most extreme ones."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    if symmetric:
        # A score that only a few positions have is worth seeing, too.
        top = float(np.percentile(np.abs(finite), _SPREAD[1])) or float(np.abs(finite).max()) or 1.0
        return -top, top
    lo, hi = (float(v) for v in np.percentile(finite, _SPREAD))
    if hi - lo > 1e-6 * abs(hi):
        return lo, hi
    return (min(0.0, 2 * lo), max(2 * hi, 0.0)) if hi else (0.0, 1.0)


def look_of(values: NDArray[Any], unit: str) -> Look:
    """Return how a window map is coloured: what few positions have far more of than all others is not cut off.

    There colours follow the square root up to the largest value, so that the others can be told apart as well.
    """
    lo, hi = limits_of(values)
    finite = values[np.isfinite(values)]
    largest = float(finite.max()) if finite.size else hi
    if largest > hi + _FAR * (hi - lo):
        return Look(unit=unit, limits=(lo, largest), root=True)
    return Look(unit=unit, limits=(lo, hi))


def draw_map(ax: Axes, run: Run, values: NDArray[Any], look: Look) -> None:
    """Draw `values`, shape nav_shape, with axes in their units and a colour bar.

    Parameters
    ----------
    ax : Axes
    run : Run
        Gives the geometry.
    values : array over nav_shape
        NaN is drawn grey.
    look : Look
    """
    if look.limits is None:
        look = replace(look, limits=limits_of(values, symmetric=look.symmetric))
    if run.positions is not None:
        _draw_points(ax, run.positions, values.ravel(), look)
    elif values.ndim == 1:
        _draw_line(ax, run.nav_axes[0], values, look)
    elif values.ndim == 2:
        _draw_grid(ax, run.nav_axes, values, look)
    else:
        _draw_slices(ax, run.nav_axes, values, look)


def _scale(look: Look) -> dict[str, Any]:
    """Return colour map and norm."""
    if look.classes:
        values = np.array([value for value, _, _ in look.classes])
        inner = (values[1:] + values[:-1]) / 2
        margin = (values[1] - values[0]) / 2 if inner.size else 0.5
        edges = [values[0] - margin, *inner, values[-1] + margin]
        cmap: Colormap = ListedColormap([colour for _, _, colour in look.classes])
        return {"cmap": cmap.with_extremes(bad=UNMEASURED), "norm": BoundaryNorm(edges, cmap.N)}
    lo, hi = look.limits or (0.0, 1.0)
    norm = PowerNorm(0.5, lo, hi) if look.root else Normalize(lo, hi)
    return {"cmap": colormaps[look.cmap].with_extremes(bad=UNMEASURED), "norm": norm}


def _bar(ax: Axes, shown: Any, values: NDArray[Any], look: Look) -> None:
    """Draw a colour bar just as high as the map; its ends point to where values go on."""
    place = ax.inset_axes((1.02, 0.0, 0.035, 1.0))
    if look.classes:
        bar = ax.figure.colorbar(shown, cax=place, ticks=[value for value, _, _ in look.classes])
        bar.ax.set_yticklabels([name for _, name, _ in look.classes])
    else:
        lo, hi = look.limits or (-np.inf, np.inf)
        finite = values[np.isfinite(values)]
        beyond = bool((finite < lo).any()), bool((finite > hi).any())
        ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
        bar = ax.figure.colorbar(shown, cax=place, extend=ends[beyond], label=look.unit)
    bar.outline.set_linewidth(0.5)


def _draw_grid(ax: Axes, axes: list[NavAxis], values: NDArray[Any], look: Look) -> None:
    (top, bottom), (left, right) = (a.edges(n) for a, n in zip(axes, values.shape, strict=True))
    same_units = axes[0].units == axes[1].units
    shown = ax.imshow(
        np.ma.masked_invalid(values),
        extent=(left, right, bottom, top),
        aspect="equal" if same_units else "auto",
        interpolation="nearest",
        **_scale(look),
    )
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel(axes[1].label)
    ax.set_ylabel(axes[0].label)
    _bar(ax, shown, values, look)


def _draw_line(ax: Axes, axis: NavAxis, values: NDArray[Any], look: Look) -> None:
    at = axis.offset + axis.scale * np.arange(values.size)
    for start, stop in _runs(~np.isfinite(values)):
        ax.axvspan(at[start] - axis.scale / 2, at[stop - 1] + axis.scale / 2, color=UNMEASURED, lw=0)
    ax.plot(at, values, ".-", color="#2b59a2", ms=2.5, lw=0.7)
    lo, hi = look.limits or (0.0, 1.0)
    margin = 0.08 * (hi - lo)
    ax.set_ylim(lo - margin, hi + margin)
    ax.set_xlabel(axis.label)
    ax.set_ylabel(look.unit)
    if look.classes:
        ax.set_yticks([value for value, _, _ in look.classes], [name for _, name, _ in look.classes])


def _runs(where: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return [start, stop) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], where.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _draw_points(ax: Axes, positions: NDArray[np.float64], values: NDArray[Any], look: Look) -> None:
    if positions.shape[1] == 1:
        ax.plot(positions[:, 0], values, ".", color="#2b59a2", ms=4)
        ax.set_xlabel("position")
        ax.set_ylabel(look.unit)
        return
    missing = ~np.isfinite(values)
    size = float(np.clip(4000 / max(len(values), 1), 3, 60))
    x, y = positions[:, 0], positions[:, 1]
    ax.scatter(x[missing], y[missing], s=size, color=UNMEASURED, lw=0)
    shown = ax.scatter(x[~missing], y[~missing], c=values[~missing], s=size, lw=0, **_scale(look))
    ax.set_xlabel("first coordinate")
    ax.set_ylabel("second coordinate")
    ax.set_aspect("equal", adjustable="datalim")
    _bar(ax, shown, values, look)


def _draw_slices(ax: Axes, axes: list[NavAxis], values: NDArray[Any], look: Look) -> None:
    """Draw the slices of a volume beside each other, in reading order, with one position between them."""
    n, ny, nx = values.shape
    columns = int(np.ceil(np.sqrt(n * ny / nx)))
    rows = -(-n // columns)
    sheet = np.full((rows * (ny + 1) - 1, columns * (nx + 1) - 1), np.nan)
    paper = np.ones_like(sheet, dtype=bool)
    for i in range(n):
        y, x = (i // columns) * (ny + 1), (i % columns) * (nx + 1)
        sheet[y : y + ny, x : x + nx] = values[i]
        paper[y : y + ny, x : x + nx] = False
    shown = ax.imshow(np.ma.masked_invalid(sheet), interpolation="nearest", **_scale(look))
    white = np.where(paper, 1.0, np.nan)
    ax.imshow(np.ma.masked_invalid(white), cmap=ListedColormap(["white"]), interpolation="nearest")
    first, last = axes[0].offset, axes[0].offset + (n - 1) * axes[0].scale
    ax.set_xlabel(f"{axes[0].label} from {first:g} to {last:g}")
    ax.set_xticks([])
    ax.set_yticks([])
    _bar(ax, shown, values, look)
