"""Sparse sampling: which positions to measure next, and a map of all that says what is measured and what is guessed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from models.base import Float64

_NEIGHBOURS = 8
_NEARLY, _ROUNDS = 0.7, 24


@dataclass(frozen=True)
class Inpainted:
    """Phases of all positions of a map.

    Attributes
    ----------
    posterior : ndarray, (P, M)
        As measured, or from the nearest measured positions.
    distance : ndarray, (P,)
        Distance to the nearest measured position, in positions; 0 where measured.
    """

    posterior: Float64
    distance: Float64

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Which positions were measured, and not guessed, (P,)."""
        return np.asarray(self.distance == 0)

    @property
    def label(self) -> NDArray[np.int64]:
        """Likeliest phase of each position, (P,)."""
        return np.asarray(self.posterior.argmax(axis=1))


def inpainted(posterior: Float64, measured: NDArray[np.int64], nav_shape: tuple[int, int]) -> Inpainted:
    """Fill a map from its measured positions, each guess the mean of its nearest ones by inverse squared distance.

    Parameters
    ----------
    posterior : ndarray, (m, M)
        Of the measured positions.
    measured : ndarray of int, (m,)
        Flat positions, each once.

    Raises
    ------
    ValueError
        Where nothing was measured.
    """
    if not measured.size:
        raise ValueError("nothing was measured that a map could be filled from")
    n = nav_shape[0] * nav_shape[1]
    places = np.stack(np.divmod(np.arange(n), nav_shape[1]), axis=1).astype(np.float64)
    filled, distance = np.empty((n, posterior.shape[1])), np.zeros(n)
    filled[measured] = posterior
    known = np.zeros(n, dtype=np.bool_)
    known[measured] = True
    guessed = np.flatnonzero(~known)
    if guessed.size:
        k = min(_NEIGHBOURS, measured.size)
        away, nearest = cKDTree(places[measured]).query(places[guessed], k=np.arange(1, k + 1))
        weight = 1.0 / away**2
        filled[guessed] = np.einsum("gk,gkm->gm", weight / weight.sum(axis=1, keepdims=True), posterior[nearest])
        distance[guessed] = away[:, 0]
    return Inpainted(filled, distance)


def next_visits(
    guess: Inpainted, nav_shape: tuple[int, int], n: int, smallest: float, novelty: Float64 | None = None
) -> NDArray[np.int64]:
    """Flat positions to measure next, at most n, the most wanted first and not needlessly close to one another.

    Wanted is what is uncertain: the probability that the guessed phase is wrong; or that something of the smallest
    size that must not be missed lies hidden, which rises with the distance to what was measured; or what lies beside
    a novelty.

    Parameters
    ----------
    smallest : float
        Diameter in positions of the smallest object that is not to be missed.
    novelty : ndarray, (P,), optional
        Between 0 and 1, for instance the anomaly score over its threshold of measured positions, spread to neighbours.
    """
    wrong = 1.0 - guess.posterior.max(axis=1)
    hidden = 1.0 - np.exp(-((guess.distance / max(smallest, 1.0)) ** 2))
    wanted = 1.0 - (1.0 - wrong) * (1.0 - hidden)
    if novelty is not None:
        wanted = 1.0 - (1.0 - wanted) * (1.0 - np.clip(novelty, 0.0, 1.0))
    wanted[guess.measured] = 0.0
    return _spread_out(wanted, nav_shape, n, max(smallest, 1.0))


def _spread_out(wanted: Float64, nav_shape: tuple[int, int], n: int, reach: float) -> NDArray[np.int64]:
    """The n most wanted positions, where each takes from its neighbours within about `reach` what it will tell of them.

    In rounds: the most wanted of each cell, as long as they are nearly as much wanted as the most wanted of all.
    """
    chosen = np.zeros(0, dtype=np.int64)
    side, left, open_ = int(np.ceil(reach)), wanted.copy(), int(np.count_nonzero(wanted))
    places = np.stack(np.divmod(np.arange(wanted.size), nav_shape[1]), axis=1)
    for _ in range(_ROUNDS):
        if chosen.size >= min(n, open_):
            break
        near = np.flatnonzero(left >= _NEARLY * left.max(initial=0.0))
        near = near[left[near] > 0]
        order = near[np.argsort(-left[near], kind="stable")]
        cells = places[order] // side
        _, first = np.unique(cells[:, 0] * nav_shape[1] + cells[:, 1], return_index=True)
        chosen = np.concatenate([chosen, order[np.sort(first)][: n - chosen.size]])
        away = cKDTree(places[chosen]).query(places)[0]
        left = wanted * -np.expm1(-((away / reach) ** 2))
    if chosen.size < n:
        rest = np.argsort(-left, kind="stable")
        chosen = np.concatenate([chosen, rest[left[rest] > 0][: n - chosen.size]])
    return chosen
