"""Flagged positions that are alike: groups, what each looks like, and whether it is a defect rather than a specimen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter1d, uniform_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import erf, xlogy

from models.anomaly import PEAK_WIDTHS, ScanWindows
from models.base import Float32, Float64
from models.noise import NoiseModel
from models.novelty import Positions, pooled_residual

Kind = Literal["feature", "hot pixel", "cosmic ray"]
_SPIKE = 3
"""Channels that a cosmic ray or a hot pixel lights up, at most (Raman, cathodoluminescence: 1 to 3)."""
_NARROW_SIGMA, _NARROW_SHARE, _BROAD_ENOUGH = 4.0, 0.75, 0.7
_HOT = 3
_ALIKE_SIGMA = 4.0
_STRONG_LINE = 0.1


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
        A feature of the specimen, or what its shape says of the detector.
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


def narrowest(mean: Float32, width: int) -> float:
    """Largest part of a line that three channels hold: of the expected width, or of the specimen's own lines.

    Parameters
    ----------
    mean : ndarray, (D,)
        Mean spectrum, which shows how sharp lines are here.
    width : int
        Channels of a window.
    """
    sigma = width / PEAK_WIDTHS / 2.355
    expected = float(erf(_SPIKE / 2 / np.sqrt(2) / sigma) / erf(width / 2 / np.sqrt(2) / sigma))
    above = np.nan_to_num(mean).astype(np.float64)
    above -= minimum_filter1d(above, 3 * width)
    near, wide = (uniform_filter1d(above, n) * n for n in (_SPIKE, width))
    lines = wide > _STRONG_LINE * max(float(wide.max()), 1e-300)
    return max(expected, float((near[lines] / wide[lines]).max())) if lines.any() else expected


def spikes(found: Residuals, width: int, sharp: float) -> NDArray[np.int64]:
    """Middle channel (n,) of excesses that are narrower than any line can be, -1 for the others.

    Parameters
    ----------
    width : int
        Channels of a window, 1.2 times the width of a line.
    sharp : float
        Largest part of a line that three channels hold.
    """
    if sharp > _BROAD_ENOUGH:
        return np.full(len(found.positions), -1)
    near, near_variance = (uniform_filter1d(a, _SPIKE, axis=1) * _SPIKE for a in (found.residual, found.variance))
    at = np.argmax(near / np.sqrt(np.maximum(near_variance, 1e-12)), axis=1)
    rows = np.arange(len(at))
    wide, wide_variance = (
        (uniform_filter1d(a, width, axis=1) * width)[rows, at] for a in (found.residual, found.variance)
    )
    inside, inside_variance = near[rows, at], near_variance[rows, at]
    variance = (1 - sharp) ** 2 * inside_variance + sharp**2 * np.maximum(wide_variance - inside_variance, 0.0)
    variance += found.gain * sharp * (1 - sharp) * np.maximum(wide, 0.0)
    narrow = (inside - sharp * wide > _NARROW_SIGMA * np.sqrt(variance)) & (inside > _NARROW_SHARE * wide)
    return np.where(narrow, at, -1)


def is_spike(spectrum: Float32, expected: Float32, noise: NoiseModel, mean: Float32, width: int) -> bool:
    """Whether what a spectrum (D,) has beyond what was expected is narrower than any line can be."""
    known = np.nan_to_num(expected)
    variance = np.maximum(noise.variance(known), noise.gain)[None, :]
    nowhere, none = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.float32)
    residual = np.nan_to_num(spectrum - known)[None, :]
    found = Residuals(nowhere, residual, variance, nowhere, none, noise.gain)
    return bool(spikes(found, width, narrowest(mean, width))[0] >= 0)


def find_groups(found: Residuals, windows: ScanWindows, mean: Float32, most: int) -> list[Group]:
    """Groups of like positions, at most `most`: features of the specimen before defects, then by score.

    Spikes are alike where they are in the same channel; three or more make a hot pixel, fewer are cosmic rays. Others
    are alike where they were flagged in overlapping windows, or where each group's pooled residual stands out in the
    other's window: a phase with two lines is flagged now in one, now in the other.
    """
    channel = spikes(found, windows.width, narrowest(mean, windows.width))
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
