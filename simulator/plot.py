"""Draws specimens: where the phases lie, how much of each there is, and what their spectra look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simulator.detector import Counting, Emitters
from simulator.sample import Specimen

# Okabe & Ito's colours: told apart by the colour-blind, too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
DECADES = 4.0
"""Span of a logarithmic axis of intensity below its highest peak."""
_MOST_COLUMNS = 5
MOST_RINGS = 20
"""More rare positions than this are seen without rings."""
QUANTITIES = {
    "eds": "Energy (keV)",
    "eels": "Energy loss (eV)",
    "xrd": "Scattering angle 2\u03b8 (\u00b0)",
    "xps": "Binding energy (eV)",
    "raman": "Raman shift (cm\u207b\u00b9)",
}


def draw_specimen(specimen: Specimen, path: Path, counts: float, seed: int = 0) -> None:
    """Draw phase map, mean counts, abundances and end-members of a specimen into a PNG.

    Parameters
    ----------
    specimen : Specimen
    path : Path
    counts : float
        Mean counts of a visit.
    seed : int
        Of the spectrum that is drawn as it would be measured.
    """
    n_maps = 2 + len(specimen.phases)
    rows = -(-n_maps // _MOST_COLUMNS)
    columns = -(-n_maps // rows)
    figure = Figure(figsize=(3.0 * columns, 2.9 * rows + 4.6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[2.9 * rows, 4.6], squeeze=False)[:, 0]
    axes = upper.subplots(rows, columns, squeeze=False).reshape(-1)
    _phase_map(axes[0], specimen)
    _map(axes[1], specimen, specimen.expected().sum(axis=1) * counts, "expected counts")
    for k, name in enumerate(specimen.phases):
        _map(axes[2 + k], specimen, specimen.abundances[:, k], name)
    for empty in axes[n_maps:]:
        empty.set_visible(False)
    _spectra(lower.subplots(), specimen, counts, seed)
    figure.suptitle(f"{specimen.name}: {specimen.title}")
    _write(figure, path)


def draw_sheet(specimens: list[Specimen], path: Path, seed: int = 0) -> None:
    """Draw a contact sheet: a row of phase map, mean counts and spectra for each specimen."""
    figure = Figure(figsize=(17.0, 3.6 * len(specimens)), layout="constrained")
    for row, specimen in zip(figure.subfigures(len(specimens), 1, squeeze=False)[:, 0], specimens, strict=True):
        first, second, spectra = row.subplots(1, 3, width_ratios=[1.0, 1.0, 3.0])
        _phase_map(first, specimen)
        _map(second, specimen, specimen.expected().sum(axis=1) * specimen.counts, "expected counts")
        _spectra(spectra, specimen, specimen.counts, seed)
        row.suptitle(f"{specimen.name} ({specimen.technique.upper()}): {specimen.title}", x=0.01, ha="left")
    _write(figure, path)


def check_picture(path: Path) -> None:
    """Raise ValueError where a path does not end like a picture, OSError where there is no such folder."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: pictures are PNG, name it *.png")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"no folder {path.absolute().parent}")


def _write(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, format="png")


def _colours(specimen: Specimen) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(len(specimen.phases))]


def _extent(specimen: Specimen) -> tuple[tuple[float, float, float, float], str]:
    ny, nx = specimen.nav_shape
    in_um = max(ny, nx) * specimen.step_nm >= 2000
    step = specimen.step_nm * (1e-3 if in_um else 1.0)
    return (0.0, nx * step, ny * step, 0.0), "\u00b5m" if in_um else "nm"


def _phase_map(ax: Any, specimen: Specimen) -> None:
    extent, units = _extent(specimen)
    last = len(specimen.phases) - 0.5
    colours = ListedColormap(_colours(specimen))
    ax.imshow(specimen.phase_map(), cmap=colours, vmin=-0.5, vmax=last, extent=extent, interpolation="nearest")
    ny, nx = specimen.nav_shape
    rare = specimen.rare_positions()
    if len(rare) <= MOST_RINGS:
        y, x = np.divmod(rare, nx)
        step_x, step_y = extent[1] / nx, extent[2] / ny
        # Rings around what a few pixels would not show.
        ax.scatter((x + 0.5) * step_x, (y + 0.5) * step_y, s=60, facecolors="none", edgecolors="k", linewidths=0.6)
    ax.set(title=f"main phase; {len(rare)} rare positions", xlabel=units, ylabel=units)
    ax.title.set_size("small")


def _map(ax: Any, specimen: Specimen, values: NDArray[np.float64], title: str) -> None:
    extent, units = _extent(specimen)
    image = values.reshape(specimen.nav_shape)
    shown = ax.imshow(image, cmap="viridis", extent=extent, interpolation="nearest", vmin=0)
    ax.figure.colorbar(shown, cax=ax.inset_axes((1.03, 0.0, 0.05, 1.0)))  # as high as the map, whatever its shape
    ax.set(title=title, xlabel=units, ylabel=units)
    ax.title.set_size("small")


def _spectra(ax: Any, specimen: Specimen, counts: float, seed: int) -> None:
    """Draw end-members at their own dose, and one visit of the brightest position of the first phase."""
    rng = np.random.Generator(np.random.Philox(seed))
    values, spectra = specimen.axis.values, specimen.endmembers
    at = int(np.argmax(specimen.abundances[:, 0]))
    drawn = Counting().draw(rng, specimen.abundances[at : at + 1] * counts, Emitters(spectra), False)
    measured = np.asarray(drawn, dtype=np.float64)[0]
    ax.step(values, measured, where="mid", color="0.75", linewidth=0.7, label="one visit")
    top = 0.0
    for k, name in enumerate(specimen.phases):
        dose = counts * float(specimen.abundances[:, k].max())
        style = "--" if name in specimen.unexpected else "-"
        ax.plot(values, dose * spectra[k], style, color=_colours(specimen)[k], linewidth=1.0, label=name)
        top = max(top, dose * float(spectra[k].max()))
    # Only a logarithm shows continuum or a glass beside lines, or losses beside the zero loss.
    if specimen.technique in ("eds", "xrd") or (specimen.technique == "eels" and values[0] <= 0):
        ax.set_yscale("log")
        ax.set_ylim(top * 10**-DECADES, 2 * max(top, float(measured.max())))
    ax.set(xlabel=QUANTITIES[specimen.technique], ylabel="counts a visit", xlim=_ends(specimen))
    ax.legend(fontsize="small", loc="upper right")


def _ends(specimen: Specimen) -> tuple[float, float]:
    low, high = sorted((float(specimen.axis.values[0]), float(specimen.axis.values[-1])))
    # The field draws binding energy from right to left.
    return (high, low) if specimen.technique == "xps" else (low, high)
