"""Which of two phases makes up most of a mixture, by its own counts and by what lies around it.

A mixture is not of one phase or of another: it has a share, which its own counts tell with an error, and which what
lies around it tells with another. Where neighbours vote on labels, a spectrum that is nearly half of each of two phases
is called wrongly to the side of the majority, however many counts it has. Here the share is normal about a half plus
as much as the majority brings; slope and spread are those of the shares on this very map (regression with known errors
of what is measured: Fuller, Measurement Error Models, Wiley 1987), so that counts have the last word where they are
many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from models.base import Float32, Float64
from models.phase_mixture import Mixture
from models.phase_sample import PhaseView, Positions

_ROUNDS = 6
_LEAST_SPREAD, _MOST_SPREAD = 0.1, 0.5
"""Of shares about what a majority tells; less than the first votes cannot tell, whatever the few that are known say."""
_EVEN = 3.0
"""Votes of a majority up to which neighbours leave open what makes up most; shares are the more spread there."""
_SUREST = 1e-15

ShareError: TypeAlias = Callable[[Positions, NDArray[np.intp], NDArray[np.intp]], Float64]
"""Standard errors (n,) of the shares of two phases (n,), (n,) in mixtures of them at positions (n,)."""


@dataclass(frozen=True)
class Mixtures:
    """What is known of mixtures on a map.

    Attributes
    ----------
    mixed : ndarray, (P,)
        Probability of each position to be one.
    error : callable
        Gives the errors of shares.
    """

    mixed: Float32
    error: ShareError


def mixtures_of(mixed: Float32, found: tuple[PhaseView, Mixture, list[int]] | None) -> Mixtures | None:
    """Mixtures (P,) of the phases that were found, whose shares have errors by Fisher's information between two."""
    if found is None:
        return None
    view, means = found[0], found[1].means
    step = means[:, None] - means[None, :]
    noise = view.space.noise((means[:, None] + means[None, :]) / 2.0)
    information = (step * np.linalg.solve(noise, step[..., None])[..., 0]).sum(axis=-1)

    def error(positions: Positions, first: NDArray[np.intp], second: NDArray[np.intp]) -> Float64:
        return np.asarray(1.0 / np.sqrt(np.maximum(view.exposure(positions) * information[first, second], 1e-9)))

    return Mixtures(mixed, error)


@dataclass(frozen=True)
class Leaning:
    """Some mixtures between their two likeliest phases (n,), (n,).

    Attributes
    ----------
    first, second : ndarray of int, (n,)
    mixed : ndarray, (n,)
    odds : ndarray, (n,)
        By how many of its errors the share of the first exceeds a half, by own counts.
    error : ndarray, (n,)
    majority : ndarray, (n,)
        Votes for the first less those for the second.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    mixed: Float64
    odds: Float64
    error: Float64
    majority: Float64

    @classmethod
    def of(cls, positions: Positions, chance: Float64, votes: Float64, mixtures: Mixtures) -> Leaning:
        """From probabilities (C, n) of phases by own counts, and votes (C, n)."""
        first, second = np.argsort(-chance, axis=0, kind="stable")[:2]
        at = np.arange(positions.size)
        other = chance[second, at] / np.maximum(chance[first, at] + chance[second, at], 1e-300)
        odds = norm.isf(np.clip(other, _SUREST, 0.5))
        majority = votes[first, at] - votes[second, at]
        mixed = np.nan_to_num(mixtures.mixed[positions].astype(np.float64))
        return cls(first, second, mixed, odds, mixtures.error(positions, first, second), majority)

    def law(self) -> tuple[float, float]:
        """What each vote of a majority adds to a share, and the spread of shares about that, where it is small."""
        even = np.abs(self.majority) < _EVEN
        mixed, error, majority = self.mixed[even], self.error[even], self.majority[even]
        share = np.minimum(self.odds[even] * error, 0.5)
        slope, spread = 0.0, 2.0 * _LEAST_SPREAD
        for _ in range(_ROUNDS):
            weight = mixed / (error**2 + spread**2)
            slope = float((weight * share * majority).sum() / max((weight * majority**2).sum(), 1e-12))
            weight = weight**2 / np.maximum(mixed, 1e-12)
            beyond = (share - slope * majority) ** 2 - error**2
            variance = float((weight * beyond).sum() / max(weight.sum(), 1e-12))
            spread = float(np.sqrt(np.clip(variance, 1e-4, _MOST_SPREAD**2)))
        return slope, max(spread, _LEAST_SPREAD)

    def heard(self, chance: Float64, slope: float, spread: float) -> Float64:
        """Probabilities (C, n) of phases to make up most, of mixtures that are of sum 1."""
        told = self.odds + slope * self.majority * self.error / spread**2
        other = norm.sf(told / np.sqrt(1.0 + (self.error / spread) ** 2))
        out, at = chance.copy(), np.arange(self.first.size)
        both = chance[self.first, at] + chance[self.second, at]
        out[self.first, at], out[self.second, at] = both * (1.0 - other), both * other
        return np.asarray(out / np.maximum(out.sum(axis=0), 1e-300))
