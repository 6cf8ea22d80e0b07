"""Figure of the phases of a run: where they lie, how sure that is, and their spectra."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models.phases import UNSEEN
from streamer.plot_maps import Look, draw_map
from streamer.run_data import Run

# Tableau's ten (CC0), then lighter ones: a phase keeps its number, and so its colour.
_COLOURS: Final = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#edc948", "#76b7b2", "#ff9da7", "#9c755f", "#bab0ac",
    "#a0cbe8", "#ffbe7d", "#8cd17d", "#86bcb6", "#d4a6c8", "#f1ce63",
)  # fmt: skip
_SURE: Final = 0.9
UNLIKE: Final = "#1a1a1a"
"""Colour of positions that are held back as anomalies: by no phase's colour."""


def phase_colour(number: int) -> str:
    """Colour of a phase, always the same for its number."""
    return _COLOURS[number % len(_COLOURS)]


def has_phases(run: Run) -> bool:
    """Whether there is a phase map with anything in it."""
    return "phase" in run.maps and bool((run.maps["phase"] >= 0).any())


def held_back(run: Run) -> NDArray[np.bool_]:
    """Where a position is unlike every phase: its label is the nearest one, and nobody believes it (confidence 0)."""
    return np.asarray((run.maps["phase"] >= 0) & (run.maps["confidence"] == 0))


def phase_numbers(run: Run) -> list[int]:
    """Numbers of the phases in the map, rising; none that only positions bear which are held back."""
    found = np.unique(run.maps["phase"][~held_back(run)])
    return [int(n) for n in found[found >= 0]]


def phase_names(run: Run) -> dict[int, str]:
    """Names by number, as the status had them."""
    status: Any = run.meta.get("status") or {}
    said = {int(p["id"]): str(p["name"]) for p in status.get("phases") or []}
    return {n: said.get(n, f"phase {n}") for n in phase_numbers(run)}


def phase_spectra(run: Run) -> dict[int, NDArray[np.float64]]:
    """Mean denoised spectra (D,) of the positions that are surely of each phase (of all of it, if none is sure)."""
    eigenspectra = np.asarray(run.basis["eigenspectra"], dtype=float)
    scores = run.maps["scores"].reshape(-1, len(eigenspectra))
    label, confidence = run.maps["phase"].ravel(), run.maps["confidence"].ravel()
    spectra = {}
    for number in phase_numbers(run):
        mine = (label == number) & (confidence > 0)
        sure = mine & (confidence >= _SURE)
        rows = scores[sure if sure.any() else mine].astype(float)
        spectra[number] = np.asarray(run.basis["mean"] + rows.mean(axis=0) @ eigenspectra)
    return spectra


def draw_phases(ax: Axes, run: Run, label: NDArray[Any] | None = None) -> None:
    """Draw the phase map (or another of the same phases) with its names, and what is unlike them all."""
    unlike = held_back(run)
    label = np.where(unlike, UNSEEN, run.maps["phase"]) if label is None else label
    known = phase_names(run)
    numbers = sorted({*known, *np.unique(label[label >= 0]).astype(int).tolist()})
    classes = [(float(n), known.get(n, f"phase {n}"), phase_colour(n)) for n in numbers]
    values = np.where(label >= 0, label, np.nan)
    if (unlike & (label < 0)).any():
        beyond = float(max(numbers, default=-1) + 1)
        classes.append((beyond, "anomaly", UNLIKE))
        values[unlike & (label < 0)] = beyond
    draw_map(ax, run, values, Look(classes=tuple(classes)))


def phases_figure(run: Run) -> Figure:
    """Draw phase map, confidence and mixtures, and below them the spectrum of each phase."""
    names, figure = phase_names(run), Figure(figsize=(10.5, 6.4), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=[1.2, 1.0])
    upper, lower = halves
    left, middle, right = upper.subplots(1, 3)
    surely = ~held_back(run)
    sizes = {n: int(np.count_nonzero((run.maps["phase"] == n) & surely)) for n in names}
    left.set_title(f"{len(names)} phases" if len(names) > 1 else "one phase")
    draw_phases(left, run)
    for ax, name, title in ((middle, "confidence", "confidence"), (right, "mixed", "probability of a mixture")):
        ax.set_title(title)
        draw_map(ax, run, run.maps[name].astype(float), Look("cividis", (0.0, 1.0)))
    _draw_spectra(lower.subplots(), run, names, sizes)
    figure.suptitle(f"{run.series}: phases", x=0.01, ha="left", fontsize=10)
    return figure


def _draw_spectra(ax: Axes, run: Run, names: dict[int, str], sizes: dict[int, int]) -> None:
    spectra = phase_spectra(run) if run.basis else {}
    for number, spectrum in spectra.items():
        x = run.axis if run.axis.size == spectrum.size else np.arange(spectrum.size)
        text = f"{names[number]}: {sizes[number]:,} positions"
        ax.plot(x, spectrum, lw=0.9, color=phase_colour(number), label=text)
    ax.set_xlabel(run.axis_label)
    ax.set_ylabel("counts a position")
    ax.margins(x=0.01)
    if spectra:
        ax.legend(loc="best")
