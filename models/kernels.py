"""Compiled inner loops: the few places where numpy would make many passes over what one pass can do.

Compiled at first use for each type of counts, and kept in numba's cache beside this file or in the user's directory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.scan_kernels import scan_bins, scan_sparse, scatter_events


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
    channels: NDArray[np.uint32],
    indptr: NDArray[np.uint32],
    step: int,
    total_bins: int,
) -> NDArray[np.float32]:
    """Sums of `step` channels (n, total_bins) of CSR spectra."""
    bins = np.zeros((indptr.shape[0] - 1, total_bins), np.float32)
    for i in range(bins.shape[0]):
        for e in range(indptr[i], indptr[i + 1]):
            bins[i, channels[e] // step] += values[e]
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
    channels, indptr = np.zeros(1, np.uint32), np.array([0, 1], np.uint32)
    bin_events(one, channels, indptr, 1, 8)
    scan_sparse(one, channels, indptr, (1, 1, 8), bins[:, :1].copy(), bins.T.copy(), one, bins[0], bins[0])
    scatter_events(np.ones((1, 8)), np.zeros(1, np.int64), np.zeros(1, np.int64), one)
    add_pairs(one, channels, indptr, np.ones(1), np.zeros((8, 8), np.float32))
    zero, index = np.zeros(1, np.int64), np.zeros(1, np.int32)
    for stored in ("uint8", "uint16", "uint32", "float32"):
        copy_ranges(np.ones(1, np.dtype(stored)), zero, zero, zero, one)
    copy_ranges(np.ones(1, np.uint16), zero, zero, zero, index)
    group_starts(np.ones(8), 1.0)
