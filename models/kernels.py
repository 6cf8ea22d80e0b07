"""Compiled inner loops: the few places where numpy would make many passes over what one pass can do.

Compiled at first use for each type of counts, and kept in numba's cache beside this file or in the user's directory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def _row_lengths(counts: NDArray[Any], words: NDArray[np.uint64], per_word: int) -> NDArray[np.int32]:
    """Row pointer (n + 1,) of the non-zero counts (n, D); `words` is the same memory, eight bytes at a time."""
    n = counts.shape[0]
    indptr = np.zeros(n + 1, np.int32)
    for i in range(n):
        found = 0
        for w in range(words.shape[1]):
            if words[i, w] != 0:
                for j in range(w * per_word, (w + 1) * per_word):
                    found += counts[i, j] != 0
        indptr[i + 1] = indptr[i] + found
    return indptr


@njit(cache=True, nogil=True)
def _fill_rows(
    counts: NDArray[Any],
    words: NDArray[np.uint64],
    per_word: int,
    indptr: NDArray[np.int32],
    channels: NDArray[np.int32],
    values: NDArray[Any],
) -> None:
    for i in range(counts.shape[0]):
        at = indptr[i]
        for w in range(words.shape[1]):
            if words[i, w] != 0:
                for j in range(w * per_word, (w + 1) * per_word):
                    if counts[i, j] != 0:
                        channels[at] = j
                        values[at] = counts[i, j]
                        at += 1


def nonzero_rows(counts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32]]:
    """Values, channels and row pointer (CSR) of dense counts (n, D) that are mostly zeros."""
    counts = np.ascontiguousarray(counts)
    row_bytes = counts.shape[1] * counts.itemsize
    aligned = row_bytes % 8 == 0 and counts.itemsize < 8 and counts.ctypes.data % 8 == 0
    per_word = 8 // counts.itemsize if aligned else 1
    words = counts.view(np.uint64) if aligned else (counts != 0).astype(np.uint64)
    indptr = _row_lengths(counts, words, per_word)
    channels = np.empty(indptr[-1], np.int32)
    values = np.empty(indptr[-1], counts.dtype)
    _fill_rows(counts, words, per_word, indptr, channels, values)
    return values, channels, indptr


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


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def read_rows(
    counts: NDArray[Any], step: int, total_bins: int
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
    """One pass over dense counts (n, D): them in float32, row sums (n,), column sums (D,), sums of `step` channels."""
    n, size = counts.shape
    whole = size // step
    block = np.empty((n, size), np.float32)
    total = np.zeros(n, np.float64)
    column = np.zeros(size, np.float64)
    bins = np.zeros((n, total_bins), np.float32)
    for i in range(n):
        row = block[i]
        held = bins[i]
        for j in range(size):
            row[j] = counts[i, j]
        for j in range(size):
            column[j] += row[j]
        for j in range(step):
            for t in range(whole):
                held[t] += row[t * step + j]
        for j in range(whole * step, size):
            held[whole] += row[j]
        counted = 0.0
        for j in range(size):
            counted += np.float64(row[j])
        total[i] = counted
    return block, total, column, bins


@njit(cache=True, nogil=True)
def bin_events(
    values: NDArray[np.float32],
    channels: NDArray[np.int32],
    indptr: NDArray[np.int32],
    step: int,
    total_bins: int,
) -> NDArray[np.float32]:
    """Sums of `step` channels (n, total_bins) of CSR spectra."""
    bins = np.zeros((indptr.shape[0] - 1, total_bins), np.float32)
    for i in range(bins.shape[0]):
        for e in range(indptr[i], indptr[i + 1]):
            bins[i, channels[e] // step] += values[e]
    return bins


@njit(cache=True, nogil=True, fastmath={"reassoc", "nnan", "nsz"})
def scan_bins(
    bins: NDArray[np.float32],
    n_bins: int,
    expected: NDArray[np.float32],
    floor: NDArray[np.float32],
    mean: NDArray[np.float32],
    spread: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Largest Poisson likelihood ratio and its window, over all windows of `n_bins` bins.

    The ratio is never above (n - b)^2 / 2b: that is computed for all windows without a branch, and the logarithm only
    where it could win.

    Parameters
    ----------
    bins : ndarray of float32, (n, total_bins)
        Counts.
    expected : ndarray of float32, (n, n_windows)
        What the model expects in each window, at least `floor` (n,) times `mean` (n_windows,).
    spread : ndarray of float32, (n_windows,)
        Variance of what is expected, for unit floor.
    """
    n, n_windows = expected.shape
    score = np.zeros(n, np.float32)
    window = np.zeros(n, np.int64)
    found = np.zeros(n_windows, np.float32)
    least = np.zeros(n_windows, np.float32)
    bound = np.zeros(n_windows, np.float32)
    for i in range(n):
        found[:] = 0.0
        for k in range(n_bins):
            for w in range(n_windows):
                found[w] += bins[i, w + k]
        low = floor[i]
        for w in range(n_windows):
            b = max(expected[i, w], low * mean[w], np.float32(1e-9))
            over = max(found[w] - b, np.float32(0.0))
            least[w] = b
            bound[w] = np.float32(0.5) * over * over / b
        first = np.argmax(bound)
        best = _ratio(found[first], least[first], low * spread[first], 0.0)
        window[i] = first
        for w in range(n_windows):
            if bound[w] > best:
                ratio = _ratio(found[w], least[w], low * spread[w], best)
                if ratio > best:
                    best = ratio
                    window[i] = w
        score[i] = best
    return score, window


