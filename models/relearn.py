"""Repeated visits learnt as one spectrum: in second moments of single visits, quick passes would add up to little.

A component shows in N spectra of h counts with a strength of h sqrt(N): a hundred passes of two counts each would be
worth a tenth of one pass of two hundred. So, once there are several visits of each position, the moments are made anew
from the accumulated counts of all, in pieces; what comes meanwhile, and after, is learnt visit by visit until there are
several more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.base import Float64, Pieces
from models.blocks import as_csr
from models.learnt import Learnt
from models.moments import Moments
from models.preprocess import row_weights
from models.store import CountStore
from models.visits import Visits

if TYPE_CHECKING:
    from models.linear import LinearEngine

_SEVERAL, _GROWTH = 4.0, 1.5
"""Spectra of each position that are learnt one by one, and growth of the counts, from which on it pays to sum them."""
_MOST_PAIRS = 5_000
"""Pairs of non-zero channels of an accumulated spectrum for each of its visits: more take more time than they tell."""
_MOST_SINCE = 2
"""Visits of each position, in the mean, that may come while moments are made anew; then that is given up."""
_PIECE_PAIRS, _MOST_ROWS = 1_000_000, 512


class Relearning:
    """Passes visits on to an engine's learner, and makes its moments anew where repeated visits have brought enough."""

    def __init__(self, engine: LinearEngine) -> None:
        self._engine = engine
        self._counts = 0.0
        self._pending: NDArray[np.bool_] | None = None
        self._since: list[Visits] = []
        self._n_since = 0
        self._pieces: Pieces[None] | None = None

    def add(self, index: NDArray[Any], visits: Visits, teaches: NDArray[np.bool_] | None = None) -> None:
        """Let the learner have visits (n, D) of positions (n,), or those of them that teach (n,)."""
        if teaches is not None and not teaches.all():
            index, visits = index[teaches], visits.subset(teaches)
        self._engine._learner.add(visits)
        if self._pending is None or not index.size:
            return
        # What is still to be read has them in its accumulated counts.
        read = ~self._pending[index]
        if read.any():
            self._since.append(visits if read.all() else visits.subset(read))
            self._n_since += int(np.count_nonzero(read))

    def give_up(self) -> None:
        """Go on with what the learner has."""
        self._pending = self._pieces = None
        self._since, self._n_since = [], 0

    @property
    def is_due(self) -> bool:
        """Whether accumulated counts tell clearly more than what was learnt so far."""
        if self._pieces is not None:
            return True
        engine, learner, scores = self._engine, self._engine._learner, self._engine.score_map
        if engine._forgetting.is_active or type(scores.store) is not CountStore or scores.published is None:
            return False
        measured = max(scores.measured.size, 1)
        grown = learner.n_paired >= _SEVERAL * measured and scores.n_counts > _GROWTH * self._counts
        return grown and self._values**2 * measured <= _MOST_PAIRS * learner.n_seen

    @property
    def _values(self) -> float:
        """Numbers in the accumulated spectrum of a position, at most."""
        engine, learner = self._engine, self._engine._learner
        values = learner.n_seen * learner.mean_values_per_row / max(engine.score_map.measured.size, 1)
        return float(min(values, engine.n_channels))

    def work(self) -> bool:
        """Do a piece of half a millisecond; False where nothing is due."""
        if not self.is_due:
            return False
        self._pieces = self._pieces or self._made_anew()
        late = self._n_since > _MOST_SINCE * self._engine.score_map.measured.size
        if late or next(self._pieces, self) is self:
            self.give_up()
        return True

    def _made_anew(self) -> Pieces[None]:
        engine, learner, scores = self._engine, self._engine._learner, self._engine.score_map
        measured = scores.measured
        stored = measured[scores.store.complete(measured) & ~engine.held[measured]]
        self._counts, self._pending = scores.n_counts, np.zeros(engine.n_positions, dtype=np.bool_)
        self._pending[stored] = True
        yield
        lit = scores.totals[stored[scores.totals[stored] > 0]]
        sums = _Sums(engine, float(np.median(lit)) if lit.size else 0.0)
        rows = int(np.clip(_PIECE_PAIRS / max(self._values, 1.0) ** 2, 1, _MOST_ROWS))
        for first in range(0, stored.size, rows):
            part = stored[first : first + rows]
            self._pending[part] = False
            sums.add(engine._read_stored(part[~engine.held[part]]))
            yield
        while self._since:
            sums.add(self._since.pop(0))
            yield
        if sums.moments.n_rows:
            learner.know(sums.learnt(learner.learnt()))


class _Sums:
    """Sums of spectra, weighted as a learner weights those of visits."""

    def __init__(self, engine: LinearEngine, typical: float) -> None:
        d, self._noise, self._clip, self._typical = engine.n_channels, engine.noise, engine.config.bright_clip, typical
        self.moments = Moments(d, engine._learner.n_kept)
        self._total: Float64 = np.zeros(d)
        self._profile: Float64 = np.zeros(d)
        self._exposure = 0.0

    def add(self, visits: Visits) -> None:
        """Add spectra (n, D)."""
        if not visits.total.size:
            return
        exposure = self._noise.row_variance(visits.total, 1.0, self._total.size)
        squared, block = row_weights(exposure, self._typical, self._clip), as_csr(visits.block)
        self.moments.add(block, squared)
        self._total += visits.channels
        self._profile += block.T @ squared
        self._exposure += float(exposure.sum())

    def learnt(self, before: Learnt) -> Learnt:
        """What is known with these sums in the place of those of the visits that the spectra are made of."""
        if isinstance(before.tracker, Moments):
            self.moments.start_from(before.tracker)
        return replace(
            before, total=self._total, profile=self._profile, exposure=self._exposure,
            weight=self.moments.n_rows, tracker=self.moments,
        )  # fmt: skip
