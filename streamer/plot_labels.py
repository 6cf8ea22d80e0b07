"""Names of peaks and edges in the spectra of a report."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from scipy.signal import find_peaks

from models.candidates import Label, candidates, label_peaks
from streamer.run_data import Run

_PER_CURVE: Final = 4
_HEADROOM: Final = 8.0
"""Of a log axis above the highest peak, for its name."""
_LIFTS: Final = (0, 8)
"""Points above its peak where a label is tried."""
_ROOM: Final = 1.15
"""A label needs so much more room than it is wide: the axes may still be made narrower."""


def peak_labels(run: Run) -> list[Label]:
    """Return names for the peaks of the mean spectrum of all that was measured; none where there are no tables."""
    mean = np.asarray(run.basis.get("mean", ()), dtype=float)
    counts = run.maps.get("counts")
    if not mean.size or mean.size != run.axis.size or counts is None or "axis" not in run.header:
        return []
    measured = max(int(np.isfinite(counts).sum()), 1)
    units = str(run.header["axis"].get("units", ""))
    known = np.isfinite(mean)  # all but what was cropped
    if not known.any():
        return []
    return label_peaks(str(run.header.get("technique", "")), run.axis[known], units, mean[known] * measured)


def draw_labels(ax: Axes, run: Run, labels: list[Label]) -> None:
    """Write names above the peaks of a mean spectrum that is drawn already."""
    mean = np.asarray(run.basis["mean"], dtype=float)
    ax.margins(y=0.2)
    ax.autoscale_view(scalex=False)
    if ax.get_yscale() == "log":
        ax.set_ylim(top=_HEADROOM * float(np.nanmax(mean)))
    biggest_first = sorted(labels, key=lambda one: -one.counts)
    named = [(one.text, one.value, float(mean[_near(run.axis, one.value)].max())) for one in biggest_first]
    _write(ax, named, run.axis, mean)


def label_extremes(ax: Axes, run: Run, curve: NDArray[Any], labels: list[Label]) -> None:
    """Write names at the largest peaks of an eigenspectrum, up or down: the mean's where it has one there."""
    size = np.abs(curve)
    reach = max(1, run.axis.size // 200)
    peaks, _ = find_peaks(size, distance=3 * reach, height=0.1 * float(size.max()))
    named = []
    for at in sorted(peaks.tolist(), key=lambda i: -size[i])[:_PER_CURVE]:
        text = _name(run, float(run.axis[at]), reach * float(np.ptp(run.axis)) / run.axis.size, labels)
        if text:
            named.append((text, float(run.axis[at]), float(curve[at])))
    ax.margins(y=0.25)
    ax.autoscale_view(scalex=False)
    _write(ax, named, run.axis, curve)


def _name(run: Run, value: float, reach: float, labels: list[Label]) -> str:
    """Return the mean's name for a peak, or the two likeliest of the tables."""
    known = min(labels, key=lambda label: abs(label.value - value), default=None)
    if known is not None and abs(known.value - value) <= 0.3 * reach:
        return known.text
    technique, units = str(run.header.get("technique", "")), str(run.header["axis"].get("units", ""))
    found = candidates(technique, value - reach, value + reach, units, most=2)
    return " / ".join(" ".join(words.split()[:2]) for words in found)


def _near(axis: NDArray[np.float64], value: float) -> slice:
    at = int(np.argmin(np.abs(axis - value)))
    reach = max(1, axis.size // 500)
    return slice(max(at - reach, 0), at + reach + 1)


def _write(
    ax: Axes, texts: list[tuple[str, float, float]], axis: NDArray[np.float64], curve: NDArray[np.float64]
) -> None:
    """Write texts at (value, height), the most important first; none over another or over the curve."""
    if ax.get_yscale() == "log":
        curve = np.maximum(curve, ax.get_ylim()[0])
    drawn = ax.transData.transform(np.column_stack([axis, curve]))
    taken: list[Bbox] = []
    for text, value, height in texts:
        for lift in _LIFTS:
            side = 3 + lift if height >= 0 else -8 - lift
            written = ax.annotate(
                text, (value, height), xytext=(0, side), textcoords="offset points", ha="center", fontsize=6,
                color="0.35",
            )  # fmt: skip
            box = written.get_window_extent().expanded(_ROOM, 1.0)
            beside = drawn[(drawn[:, 0] > box.x0) & (drawn[:, 0] < box.x1), 1]
            crossed = bool(((beside > box.y0) & (beside < box.y1)).any())
            if not crossed and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            written.remove()
