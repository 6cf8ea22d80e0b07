"""Compiled inner loops: the few places where numpy would make many passes over what one pass can do.

Compiled at first use for each type of counts, and kept in numba's cache beside this file or in the user's directory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def _gather_rows(
    counts: NDArray[Any],
    words: NDArray[Any],
    per_word: int,
    values: NDArray[Any],
    channels: NDArray[np.uint32],
    indptr: NDArray[np.uint32],
) -> None:
    """Fill the non-zero counts (n, D) in order; `words` is the same memory, some channels at a time.

    Without branches, which would be guessed wrongly at every other count: all is written, and what is zero is written
    over by what comes next.
    """
    one, none, width = np.uint64(1), np.uint64(0), np.uint32(per_word)
    some = np.empty(words.shape[1] + 1, np.uint32)
    at = none
    for i in range(counts.shape[0]):
        row, held = counts[i], words[i]
        n_some = none
        for w in range(held.shape[0]):
            some[n_some] = np.uint32(w)
            n_some += one if held[w] != 0 else none
        for s in range(n_some):
            first = some[s] * width
            for k in range(width):
                channel = first + np.uint32(k)
                channels[at] = channel
                values[at] = row[channel]
                at += one if row[channel] != 0 else none
        indptr[i + 1] = np.uint32(at)


def nonzero_rows(counts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32]]:
    """Values, channels and row pointer (CSR) of dense counts (n, D) that are mostly zeros."""
    counts = np.ascontiguousarray(counts)
    row_bytes = counts.shape[1] * counts.itemsize
    aligned = row_bytes % 8 == 0 and counts.itemsize < 8 and counts.ctypes.data % 8 == 0
    words = counts.view(np.uint64) if aligned else counts
    # One place more than there can be: the last zero is written too.
    values = np.empty(counts.size + 1, counts.dtype)
    channels = np.empty(counts.size + 1, np.uint32)
    indptr = np.zeros(counts.shape[0] + 1, np.uint32)
    _gather_rows(counts, words, 8 // counts.itemsize if aligned else 1, values, channels, indptr)
    n = int(indptr[-1])
    return values[:n].copy(), channels[:n].view(np.int32).copy(), indptr.view(np.int32)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def csr_times(
    values: NDArray[np.float32],
    channels: NDArray[np.uint32],
    indptr: NDArray[np.uint32],
    matrix: NDArray[np.float32],
) -> NDArray[np.float32]:
    """CSR spectra @ matrix, (n, k). Four counts at a time, or each would wait for the sum with the one before."""
    width = matrix.shape[1]
    out = np.zeros((indptr.shape[0] - 1, width), np.float32)
    for i in range(out.shape[0]):
        row = out[i]
        first, last = np.uint64(indptr[i]), np.uint64(indptr[i + 1])
        rest = last - (last - first) % np.uint64(4)
        for e in range(first, rest, np.uint64(4)):
            a, b, c, d = matrix[channels[e]], matrix[channels[e + 1]], matrix[channels[e + 2]], matrix[channels[e + 3]]
            w, x, y, z = values[e], values[e + 1], values[e + 2], values[e + 3]
            for k in range(width):
                row[k] += (w * a[k] + x * b[k]) + (y * c[k] + z * d[k])
        for e in range(rest, last):
            a, w = matrix[channels[e]], values[e]
            for k in range(width):
                row[k] += w * a[k]
    return out


@njit(cache=True, nogil=True, fastmath={"contract"})
def csr_back(
    values: NDArray[np.float32],
    channels: NDArray[np.uint32],
    indptr: NDArray[np.uint32],
    scores: NDArray[np.float32],
    n_channels: int,
) -> NDArray[np.float32]:
    """CSR spectra' @ scores, (D, k)."""
    out = np.zeros((n_channels, scores.shape[1]), np.float32)
    for i in range(scores.shape[0]):
        row = scores[i]
        for e in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            image, value = out[channels[e]], values[e]
            for k in range(row.shape[0]):
                image[k] += value * row[k]
    return out


# Each loop in a function of its own: together the compiler does not see that they are free of side effects.


