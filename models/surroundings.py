"""What lies around a position says whether its phase is rightly called: phases lie in pieces.

Counts of one position know nothing of those beside it. Where neighbours are mostly of one phase, a position that is of
another by few counts is mostly called wrongly, and one that is like its neighbours hardly ever. As in a Potts model the
odds of a phase are multiplied by exp(b) for each neighbour that has it; b is learnt from the positions that are sure by
their own counts (pseudo-likelihood, Besag, J. R. Stat. Soc. B 48 (1986) 259), so that a fine mixture has none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from models.base import Float64
from models.neighbours import neighbours

_SURE, _LEAST = 0.02, 1e-12
_STRENGTHS = np.linspace(0.0, 2.5, 51)
_WORTH = 4.0
"""Positions without order that are seen beforehand: what is all of one phase does not bind without end."""


def error_among_neighbours(
    error: Float64, label: NDArray[np.int32], other: NDArray[np.int32], index: NDArray[np.int64], shape: tuple[int, int]
) -> Float64:
    """Probability (m,) that positions are called wrongly, given what lies around them.

    Parameters
    ----------
    error : ndarray, (m,)
        The same by their own counts; what is 1 (no label) stays.
    label, other : ndarray of int, (P,)
        Phase that each position of the grid is called by, and the next likely one; -1 for none.
    index : ndarray of int, (m,)
        Flat positions.
    """
    beside, owner = neighbours(index, shape)
    known = label[beside] >= 0
    beside, owner = beside[known], owner[known]
    alike = np.bincount(owner, label[beside] == label[index][owner], minlength=index.size).astype(np.float64)
    around = np.bincount(owner, minlength=index.size)
    strength = _strength((2.0 * alike - around)[(error < _SURE) & (label[index] >= 0)])
    against = np.bincount(owner, label[beside] == other[index][owner], minlength=index.size)
    odds = logit(np.clip(error, _LEAST, 1.0 - _LEAST)) - strength * (alike - against)
    return np.asarray(np.where(error < 1.0, expit(odds), error))


def _strength(excess: Float64) -> float:
    """Log odds that each neighbour brings, from how many more of the neighbours of sure positions are alike (n,)."""
    values, n = np.unique(np.concatenate([excess, [-2.0, 2.0]]), return_counts=True)
    n = n + (_WORTH / 2 - 1.0) * np.isin(values, (-2.0, 2.0))
    unlikely = np.logaddexp(0.0, -_STRENGTHS[:, None] * values) @ n
    return float(_STRENGTHS[int(np.argmin(unlikely))])
