"""Alignment of spectra by one peak whose place is known: the zero loss, or a reference line."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.axis import Axis
from models.base import Counts, Float32, Float64, as_dense
from models.noise import POISSON, NoiseModel
from models.preprocess import csr_rows

_ENOUGH = 400.0
_SIGNIFICANT = 6.0
_MEMORY = 64
_SIGMA_PER_FWHM = 0.42466


class Aligner:
    """Finds by how much spectra are shifted, and shifts them back.

    The place of the peak is where the spectrum, seen through a Gaussian of one peak width, stands out most from its
    surroundings: a matched filter, refined between channels by a parabola through the logarithm. Spectra with too few
    counts there are summed with those before them until there are enough. Each measurement is weighed against what
    was known before by its own noise and by how much the shift has been seen to change (a Kalman filter of a random
    walk whose step is learnt): a jitter that counts can resolve is followed, one that they cannot is not made up.
    Where no peak is to be seen, the last shift holds.

    Parameters
    ----------
    axis : Axis
    at : float
        Where the peak belongs, in axis units.
    within : float
        Largest shift looked for, in axis units.
    width : float
        Width of the peak in channels (FWHM).
    noise : NoiseModel
        Of the counts.

    Raises
    ------
    ValueError
        Where the axis does not hold the peak and what is searched beside it.
    """

    def __init__(self, axis: Axis, at: float, within: float, width: float, noise: NoiseModel = POISSON) -> None:
        self._home, self._noise = axis.to_channel(at), noise
        lo, hi = sorted((axis.to_channel(at - within), axis.to_channel(at + within)))
        self._first, self._stop = int(np.floor(lo)), int(np.ceil(hi)) + 1
        low, high = sorted((float(axis.values[0]), float(axis.values[-1])))
        if self._first < 0 or self._stop > axis.size or not low <= at <= high or self._stop - self._first < 5:
            raise ValueError(f"the axis from {low:g} to {high:g} has no room for a peak at {at:g} within {within:g}")
        sigma = max(width * _SIGMA_PER_FWHM, 0.8)
        # Beside where the peak is looked for, so that the tail of another one is seen to go on rising.
        margin = round(3.0 * sigma)
        first, stop = max(self._first - margin, 0), min(self._stop + margin, axis.size)
        self._search = slice(self._first - first, self._stop - first)
        self._first, self._stop = first, stop
        place = np.arange(self._stop - self._first)
        away = (place[:, None] - place) / sigma
        bell = np.exp(-0.5 * away**2)
        # Without the mean over the window, so that a flat background shows nothing. Symmetric: channels by centres.
        self._filter = bell - bell.mean(axis=0)
        self._slope, self._bend = away * bell / sigma, (away**2 - 1.0) * bell / sigma**2
        self._pool: Float64 = np.zeros(place.size)
        self._pooled = 0
        self._walk = RandomWalk()
        self._rng = np.random.Generator(np.random.Philox(0))

    def shifts(self, counts: Counts) -> Float64:
        """Channels (n,) by which the peak of each spectrum (n, D) lies above its place."""
        near = np.asarray(as_dense(counts[:, self._first : self._stop]), dtype=np.float64)
        before = self._walk.state
        # The running sum says which spectra complete a group with enough counts.
        running = np.cumsum(np.maximum(near.sum(axis=1), 0.0)) + self._pool.sum()
        group = np.floor(running / (_ENOUGH * max(self._noise.gain, 1e-9))).astype(np.int64)
        ends = np.flatnonzero(np.diff(group, prepend=0) > 0) + 1
        if not ends.size:
            self._pool, self._pooled = self._pool + near.sum(axis=0), self._pooled + len(near)
            return np.full(len(near), before)
        last = int(ends[-1])
        size = np.diff(ends, prepend=0)
        sums = np.add.reduceat(near[:last], np.concatenate([[0], ends[:-1]]), axis=0)
        sums[0] += self._pool
        visits = size.astype(np.float64)
        visits[0] += self._pooled
        self._pool, self._pooled = near[last:].sum(axis=0), len(near) - last
        place, variance = self._places(sums, visits)
        known = self._walk.follow(place - self._home, variance)
        return np.concatenate([np.repeat(known, size), np.full(len(near) - last, self._walk.state)])

    def _places(self, sums: Float64, visits: Float64) -> tuple[Float64, Float64]:
        """Channel (n,) of the peak in sums of visits, and its variance; infinite where there is none to be seen."""
        noise = self._noise
        base = (visits * (noise.read_sigma**2 - noise.gain * noise.offset))[:, None]
        variance = np.maximum(noise.gain * sums + base, 0.0)
        seen = sums @ self._filter
        top, rows = np.argmax(seen[:, self._search], axis=1) + self._search.start, np.arange(len(sums))
        at = np.clip(top, self._search.start + 1, self._search.stop - 2)
        left, middle, right = (np.log(np.maximum(seen[rows, at + step], 1e-9)) for step in (-1, 0, 1))
        bend = left - 2.0 * middle + right
        offset = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, -1.0), 0.0)
        # The highest point of a filtered spectrum moves by its slope over its bend there; both are sums over channels.
        slope2 = (variance * self._slope.T[at] ** 2).sum(axis=1)
        bends = (sums * self._bend.T[at]).sum(axis=1)
        sigma = np.sqrt((variance * self._filter.T[at] ** 2).sum(axis=1))
        found = (top == at) & (seen[rows, at] > _SIGNIFICANT * sigma) & (bends < 0)
        spread = np.where(found, slope2 / np.where(found, bends, 1.0) ** 2, np.inf)
        return at + np.clip(offset, -1.0, 1.0) + self._first, spread

    def shifted(self, counts: Counts, shift: Float64) -> Counts:
        """Spectra (n, D) moved down by `shift` (n,) channels.

        Dense spectra are interpolated. Sparse counts are dealt out to three channels by chance, so that they remain
        independent Poisson counts: with the weights of the quadratic B-spline, which shift by a fraction of a channel
        and broaden all spectra alike, by a quarter of a channel squared. What leaves the axis is lost.
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
    """Dense spectra (n, D) moved down by `shift` (n,) channels; what would come from beyond an end is mirrored.

    By cubic convolution (Keys 1981), which follows parabolas exactly and so does not broaden peaks. The noise of the
    result is correlated, but nowhere more than it was: no noise passes for structure.
    """
    whole = np.floor(shift).astype(np.int64)
    weights = [w.astype(np.float32)[:, None] for w in _cubic(shift - whole)]
    reach = int(np.abs(whole).max(initial=0)) + 2
    padded = np.pad(np.asarray(counts, dtype=np.float32), ((0, 0), (reach, reach)), mode="reflect")
    size = counts.shape[1]
    out = np.empty((counts.shape[0], size), dtype=np.float32)
    for step in np.unique(whole).tolist():
        rows = np.flatnonzero(whole == step)
        at = reach + step
        part, moved = padded[rows], np.zeros((rows.size, size), dtype=np.float32)
        for k, weight in enumerate(weights, start=-1):
            moved += part[:, at + k : at + k + size] * weight[rows]
        out[rows] = moved
    return out


