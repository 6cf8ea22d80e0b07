"""Scores of a run as a plane to look at (UMAP): what is alike lies together. An optional extra, `scanwise[umap]`."""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from streamer.alike import made_of
from streamer.plot_phases import phase_colour, phase_names
from streamer.run_data import Run

MOST: Final = 10_000
"""Positions that are shown: half a minute of one core, and more would lie on top of each other."""
_FEWEST: Final = 32


def embedded(run: Run) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Positions (n,) of a run, evenly taken, and where UMAP puts their scores in a plane (n, 2); always the same.

    Raises
    ------
    ImportError
        Where umap-learn is not installed.
    ValueError
        Where there are not enough scores to look at.
    """
    with warnings.catch_warnings():
        # It says so where there is no TensorFlow, which nobody needs.
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP
    if "scores" not in run.maps or run.maps["scores"].shape[-1] < 2 or not run.basis:
        raise ValueError("UMAP needs two scores")
    positions, rows = made_of(run)
    if positions.size < _FEWEST:
        raise ValueError(f"UMAP needs {_FEWEST} positions")
    some = slice(None, None, -(-positions.size // MOST))
    return positions[some], np.asarray(UMAP(n_jobs=1, random_state=0).fit_transform(rows[some]), dtype=np.float32)


def umap_figure(run: Run, positions: NDArray[np.int64], plane: NDArray[np.float32]) -> Figure:
    """Draw positions in the plane in the colours of their phases."""
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    ax: Any = figure.subplots()
    label = run.maps["phase"].ravel()[positions] if "phase" in run.maps else np.full(positions.size, -1)
    names = phase_names(run) if "phase" in run.maps else {}
    for number in np.unique(label).tolist():
        mine = label == number
        colour = phase_colour(number) if number >= 0 else "0.6"
        text = names.get(number, "no phase")
        ax.scatter(*plane[mine].T, s=3, color=colour, linewidths=0, label=f"{text}: {int(mine.sum()):,}")
    ax.set_axis_off()
    ax.legend(loc="best", markerscale=4)
    ax.set_title("scores in a plane (UMAP): neighbours are alike, distances mean nothing")
    figure.suptitle(f"{run.series}: {positions.size:,} positions", x=0.01, ha="left", fontsize=10)
    return figure
