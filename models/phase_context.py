"""Phases of positions in the light of those beside them: what lies side by side is mostly of one phase."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.optimize import minimize_scalar

from models.base import Float32, Float64, Pieces, done
from models.neighbours import patches
from models.phase_borders import Leaning, Mixtures
from models.phase_sample import spread_out

_LEARNT_FROM, _ROUNDS, _AT_ONCE = 16384, 4, 16384
_FORESEEN_FROM, _OPEN, _MOST_OPEN = 4096, 1e-4, 1 << 17
"""How many positions a map is foreseen from, which doubt is heard about (all below it is nothing together), and how
many positions at most (a quarter of a second): where more are open, the map is far from being finished, or huge."""
_STRONGEST = 4.0
_ALONE = 0.03
"""Part of the positions to which neighbours say nothing, so that single ones of a rare phase are not outvoted: what
speaks for these must be thirty times likelier than the rest. With a tenth, interfaces had a fifth more errors."""


def in_context(
    chance: Float32, voting: NDArray[np.bool_], shape: tuple[int, ...], mixtures: Mixtures | None = None
) -> Pieces[Float32]:
    """Probabilities of phases at each position, by its own spectrum and those of up to one step away.

    An auto-logistic model (Besag, J. R. Stat. Soc. B 36 (1974) 192): the log odds of a phase before its spectrum is
    seen rise with the number of neighbours that are of it, by as much as makes the spectra of this map likeliest, which
    is not at all where phases are scattered. Neighbours vote by their own spectra alone: no opinion comes back to where
    it began.

    Parameters
    ----------
    chance : ndarray, (C, P)
        Probability of each phase to make up most of a position, by its spectrum alone; 0 for all where it is unknown.
    voting : ndarray of bool, (P,)
        Which positions tell anything of those beside them.
    shape : tuple of int
        Of the grid.
    mixtures : Mixtures, optional
        What is known of those; without it they are taken for pure.

    Returns
    -------
    ndarray, (C, P)
        With the same sum at each position.
    """
    votes = np.empty_like(chance)
    for c, mine in enumerate(chance * voting):
        around = 3 ** len(shape) * uniform_filter(mine.reshape(shape), 3, mode="constant")
        votes[c] = around.ravel() - mine
        yield
    known = np.flatnonzero(chance.sum(axis=0) > 0)
    some = known[spread_out(known.size, _LEARNT_FROM)]
    parts = chance[:, some].astype(np.float64), votes[:, some].astype(np.float64)
    field = yield from _learnt(*parts)
    law = None if mixtures is None or len(chance) < 2 else Leaning.of(some, *parts, mixtures).law()
    out = chance.copy()
    for first in range(0, known.size, _AT_ONCE):
        at = known[first : first + _AT_ONCE]
        parts = chance[:, at].astype(np.float64), votes[:, at].astype(np.float64)
        heard = field.posterior(*parts)
        if mixtures is not None and law is not None:
            leaning = Leaning.of(at, *parts, mixtures)
            heard += leaning.mixed * (leaning.heard(parts[0], *law) - heard)
        out[:, at] = parts[0].sum(axis=0) * heard
        yield
    return out


def seen_in_context(
    label: NDArray[np.int32],
    runner_up: NDArray[np.int32],
    doubt: Float32,
    voting: NDArray[np.bool_],
    shape: tuple[int, ...],
) -> tuple[NDArray[np.int32], Float32]:
    """Foresee what `in_context` would make of a map of which the two likeliest phases of each position are known.

    Parameters
    ----------
    label, runner_up : ndarray of int32, (P,)
        Phase that a position is called by, and the next likely one; -1 for none.
    doubt : ndarray, (P,)
        Probability of the second.
    voting, shape
        As there.

    Returns
    -------
    ndarray, ndarray
        Labels and doubts; those of positions that do not vote or that leave hardly any doubt stay.
    """
    two = np.stack([np.where(voting, label, -1), np.where(voting & (label >= 0), runner_up, -1)])
    # Numbers of phases are few and small: sorting a large map would take longer than all that follows.
    ids = np.flatnonzero(np.bincount(two.ravel() + 1)[1:])
    n_phases = ids.size
    known, unsure = np.flatnonzero(two[0] >= 0), np.flatnonzero((two[1] >= 0) & (doubt > _OPEN))
    if n_phases < 2 or not 0 < unsure.size <= _MOST_OPEN:
        return label, doubt
    among = np.full(int(ids[-1]) + 2, -1)
    among[ids + 1] = np.arange(n_phases)
    place = among[two + 1]
    some = known[spread_out(known.size, _FORESEEN_FROM)]
    parts = np.stack([1.0 - doubt, np.where(place[1] >= 0, doubt, 0.0)]).astype(np.float64)
    field = done(_learnt(_at(some, place, parts, n_phases), _votes(some, place, parts, n_phases, shape)))
    label, doubt = label.copy(), doubt.copy()
    for first in range(0, unsure.size, _AT_ONCE):
        at = unsure[first : first + _AT_ONCE]
        chance = field.posterior(_at(at, place, parts, n_phases), _votes(at, place, parts, n_phases, shape))
        best = chance.argmax(axis=0)
        label[at], doubt[at] = ids[best], 1.0 - chance[best, np.arange(at.size)]
    return label, doubt


def _at(positions: NDArray[np.int64], place: NDArray[np.int64], parts: Float64, n_phases: int) -> Float64:
    """Probabilities (C, n) of phases, of which each position has two (2, P) in rows `place` (2, P), -1 for none."""
    out = np.zeros((n_phases, positions.size))
    for of, part in zip(place[:, positions], parts[:, positions], strict=True):
        has = np.flatnonzero(of >= 0)
        out[of[has], has] = part[has]
    return out


def _votes(
    positions: NDArray[np.int64], place: NDArray[np.int64], parts: Float64, n_phases: int, shape: tuple[int, ...]
) -> Float64:
    """Probabilities (C, n) of phases, summed over what lies around positions, themselves left out."""
    beside, owner = patches(positions, shape)
    other = beside != positions[owner]
    beside, owner = beside[other], owner[other]
    out = np.zeros(n_phases * positions.size)
    for of, part in zip(place[:, beside], parts[:, beside], strict=True):
        has = of >= 0
        out += np.bincount(of[has] * positions.size + owner[has], part[has], minlength=out.size)
    return out.reshape(n_phases, -1)


def _learnt(chance: Float64, votes: Float64) -> Pieces[_Field]:
    """Learn the field from probabilities (C, n) of some positions and the votes (C, n) of those around them."""
    share = chance.sum(axis=1) / chance.sum()
    field = _Field(np.log(np.maximum(share, 1e-9)), 0.0, share)
    for _ in range(_ROUNDS):
        field = field.refined(chance, votes)
        yield
    return field


class _Field:
    """Log odds of phases (C,) without neighbours, what each vote adds, and shares (C,) of phases in all."""

    def __init__(self, bias: Float64, strength: float, share: Float64) -> None:
        self._bias, self._strength, self._share = bias, strength, share

    def _prior(self, votes: Float64, strength: float) -> Float64:
        odds = self._bias[:, None] + strength * votes
        odds = np.exp(odds - odds.max(axis=0))
        return np.asarray((1.0 - _ALONE) * odds / odds.sum(axis=0) + _ALONE * self._share[:, None])

    def posterior(self, chance: Float64, votes: Float64) -> Float64:
        """Probabilities (C, n) by spectra, of which `chance` is made with the shares in all, and by votes."""
        joint = chance / np.maximum(self._share, 1e-9)[:, None] * self._prior(votes, self._strength)
        return np.asarray(joint / np.maximum(joint.sum(axis=0), 1e-300))

    def refined(self, chance: Float64, votes: Float64) -> _Field:
        """The strength that makes the spectra the likeliest, and log odds that make phases as frequent as they are."""
        likelihood = chance / np.maximum(self._share, 1e-9)[:, None]

        def cost(strength: float) -> float:
            explained = (self._prior(votes, strength) * likelihood).sum(axis=0)
            return -float(np.log(np.maximum(explained, 1e-300)).sum())

        strength = float(minimize_scalar(cost, bounds=(0.0, _STRONGEST), method="bounded", options={"xatol": 0.05}).x)
        prior = self._prior(votes, strength)
        joint = prior * likelihood
        found = (joint / np.maximum(joint.sum(axis=0), 1e-300)).sum(axis=1)
        bias = self._bias + np.log(np.maximum(found, 1e-9) / np.maximum(prior.sum(axis=1), 1e-9))
        return _Field(bias, strength, self._share)