@njit(cache=True, nogil=True)
def _copy(counts: NDArray[Any], row: NDArray[np.float32]) -> None:
    for j in range(counts.shape[0]):
        row[j] = counts[j]


@njit(cache=True, nogil=True)
def _add_to(column: NDArray[np.float64], row: NDArray[np.float32]) -> None:
    for j in range(row.shape[0]):
        column[j] += row[j]


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _add_bins(row: NDArray[np.float32], step: int, held: NDArray[np.float32]) -> float:
    """Fill bins of `step` channels; return the sum of all."""
    whole = row.shape[0] // step
    for j in range(step):
        for t in range(whole):
            held[t] += row[t * step + j]
    for j in range(whole * step, row.shape[0]):
        held[whole] += row[j]
    counted = 0.0
    for t in range(held.shape[0]):
        counted += np.float64(held[t])
    return counted


@njit(cache=True, nogil=True)
def read_rows(
    counts: NDArray[Any], step: int, total_bins: int
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]:
    """One pass over dense counts (n, D): them in float32, row sums (n,), column sums (D,), sums of `step` channels."""
    n, size = counts.shape
    block = np.empty((n, size), np.float32)
    total = np.zeros(n, np.float64)
    column = np.zeros(size, np.float64)
    bins = np.zeros((n, total_bins), np.float32)
    for i in range(n):
        _copy(counts[i], block[i])
        _add_to(column, block[i])
        total[i] = _add_bins(block[i], step, bins[i])
    return block, total, column, bins


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def sum_events(
    values: NDArray[np.float32], channels: NDArray[np.uint32], indptr: NDArray[np.uint32], n_channels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Row sums (n,) and column sums (D,) of CSR spectra."""
    total = np.zeros(indptr.shape[0] - 1, np.float64)
    column = np.zeros(n_channels, np.float64)
    for i in range(total.shape[0]):
        first, last = np.uint64(indptr[i]), np.uint64(indptr[i + 1])
        counted = 0.0
        for e in range(first, last):
            counted += np.float64(values[e])
        total[i] = counted
        for e in range(first, last):
            column[channels[e]] += values[e]
    return total, column


@njit(cache=True, nogil=True)
def power_events(
    values: NDArray[np.float32],
    channels: NDArray[np.uint32],
    indptr: NDArray[np.uint32],
    group: NDArray[np.int64],
    weight: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Weighted squared norm (n,) of CSR spectra summed over groups of channels; a channel may come several times."""
    power = np.zeros(indptr.shape[0] - 1)
    held = np.zeros(weight.shape[0])
    for i in range(power.shape[0]):
        first, last = np.uint64(indptr[i]), np.uint64(indptr[i + 1])
        for e in range(first, last):
            held[group[channels[e]]] += np.float64(values[e])
        for e in range(first, last):
            g = group[channels[e]]
            power[i] += weight[g] * held[g] ** 2
            held[g] = 0.0
    return power


@njit(cache=True, nogil=True)
def power_rows(
    rows: NDArray[np.float32], starts: NDArray[np.int64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted squared norm (n,) of dense spectra (n, D) summed over groups of channels that begin at `starts`."""
    power = np.zeros(rows.shape[0])
    for i in range(rows.shape[0]):
        for g in range(starts.shape[0]):
            held = 0.0
            for c in range(starts[g], starts[g + 1] if g + 1 < starts.shape[0] else rows.shape[1]):
                held += np.float64(rows[i, c])
            power[i] += weight[g] * held**2
    return power


@njit(cache=True, nogil=True)
def bin_events(
    values: NDArray[np.float32],
    channels: NDArray[np.uint32],
    indptr: NDArray[np.uint32],
    step: int,
    total_bins: int,
) -> NDArray[np.float32]:
    """Sums of `step` channels (n, total_bins) of CSR spectra."""
    bins = np.zeros((indptr.shape[0] - 1, total_bins), np.float32)
    # A division for each count would take longer than all the rest.
    bin_of = np.arange(step * total_bins) // step
    for i in range(bins.shape[0]):
        held = bins[i]
        for e in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            held[bin_of[channels[e]]] += values[e]
    return bins


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
