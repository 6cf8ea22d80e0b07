"""Spectra as another instrument would have recorded them: shifted, stretched, broadened, at another dose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import Float32, Float64

Split = Callable[[Float64, Float64], Float64]
_HERMITE = ((1 / 6, -np.sqrt(3.0)), (2 / 3, 0.0), (1 / 6, np.sqrt(3.0)))
"""Gauss-Hermite: three shifted copies have the moments of a Gaussian blur up to the fifth."""


@dataclass(frozen=True)
class Augmentation:
    """How far training spectra are changed, each drawn uniformly and anew for every use.

    Attributes
    ----------
    shift : float
        Channels, up to this either way.
    gain : float
        Relative stretch about channel 0, up to this either way.
    broadening : float
        Standard deviation in channels that is added, up to this.
    """

    shift: float = 0.0
    gain: float = 0.0
    broadening: float = 0.0

    @property
    def active(self) -> bool:
        """Whether anything is changed."""
        return max(self.shift, self.gain, self.broadening) > 0

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Float64, Float64, Float64]:
        """Shifts, gains and broadenings (n,) of n spectra."""
        shift, gain = (limit * rng.uniform(-1.0, 1.0, n) for limit in (self.shift, self.gain))
        return shift, gain, self.broadening * rng.uniform(0.0, 1.0, n)


def expected_share(amount: Float64, share: Float64) -> Float64:
    """Split for expected counts."""
    return amount * share


def random_share(rng: np.random.Generator) -> Split:
    """Split for counts: each goes by a coin, so that Poisson counts stay Poisson."""

    def split(amount: Float64, share: Float64) -> Float64:
        return rng.binomial(amount.astype(np.int64), np.clip(share, 0.0, 1.0)).astype(np.float64)

    return split


def whole(amount: Float64, share: Float64) -> Float64:
    """Split for measured values that are no counts: all or nothing, so that their noise stays white."""
    return amount * (share >= 0.5)


def displace(spectra: NDArray[Any], shift: Float64, gain: Float64, broadening: Float64, split: Split) -> Float32:
    """Move what is in channel c to (1 + gain) c + shift, and broaden; what leaves the axis is lost.

    Parameters
    ----------
    spectra : ndarray, (n, D)
    shift, gain, broadening : ndarray, (n,)
        Channels, relative, channels.
    split : callable
        (amounts, shares) to the part of each amount that goes the one way.
    """
    rest, left = np.asarray(spectra, dtype=np.float64), 1.0
    moved = np.zeros(rest.shape, dtype=np.float64)
    parts = _HERMITE if broadening.any() else ((1.0, 0.0),)
    for number, (weight, at) in enumerate(parts, 1):
        part = rest if number == len(parts) else split(rest, np.full(rest.shape, weight / left))
        rest, left = rest - part, left - weight
        _move(part, (1.0 + gain)[:, None] * np.arange(rest.shape[1]) + (shift + at * broadening)[:, None], split, moved)
    return moved.astype(np.float32)


def _move(amount: Float64, to: Float64, split: Split, out: Float64) -> None:
    """Add amounts (n, D) at fractional channels (n, D) of `out`, shared by the two nearest."""
    n, d = amount.shape
    low = np.floor(to).astype(np.int64)
    up = split(amount, to - low)
    row = np.arange(n)[:, None] * d
    for channel, what in ((low, amount - up), (low + 1, up)):
        inside = (channel >= 0) & (channel < d)
        flat = (row + channel)[inside]
        out += np.bincount(flat, what[inside], minlength=n * d).reshape(n, d)
