"""Spectra that are kept from teaching the model: a handful is a novelty to report, a crowd is structure to learn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from scipy.special import gammaincinv

from models.anomaly import ScanWindows
from models.base import Float32, Float64
from models.shrink import ScoreShrinkage

Positions = NDArray[np.int64]
_CARRIER, _PART = 20.0, 0.05
_MISSED = 0.01


class HeldBack:
    """Positions whose flagged spectra do not teach, by the window in which they were flagged.

    Parameters
    ----------
    n_positions : int
    windows : ScanWindows
    """

    def __init__(self, n_positions: int, windows: ScanWindows) -> None:
        self._windows = windows
        self._window = np.full(n_positions, -1, dtype=np.int32)
        # Rising, and renewed with every change: to look through all positions for each batch would take too long.
        self._held: Positions = np.zeros(0, dtype=np.int64)
        self._open = np.zeros(windows.n_windows, dtype=np.bool_)
        self._barred = self._open.copy()

    @property
    def positions(self) -> Positions:
        """Positions held back, rising."""
        return self._held

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True for each position held back, (P,)."""
        return np.asarray(self._window >= 0)

    def window_of(self, positions: Positions) -> NDArray[np.int64]:
        """Window in which held positions were flagged, -1 for others."""
        return self._window[positions].astype(np.int64)

    def hold(self, index: NDArray[Any], window: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Hold flagged spectra at positions (n,); True for those that teach at once, like a crowd just released."""
        known = self._open[window]
        self._window[index[~known]] = window[~known]
        self._held = np.union1d(self._held, index[~known].astype(np.int64))
        return np.asarray(known)

    def release_crowds(self, by_chance: float) -> Positions:
        """Positions that have become a crowd, and are held no more; spectra like them teach until `settle`.

        Parameters
        ----------
        by_chance : float
            How many spectra were flagged by chance, on average, since the first one.
        """
        held, reach = self.positions, 2 * self._windows.n_bins - 1
        if held.size < _LEAST_CROWD:
            return held[:0]
        least = crowd_size(by_chance * min(1.0, reach / self._windows.n_windows))
        if held.size < least:
            return held[:0]
        held = held[~self._barred[self._window[held]]]
        crowd = _near(np.bincount(self._window[held], minlength=self._open.size), self._windows.n_bins) >= least
        released = held[crowd[self._window[held]]]
        self.release(released)
        self._open |= crowd
        return released

    def release_alike(self, positions: Positions, by_chance: float) -> Positions:
        """Those of like positions that are held no more: all of them where they are a crowd, wherever it was flagged.

        A hump that is wider than a window is flagged now here, now there.
        """
        flagged_in = np.bincount(self._window[positions], minlength=self._open.size)
        near = np.count_nonzero(_near(flagged_in, self._windows.n_bins))
        if (
            positions.size < crowd_size(by_chance * near / self._windows.n_windows)
            or self._barred[flagged_in > 0].any()
        ):
            return positions[:0]
        self.release(positions)
        return positions

    def release(self, positions: Positions) -> None:
        """Hold these positions no more."""
        self._window[positions] = -1
        self._held = self._held[self._window[self._held] >= 0]

    def bar(self, window: NDArray[np.int64]) -> None:
        """Never release what was flagged in these windows: a defect is no structure, however many positions have it."""
        self._barred[window] = True

    def settle(self) -> None:
        """A new basis is out: what it still does not know is held back again."""
        self._open[:] = False

    def replace(self, positions: Positions, window: NDArray[np.int64]) -> None:
        """Hold exactly these positions."""
        self._window[:] = -1
        self._window[positions] = window
        self._held = np.unique(positions)


def crowd_size(by_chance: float = 0.0) -> int:
    """Fewest like spectra that are structure; fewer are a novelty.

    A phase that shows in m spectra on average is missed altogether by one scan in exp(m). Structure is what no scan
    like this one is likely to miss: so many spectra were seen that the lower confidence limit of m (Garwood, Biometrika
    28 (1936) 437), less those that chance flags in such windows, is beyond what is missed by one in a hundred.

    Parameters
    ----------
    by_chance : float
        How many like spectra chance flags on average.
    """
    n = 1
    while gammaincinv(n, _MISSED) <= np.log(1.0 / _MISSED) + by_chance:
        n += 1
    return n


_LEAST_CROWD = crowd_size()


def _near(counts: NDArray[np.int64], reach: int) -> NDArray[np.int64]:
    """Sum of counts within `reach` of each entry."""
    total = np.concatenate([[0], np.cumsum(counts)])
    at = np.arange(counts.size)
    return np.asarray(total[np.minimum(at + reach, counts.size)] - total[np.maximum(at - reach + 1, 0)])


def carriers(raw: Float32, exposure: Float64, shrinkage: ScoreShrinkage) -> Positions:
    """Rows that alone carry a component: fewer of them than a crowd have more than half of its signal.

    Parameters
    ----------
    raw, exposure : ndarray, (n, K) and (n,)
        Raw scores and exposures of all spectra.
    """
    n, few = raw.shape[0], _LEAST_CROWD
    if n < 8 * few:
        return np.zeros(0, dtype=np.int64)
    safe = np.where(exposure > 0, exposure, 1.0)[:, None]
    energy = ((raw / safe - shrinkage.centre) @ shrinkage.axes) ** 2 * safe
    top = np.argpartition(energy, n - few, axis=0)[n - few :]
    found = []
    for axis in range(energy.shape[1]):
        rows = top[:, axis]
        rest = (float(energy[:, axis].sum()) - float(energy[rows, axis].sum())) / (n - few)
        # Beside a carrier of thousands, one of many positions that chance has lifted to some tens is none.
        # Nor is one of the few that have most of what rounding leaves along the mean spectrum, far below noise (of 1).
        least = max(_CARRIER * max(rest, 1.0), _PART * float(energy[rows, axis].max()))
        strong = rows[energy[rows, axis] > least]
        signal = float(energy[:, axis].sum()) - n * rest
        if strong.size and float(energy[strong, axis].sum()) > 0.5 * signal and strong.size < few:
            found.append(strong)
    return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class NoveltySpectra:
    """Pooled residuals of novelty groups, as further eigenspectra with scores at their own positions only.

    Attributes
    ----------
    eigenspectra : ndarray of float32, (G, D)
        Pooled residual of each group, counts.
    groups : list of ndarray
        Positions of each group.
    scores : list of ndarray
        Score of each of them.
    """

    eigenspectra: Float32
    groups: tuple[Positions, ...] = ()
    scores: tuple[Float32, ...] = ()

    def of(self, index: NDArray[Any]) -> Float32:
        """Scores (n, G) of positions, 0 outside the group."""
        out = np.zeros((len(index), len(self.groups)), dtype=np.float32)
        positions, column, score = self._members
        if positions.size:
            at = np.minimum(np.searchsorted(positions, index), positions.size - 1)
            rows = np.flatnonzero(positions[at] == index)
            out[rows, column[at[rows]]] = score[at[rows]]
        return out

    @cached_property
    def _members(self) -> tuple[Positions, NDArray[np.intp], Float32]:
        """Positions of all groups, rising, with group number and score; a position is in one group."""
        if not self.groups:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.float32)
        positions, score = np.concatenate(self.groups), np.concatenate(self.scores)
        column = np.repeat(np.arange(len(self.groups)), [group.size for group in self.groups])
        order = np.argsort(positions, kind="stable")
        return positions[order], column[order], score[order]


def _kept(power: Float64, noise: Float64) -> Float64:
    """Part of a power that is no noise."""
    return np.maximum(1.0 - np.divide(noise, power, out=np.ones_like(power), where=power > 0), 0.0)


def pooled_residual(residual: Float32, variance: Float64, gain: float, width: int) -> tuple[Float32, Float32]:
    """Pooled residual (D,) of a group (n, D), and each one's share of it.

    The pooled residual is shrunk as its power over `width` channels is signal or noise, the noise of the components
    counted twice, so that what may be no more than that is left out: first its mean over those channels (the lines of
    an element that the components expect and that is not there are weak in each channel), then what is left of each
    channel. Shares are least squares in the
    noise that the novelty itself brings with it, drawn towards equal ones as far as it leaves them open (a prior of
    mean and standard deviation 1/n): a few counts tell that something is there, not how much of it. They sum to 1, so
    that they do not undo the shrinkage; to less where residuals contradict each other, as with lines that move.

    Parameters
    ----------
    residual, variance : ndarray, (n, D)
        What the components do not explain, and the noise variance of what they do.
    gain : float
        Variance of a count.
    """
    n = len(residual)
    pooled = residual.sum(axis=0, dtype=np.float64)
    mean, noise = (uniform_filter1d(a, width) for a in (pooled, variance.sum(axis=0)))
    noise = 2.0 * noise + gain * np.maximum(mean, 0.0)
    rough = pooled - mean
    pooled = _kept(mean**2, noise / width) * mean + _kept(uniform_filter1d(rough**2, width), noise) * rough
    spread = variance + gain * np.maximum(pooled, 0.0) / n
    weighted = np.divide(pooled, spread, out=np.zeros_like(spread), where=spread > 0)
    # Each by its own noise: one common denominator lets shares of contradicting residuals grow without bound.
    share = ((residual * weighted).sum(axis=1) + n) / ((pooled * weighted).sum(axis=1) + n**2)
    return pooled.astype(np.float32), (share / max(float(share.sum()), 1.0)).astype(np.float32)