def _cubic(t: Float64) -> tuple[Float64, Float64, Float64, Float64]:
    """Weights of the channels -1 to 2, for a place `t` between 0 and 1."""
    return (
        t * (-0.5 + t * (1.0 - 0.5 * t)),
        1.0 + t**2 * (-2.5 + 1.5 * t),
        t * (0.5 + t * (2.0 - 1.5 * t)),
        t**2 * (-0.5 + 0.5 * t),
    )


def _weights(fraction: Float64) -> tuple[Float64, Float64]:
    """Weights of the channel below and of the one above, for a fraction of a channel between -1/2 and 1/2."""
    return 0.5 * (fraction - 0.5) ** 2, 0.5 * (fraction + 0.5) ** 2


class RandomWalk:
    """A value that changes by random steps, followed by a Kalman filter that learns the variance of a step."""

    def __init__(self) -> None:
        self.state = 0.0
        self._variance = np.inf
        self._step = 0.0
        self._n = 0

    def follow(self, measured: Float64, variance: Float64) -> Float64:
        """Best value (n,) after each measurement with its variance; infinite where nothing was measured."""
        out = np.empty(measured.size)
        for number, (value, noise) in enumerate(zip(measured.tolist(), variance.tolist(), strict=True)):
            if np.isfinite(noise):
                self._measure(value, noise)
            out[number] = self.state
        return out

    def _measure(self, value: float, noise: float) -> None:
        if not np.isfinite(self._variance):
            self.state, self._variance = value, noise
            return
        surprise = value - self.state
        # What the surprise is beyond the noise of this measurement and of what was known is a step.
        self._n = min(self._n + 1, _MEMORY)
        self._step += (surprise**2 - noise - self._variance - self._step) / self._n
        expected = self._variance + max(self._step, 0.0)
        gain = expected / (expected + noise) if expected > 0 else 0.0
        self.state += gain * surprise
        self._variance = (1.0 - gain) * expected
