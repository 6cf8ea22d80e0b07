"""Sparse sampling: which positions to measure next, and a map of all that says what is measured and what is guessed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from models.base import Float64

_NEIGHBOURS = 8
_NEARLY, _ROUNDS = 0.7, 24
_POWERS = np.array([0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
_ALIEN = np.geomspace(1e-4, 0.7, 17)
_ALIEN_BEFOREHAND, _WORTH = 0.02, 4.0
"""Part of the positions that is like nothing around, as long as nothing is known, and positions that this is worth."""
_LEARNT_FROM = 4096


@dataclass(frozen=True)
class Inpainted:
    """Phases of all positions of a map.

    Attributes
    ----------
    posterior : ndarray, (P, M)
        As measured, or from the nearest measured positions.
    distance : ndarray, (P,)
        Distance to the nearest measured position, in positions; 0 where measured.
    stands_for : ndarray, (P,)
        How many positions have their phase from each measured one, itself included; 0 where nothing was measured.
    alien : float
        Part of the positions that is like nothing measured around them.
    """

    posterior: Float64
    distance: Float64
    stands_for: Float64
    alien: float

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

    How far such a mean can be believed differs from map to map: phases in large grains are surer than it says, and
    small things are like nothing around. So the guess is a power of the mean, and nothing but chance in part, by which
    the measured positions are guessed best from those around them.

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
    n, m = nav_shape[0] * nav_shape[1], measured.size
    places = np.stack(np.divmod(np.arange(n), nav_shape[1]), axis=1).astype(np.float64)
    tree = cKDTree(places[measured])
    filled, distance, stands_for = np.empty((n, posterior.shape[1])), np.zeros(n), np.zeros(n)
    filled[measured], stands_for[measured] = posterior, 1.0
    power, alien = _learnt(posterior, places[measured], tree)
    guessed = np.flatnonzero(stands_for == 0)
    if guessed.size:
        away, nearest = tree.query(places[guessed], k=np.arange(1, min(_NEIGHBOURS, m) + 1))
        weight = _weights(away)
        filled[guessed] = _believed(np.einsum("gk,gkm->gm", weight, posterior[nearest]), power, alien)
        distance[guessed] = away[:, 0]
        stands_for[measured] += np.bincount(nearest.ravel(), weight.ravel(), minlength=m)
    return Inpainted(filled, distance, stands_for, alien)


def _weights(away: Float64) -> Float64:
    weight = 1.0 / away**2
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def _believed(mean: Float64, power: float, alien: float) -> Float64:
    # What is like no phase that is known stays so.
    mean = np.maximum(mean, 0.0)
    whole, sharp = mean.sum(axis=1, keepdims=True), mean**power
    sharp *= whole / np.maximum(sharp.sum(axis=1, keepdims=True), 1e-300)
    return np.asarray((1.0 - alien) * sharp + alien * whole / mean.shape[1])


def _learnt(posterior: Float64, places: Float64, tree: cKDTree) -> tuple[float, float]:
    """Power and part of chance with which measured positions (m,) are guessed best from the others."""
    m = len(posterior)
    some = np.arange(m)[:: -(-m // _LEARNT_FROM)]
    beforehand = _WORTH * (_ALIEN_BEFOREHAND * np.log(_ALIEN) + (1.0 - _ALIEN_BEFOREHAND) * np.log1p(-_ALIEN))
    if m < 2 or posterior.shape[1] < 2:
        return 1.0, float(_ALIEN[np.argmax(beforehand)])
    away, nearest = tree.query(places[some], k=np.arange(2, min(_NEIGHBOURS + 1, m) + 1))
    mean = np.einsum("gk,gkm->gm", _weights(away), posterior[nearest])
    value = np.empty((_POWERS.size, _ALIEN.size))
    for k, power in enumerate(_POWERS):
        right = (_believed(mean, float(power), 0.0) * posterior[some]).sum(axis=1)
        by_chance = posterior[some].sum(axis=1) / posterior.shape[1]
        likely = (1.0 - _ALIEN) * right[:, None] + _ALIEN * by_chance[:, None]
        value[k] = np.log(np.maximum(likely, 1e-300)).sum(axis=0) + beforehand
    best = np.unravel_index(int(np.argmax(value)), value.shape)
    return float(_POWERS[best[0]]), float(_ALIEN[best[1]])


def next_visits(
    guess: Inpainted, nav_shape: tuple[int, int], n: int, smallest: float, novelty: Float64 | None = None
) -> tuple[NDArray[np.int64], Float64]:
    """Flat positions to measure next, at most n, the most wanted first and not needlessly close to one another.

    Beside them how much each is wanted, between 0 and 1.

    Wanted is what is uncertain: the probability that the guessed phase is wrong; and that something of the smallest
    size that must not be missed lies hidden, times that size: it rises with the distance to what was measured, and
    with how much was found that was like nothing around; or what lies beside a novelty.

    Parameters
    ----------
    smallest : float
        Diameter in positions of the smallest object that is not to be missed.
    novelty : ndarray, (P,), optional
        Between 0 and 1, for instance the anomaly score over its threshold of measured positions, spread to neighbours.
    """
    wrong = 1.0 - guess.posterior.max(axis=1)
    hidden = 1.0 - np.exp(-((guess.distance / max(smallest, 1.0)) ** 2))
    wanted = 1.0 - (1.0 - wrong) * (1.0 - hidden * min(guess.alien * smallest**2, 1.0))
    if novelty is not None:
        wanted = 1.0 - (1.0 - wanted) * (1.0 - np.clip(novelty, 0.0, 1.0))
    wanted[guess.measured] = 0.0
    chosen = _spread_out(wanted, nav_shape, n, max(smallest, 1.0))
    return chosen, wanted[chosen]


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
