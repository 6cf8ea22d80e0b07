"""Compiled inner loops of the anomaly test: the scan of windows, and the null spectra that it is calibrated with."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_FEW = 6


@njit(cache=True, nogil=True)
def _ratio(n: float, b: float, spread: float, best: float) -> float:
    """n ln(n/c) - (n - c) + (c - b)^2 / 2 spread for n > b, least over c: b is known but for this variance.

    Profile likelihood of a Poisson count over a Gaussian background (Rolke, Lopez and Conrad, Nucl. Instrum. Meth. A
    551 (2005) 493). The logarithm is taken only where its bound (n - b)^2 / 2 (b + spread) beats `best`.
    """
    over = n - b
    if over <= 0.0 or over * over <= 2.0 * (b + spread) * best:
        return 0.0
    away = 0.0
    if spread * n * n > 0.02 * b * b:
        # Else it would change the ratio by less than 0.01.
        half = 0.5 * (b - spread)
        better = half + np.sqrt(half * half + n * spread)
        away = 0.5 * (better - b) * (better - b) / spread
        b, over = better, n - better
    x = over / b
    if x < 0.01:
        # By its series: for many counts the logarithm would lose everything in rounding.
        return float(over * x * (0.5 - x * (1.0 / 6.0 - x / 12.0)) + away)
    return float(n * np.log(n / b) - over + away)


@njit(cache=True, nogil=True, fastmath={"reassoc", "nnan", "nsz"})
def _fill_bounds(
    bins: NDArray[np.float32],
    n_bins: int,
    low: np.float32,
    mean: NDArray[np.float32],
    found: NDArray[np.float32],
    least: NDArray[np.float32],
    bound: NDArray[np.float32],
) -> None:
    """Window sums, what is expected in them (`least`, at least `low` times the mean), and what no ratio is above."""
    for w in range(found.shape[0]):
        found[w] = bins[w]
    for k in range(1, n_bins):
        for w in range(found.shape[0]):
            found[w] += bins[w + k]
    for w in range(found.shape[0]):
        b = max(least[w], low * mean[w], np.float32(1e-9))
        over = max(found[w] - b, np.float32(0.0))
        least[w] = b
        bound[w] = np.float32(0.5) * over * over / b


@njit(cache=True, nogil=True, fastmath={"reassoc", "nnan", "nsz"})
def _largest_ratio(
    found: NDArray[np.float32],
    least: NDArray[np.float32],
    bound: NDArray[np.float32],
    low: np.float32,
    spread: NDArray[np.float32],
) -> tuple[float, int]:
    """Largest likelihood ratio and its window: the logarithm is only taken where it could win."""
    window = int(np.argmax(bound))
    best = _ratio(found[window], least[window], low * spread[window], 0.0)
    for w in range(bound.shape[0]):
        if bound[w] > best:
            ratio = _ratio(found[w], least[w], low * spread[w], best)
            if ratio > best:
                best = ratio
                window = w
    return best, window


@njit(cache=True, nogil=True, fastmath={"reassoc", "nnan", "nsz", "contract"})
def scan_bins(
    bins: NDArray[np.float32],
    n_bins: int,
    scores: NDArray[np.float32],
    model: NDArray[np.float32],
    more: NDArray[np.float32],
    floor: NDArray[np.float32],
    mean: NDArray[np.float32],
    spread: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Largest Poisson likelihood ratio and its window, over all windows of `n_bins` bins.

    The ratio is never above (n - b)^2 / 2b: that is computed for all windows without a branch.

    Parameters
    ----------
    bins : ndarray of float32, (n, total_bins)
        Counts.
    scores : ndarray of float32, (n, K)
    model : ndarray of float32, (K, n_windows)
        Scores @ this, and `more` (n or 0, n_windows), is what is expected in each window, at least `floor` (n,) times
        `mean` (n_windows,).
    spread : ndarray of float32, (n_windows,)
        Variance of what is expected, for unit floor.
    """
    n, n_windows = bins.shape[0], model.shape[1]
    score = np.zeros(n, np.float32)
    window = np.zeros(n, np.int64)
    found = np.zeros(n_windows, np.float32)
    least = np.zeros(n_windows, np.float32)
    bound = np.zeros(n_windows, np.float32)
    for i in range(n):
        if more.shape[0]:
            least[:] = more[i]
        else:
            least[:] = np.float32(0.0)
        for k in range(model.shape[0]):
            part, times = model[k], scores[i, k]
            for w in range(n_windows):
                least[w] += times * part[w]
        _fill_bounds(bins[i], n_bins, floor[i], mean, found, least, bound)
        score[i], window[i] = _largest_ratio(found, least, bound, floor[i], spread)
    return score, window


@njit(cache=True, nogil=True)
def _fill_windows(
    values: NDArray[np.float32],
    bins: NDArray[np.uint32],
    wide: np.uint32,
    held: NDArray[np.float32],
    touched: NDArray[np.uint32],
) -> np.uint32:
    """Add events to each of the `wide` windows that hold their bins; say how many were empty, and which."""
    n_touched = np.uint32(0)
    for e in range(bins.shape[0]):
        for u in range(bins[e], bins[e] + wide):
            if held[u] == 0:
                touched[n_touched] = u
                n_touched += np.uint32(1)
            held[u] += values[e]
    return n_touched


