"""Flagged positions that are alike: groups, what each looks like, and whether it is a defect rather than a specimen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    lit = np.maximum(found.residual, 0.0)
    noise = found.variance + found.gain * lit
    height = maximum_filter1d(lit, 2 * windows.width + 1, axis=1)[:, 1:]
    step = np.abs(np.diff(found.residual, axis=1))
    spread = noise[:, 1:] + noise[:, :-1] + steep**2 * (found.variance[:, 1:] + found.gain * height)
    sigma = (step - steep * height) / np.sqrt(np.maximum(spread, 1e-12))
    away = np.arange(step.shape[1]) - (found.window * windows.step)[:, None]
    sigma[(away < -windows.width) | (away > 2 * windows.width)] = -np.inf
    at, rows = np.argmax(sigma, axis=1), np.arange(len(nowhere))
    clear = (sigma[rows, at] > _SPIKE_SIGMA) & (step[rows, at] > _SPIKE_STEP * steep * height[rows, at])
    return np.where(clear, at + (lit[rows, at + 1] > lit[rows, at]), nowhere)


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


def find_groups(found: Residuals, windows: ScanWindows, steep: float, most: int) -> list[Group]:
    """Groups of like positions, at most `most`: features of the specimen before defects, then by score.

    Spikes are alike where they are in the same channel; three or more make a hot pixel, fewer are cosmic rays. Others
    are alike where they were flagged in overlapping windows, or where each group's pooled residual stands out in the
    other's window: a phase with two lines is flagged now in one, now in the other.
    """
    channel = spikes(found, windows, steep)
    narrow = np.flatnonzero(channel >= 0)
    parts: list[tuple[NDArray[np.int64], Kind]] = []
    for part in _runs(channel[narrow], 2):
        rows = narrow[part]
        parts.append((rows, "hot pixel" if rows.size >= _HOT else "cosmic ray"))
    broad = np.flatnonzero(channel < 0)
    close = [broad[part] for part in _runs(found.window[broad], windows.n_bins)]
    close.sort(key=lambda part: -float(found.score[part].max()))
    parts += [(part, "feature") for part in _merged(found, close[: 2 * most], windows)]
    parts.sort(key=lambda part: (part[1] != "feature", -float(found.score[part[0]].max())))
    return [group_of(found, windows, kind, rows) for rows, kind in parts[:most]]


def _runs(place: NDArray[np.int64], apart: int) -> list[NDArray[np.int64]]:
    """Rows whose places follow each other by less than `apart`."""
    if not place.size:
        return []
    order = np.argsort(place, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(place[order]) >= apart) + 1)


def _merged(found: Residuals, parts: list[NDArray[np.int64]], windows: ScanWindows) -> list[NDArray[np.int64]]:
    """Parts put together where each stands out in the window of the other."""
    if len(parts) < 2:
        return parts
    excess = np.stack([_in_windows(found.residual[rows], windows) for rows in parts])
    sigma = excess / np.sqrt(
        np.maximum(np.stack([_in_windows(found.variance[rows], windows) for rows in parts]), 1e-12)
    )
    top = np.argmax(sigma, axis=1)
    out = sigma[:, top] > _ALIKE_SIGMA
    links = coo_array(np.triu(out & out.T, 1))
    _, label = connected_components(links, directed=False)
    return [np.concatenate([parts[k] for k in np.flatnonzero(label == part)]) for part in np.unique(label)]


def _in_windows(rows: Float32 | Float64, windows: ScanWindows) -> Float64:
    """Window sums (n_windows,) of rows (n, D), pooled."""
    pooled = rows.sum(axis=0, dtype=np.float64)[None, :].astype(np.float32)
    return np.asarray(windows.sums(windows.bins(pooled))[0], dtype=np.float64)


def group_of(
    found: Residuals, windows: ScanWindows, kind: Kind = "feature", rows: NDArray[np.int64] | slice = slice(None)
) -> Group:
    """Some positions as one group."""
    residual, variance = found.residual[rows], found.variance[rows]
    order = np.argsort(found.positions[rows])
    spectrum, share = pooled_residual(residual[order], variance[order], found.gain, windows.width)
    excess, noise = _in_windows(residual, windows), np.maximum(_in_windows(variance, windows), 1e-12)
    ratio = _ratio(excess, noise, found.gain)
    window = int(np.argmax(ratio))
    return Group(found.positions[rows][order], spectrum, share, window, float(ratio[window]), kind)


def _ratio(excess: Float64, variance: Float64, gain: float) -> Float64:
    """Log likelihood ratio of an excess over noise of this variance, counted in quanta of `gain`."""
    over = np.maximum(excess, 0.0)
    if gain <= 0:
        return np.asarray(over**2 / (2.0 * variance))
    b, more = variance / gain**2, over / gain
    return np.asarray(xlogy(b + more, 1.0 + more / b) - more)