@njit(cache=True, nogil=True)
def scan_sparse(
    values: NDArray[np.float32],
    channels: NDArray[np.int32],
    indptr: NDArray[np.int32],
    shape: tuple[int, int, int],
    scores: NDArray[np.float32],
    model: NDArray[np.float32],
    floor: NDArray[np.float32],
    mean: NDArray[np.float32],
    spread: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The same from CSR spectra: only windows that hold counts are looked at.

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
    score = np.zeros(n, np.float32)
    window = np.zeros(n, np.int64)
    bins = np.zeros(total_bins, np.float32)
    seen = np.full(model.shape[0], -1, np.int64)
    for i in range(n):
        low = float(floor[i])
        for e in range(indptr[i], indptr[i + 1]):
            bins[channels[e] // step] += values[e]
        best = 0.0
        for e in range(indptr[i], indptr[i + 1]):
            t = channels[e] // step
            for w in range(max(0, t - n_bins + 1), min(t + 1, model.shape[0])):
                if seen[w] == i:
                    continue
                seen[w] = i
                found = 0.0
                for k in range(w, w + n_bins):
                    found += bins[k]
                expected = 0.0
                for k in range(scores.shape[1]):
                    expected += scores[i, k] * model[w, k]
                expected = max(expected, low * mean[w], 1e-9)
                over = found - expected
                if over <= 0.0 or over * over <= 2.0 * (expected + low * spread[w]) * best:
                    continue
                ratio = _ratio(found, expected, low * spread[w], best)
                if ratio > best:
                    best = ratio
                    window[i] = w
        for e in range(indptr[i], indptr[i + 1]):
            bins[channels[e] // step] = 0.0
        score[i] = best
    return score, window


@njit(cache=True, nogil=True)
def _by_channel(
    values: NDArray[np.float32], channels: NDArray[np.uint32], indptr: NDArray[np.uint32], n_channels: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]:
    """Starts (D + 1,) of the events of each channel among those sorted by it, and their rows and values."""
    start = np.zeros(n_channels + 1, np.uint32)
    for channel in channels:
        start[channel + 1] += np.uint32(1)
    for c in range(n_channels):
        start[c + 1] += start[c]
    fill = start[:-1].copy()
    row = np.empty(channels.shape[0], np.uint32)
    value = np.empty(channels.shape[0], np.float32)
    for i in range(indptr.shape[0] - 1):
        for e in range(indptr[i], indptr[i + 1]):
            k = fill[channels[e]]
            fill[channels[e]] = k + np.uint32(1)
            row[k] = np.uint32(i)
            value[k] = values[e]
    return start, row, value


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


@njit(cache=True, nogil=True)
def add_pairs(
    values: NDArray[np.float32],
    channels: NDArray[np.uint32],
    indptr: NDArray[np.uint32],
    weight: NDArray[np.float64],
    moment: NDArray[np.float32],
) -> None:
    """Add weight_i x_i x_i' of CSR spectra to a second moment (D, D), each pair of channels once.

    Only the upper triangle is filled; a channel that comes several times in a spectrum is right too. The events are
    sorted first, so that one row of the moment after the other is filled while it is in the nearest cache: three times
    faster than spectrum by spectrum. Indices without a sign spare a test at each access.
    """
    n_channels = np.uint32(moment.shape[0])
    start, owner, held = _by_channel(values, channels, indptr, moment.shape[0])
    cursor = indptr[:-1].copy()
    at = np.empty(channels.shape[0], np.uint32)
    channel = np.empty(channels.shape[0], np.uint32)
    value = np.empty(channels.shape[0], np.float32)
    for c in range(n_channels):
        for k in range(start[c], start[c + 1]):
            p = cursor[owner[k]]
            cursor[owner[k]] = p + np.uint32(1)
            channel[p] = c
            value[p] = held[k]
            at[k] = p
    for c in range(n_channels):
        row = moment[c]
        for k in range(start[c], start[c + 1]):
            last = indptr[owner[k] + 1]
            x = np.float32(weight[owner[k]] * held[k])
            row[c] += x * held[k]
            f = at[k] + np.uint32(1)
            while f < last and channel[f] == c:
                row[c] += np.float32(2.0) * x * value[f]
                f += np.uint32(1)
            for g in range(f, last):
                row[channel[g]] += x * value[g]


@njit(cache=True, nogil=True)
def copy_ranges(
    source: NDArray[Any],
    start: NDArray[np.int64],
    length: NDArray[np.int64],
    target: NDArray[np.int64],
    out: NDArray[Any],
) -> None:
    """Copy source[start_i : start_i + length_i] to out[target_i :], for each i, in the type of `out`."""
    for i in range(start.shape[0]):
        for k in range(length[i]):
            out[target[i] + k] = source[start[i] + k]


@njit(cache=True, nogil=True)
def group_starts(total: NDArray[np.float64], least: float) -> NDArray[np.int64]:
    """First channel of each group of neighbours that together hold at least `least` counts, (m,)."""
    starts = np.zeros(total.shape[0], np.int64)
    n, held = 1, 0.0
    for channel in range(total.shape[0]):
        if held >= least:
            starts[n] = channel
            n += 1
            held = 0.0
        held += total[channel]
    if held < least and n > 1:
        n -= 1
    return starts[:n]


def warm_up(types: Iterable[str] = ("uint8", "uint16", "uint32", "float32")) -> None:
    """Compile every kernel now rather than at the first spectra (seconds on a new machine, then from the cache).

    Parameters
    ----------
    types : iterable of str
        Types of counts to expect, read-only as they come from the wire.
    """
    one = np.ones(1, np.float32)
    for name in types:
        counts = np.ones((1, 8), np.dtype(name))
        counts.flags.writeable = False
        nonzero_rows(counts)
        _, _, _, bins = read_rows(counts, 1, 8)
        scan_bins(bins, 1, bins, one, bins[0], bins[0])
    channels, indptr = np.zeros(1, np.int32), np.array([0, 1], np.int32)
    bin_events(one, channels, indptr, 1, 8)
    scan_sparse(one, channels, indptr, (1, 1, 8), bins[:, :1].copy(), bins.T.copy(), one, bins[0], bins[0])
    add_pairs(one, channels.view(np.uint32), indptr.astype(np.uint32), np.ones(1), np.zeros((8, 8), np.float32))
    zero, index = np.zeros(1, np.int64), np.zeros(1, np.int32)
    for stored in ("uint8", "uint16", "uint32", "float32"):
        copy_ranges(np.ones(1, np.dtype(stored)), zero, zero, zero, one)
    copy_ranges(np.ones(1, np.uint16), zero, zero, zero, index)
    scatter_events(np.ones((1, 8)), np.zeros(1, np.int64), np.zeros(1, np.int64), one)