@njit(cache=True, nogil=True)
def _most_expected(found: float, best: float, limits: NDArray[np.float64]) -> float:
    """What a window of so many counts may expect at most, to beat the best; `limits` keeps it for few counts."""
    few = np.int64(found)
    if few <= 0 or few >= _FEW or few != found:
        return np.inf
    if limits[few] < 0.0:
        limits[few] = few * np.exp(-best / few)
    return float(limits[few])


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _modelled(scores: NDArray[np.float32], i: int, model: NDArray[np.float32], w: np.uint32) -> float:
    """Product of a row of scores (n, K) with one of the model (n_windows, K)."""
    total = np.float32(0.0)
    for k in range(scores.shape[1]):
        total += scores[i, k] * model[w, k]
    return float(total)


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _best_touched(
    held: NDArray[np.float32],
    touched: NDArray[np.uint32],
    n_touched: np.uint32,
    wide: np.uint32,
    limits: NDArray[np.float64],
    i: int,
    scores: NDArray[np.float32],
    model: NDArray[np.float32],
    low: float,
    mean: NDArray[np.float32],
    spread: NDArray[np.float32],
) -> tuple[float, np.int64]:
    """Largest ratio of a spectrum's windows that hold counts, and which it is; those are emptied again."""
    one, n_windows = np.uint32(1), model.shape[0]
    best, window = 0.0, np.int64(0)
    limits[:] = np.inf
    for q in range(n_touched):
        u = touched[q]
        found = held[u]
        held[u] = 0.0
        if u + one < wide or u + one - wide >= n_windows:
            continue
        w = u + one - wide
        limit = _most_expected(found, best, limits)
        expected = max(np.float64(low * mean[w]), 1e-9)
        if expected >= limit:
            continue
        expected = max(expected, _modelled(scores, i, model, w))
        over, spread_here = found - expected, np.float64(low * spread[w])
        if expected >= limit or over <= 0.0 or over * over <= 2.0 * (expected + spread_here) * best:
            continue
        larger = _ratio(found, expected, spread_here, best)
        if larger > best:
            best, window = larger, np.int64(w)
            limits[:] = -1.0
    return best, window


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def scan_sparse(
    values: NDArray[np.float32],
    channels: NDArray[np.uint32],
    indptr: NDArray[np.uint32],
    shape: tuple[int, int, int],
    scores: NDArray[np.float32],
    model: NDArray[np.float32],
    floor: NDArray[np.float32],
    mean: NDArray[np.float32],
    spread: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The same from CSR spectra: only windows that hold counts are looked at.

    n ln(n/b) - (n - b) is below the best ratio so far where b is over n exp(-best / n). For few counts, which nearly
    all windows have, that is known beforehand, and often the least that is expected is already more.

    Parameters
    ----------
    shape : tuple of int
        Channels a bin, bins a window, bins in all.
    scores, model : ndarray of float32, (n, K) and (n_windows, K)
        Their product is expected in the windows.
    floor, mean : ndarray of float32, (n,) and (n_windows,)
        Their outer product is the least that is expected.
    spread : ndarray of float32, (n_windows,)
        Variance of what is expected, for unit floor.
    """
    step, n_bins, total_bins = shape
    n = scores.shape[0]
    score, window = np.zeros(n, np.float32), np.zeros(n, np.int64)
    bin_of = (channels // np.uint32(step)).astype(np.uint32)
    # A bin lies in `n_bins` windows; the first ones of the first bins begin before the spectrum.
    held = np.zeros(total_bins + n_bins, np.float32)
    touched = np.zeros(np.int64(np.diff(indptr).max()) * n_bins, np.uint32)
    wide, limits = np.uint32(n_bins), np.zeros(_FEW, np.float64)
    for i in range(n):
        these = slice(indptr[i], indptr[i + 1])
        n_touched = _fill_windows(values[these], bin_of[these], wide, held, touched)
        score[i], window[i] = _best_touched(
            held, touched, n_touched, wide, limits, i, scores, model, floor[i], mean, spread
        )
    return score, window


@njit(cache=True, nogil=True)
def scatter_events(
    steps: NDArray[np.float64], base: NDArray[np.int64], totals: NDArray[np.int64], place: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Spectra (n, D) of events that fall into channels by chance.

    Parameters
    ----------
    steps : ndarray of float64, (m, D)
        Running sums of rates over channels.
    base, totals : ndarray of int64, (n,)
        Rates that a spectrum follows, and its number of events.
    place : ndarray of float32, (totals.sum(),)
        Uniform in [0, 1): where each event falls.
    """
    size = steps.shape[1]
    out = np.zeros((base.shape[0], size), np.float32)
    at = 0
    for i in range(base.shape[0]):
        row = steps[base[i]]
        for _ in range(totals[i]):
            wanted = np.float64(place[at]) * row[size - 1]
            at += 1
            low, high = 0, size - 1
            while low < high:
                middle = (low + high) // 2
                if row[middle] > wanted:
                    high = middle
                else:
                    low = middle + 1
            out[i, low] += np.float32(1.0)
    return out
