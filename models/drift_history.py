"""A bounded history of summed spectra, read anew whenever the basis changes, and contrasts between its parts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.base import Float64
from models.drift_filters import N_FIXED, DriftFilters, Readings

_CAPACITY, _OLD = 192, 128
_RIDGE, _IDENTIFIED = 1e-9, 1e-6
_MOST_LINES, _LOOK_AGAIN = 8, 1 / 256
_TRUST = 4.0
"""An eigenspectrum is believed to be as exact as if it were learnt from so many times fewer spectra."""


@dataclass(frozen=True)
class Contrast:
    """How shift and gain of a later part differ from those of an earlier one.

    Attributes
    ----------
    filtered : ndarray, (2,)
        Filtered counts of the later part beyond what the earlier one lets expect for its composition, any linear map.
    covariance, response : ndarray, (2, 2)
        Covariance of `filtered`, and its derivative by shift and gain.
    """

    filtered: Float64
    covariance: Float64
    response: Float64

    @property
    def statistic(self) -> float:
        """Chi-squared of two degrees of freedom."""
        return float(self.filtered @ np.linalg.solve(self.covariance, self.filtered))

    def estimate(self) -> tuple[Float64, Float64]:
        """Shift and gain together (2,), and their covariance (2, 2)."""
        inverse = np.linalg.inv(self.response)
        return inverse @ self.filtered, inverse @ self.covariance @ inverse.T

    def alone(self, which: int) -> tuple[float, float]:
        """Shift (0) or gain (1) as if the other were zero, and the statistic that it leaves unexplained."""
        direction = self.response[:, which]
        weighted = np.linalg.solve(self.covariance, direction)
        size = float(weighted @ self.filtered) / float(weighted @ direction)
        return size, self.statistic - size * float(weighted @ self.filtered)


class DriftHistory:
    """Segments of a stream: each the sum of some spectra. Two eras: before the last change, and since.

    When the room is used up, neighbours in the older part are added up, so that old segments are long and new ones
    short.

    Parameters
    ----------
    n_channels : int
    """

    def __init__(self, n_channels: int) -> None:
        self._spectra: Float64 = np.zeros((_CAPACITY, n_channels))
        self._n: Float64 = np.zeros(_CAPACITY)
        # The calibration that was undone before the spectra came here, by which they tell less drift than there is.
        self._undone: Float64 = np.zeros((_CAPACITY, 2))
        self._columns: Float64 = np.zeros((_CAPACITY, N_FIXED))
        self._filters: DriftFilters | None = None
        self._learnt: Float64 = np.zeros((0, 0))
        self._n_added = self._looked_at = 0.0
        self.size = 0
        self.era = 0

    def add(self, summed: Float64, n_spectra: float, undone: Float64) -> None:
        """Append a segment: summed counts (D,) of some spectra, from which this shift and gain (2,) were taken out."""
        if self.size == _CAPACITY:
            self._merge()
        at = slice(self.size, self.size + 1)
        self._spectra[at], self._n[at], self._undone[at] = summed, n_spectra, undone
        self.size += 1
        self._n_added += n_spectra
        self._read(at)

    def reread(self, filters: DriftFilters, learnt: Float64) -> None:
        """Read all segments by new filters.

        Parameters
        ----------
        learnt : ndarray, (K, K)
            What the eigenspectra were learnt from: sum of the outer products of the spectra's scores over exposure.
        """
        self._filters, self._learnt = filters, learnt
        self._columns = np.zeros((_CAPACITY, N_FIXED + len(filters.eigenspectra)))
        self._read(slice(0, self.size))

    def _read(self, at: slice) -> None:
        if self._filters is not None:
            self._columns[at] = self._read_by(self._filters, at)

    def _read_by(self, filters: DriftFilters, at: slice) -> Float64:
        columns = filters.columns(self._spectra[at], self._n[at])
        columns[:, :2] += np.einsum("mij,mj->mi", Readings.of(columns).response, self._undone[at])
        return columns

    def _merge(self) -> None:
        """Add up pairs of neighbours among the older segments, never across the border of the eras."""
        border = min(self.era, _OLD)
        firsts = np.concatenate([np.arange(0, border, 2), np.arange(border, _OLD, 2), np.arange(_OLD, self.size)])
        share = np.add.reduceat(self._n[: self.size], firsts)
        weighted = self._undone[: self.size] * self._n[: self.size, None]
        undone = np.add.reduceat(weighted, firsts, axis=0) / np.maximum(share, 1e-300)[:, None]
        kept = firsts.size
        for array in (self._spectra, self._columns):
            array[:kept] = np.add.reduceat(array[: self.size], firsts, axis=0)
        self._n[:kept], self._undone[:kept] = share, undone
        self.era, self.size = int(np.searchsorted(firsts, self.era)), kept

    def begin_era(self, at: int) -> None:
        """Something changed before segment `at`: what came before the present era is forgotten."""
        keep = slice(self.era, self.size)
        n = self.size - self.era
        for array in (self._spectra, self._n, self._undone, self._columns):
            array[:n] = array[keep].copy()
        self.size, self.era = n, at - self.era

    def n_spectra(self, first: int, last: int) -> float:
        """Spectra in segments `first` to `last` (half-open)."""
        return float(self._n[first:last].sum())

    def best_split(self, splits: NDArray[np.int64]) -> tuple[int, float]:
        """First segment of the later part for which it differs most from the earlier part of the era, and how much.

        The statistic is chi-squared of two degrees of freedom, of plain sums: composition is not looked at.
        """
        sums = np.cumsum(self._columns[self.era : self.size, :N_FIXED], axis=0)
        earlier = sums[splits - self.era - 1]
        before, after = Readings.of(earlier), Readings.of(sums[-1] - earlier)
        transfer = after.response @ inverse_2x2(before.response)
        difference = after.filtered[:, :, None] - transfer @ before.filtered[:, :, None]
        covariance = after.covariance + transfer @ before.covariance @ transfer.swapaxes(1, 2)
        statistic = (difference * (inverse_2x2(covariance) @ difference)).sum(axis=(1, 2))
        best = int(np.argmax(statistic))
        return int(splits[best]), float(statistic[best])

    def contrast(self, first: int, split: int) -> Contrast | None:
        """Segments from `split` on against those from `first` to `split`, composition for composition.

        None where the basis does not explain the counts of the earlier ones. Errors are raised where the parts differ
        by more than noise in what neither drift nor a known phase explains. Mostly that is some lines of a phase that
        is new: the rest of the spectrum tells of drift as before, and the contrast is that of the lines without them
        that tell most.
        """
        filters, best = self._filters, None
        if filters is None:
            return None
        for _ in range(1 + _MOST_LINES):
            plain = self._plain(filters, first, split)
            if plain is None:
                break
            times, worst = self._misfit(filters, first, split)
            if best is None or plain.statistic > times * best.statistic:
                best = replace(plain, covariance=times * plain.covariance)
            # With fewer lines still, hardly more can be told than these tell where nothing raises their errors.
            if times == 1.0 or plain.statistic <= best.statistic:
                break
            if filters is self._filters and not self._looks_again():
                break
            filters = filters.without(worst)
        return best

    def _looks_again(self) -> bool:
        """Whether to look without lines, which takes some ten milliseconds: not after each segment of a long scan."""
        if self._n_added - self._looked_at < _LOOK_AGAIN * self._n_added:
            return False
        self._looked_at = self._n_added
        return True

    def _plain(self, filters: DriftFilters, first: int, split: int) -> Contrast | None:
        """The contrast through filters, with errors of noise alone; None where the basis does not explain."""
        columns = self._columns if filters is self._filters else self._read_by(filters, slice(0, self.size))
        before = Readings.of(columns[first:split])
        after = Readings.of(columns[split : self.size].sum(axis=0))
        whole = self._spectra[first:split].sum(axis=0)
        if not filters.explains(whole, self.n_spectra(first, split), before.covariance.sum(axis=0)):
            return None
        return against_composition(before, after, self._learnt / _TRUST)

    def _misfit(self, filters: DriftFilters, first: int, split: int) -> tuple[float, int]:
        parts = ((split, self.size), (first, split))
        after, before = (self._spectra[slice(*part)].sum(axis=0) for part in parts)
        return filters.misfit(after, before, *(self.n_spectra(*part) for part in parts))


def against_composition(before: Readings, after: Readings, learnt: Float64) -> Contrast:
    """What later spectra show beyond what earlier ones let expect of spectra of their composition.

    The eigenspectra err a little, so that a phase may seem to drift where it begins. Earlier segments with scores a and
    exposure h are described as response @ drift + error @ a, with noise of a variance that goes with h; `drift` is
    common to all, and `error` (2, K) has a prior of variance 1 / `learnt`. The later ones are expected to show the same
    drift and error, and how well these are known goes into the covariance: little of a composition that is new.

    Parameters
    ----------
    before : Readings
        Of m segments.
    after : Readings
        Of one sum.
    learnt : ndarray, (K, K)
        Sum of the outer products of scores over exposure that the eigenspectra are as good as learnt from.
    """
    root = np.linalg.cholesky(before.covariance.sum(axis=0) / before.exposure.sum())
    white = np.linalg.inv(root)
    seen, response = before.filtered @ white.T, white @ before.response
    weight = np.divide(1.0, before.exposure, out=np.zeros_like(before.exposure), where=before.exposure > 0)
    weighted = before.scores.T * weight
    moment = weighted @ before.scores + learnt
    moment += _RIDGE * np.trace(moment) * np.eye(len(moment))
    like = np.linalg.solve(moment, after.scores)
    # Elimination of the errors leaves what is known of the drift alone.
    mixed = np.tensordot(weighted, response, axes=1)
    solved = np.linalg.solve(moment, mixed.reshape(len(moment), 4)).reshape(mixed.shape)
    whole = np.einsum("m,mrt,mru->tu", weight, response, response)
    known = whole - np.einsum("krt,kru->tu", mixed, solved)
    score = np.einsum("m,mrt,mr->t", weight, response, seen) - np.einsum("krt,kr->t", solved, weighted @ seen)
    # Without a prior any drift can be an error of the model as well, and the sum is known all the same.
    spread = np.linalg.inv(known) if np.trace(known) > _IDENTIFIED * np.trace(whole) else np.zeros((2, 2))
    shares = like @ weighted
    beyond = white @ after.response - np.tensordot(shares, response, axes=1)
    expected = shares @ seen + beyond @ (spread @ score)
    variance = max(float(after.scores @ like), 0.0) * np.eye(2) + beyond @ spread @ beyond.T
    covariance = white @ after.covariance @ white.T + variance
    return Contrast(white @ after.filtered - expected, covariance, white @ after.response)


def inverse_2x2(matrices: Float64) -> Float64:
    """Inverses of matrices (..., 2, 2); zeros where there is none."""
    a, b, c, d = (matrices[..., i, j] for i in (0, 1) for j in (0, 1))
    determinant = a * d - b * c
    scale = np.divide(1.0, determinant, out=np.zeros_like(determinant), where=determinant != 0)
    return np.asarray(np.stack([d, -b, -c, a], axis=-1).reshape(matrices.shape) * scale[..., None, None])
