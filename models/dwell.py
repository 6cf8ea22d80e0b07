"""Where to spend dwell: each position as long as it is open, those first where a second brings most.

Positions have a next step and a gain each (`models.prospects`). A pass takes the steps of the best gain a second until
it has a part of what all of them would bring: with passes to come it pays to look again before the others are taken,
for most of what they want will turn out to be elsewhere. That is what makes a sequential test better than a fixed one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import Float64
from models.prospects import Prospects

_ANOMALY_FROM, _ANOMALY_ERROR = 0.6, 0.05


@dataclass(frozen=True)
class Limits:
    """Dwell of a position in the next pass, seconds, and in all.

    Attributes
    ----------
    shortest, longest : float
        A position that gets less than `shortest` is left out.
    dose : float
        Most dwell of a position in all.
    """

    shortest: float
    longest: float
    dose: float = np.inf

    def __post_init__(self) -> None:
        if not 0 < self.shortest <= self.longest or not self.dose > 0:
            raise ValueError(f"dwells from {self.shortest} to {self.longest} s, {self.dose} s in all, make no sense")


@dataclass(frozen=True)
class Budget:
    """How much a pass spends.

    Attributes
    ----------
    most_s : float
        Sum of all dwells, at most.
    least_s : float
        Sum of all dwells that is spent as long as it brings anything.
    share : float
        Part of the whole gain to be had that is enough.
    """

    most_s: float
    least_s: float = 0.0
    share: float = 1.0


def with_anomalies(error: Float64, anomaly: Float64) -> Float64:
    """Expected errors (P,) with what else is open: an anomaly score near its threshold is something, or nothing.

    Parameters
    ----------
    anomaly : ndarray, (P,)
        Anomaly score over its threshold: from 0.6 to 1 it counts as up to 5 %.
    """
    open_ = (anomaly >= _ANOMALY_FROM) & (anomaly < 1.0)
    ramp = np.where(open_, (anomaly - _ANOMALY_FROM) / (1.0 - _ANOMALY_FROM), 0.0)
    return np.maximum(error, _ANOMALY_ERROR * ramp)


def allocate(
    prospects: Prospects, given_s: Float64, budget: Budget, limits: Limits, groups: NDArray[np.int64] | None = None
) -> Float64:
    """Dwell (P,) of each position in the next pass.

    Parameters
    ----------
    given_s : ndarray, (P,)
        Dwell so far.
    groups : ndarray of int, (P,), optional
        Positions of one number get the same dwell: lines, sections or tiles of a controller that cannot more.
    """
    number = np.arange(given_s.size) if groups is None else np.unique(groups, return_inverse=True)[1]
    size = np.bincount(number).astype(np.float64)
    room = np.full(size.size, np.inf)
    np.minimum.at(room, number, np.clip(limits.dose - given_s, 0.0, None))
    step_s, gain = _of_groups(prospects, number, np.minimum(limits.longest, room), limits.shortest)
    cost_s = size * step_s
    order = np.argsort(-np.divide(gain, cost_s, out=np.zeros_like(gain), where=cost_s > 0), kind="stable")
    before, spent_s = np.cumsum(gain[order]) - gain[order], np.cumsum(cost_s[order])
    wanted = (before < budget.share * gain.sum()) | (spent_s <= budget.least_s)
    taken = order[wanted & (spent_s <= budget.most_s * (1.0 + 1e-9)) & (gain[order] > 0)]
    dwell_s = np.zeros(size.size)
    dwell_s[taken] = step_s[taken]
    return np.asarray(dwell_s[number])


def _of_groups(
    prospects: Prospects, number: NDArray[np.int64], most_s: Float64, shortest_s: float
) -> tuple[Float64, Float64]:
    """Step and gain of each group (n,): the step that most of its gain asks for, of which the others get their part."""
    n = most_s.size
    whole = np.bincount(number, prospects.gain, minlength=n)
    wanted = np.bincount(number, prospects.gain * prospects.step_s, minlength=n)
    step_s = np.divide(wanted, whole, out=np.zeros(n), where=whole > 0)
    step_s = np.where((whole > 0) & (most_s >= shortest_s), np.clip(step_s, shortest_s, most_s), 0.0)
    part = np.divide(step_s[number], prospects.step_s, out=np.zeros(number.size), where=prospects.step_s > 0)
    gain = np.bincount(number, prospects.gain * np.minimum(part, 1.0), minlength=n)
    return np.asarray(step_s), np.asarray(gain, dtype=np.float64)


def tiles(nav_shape: tuple[int, int], side: int) -> NDArray[np.int64]:
    """Number of the square tile that each position (ny * nx,) lies in, for controllers that scan rectangles."""
    y, x = np.divmod(np.arange(nav_shape[0] * nav_shape[1]), nav_shape[1])
    return np.asarray((y // side) * -(-nav_shape[1] // side) + x // side, dtype=np.int64)
