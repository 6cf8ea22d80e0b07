"""Flagged positions that are alike: groups, what each looks like, and whether it is a defect rather than a specimen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, minimum_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import xlogy

from models.anomaly import PEAK_WIDTHS, ScanWindows
from models.base import Float32, Float64
from models.noise import NoiseModel
from models.novelty import Positions, pooled_residual

Kind = Literal["feature", "phase", "hot pixel", "cosmic ray"]
_GAUSSIAN_SLOPE = 1.43
"""Largest slope of a Gaussian, times its full width at half maximum, over its height."""
_SPIKE_SIGMA, _SPIKE_STEP, _BLURRED = 4.0, 1.75, 0.5
_HOT = 3
_ALIKE_SIGMA = 4.0
_STRONG_LINE, _PROMINENT = 0.1, 0.3


@dataclass(frozen=True)
class Residuals:
    """What the components do not explain at some positions.

    Attributes
    ----------
    positions : ndarray of int, (n,)
    residual, variance : ndarray, (n, D)
        Counts above what is expected, and the noise variance of what is.
    window : ndarray of int, (n,)
        Where each was flagged.
    score : ndarray of float32, (n,)
        Anomaly scores.
    gain : float
        Variance of a count.
    """

    positions: Positions
    residual: Float32
    variance: Float64
    window: NDArray[np.int64]
    score: Float32
    gain: float


@dataclass(frozen=True)
class Group:
    """Positions with the same unexpected feature.

    Attributes
    ----------
    positions : ndarray of int, (n,)
        Rising.
    spectrum : ndarray of float32, (D,)
        Pooled residual, counts, shrunk where it may be noise.
    share : ndarray of float32, (n,)
        Of each position in it; they sum to 1.
    window : int
        Where the pooled residual stands out most.
    evidence : float
        Log likelihood ratio of the pooled counts in that window.
    kind : str
        A feature of the specimen, a phase that few positions are of, or what its shape says of the detector.
    feature : int
        Number of the accepted feature that it is, -1 where nobody accepted it.
    """

    positions: Positions
    spectrum: Float32
    share: Float32
    window: int
    evidence: float
    kind: Kind
    feature: int = -1


def steepest(typical: Float32, width: int) -> float:
    """Largest step from channel to channel in a line, over its height: of the expected width, or as lines are here.

    Parameters
    ----------
    typical : ndarray, (D,)
        Spectrum that shows how sharp the specimen's own lines are: a median, for a mean has the cosmic rays in it.
    width : int
        Channels of a window.
    """
    expected = _GAUSSIAN_SLOPE * PEAK_WIDTHS / width
    level = np.nan_to_num(typical).astype(np.float64)
    above = level - minimum_filter1d(level, 3 * width)
    step = maximum_filter1d(np.abs(np.diff(above, append=above[-1:])), width)
    # Lines, and not what the pixels of a detector differ by.
    strong = (above > _STRONG_LINE * max(float(level.max()), 1e-300)) & (above > _PROMINENT * level)
    top = np.flatnonzero(strong & (above == maximum_filter1d(above, 2 * width + 1)))
    top = top[(top >= width) & (top < above.size - width)]
    return max(expected, float(np.median(step[top] / above[top]))) if top.size else expected


def spikes(found: Residuals, windows: ScanWindows, steep: float) -> NDArray[np.int64]:
    """Channel (n,) of excesses with edges that are too steep for any line, -1 for the others.

    Parameters
    ----------
    steep : float
        Largest step in a line, over its height.
    """
    nowhere = np.full(len(found.positions), -1)
    if steep > _BLURRED:
        return nowhere
    width, rows = windows.width, np.arange(len(nowhere))
    # As far as a step can be from where it fired, and as far again as its height is looked for.
    first = found.window * windows.step - 2 * width - 1
    channel = np.clip(first[:, None] + np.arange(5 * width + 4), 0, windows.n_channels - 1)
    residual, variance = found.residual[rows[:, None], channel], found.variance[rows[:, None], channel]
    lit = np.maximum(residual, 0.0)
    noise = variance + found.gain * lit
    height = maximum_filter1d(lit, 2 * width + 1, axis=1)[:, 1:]
    step = np.abs(np.diff(residual, axis=1))
    spread = noise[:, 1:] + noise[:, :-1] + steep**2 * (variance[:, 1:] + found.gain * height)
    sigma = (step - steep * height) / np.sqrt(np.maximum(spread, 1e-12))
    away = channel[:, :-1] - (found.window * windows.step)[:, None]
    sigma[(away < -width) | (away > 2 * width)] = -np.inf
    at = np.argmax(sigma, axis=1)
    clear = (sigma[rows, at] > _SPIKE_SIGMA) & (step[rows, at] > _SPIKE_STEP * steep * height[rows, at])
    return np.where(clear, channel[rows, at + (lit[rows, at + 1] > lit[rows, at])], nowhere)


def is_spike(
    spectrum: Float32, expected: Float32, noise: NoiseModel, windows: ScanWindows, steep: float, channel: int
) -> bool:
    """Whether what a spectrum (D,) has beyond what was expected, near a channel, is narrower than any line can be."""
    known = np.nan_to_num(expected)
    variance = np.maximum(noise.variance(known), noise.gain)[None, :]
    nowhere, none = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.float32)
    residual = np.nan_to_num(spectrum - known)[None, :]
    found = Residuals(nowhere, residual, variance, nowhere + channel // windows.step, none, noise.gain)
    return bool(spikes(found, windows, steep)[0] >= 0)


def find_groups(
    found: Residuals,
    windows: ScanWindows,
    steep: float,
    most: int,
    is_enough: Callable[[Positions, float], bool] = lambda positions, evidence: True,
) -> tuple[list[Group], list[Positions]]:
    """Groups of like positions, at most `most`: features of the specimen before defects, then by score.

    Spikes are alike where they are in the same channel; three or more make a hot pixel, fewer are cosmic rays. Others
    are alike where they were flagged in overlapping windows, or where each group's pooled residual stands out in the
    other's window: a phase with two lines is flagged now in one, now in the other.

    Parameters
    ----------
    is_enough : callable
        Whether positions with so much evidence make a group.

    Returns
    -------
    list of Group, list of ndarray of int
        The groups, and the positions of hot pixels, whether they make a group or not.
    """
    channel = spikes(found, windows, steep)
    narrow, broad = np.flatnonzero(channel >= 0), np.flatnonzero(channel < 0)
    parts = [_Part.of(narrow[run], found, windows) for run in _runs(channel[narrow], 2)]
    parts = [replace(part, kind="hot pixel" if part.rows.size >= _HOT else "cosmic ray") for part in parts]
    close = [broad[run] for run in _runs(found.window[broad], windows.n_bins)]
    close.sort(key=lambda rows: -float(found.score[rows].max()))
    parts += _merged([_Part.of(rows, found, windows) for rows in close[: 2 * most]])
    parts.sort(key=lambda part: (part.kind != "feature", -float(found.score[part.rows].max())))
    groups = []
    for part in parts[:most]:
        window, evidence = part.evidence(found.gain)
        if is_enough(found.positions[part.rows], evidence):
            groups.append(_group(found, windows, part, window, evidence))
    return groups, [found.positions[part.rows] for part in parts if part.kind == "hot pixel"]


@dataclass(frozen=True)
class _Part:
    """Rows that are alike, and their window sums (n_windows,)."""

    rows: NDArray[np.int64]
    excess: Float64
    variance: Float64
    kind: Kind = "feature"

    @classmethod
    def of(cls, rows: NDArray[np.int64], found: Residuals, windows: ScanWindows) -> Self:
        """Sum over rows and windows."""
        return cls(rows, _in_windows(found.residual[rows], windows), _in_windows(found.variance[rows], windows))

    def evidence(self, gain: float) -> tuple[int, float]:
        """Return the window where the pooled residual stands out most, and its log likelihood ratio."""
        ratio = _ratio(self.excess, np.maximum(self.variance, 1e-12), gain)
        window = int(np.argmax(ratio))
        return window, float(ratio[window])


def _runs(place: NDArray[np.int64], apart: int) -> list[NDArray[np.int64]]:
    """Rows whose places follow each other by less than `apart`."""
    if not place.size:
        return []
    order = np.argsort(place, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(place[order]) >= apart) + 1)


def _merged(parts: list[_Part]) -> list[_Part]:
    """Parts put together where each stands out in the window of the other."""
    if len(parts) < 2:
        return parts
    excess, variance = np.stack([part.excess for part in parts]), np.stack([part.variance for part in parts])
    sigma = excess / np.sqrt(np.maximum(variance, 1e-12))
    top = np.argmax(sigma, axis=1)
    out = sigma[:, top] > _ALIKE_SIGMA
    links = coo_array(np.triu(out & out.T, 1))
    _, label = connected_components(links, directed=False)
    alike = [np.flatnonzero(label == number) for number in np.unique(label)]
    return [
        _Part(np.concatenate([parts[k].rows for k in same]), excess[same].sum(axis=0), variance[same].sum(axis=0))
        for same in alike
    ]


def _in_windows(rows: Float32 | Float64, windows: ScanWindows) -> Float64:
    """Window sums (n_windows,) of rows (n, D), pooled."""
    pooled = rows.sum(axis=0, dtype=np.float64)[None, :].astype(np.float32)
    return np.asarray(windows.sums(windows.bins(pooled))[0], dtype=np.float64)


def group_of(found: Residuals, windows: ScanWindows) -> Group:
    """All positions as one group."""
    part = _Part.of(np.arange(len(found.positions)), found, windows)
    return _group(found, windows, part, *part.evidence(found.gain))


def _group(found: Residuals, windows: ScanWindows, part: _Part, window: int, evidence: float) -> Group:
    rows = part.rows[np.argsort(found.positions[part.rows])]
    spectrum, share = pooled_residual(found.residual[rows], found.variance[rows], found.gain, windows.width)
    return Group(found.positions[rows], spectrum, share, window, evidence, part.kind)


def _ratio(excess: Float64, variance: Float64, gain: float) -> Float64:
    """Log likelihood ratio of an excess over noise of this variance, counted in quanta of `gain`."""
    over = np.maximum(excess, 0.0)
    if gain <= 0:
        return np.asarray(over**2 / (2.0 * variance))
    b, more = variance / gain**2, over / gain
    return np.asarray(xlogy(b + more, 1.0 + more / b) - more)
