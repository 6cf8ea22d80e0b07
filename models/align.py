"""Alignment of spectra by one peak whose place is known: the zero loss, or a reference line."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.axis import Axis
from models.base import Counts, Float32, Float64, as_dense
from models.preprocess import csr_rows

_ENOUGH = 400.0
_SIGMA_PER_FWHM = 0.42466


class Aligner:
    """Finds by how much spectra are shifted, and shifts them back.

    The place of the peak is where the spectrum, seen through a Gaussian of one peak width, is highest: a matched
    filter, refined between channels by a parabola through the logarithm. Spectra with too few counts there are
    summed with those that came before them until there are enough: a drift is slower than a few spectra, and a jitter
    cannot be seen in fewer counts. Until then the last known shift holds.

    Parameters
    ----------
    axis : Axis
    at : float
        Where the peak belongs, in axis units.
    within : float
        Largest shift looked for, in axis units.
    width : float
        Width of the peak in channels (FWHM).
    gain : float
        Counts of one quantum, where it is known.

    Raises
    ------
    ValueError
        Where the axis does not hold the peak and what is searched beside it.
    """

    def __init__(self, axis: Axis, at: float, within: float, width: float, gain: float = 1.0) -> None:
        self._home = axis.to_channel(at)
        lo, hi = sorted((axis.to_channel(at - within), axis.to_channel(at + within)))
        self._first, self._stop = int(np.floor(lo)), int(np.ceil(hi)) + 1
        low, high = sorted((float(axis.values[0]), float(axis.values[-1])))
        if self._first < 0 or self._stop > axis.size or not low <= at <= high or self._stop - self._first < 5:
            raise ValueError(f"the axis from {low:g} to {high:g} has no room for a peak at {at:g} within {within:g}")
        place = np.arange(self._stop - self._first)
        sigma = max(width * _SIGMA_PER_FWHM, 0.8)
        self._blur = np.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)
        self._enough = _ENOUGH * max(gain, 1e-9)
        self._pool: Float64 = np.zeros(place.size)
        self._last = 0.0
        self._rng = np.random.Generator(np.random.Philox(0))

    def shifts(self, counts: Counts) -> Float64:
        """Channels (n,) by which the peak of each spectrum (n, D) lies above its place."""
        near = np.asarray(as_dense(counts[:, self._first : self._stop]), dtype=np.float64)
        # The running sum says which spectra complete a group with enough counts.
        running = np.cumsum(np.maximum(near.sum(axis=1), 0.0)) + self._pool.sum()
        group = np.floor(running / self._enough).astype(np.int64)
        ends = np.flatnonzero(np.diff(group, prepend=0) > 0) + 1
        if not ends.size:
            self._pool += near.sum(axis=0)
            return np.full(near.shape[0], self._last)
        sums = np.add.reduceat(near, np.concatenate([[0], ends[:-1]]), axis=0)[: ends.size]
        sums[-1] = near[(ends[-2] if ends.size > 1 else 0) : ends[-1]].sum(axis=0)
        sums[0] += self._pool
        self._pool = near[ends[-1] :].sum(axis=0)
        found = self._places(sums) - self._home
        known = self._filled(found)
        size = np.diff(ends, prepend=0)
        return np.concatenate([np.repeat(known, size), np.full(near.shape[0] - int(ends[-1]), self._last)])

    def _places(self, sums: Float64) -> Float64:
        """Channel (n,) of the peak in each sum (n, window); NaN where the highest point is at the edge."""
        seen = np.log(np.maximum(sums @ self._blur, 1e-9))
        top = np.argmax(seen, axis=1)
        inside = (top > 0) & (top < seen.shape[1] - 1)
        at, rows = np.clip(top, 1, seen.shape[1] - 2), np.arange(top.size)
        left, middle, right = (seen[rows, at + step] for step in (-1, 0, 1))
        bend = left - 2.0 * middle + right
        offset = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, -1.0), 0.0)
        return np.where(inside, at + np.clip(offset, -1.0, 1.0) + self._first, np.nan)

    def _filled(self, found: Float64) -> Float64:
        """The same with the last known shift where none was found."""
        known = np.concatenate([[self._last], found])
        newest = np.maximum.accumulate(np.where(np.isfinite(known), np.arange(known.size), 0))
        self._last = float(known[newest[-1]])
        return known[newest][1:]

    def shifted(self, counts: Counts, shift: Float64) -> Counts:
        """Spectra (n, D) moved down by `shift` (n,) channels.

        The counts of a channel go to three, with the weights of the quadratic B-spline: the shift is right to a
        fraction of a channel, and all spectra are broadened alike, by a quarter of a channel squared, whatever the
        fraction is. Sparse counts are dealt out one by one by chance with these weights, so that they remain
        independent Poisson counts, and are lost beyond the ends; dense ones are interpolated.
        """
        if isinstance(counts, sparse.csr_array):
            return self._dealt(counts, shift)
        return interpolated(counts, shift)

    def _dealt(self, counts: sparse.csr_array, shift: Float64) -> sparse.csr_array:
        times = counts.data.astype(np.int64)
        row = np.repeat(np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr)), times)
        whole = np.rint(shift)
        below, above = _weights((shift - whole)[row])
        coin = self._rng.random(row.size)
        step = (coin > 1.0 - above).astype(np.int64) - (coin < below)
        channel = np.repeat(counts.indices, times) - whole.astype(np.int64)[row] - step
        inside = (channel >= 0) & (channel < counts.shape[1])
        row, channel = row[inside], channel[inside].astype(np.int32)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=counts.shape[0]))]).astype(np.int32)
        moved = csr_rows(np.ones(row.size, dtype=counts.dtype), channel, indptr, counts.shape[1])
        moved.sum_duplicates()
        return moved


def interpolated(counts: NDArray[Any], shift: Float64) -> Float32:
    """Dense spectra (n, D) moved down by `shift` (n,) channels; what would come from beyond an end is mirrored."""
    whole = np.rint(shift).astype(np.int64)
    below, above = (w.astype(np.float32)[:, None] for w in _weights(shift - whole))
    reach = int(np.abs(whole).max(initial=0)) + 1
    padded = np.pad(np.asarray(counts, dtype=np.float32), ((0, 0), (reach, reach)), mode="reflect")
    size = counts.shape[1]
    out = np.empty((counts.shape[0], size), dtype=np.float32)
    for step in np.unique(whole).tolist():
        rows = np.flatnonzero(whole == step)
        at = reach + step
        part = padded[rows]
        low, middle, high = (part[:, at + k : at + k + size] for k in (-1, 0, 1))
        out[rows] = low * below[rows] + middle * (1.0 - below[rows] - above[rows]) + high * above[rows]
    return out


def _weights(fraction: Float64) -> tuple[Float64, Float64]:
    """Weights of the channel below and of the one above, for a fraction of a channel between -1/2 and 1/2."""
    return 0.5 * (fraction - 0.5) ** 2, 0.5 * (fraction + 0.5) ** 2
