"""What positions that were not measured are likely of: a phase map that says what is measured and what is guessed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.phases import UNSEEN, Phases
from models.sampling import Inpainted, inpainted


@dataclass(frozen=True)
class PhaseGuess:
    """Phases of all positions of a scan that measured some.

    Attributes
    ----------
    ids : ndarray of int, (M,)
        Numbers of the phases, the columns of the posterior.
    filled : Inpainted
    """

    ids: NDArray[np.int64]
    filled: Inpainted

    @property
    def label(self) -> NDArray[np.int32]:
        """Number of the likeliest phase of each position, (P,)."""
        return np.asarray(self.ids[self.filled.label], dtype=np.int32)


def phase_guess(phases: Phases, visits: NDArray[np.uint32], nav_shape: tuple[int, int]) -> PhaseGuess | None:
    """Fill the phase map from the positions measured so far; None before any of them has a label."""
    measured = np.flatnonzero((visits > 0) & (phases.label != UNSEEN))
    if not measured.size:
        return None
    pair = np.stack([phases.label[measured], phases.runner_up[measured]])
    ids = np.unique(pair[pair != UNSEEN]).astype(np.int64)
    confidence = 1.0 - phases.doubt[measured].astype(np.float64)
    posterior, rows = np.zeros((measured.size, ids.size)), np.arange(measured.size)
    posterior[rows, np.searchsorted(ids, pair[0])] = confidence
    # What is left belongs to the next likely phase; where there is none, nobody knows.
    told = pair[1] != UNSEEN
    np.add.at(posterior, (rows[told], np.searchsorted(ids, pair[1, told])), 1.0 - confidence[told])
    return PhaseGuess(ids, inpainted(posterior, measured, nav_shape))


def nothing_told(visits: NDArray[np.uint32], nav_shape: tuple[int, int]) -> Inpainted | None:
    """A map of one unknown phase, of which only is known where it was measured; None before it was anywhere."""
    measured = np.flatnonzero(visits > 0)
    return inpainted(np.ones((measured.size, 1)), measured, nav_shape) if measured.size else None
