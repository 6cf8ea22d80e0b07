"""Spectra moved along their axis: what a drifted instrument records, and how its counts are put back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.axis import Axis
from models.base import Counts, Float64


@dataclass(frozen=True)
class Calibration:
    """What belongs at v is recorded at (1 + gain) v + shift; `shift` in units of the axis."""

    shift: float = 0.0
    gain: float = 0.0

    def recorded(self, values: Float64) -> Float64:
        """Where true axis values appear."""
        return (1.0 + self.gain) * values + self.shift

    def true(self, values: Float64) -> Float64:
        """What recorded axis values are in truth."""
        return (values - self.shift) / (1.0 + self.gain)

    @property
    def is_nominal(self) -> bool:
        """Whether nothing moves."""
        return self.shift == 0.0 and self.gain == 0.0


def restored(counts: Counts, axis: Axis, calibration: Calibration, rng: np.random.Generator) -> Counts:
    """Spectra (n, D) put back to where they belong; the layout (dense or CSR) stays, counts are left unchanged.

    A channel's content is shared between the two channels that it covers. Integers are shared by the toss of a coin
    for each count, so that independent Poisson counts stay independent Poisson counts; other numbers by fractions.
    What falls off an end of the axis is lost.

    Parameters
    ----------
    rng : numpy.random.Generator
        Tosses the coins; used for integers only.
    """
    if calibration.is_nominal:
        return counts
    lower, share = _targets(axis, calibration)
    if isinstance(counts, sparse.csr_array):
        rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        return _restored_entries(counts.data, rows, counts.indices, counts.shape, (lower, share), rng)
    if counts.dtype.kind in "iu":
        rows, columns = np.nonzero(counts)
        back = _restored_entries(counts[rows, columns], rows, columns, counts.shape, (lower, share), rng)
        return np.asarray(back.toarray(), dtype=counts.dtype)
    return _restored_dense(counts, lower, share)


def _targets(axis: Axis, calibration: Calibration) -> tuple[NDArray[np.int64], Float64]:
    """Lower one of the two channels that each channel's content belongs to (D,), and the share of the upper one."""
    true = calibration.true(axis.values)
    if axis.listed is None:
        place = (true - axis.offset) / axis.scale
    else:
        order = slice(None) if axis.size == 1 or axis.values[1] > axis.values[0] else slice(None, None, -1)
        channels = np.arange(axis.size, dtype=np.float64)[order]
        place = np.interp(true, axis.values[order], channels, left=-2.0, right=-2.0)
    lower = np.floor(place).astype(np.int64)
    return lower, place - lower


def _restored_entries(
    data: NDArray[Any],
    rows: NDArray[Any],
    columns: NDArray[Any],
    shape: tuple[int, int],
    targets: tuple[NDArray[np.int64], Float64],
    rng: np.random.Generator,
) -> sparse.csr_array:
    lower, share = targets[0][columns], targets[1][columns]
    whole = data.astype(np.int64)
    if np.array_equal(whole, data):
        # Sharing events one by one: most channels of a sparse spectrum hold one, for which a coin is a comparison.
        up = (rng.random(data.size) < share).astype(np.int64)
        many = whole > 1
        up[many] = rng.binomial(whole[many], share[many])
        above, below = up.astype(data.dtype), (whole - up).astype(data.dtype)
    else:
        above = (data * share).astype(data.dtype)
        below = data - above
    where, values = np.concatenate([lower, lower + 1]), np.concatenate([below, above])
    keep = (where >= 0) & (where < shape[1]) & (values != 0)
    both = np.concatenate([rows, rows])[keep]
    out = sparse.csr_array((values[keep], (both, where[keep])), shape=shape)
    out.sum_duplicates()
    return out


def _restored_dense(counts: NDArray[Any], lower: NDArray[np.int64], share: Float64) -> NDArray[Any]:
    """Fractions for everything else: each channel of the result gathers from those whose content it gets."""
    d = counts.shape[1]
    out = np.zeros_like(counts)
    for target, weight in ((lower, 1.0 - share), (lower + 1, share)):
        # Neighbours may go to one channel where the axis was stretched: add up, but in one pass for the usual case.
        inside = (target >= 0) & (target < d)
        where, weights = target[inside], weight[inside].astype(counts.dtype)
        if np.all(np.diff(where) > 0):
            out[:, where] += counts[:, inside] * weights
        else:
            np.add.at(out.T, where, (counts[:, inside] * weights).T)
    return out
