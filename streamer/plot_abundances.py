"""Figure of the unmixing of a run: how much of each end-member there is where, and the end-members."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from streamer.plot_maps import Look, draw_map
from streamer.plot_phases import phase_colour
from streamer.run_data import Run
from streamer.spectrum_files import end_members

_COLUMNS: Final = 4
_WIDTH_IN: Final = 2.7


def has_abundances(run: Run) -> bool:
    """Whether there are end-members with their maps."""
    return bool(end_members(run))


def abundances_figure(run: Run) -> Figure:
    """Draw the abundance of each end-member with its median error, and below them their spectra."""
    members = end_members(run)
    rows = -(-len(members) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * _WIDTH_IN, 2.4 * rows + 2.6), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=[2.4 * rows, 2.6])
    upper, lower = halves
    axes = np.ravel(upper.subplots(rows, _COLUMNS, squeeze=False))
    for ax in axes[len(members) :]:
        ax.set_axis_off()
    for ax, (label, (name, _)) in zip(axes, members.items(), strict=False):
        ax.set_title(f"{name} ± {np.nanmedian(run.maps[f'abundance_error/{label}']):.2g}")
        draw_map(ax, run, run.maps[f"abundance/{label}"].astype(float), Look("cividis", (0.0, 1.0)))
    _draw_spectra(lower.subplots(), run)
    figure.suptitle(f"{run.series}: abundances", x=0.01, ha="left", fontsize=10)
    return figure


def _draw_spectra(ax: Axes, run: Run) -> None:
    for number, (label, (name, spectrum)) in enumerate(end_members(run).items()):
        x = run.axis if run.axis.size == spectrum.size else np.arange(spectrum.size)
        ax.plot(x, spectrum, lw=0.9, color=phase_colour(int(label) if label.isdecimal() else number + 8), label=name)
    ax.set_xlabel(run.axis_label)
    ax.set_ylabel("share of counts")
    ax.margins(x=0.01)
    ax.legend(loc="best")
