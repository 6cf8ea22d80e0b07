"""Smooth backgrounds under spectra: a power law (EELS), or a baseline of pybaselines (Raman, XRD).

A background is found for each visit and kept at some knots, between which it is linear: what is subtracted can be
added back exactly, and a map of backgrounds needs little memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from models.base import Float32, Float64

_KNOTS = 128
_MEANS = 256
_POWER_KNOTS = 64
_SPREAD = 0.3
_EXPONENTS = (0.5, 8.0)


@dataclass(frozen=True, eq=False)
class Knots:
    """Channels (rising) between which a background is linear; it is 0 outside them.

    Attributes
    ----------
    at : ndarray of int64, (M,)
        Channels of the model.
    n_channels : int
        Channels of the model, m.
    """

    at: NDArray[np.int64]
    n_channels: int

    @cached_property
    def matrix(self) -> Float32:
        """Weights (M, m) that take values at the knots to all channels."""
        out = np.zeros((self.at.size, self.n_channels), dtype=np.float32)
        inside = np.arange(self.at[0], self.at[-1] + 1)
        for knot, unit in enumerate(np.eye(self.at.size)):
            out[knot, inside] = np.interp(inside, self.at, unit)
        return out


class Background(Protocol):
    """Finds the background of each spectrum."""

    knots: Knots
    is_cheap: bool
    """Whether the backgrounds of a whole map are found in milliseconds."""

    def find(self, counts: NDArray[Any]) -> Float32:
        """Background (n, M) at the knots, of spectra (n, m)."""
        ...


def even_knots(n_channels: int, n_knots: int = _KNOTS) -> Knots:
    """Knots at equal distances over all channels."""
    return Knots(np.unique(np.linspace(0, n_channels - 1, n_knots).round().astype(np.int64)), n_channels)


class PowerLaw:
    """A E^-r, fitted before an edge and drawn on to the end of the axis.

    By the two-area method (Egerton, Electron Energy-Loss Spectroscopy in the Electron Microscope, 3rd ed., 4.4.2),
    which needs no logarithm of single channels. Where the counts of a spectrum say little of the exponent, the one of
    all spectra of its block stands in, by their variances; the amplitude is always its own.

    Parameters
    ----------
    values : ndarray, (m,)
        Energy losses of the channels, rising.
    window : tuple of float
        Range of the fit, in the units of `values`.

    Raises
    ------
    ValueError
        Where fewer than 8 channels lie in the window, or losses there are not positive.
    """

    is_cheap = True

    def __init__(self, values: Float64, window: tuple[float, float]) -> None:
        inside = np.flatnonzero((values >= window[0]) & (values <= window[1]))
        if inside.size < 8 or values[inside[0]] <= 0 or np.any(np.diff(values) <= 0):
            raise ValueError(f"no power law can be fitted from {window[0]:g} to {window[1]:g}: {inside.size} channels")
        first, middle, stop = int(inside[0]), int(inside[inside.size // 2]), int(inside[-1]) + 1
        self._low, self._high = slice(first, middle), slice(middle, stop)
        logs = np.log(values)
        # Relative to the middle of the window, so that no power over- or underflows.
        self._log = logs[first:] - logs[middle]
        self._log_gap = float(logs[self._high].mean() - logs[self._low].mean())
        self._sizes = middle - first, stop - middle
        spaced = np.geomspace(values[first], values[-1], _POWER_KNOTS)
        at = np.unique(np.searchsorted(values, spaced).clip(first, values.size - 1))
        self.knots = Knots(np.unique(np.append(at, values.size - 1)), values.size)

    def find(self, counts: NDArray[Any]) -> Float32:
        """Background (n, M) at the knots, of spectra (n, m)."""
        low = np.maximum(counts[:, self._low].sum(axis=1, dtype=np.float64), 0.0)
        high = np.maximum(counts[:, self._high].sum(axis=1, dtype=np.float64), 0.0)
        exponent = self._exponent(low, high)
        size = self._sizes[0] + self._sizes[1]
        shape = np.exp(-exponent[:, None] * self._log)
        amplitude = (low + high) / shape[:, :size].sum(axis=1)
        at = self.knots.at - self._low.start
        return np.asarray(amplitude[:, None] * shape[:, at], dtype=np.float32)

    def _exponent(self, low: Float64, high: Float64) -> Float64:
        pooled = self._single(np.array([low.sum()]), np.array([high.sum()]))
        variance = (1.0 / np.maximum(low, 1.0) + 1.0 / np.maximum(high, 1.0)) / self._log_gap**2
        own = _SPREAD**2 / (_SPREAD**2 + variance)
        return np.asarray(own * self._single(low, high) + (1.0 - own) * pooled)

    def _single(self, low: Float64, high: Float64) -> Float64:
        ratio = (np.maximum(low, 0.5) / self._sizes[0]) / (np.maximum(high, 0.5) / self._sizes[1])
        return np.clip(np.log(ratio) / self._log_gap, *_EXPONENTS)


class Baseline:
    """A baseline of pybaselines (Erb 2025), spectrum by spectrum, in tenths of a millisecond each.

    It is found in means of neighbouring channels, some 256 of them: faster, and closer to the middle of the noise,
    whose lower edge such baselines follow.

    Parameters
    ----------
    n_channels : int
    method : 'asls', 'arpls' or 'snip'
        Asymmetric least squares (Eilers 2003), asymmetrically reweighted penalised least squares (Baek et al. 2015),
        or iterative peak clipping (Ryan et al. 1988; Morhac 2008).
    stiffness : float
        Penalty of curvature in single channels, `lam`, of the first two.
    half_window : int
        Half of the widest peak in channels, for the third.
    """

    is_cheap = False

    def __init__(
        self, n_channels: int, method: Literal["asls", "arpls", "snip"], stiffness: float, half_window: int
    ) -> None:
        # Here, because it takes seconds to import, and who subtracts no baseline need not have it.
        from pybaselines import Baseline as Fitter

        self.knots = even_knots(n_channels)
        step = max(1, n_channels // _MEANS)
        self._starts = np.arange(0, n_channels, step)
        self._sizes = np.diff(self._starts, append=n_channels)
        self._middles = self._starts + 0.5 * (self._sizes - 1)
        self._fit = getattr(Fitter(self._middles), method)
        if method == "snip":
            widest = max(1, min(round(half_window / step), (self._starts.size - 1) // 2))
            self._options: dict[str, Any] = {"max_half_window": widest, "decreasing": True}
        else:
            # A curvature is four powers of the channel's width.
            self._options = {"lam": stiffness / step**4}

    def find(self, counts: NDArray[Any]) -> Float32:
        """Background (n, M) at the knots, of spectra (n, m)."""
        out = np.empty((counts.shape[0], self.knots.at.size), dtype=np.float32)
        means = np.add.reduceat(np.asarray(counts, dtype=np.float64), self._starts, axis=1) / self._sizes
        for row, spectrum in enumerate(means):
            found = self._fit(spectrum, **self._options)[0] if spectrum.any() else spectrum
            out[row] = np.interp(self.knots.at, self._middles, found)
        return out
