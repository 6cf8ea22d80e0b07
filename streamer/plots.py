"""The figures of a report: maps, scores, scree, eigenspectra, and all of it at a glance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from streamer.plot_abundances import abundances_figure, has_abundances
from streamer.plot_labels import draw_labels, label_extremes, peak_labels
from streamer.plot_maps import QUALITY, SHOWN, Look, draw_map, look_of
from streamer.plot_phases import draw_phases, has_phases, phases_figure
from streamer.run_data import Run, at_equal_dwell

STYLE: Final[dict[Any, Any]] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 160,
}
_KEPT, _LEFT_OUT, _EDGE = "#2b59a2", "0.65", "#d1495b"
_MOST_SCORES: Final = 24
_MOST_CURVES: Final = 12
_GLANCE_CURVES: Final = 5
_COLUMNS: Final = 4
_IN_WORDS: Final = {
    "p_value": "p-value of the anomaly test",
    "t2": "Hotelling's T2 over its limit",
    "q": "residual Q over its limit",
    "reconstruction_error": "reconstruction error over its limit",
    "network": "what is shown",
    "guess": "phases, gaps filled",
    "distance": "distance to what was measured",
    "shift": "shift of the axis",
}


@dataclass(frozen=True)
class _Panel:
    title: str
    draw: Callable[[Axes], None]


def draw_report(run: Run, folder: Path) -> list[str]:
    """Draw every figure of a run into `folder` and return their names."""
    figures: dict[str, Callable[[Run], Figure]] = {"maps.png": maps_figure}
    if "scores" in run.maps and run.maps["scores"].shape[-1]:
        figures["scores.png"] = scores_figure
    if has_phases(run):
        figures["phases.png"] = phases_figure
    if has_abundances(run):
        figures["abundances.png"] = abundances_figure
    if run.basis:
        figures |= {"scree.png": scree_figure, "eigenspectra.png": eigenspectra_figure}
        figures["overview.png"] = overview_figure
    with mpl.rc_context(STYLE):
        for name, draw in figures.items():
            draw(run).savefig(folder / name)
    return list(figures)


# -- maps -----------------------------------------------------------------------------------------------------


def maps_figure(run: Run) -> Figure:
    """Draw counts, anomaly, dwell and quality, then each window raw and denoised on one scale."""
    panels = _plain_panels(run)
    windows = [panel for label in run.windows for panel in window_panels(run, label)]
    columns = 3 if len(panels) + len(windows) == 6 else _COLUMNS
    if columns == _COLUMNS:
        panels += [_Panel("", _leave_empty)] * (-len(panels) % 2)  # a pair stays in one row
    figure = _grid(run, panels + windows, columns)
    figure.suptitle(_heading(run), x=0.01, ha="left", fontsize=10)
    return figure


def _leave_empty(ax: Axes) -> None:
    ax.set_axis_off()


def _grid(run: Run, panels: list[_Panel], columns: int = _COLUMNS) -> Figure:
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    width_in = 3.1
    height_in = _panel_height_in(run, width_in)
    figure = Figure(figsize=(columns * width_in, rows * height_in + 0.4), layout=ConstrainedLayoutEngine(w_pad=0.12))
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for ax, panel in zip(axes, panels, strict=False):
        ax.set_title(panel.title)
        panel.draw(ax)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    return figure


def _panel_height_in(run: Run, width_in: float) -> float:
    """Return a height at which a map fills its panel, within reason."""
    if len(run.nav_shape) != 2:
        return 2.6
    (top, bottom), (left, right) = (a.edges(n) for a, n in zip(run.nav_axes, run.nav_shape, strict=True))
    same_units = run.nav_axes[0].units == run.nav_axes[1].units
    ratio = abs(bottom - top) / abs(right - left) if same_units else 0.8
    return float(np.clip(0.63 * width_in * ratio + 0.65, 1.5, 4.5))


def _plain_panels(run: Run) -> list[_Panel]:
    describe = {"counts": _counts_panel, "anomaly": _anomaly_panel, "dwell": _dwell_panel, "quality": _quality_panel}
    panels = [make(run, run.maps[name]) for name, make in describe.items() if name in run.maps]
    known = {*describe, "scores", "phase", "confidence", "mixed"}
    for name, values in run.maps.items():
        if name not in known and "/" not in name and values.shape == run.nav_shape:
            panels.append(_Panel(_IN_WORDS.get(name, name), _plain_draw(run, name, values)))
    return panels


def _plain_draw(run: Run, name: str, values: NDArray[Any]) -> Callable[[Axes], None]:
    if name == "guess":
        return lambda ax: draw_phases(ax, run, values)
    return _draws(run, values.astype(float), SHOWN if name == "network" else Look())


def _draws(run: Run, values: NDArray[Any], look: Look) -> Callable[[Axes], None]:
    return lambda ax: draw_map(ax, run, values, look)


def _counts_panel(run: Run, values: NDArray[Any]) -> _Panel:
    missing = int(np.count_nonzero(~np.isfinite(values)))
    title = f"counts: median {_number(np.nanmedian(values))}" if missing < values.size else "counts: nothing measured"
    title += f", {missing:,} not measured" if missing else ""
    return _Panel(title, _draws(run, values, Look(unit="counts")))


def _anomaly_panel(run: Run, values: NDArray[Any]) -> _Panel:
    finite = values[np.isfinite(values)]
    title = f"anomaly score: largest {_number(finite.max())}" if finite.size else "anomaly score"
    # A quiet map stays dark: chance alone makes scores of about 10, and nothing below twice that deserves full colour.
    top = max(float(finite.max()) if finite.size else 0.0, 20.0)
    return _Panel(title, _draws(run, values, Look("inferno", (0.0, top), root=True)))


def _dwell_panel(run: Run, values: NDArray[Any]) -> _Panel:
    total = float(np.nansum(values))
    title = f"dwell: {_seconds(total)} in all"
    scale, unit = _time_unit(float(np.nanmax(values, initial=0.0)))
    look = Look(unit=unit, limits=(0.0, max(float(np.nanmax(values * scale, initial=0.0)), 1e-9)))
    return _Panel(title, _draws(run, values * scale, look))


def _quality_panel(run: Run, values: NDArray[Any]) -> _Panel:
    seen = values[np.isfinite(values)]
    share = float((seen == 1).mean()) if seen.size else 0.0
    lost = int(np.count_nonzero(seen == 0))
    title = f"quality: {share:.1%} exact" + (f", {lost:,} lossy" if lost else "")
    return _Panel(title, _draws(run, values, QUALITY))


def window_panels(run: Run, label: str) -> list[_Panel]:
    """Return raw and denoised map of an energy window on one colour scale, that of the denoised one.

    Where dwell differs between positions both are scaled to the median dwell.
    """
    dwell_s = run.maps.get("dwell")
    raw, _ = at_equal_dwell(run.maps[f"raw/{label}"], dwell_s)
    denoised, median_s = at_equal_dwell(run.maps[f"window/{label}"], dwell_s)
    unit = "counts" if median_s is None else f"counts in {_seconds(median_s)}"
    look = look_of(denoised, unit)
    return [
        _Panel(f"{label} raw: {_mean_sd(raw)}", _draws(run, raw, look)),
        _Panel(f"{label} denoised: {_mean_sd(denoised)}", _draws(run, denoised, look)),
    ]


def scores_figure(run: Run) -> Figure:
    """Draw the map of each score, zero in the middle."""
    scores = run.maps["scores"]
    shown = min(scores.shape[-1], _MOST_SCORES)
    panels = []
    for k in range(shown):
        values = scores[..., k]
        spread = float(np.nanstd(values)) if np.isfinite(values).any() else 0.0
        panels.append(
            _Panel(f"score {k + 1}: sd {_number(spread)}", _draws(run, values, Look("RdBu_r", symmetric=True)))
        )
    figure = _grid(run, panels)
    more = f" (first {shown})" if shown < scores.shape[-1] else ""
    figure.suptitle(f"{run.series}: {scores.shape[-1]} scores{more}", x=0.01, ha="left", fontsize=10)
    return figure


# -- curves ---------------------------------------------------------------------------------------------------


def scree_figure(run: Run) -> Figure:
    """Draw the eigenvalues with the noise edge; those above it are kept."""
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    draw_scree(figure.subplots(), run)
    return figure


def draw_scree(ax: Axes, run: Run) -> None:
    """Draw the eigenvalues of a run on a log axis."""
    values = np.asarray(run.basis["eigenvalues"], dtype=float)
    rank, edge = int(run.meta.get("rank") or 0), run.meta.get("noise_edge")
    order = np.arange(1, values.size + 1)
    positive = values > 0
    # A group of rare positions is one more of the rank's eigenspectra, and none of these eigenvalues.
    kept = positive & (values > edge if edge else order <= rank)
    ax.semilogy(order[kept], values[kept], "o", ms=4, color=_KEPT, label=f"kept: {np.count_nonzero(kept)}")
    ax.semilogy(order[positive & ~kept], values[positive & ~kept], "o", ms=3, color=_LEFT_OUT, label="left out")
    if edge:
        ax.axhline(float(edge), color=_EDGE, lw=1, ls="--", label=f"noise edge {float(edge):.3g}")
    ax.set_xlabel("component")
    ax.set_ylabel("eigenvalue (noise variance = 1)")
    groups = rank - np.count_nonzero(kept)
    ax.set_title(f"rank {rank}" + (f": {np.count_nonzero(kept)} components, {groups} rare" if groups > 0 else ""))
    ax.legend(loc="best")


def eigenspectra_figure(run: Run) -> Figure:
    """Draw mean and eigenspectra, each scaled by the spread of its scores, over the calibrated axis."""
    eigenspectra = _in_counts(run)[:_MOST_CURVES]
    n = len(eigenspectra)
    figure = Figure(figsize=(7.2, 2.0 + 0.95 * n), layout="constrained")
    heights = [2.0] + [1.0] * n
    axes = np.ravel(figure.subplots(1 + n, 1, sharex=True, squeeze=False, height_ratios=heights))
    draw_mean(axes[0], run)
    labels = peak_labels(run)
    draw_labels(axes[0], run, labels)
    for k, (ax, curve) in enumerate(zip(axes[1:], eigenspectra, strict=True)):
        ax.axhline(0, color="0.8", lw=0.6)
        ax.plot(_axis(run), curve, lw=0.8, color=_KEPT)
        if labels:
            label_extremes(ax, run, curve, labels)
        ax.text(-0.075, 0.5, f"{k + 1}", transform=ax.transAxes, ha="right", va="center", fontweight="bold")
        ax.locator_params(axis="y", nbins=3)
    if n:
        more = f" (first {n})" if n < len(run.basis["eigenspectra"]) else ""
        axes[1].set_title(f"eigenspectra{more}: counts for one standard deviation of their scores")
    axes[-1].set_xlabel(run.axis_label)
    return figure


def draw_mean(ax: Axes, run: Run) -> None:
    """Draw the mean spectrum, on a log axis where it spans more than two decades."""
    mean = np.asarray(run.basis["mean"], dtype=float)
    ax.plot(_axis(run), mean, lw=0.8, color="0.2")
    positive = mean[mean > 0]
    if positive.size and positive.size > 0.5 * mean.size and positive.max() > 100 * np.median(positive):
        ax.set_yscale("log")
        ax.set_ylim(bottom=max(float(np.percentile(positive, 2)), 1e-6 * float(positive.max())))
    ax.set_ylabel("counts")
    ax.set_title(f"mean spectrum: {_number(np.nansum(mean))} counts a position")
    ax.margins(x=0.01)


def _axis(run: Run) -> NDArray[np.float64]:
    n = len(run.basis["mean"])
    return run.axis if run.axis.size == n else np.arange(n, dtype=float)


def _in_counts(run: Run) -> NDArray[Any]:
    """Return eigenspectra times the spread of their scores."""
    eigenspectra = np.asarray(run.basis["eigenspectra"], dtype=float)
    scores = run.maps.get("scores")
    if scores is None or scores.shape[-1] != len(eigenspectra) or not np.isfinite(scores).any():
        return eigenspectra
    flat = scores.reshape(-1, len(eigenspectra))
    return np.asarray(eigenspectra * np.nanstd(flat, axis=0)[:, None])


# -- all at a glance --------------------------------------------------------------------------------------------


def overview_figure(run: Run) -> Figure:
    """Draw a window raw and denoised, the anomaly score, scree and spectra in one wide figure."""
    panels = window_panels(run, run.windows[0]) if run.windows else _plain_panels(run)[:1]
    if "anomaly" in run.maps:
        panels.append(_anomaly_panel(run, run.maps["anomaly"]))
    if has_phases(run):
        panels.append(_Panel("phases", lambda ax: draw_phases(ax, run)))
    height_in = float(np.clip(_panel_height_in(run, 3.3), 2.4, 4.0))
    figure = Figure(figsize=(3.3 * len(panels) + 5.6, height_in + 0.35), layout="constrained")
    figure.suptitle(_heading(run), x=0.005, ha="left", fontsize=10)
    halves: Any = figure.subfigures(1, 2, width_ratios=[3.3 * len(panels), 5.6])
    left, right = halves
    axes = np.ravel(left.subplots(1, len(panels), squeeze=False))
    for ax, panel in zip(axes, panels, strict=True):
        ax.set_title(panel.title)
        panel.draw(ax)
    scree, curves = right.subplots(1, 2, width_ratios=[1, 1.6])
    draw_scree(scree, run)
    draw_curves(curves, run)
    return figure


def draw_curves(ax: Axes, run: Run) -> None:
    """Draw the mean and, above it, the first eigenspectra, each to its own scale."""
    curves = [np.asarray(run.basis["mean"], dtype=float)]
    curves += list(np.asarray(run.basis["eigenspectra"], dtype=float)[:_GLANCE_CURVES])
    for k, curve in enumerate(curves):
        low, high = float(curve.min()), float(curve.max())
        scaled = 0.85 * (curve - (high + low) / 2) / ((high - low) or 1.0)
        ax.plot(_axis(run), k + scaled, lw=0.7, color=_KEPT if k else "0.2")
    ax.set_yticks(range(len(curves)), ["mean", *(str(k) for k in range(1, len(curves)))])
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_xlabel(run.axis_label)
    ax.set_title("mean and eigenspectra, each to its scale")
    ax.margins(x=0.01)


# -- words and numbers ----------------------------------------------------------------------------------------------


def _heading(run: Run) -> str:
    books = run.books
    shape = " x ".join(str(n) for n in run.nav_shape)
    lost = sum((books.get("lost") or {}).values())
    return (
        f"{run.series}: {run.header.get('technique', '')}, {shape} positions, {run.axis.size:,} channels, "
        f"{books.get('processed', 0):,} spectra, {lost:,} lost, {books.get('exit_status', 'not closed')}"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def _mean_sd(values: NDArray[Any]) -> str:
    if not np.isfinite(values).any():
        return "nothing measured"
    return f"mean {_number(np.nanmean(values))}, sd {_number(np.nanstd(values))}"


def _time_unit(largest_s: float) -> tuple[float, str]:
    if largest_s >= 1:
        return 1.0, "s"
    return (1e3, "ms") if largest_s >= 1e-3 else (1e6, "µs")


def _seconds(value_s: float) -> str:
    if value_s >= 120:
        return f"{value_s / 60:.1f} min"
    scale, unit = _time_unit(value_s)
    return f"{value_s * scale:.3g} {unit}"
