"""Where to spend dwell: each position until it is decided, and a budget where it lowers the expected error most.

The expected error of a position falls with dwell t about as e exp(-c t), e the probability that its likeliest phase is
wrong and c the Chernoff information a second between its two likeliest ones. The sum of that over positions is least,
for a given sum of dwells, where the last second of each brings the same: c e exp(-c t) = price.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import Float64

_LEAST = 1e-300
_HALVINGS = 60
_ANOMALY_FROM = 0.6
_ANOMALY_ERROR, _EDGE_ERROR = 0.05, 0.01


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
class Allocation:
    """Dwell of each position in the next pass, seconds (P,), and what the last second of it lowers the errors by."""

    dwell_s: Float64
    price: float


def is_decided(posterior: Float64, epsilon: float) -> NDArray[np.bool_]:
    """Where counting may stop (P,): the likeliest of the phases (P, M) has passed 1 - epsilon (MSPRT)."""
    return np.asarray(posterior.max(axis=1) > 1.0 - epsilon)


def expected_errors(
    posterior: Float64, anomaly: Float64 | None = None, edge: NDArray[np.bool_] | None = None
) -> Float64:
    """Expected error (P,) of calling each position by its likeliest phase, with what else is open about it.

    Parameters
    ----------
    posterior : ndarray, (P, M)
    anomaly : ndarray, (P,), optional
        Anomaly score over its threshold: from 0.6 to 1 it may be something or nothing, and counts as up to 5 %.
    edge : ndarray of bool, (P,), optional
        Positions with a neighbour of another phase, which may be mixtures: 1 %.
    """
    error = 1.0 - posterior.max(axis=1)
    if anomaly is not None:
        open_ = (anomaly >= _ANOMALY_FROM) & (anomaly < 1.0)
        ramp = np.where(open_, (anomaly - _ANOMALY_FROM) / (1.0 - _ANOMALY_FROM), 0.0)
        error = np.maximum(error, _ANOMALY_ERROR * ramp)
    if edge is not None:
        error = np.maximum(error, np.where(edge, _EDGE_ERROR, 0.0))
    return np.asarray(np.clip(error, 0.0, 1.0))


def rates_of_learning(posterior: Float64, information: Float64, exposure_per_s: Float64) -> Float64:
    """Chernoff information a second (P,) between the two likeliest phases of each position.

    Parameters
    ----------
    posterior : ndarray, (P, M)
        Of two phases at least.
    information : ndarray, (M, M)
        Of all pairs, for unit exposure (`models.information`).
    exposure_per_s : ndarray, (P,)
    """
    two = np.argpartition(posterior, -2, axis=1)[:, -2:]
    return np.asarray(information[two[:, 0], two[:, 1]] * exposure_per_s)


def allocate(
    error: Float64,
    rate: Float64,
    given_s: Float64,
    budget_s: float,
    limits: Limits,
    groups: NDArray[np.int64] | None = None,
) -> Allocation:
    """Share a budget of dwell out so that the expected number of wrong positions becomes least.

    Parameters
    ----------
    error, rate, given_s : ndarray, (P,)
        Expected error, information a second, and dwell so far of each position.
    budget_s : float
        Sum of all dwells, at most; less is spent where limits leave no room.
    groups : ndarray of int, (P,), optional
        Positions of one number get the same dwell: lines, sections or tiles of a controller that cannot more.
    """
    number = np.arange(error.size) if groups is None else np.unique(groups, return_inverse=True)[1]
    n = int(number.max(initial=-1)) + 1
    size = np.bincount(number, minlength=n).astype(np.float64)
    room = np.full(n, np.inf)
    np.minimum.at(room, number, np.clip(limits.dose - given_s, 0.0, None))
    most = np.minimum(limits.longest, room)
    positions = _Positions(error, np.maximum(rate, 0.0), number, size)

    def dwells(price: float) -> Float64:
        dwell = positions.until(price, most)
        return np.where(dwell >= limits.shortest, dwell, 0.0)

    low, high = np.log(_LEAST), np.log(max(float((error * positions.rate).max(initial=0.0)), _LEAST))
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if size @ dwells(np.exp(middle)) <= budget_s else (middle, high)
    return Allocation(dwells(np.exp(high))[number], float(np.exp(high)))


@dataclass(frozen=True)
class _Positions:
    """Errors and rates of positions (P,), the group of each, and the sizes of groups (n,)."""

    error: Float64
    rate: Float64
    number: NDArray[np.int64]
    size: Float64

    def until(self, price: float, most: Float64) -> Float64:
        """Dwell of each group (n,) until another second for all its positions brings the price each, at most `most`."""
        if self.number.size == self.size.size:
            gain = np.maximum(self.error * self.rate, _LEAST)[np.argsort(self.number)]
            rate = self.rate[np.argsort(self.number)]
            wanted = np.divide(np.log(gain / price), rate, out=np.zeros_like(rate), where=rate > 0)
            return np.asarray(np.clip(wanted, 0.0, most))
        low, high = np.zeros(self.size.size), most.copy()
        for _ in range(_HALVINGS // 2):
            middle = 0.5 * (low + high)
            more = self._gain(middle) > price
            low, high = np.where(more, middle, low), np.where(more, high, middle)
        return low

    def _gain(self, dwell: Float64) -> Float64:
        gains = self.error * self.rate * np.exp(-self.rate * dwell[self.number])
        return np.bincount(self.number, gains, minlength=self.size.size) / self.size


def extension_s(error: float, rate: float, price: float, spent_s: float, limits: Limits) -> float:
    """Dwell for which to go on at the position being measured, seconds; 0: move on.

    The rule of `allocate` for one position, with its present error, within the longest dwell of one visit.

    Parameters
    ----------
    spent_s : float
        Dwell of this visit so far.
    """
    if rate <= 0 or error * rate <= price:
        return 0.0
    wanted = float(np.log(error * rate / max(price, _LEAST)) / rate)
    return float(np.clip(wanted, 0.0, max(min(limits.longest, limits.dose) - spent_s, 0.0)))


def edges(label: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Positions of a map (ny, nx) with a neighbour, of four, that has another label."""
    out = np.zeros(label.shape, dtype=np.bool_)
    for axis in (0, 1):
        differs = np.diff(label, axis=axis) != 0
        first = tuple(slice(None, -1) if a == axis else slice(None) for a in (0, 1))
        second = tuple(slice(1, None) if a == axis else slice(None) for a in (0, 1))
        out[first] |= differs
        out[second] |= differs
    return out


def tiles(nav_shape: tuple[int, int], side: int) -> NDArray[np.int64]:
    """Number of the square tile that each position (ny * nx,) lies in, for controllers that scan rectangles."""
    y, x = np.divmod(np.arange(nav_shape[0] * nav_shape[1]), nav_shape[1])
    return np.asarray((y // side) * -(-nav_shape[1] // side) + x // side, dtype=np.int64)
