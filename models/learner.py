"""The learning side of the linear engine: running mean, noise, scaling, and the tracked second moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import Float32, Float64, as_dense
from models.blocks import Block, as_csr, gathered, weighted_sum
from models.learnt import Learnt, LearntState
from models.linear_config import LinearConfig
from models.moments import Moments
from models.noise import POISSON, NoiseModel, estimate_noise
from models.pca import ScaledRows, Tracker
from models.preprocess import Scaling, as_float32, column_sums, make_scaling, row_weights
from models.rank import is_dispersed, noise_edge, noise_level, rank_by_edge, scree_edge
from models.refit import CountedMoment, fit_components
from models.signflip import noise_reach
from models.store import CountStore
from models.visits import Visits

_SPARE = 8
_LEAD = 4
_RESCALE_GROWTH = 1.5
_NOISE_ROWS = (1, 64, 256)
_MOMENT_VALUES = 60
_READ_VALUES, _READ_ROWS = 2_000_000, 8192
_COUNTED_VALUES = 150
_REACH_VALUES = 8_000_000
_RESTART_ROWS = 256.0
# Spectra, in least batches, that wait where there is no idle time: then the next state learns them first.
_BACKLOG = 4


class Learner:
    """Learns noise, scaling and subspace from blocks of single visits.

    Sparse spectra of few counts go into exact second moments, all others into a truncated history; which of the two is
    settled by the first spectra.
    """

    def __init__(self, n_channels: int, config: LinearConfig, noise: NoiseModel | None, peak_width: float) -> None:
        self._config, self._peak_width = config, peak_width
        self._keep = config.max_rank + _SPARE
        self.noise = noise or POISSON
        self.noise_estimated = noise is None
        self._estimates_left = list(_NOISE_ROWS) if noise is None else []
        self._first: list[Visits] = []
        self._waiting: list[Visits] = []
        self._pieces: Iterator[None] | None = None
        self._prepared: Scaling | None = None
        self._n_waiting = 0
        self._tracker: Tracker | Moments | None = None
        self._scaling: Scaling | None = None
        self._scaled_at = 0.0
        self._rank, self._reach = 1, 1.0
        self.dispersion = 1.0
        """Variance of counts over that of the noise model, as found by whoever compares spectra with drawn ones."""
        self._fitted: tuple[Scaling, Float64] | None = None
        self.total: Float64 = np.zeros(n_channels)
        self._profile: Float64 = np.zeros(n_channels)
        self.exposure = 0.0
        self.n_seen = self._n_values = self.n_replaced = 0
        self._weight = self._least = 0.0

    @property
    def n_kept(self) -> int:
        """Components that are tracked."""
        return self._keep

    @property
    def mean_values_per_row(self) -> float:
        """Numbers in a block per spectrum (non-zero channels, for sparse ones)."""
        return self._n_values / max(self.n_seen, 1)

    @property
    def noise_is_guessed(self) -> bool:
        """Whether the noise was estimated and is not simply that of counts, so that it may be wrong in many ways."""
        return self.noise_estimated and not self.noise.is_poisson

    @property
    def is_settled(self) -> bool:
        """Whether the noise is not to be estimated anew, and enough was learnt since the last start."""
        return not self._estimates_left and self._weight > self._least

    @property
    def rows_at_once(self) -> int:
        """Accumulated spectra that are read from the store together: a few million numbers."""
        return int(np.clip(_READ_VALUES / max(self.mean_values_per_row, 1.0), 64, _READ_ROWS))

    @property
    def engine(self) -> str:
        """How second moments are kept: 'moments' (exact) or 'ritz' (truncated history)."""
        return "moments" if isinstance(self._tracker, Moments) else "ritz"

    @property
    def n_paired(self) -> float:
        """Spectra that exact moments are of; 0 where there are none, or the noise may turn out to be another one."""
        return self._weight * (isinstance(self._tracker, Moments) and self.noise.is_poisson and self.is_settled)

    def add(self, visits: Visits) -> None:
        """Take visits over, which nobody changes later; they are learnt when there are enough of them."""
        if visits.total.size == 0:
            return
        self._waiting.append(visits)
        self._n_waiting += visits.total.size
        if self._n_waiting >= self._config.batch:
            self.flush()

    def flush(self) -> None:
        """Learn all that is buffered, now."""
        self._finish_pieces()
        self._pieces = self._learn()
        self._finish_pieces()

    def _finish_pieces(self) -> None:
        pieces, self._pieces = self._pieces, None
        for _ in pieces or ():
            pass

    def _learn(self) -> Iterator[None]:
        """Learn what is buffered in pieces of less than a millisecond, so that spectra need not wait meanwhile."""
        waiting, self._waiting, self._n_waiting = self._waiting, [], 0
        if not waiting:
            return
        for visits in waiting:
            self.n_seen += visits.total.size
            self._weight += visits.total.size
            self._n_values += visits.n_values
            self.total += visits.channels
        if self._estimates_left:
            self._estimate(waiting)
        yield
        yield from self._update(waiting)

    def _estimate(self, waiting: list[Visits]) -> None:
        """Estimate the noise from the first spectra, and again from more; a new estimate starts the model anew."""
        earlier = list(self._first)
        self._first.extend(waiting)
        if self.n_seen < self._estimates_left[0]:
            return
        self._estimates_left = [n for n in self._estimates_left if n > self.n_seen]
        noise = estimate_noise(np.concatenate([as_dense(visits.gross) for visits in self._first]))
        if noise != self.noise:
            self.noise, self._tracker, self.exposure = noise, None, 0.0
            self._profile = np.zeros_like(self.total)
            for _ in self._update(earlier) if earlier else ():
                pass
        if not self._estimates_left:
            self._first = []

    def _update(self, waiting: list[Visits]) -> Iterator[None]:
        total = np.concatenate([visits.total for visits in waiting])
        exposure = self.noise.row_variance(total, 1.0, self.total.size)
        self.exposure += float(exposure.sum())
        if not (exposure > 0).any():
            return
        if self._tracker is None:
            self._tracker = self._new_tracker()
        fresh = self._tracker.n_rows == 0
        typical = float(np.median(exposure[exposure > 0])) if fresh else self.exposure / max(self._weight, 1.0)
        squared = row_weights(exposure, typical, self._config.bright_clip)
        blocks = gathered([visits.block for visits in waiting])
        self._profile += weighted_sum(blocks, squared)
        if waiting[0].background is not None:
            self._profile += weighted_sum([v.background for v in waiting if v.background is not None], squared)
        if isinstance(self._tracker, Moments):
            first = 0
            for block in blocks:
                yield
                self._tracker.add(as_csr(block), squared[first : first + block.shape[0]])
                first += block.shape[0]
        else:
            yield from self._track(self._tracker, blocks, squared)

    def _track(self, tracker: Tracker, blocks: list[Block], squared: Float64) -> Iterator[None]:
        scaling = self._rescaled(tracker)
        yield
        lead = self._rank + _LEAD
        # The tail of the scree tells what an estimated noise is like; for counts it is known.
        keep = lead + _SPARE if self.noise.is_poisson else self._keep
        yield from tracker.update_pieces(ScaledRows(tuple(blocks), np.sqrt(squared), scaling), lead, keep)
        self._rank = rank_by_edge(
            tracker.eigenvalues, self._counts_edge(tracker.eigenvalues, scaling, tracker.n_effective)
        )

    def _new_tracker(self) -> Tracker | Moments:
        if self.noise.is_poisson and self.mean_values_per_row <= _MOMENT_VALUES:
            return Moments(self.total.size, self._keep)
        self._scaling = None
        return Tracker(self._keep, np.zeros((0, 0), dtype=np.float32))

    def _rescaled(self, tracker: Tracker) -> Scaling:
        """The scaling that the history lives in, renewed whenever the counts have grown by half."""
        if self._scaling is not None and self.n_seen < _RESCALE_GROWTH * self._scaled_at:
            return self._scaling
        new = self._present_scaling()
        if self._scaling is None:
            tracker.vectors = np.zeros((new.n_groups, 0), dtype=np.float32)
        else:
            tracker.rescale(self._scaling, new)
        self._scaling, self._scaled_at = new, self.n_seen
        return new

    def _present_scaling(self) -> Scaling:
        weight = max(self._weight, 1.0)
        return make_scaling(self.total / weight, weight, self.noise, self._peak_width, self._profile)

    def state(self, first: bool) -> LearntState | None:
        """What could be published now; None where there is nothing."""
        if first or self._n_waiting >= _BACKLOG * self._config.min_batch:
            self.flush()
        if self._weight <= self._least:
            return None
        tracker = self._tracker
        vectors: Float32 | Float64
        if isinstance(tracker, Moments):
            scaling, self._prepared = self._prepared or self._present_scaling(), None
            vectors, values = tracker.solve(scaling)
        elif tracker is not None and self._scaling is not None:
            scaling, vectors, values = self._scaling, tracker.vectors, tracker.values
        else:
            scaling = self._present_scaling()
            vectors, values = np.zeros((scaling.n_groups, 0)), np.zeros(0)
        rows, n = (tracker.n_rows, tracker.n_effective) if tracker is not None else (0.0, 0.0)
        return self._state(vectors, values / max(rows, 1.0), scaling, n)

    def forget(self, factor: float) -> None:
        """Let everything learnt so far count for less, as if there had been fewer spectra; the noise stays known."""
        self.flush()
        self.total, self._profile = self.total * factor, self._profile * factor
        self.exposure, self._weight = self.exposure * factor, self._weight * factor
        if self._tracker is not None:
            self._tracker.forget(factor)
        self._prepared, self._scaled_at = None, 0.0

    def restart(self) -> None:
        """Forget the specimen, not the detector; nothing is published until a number of new spectra were learnt."""
        self.flush()
        self._tracker, self._scaling, self._prepared = None, None, None
        self.total, self._profile = np.zeros_like(self.total), np.zeros_like(self._profile)
        self.exposure, self._weight, self._least, self._rank = 0.0, 0.0, _RESTART_ROWS, 1

    @property
    def wants_work(self) -> bool:
        """Whether `learn_piece` or `refine` would do something."""
        waits = self._pieces is not None or self._n_waiting >= self._config.min_batch
        return waits or (isinstance(self._tracker, Moments) and self._tracker.wants_work)

    def learn_piece(self) -> bool:
        """Use idle time, less than a millisecond, for what is buffered; False where that is not enough to learn."""
        if self._pieces is None and self._n_waiting < self._config.min_batch:
            return False
        self._pieces = self._pieces or self._learn()
        self._pieces = None if next(self._pieces, self) is self else self._pieces
        return True

    def refine(self) -> bool:
        """Use idle time for the next state; False when there is nothing to do."""
        return isinstance(self._tracker, Moments) and self._tracker.work()

    def prepare(self) -> None:
        """Let `refine` do what the next `state` would have to do at once."""
        if isinstance(self._tracker, Moments):
            self._prepared = self._present_scaling()
            self._tracker.prepare(self._prepared)

    def learnt(self) -> Learnt:
        """What is known so far, with what is buffered; its tracker is the learner's own."""
        self.flush()
        return Learnt(
            self.noise, self.noise_estimated, self.total, self._profile, self.exposure, self._weight,
            self.n_seen, self._n_values, self._tracker, self._scaling,
        )  # fmt: skip

    def merge(self, other: Learnt) -> None:
        """Know also what another learner knows, as if all had been learnt here."""
        self.know(self.learnt().merged(other, self._keep, self._peak_width))

    def know(self, learnt: Learnt) -> None:
        """Know this in the place of what is known here: `n_replaced` counts how often sums began anew."""
        self.n_replaced += 1
        self.noise, self.total, self._profile = learnt.noise, learnt.total, learnt.profile
        self.exposure, self._weight = learnt.exposure, learnt.weight
        self.n_seen, self._n_values = learnt.n_seen, learnt.n_values
        self._tracker, self._scaling, self._scaled_at = learnt.tracker, learnt.scaling, 0.0
        # The first spectra of another learner are not here: to estimate the noise anew would be to forget them.
        self._prepared, self._estimates_left, self._first = None, [], []

    def _state(self, vectors: Float32 | Float64, eigenvalues: Float64, scaling: Scaling, n: float) -> LearntState:
        edge = self._counts_edge(eigenvalues, scaling, n)
        if not self.noise.is_poisson:
            # An estimated noise is never quite white: correlated channels and imperfect gains raise the whole bulk.
            edge *= noise_level(eigenvalues, scaling.n_effective, max(n, 1.0))
        if self.noise_is_guessed:
            edge = max(edge, scree_edge(eigenvalues, scaling.n_effective, n))
        rank = min(max(rank_by_edge(eigenvalues, edge), 1), self._config.max_rank, eigenvalues.size)
        return LearntState(vectors[:, :rank], eigenvalues, edge, scaling, n, self.total, self.exposure)

    def _white_edge(self, scaling: Scaling, n: float) -> float:
        """Where the noise of counts ends."""
        return noise_edge(scaling.n_effective, n) * self._reach

    def _counts_edge(self, eigenvalues: Float64, scaling: Scaling, n: float) -> float:
        """The same for counts that scatter more than counts, where the scree agrees that it is all of the noise."""
        edge = self._white_edge(scaling, n)
        more = self.dispersion if self.noise.is_poisson else 1.0
        return edge * more if is_dispersed(eigenvalues, edge, more, scaling.n_effective, n) else edge

    def measure_reach(self, store: CountStore, index: NDArray[Any], exposure: Float64) -> None:
        """See how far noise reaches past the Marchenko-Pastur edge in the accumulated counts of positions."""
        if not self.noise.is_poisson:
            return
        step = max(1, int(index.size * self.mean_values_per_row / _REACH_VALUES))
        rows = self._weighted(store, index[::step], exposure[::step], gross=True)
        self._reach = noise_reach(rows(), self._scaling_of(rows))

    def _weighted(
        self, store: CountStore, index: NDArray[Any], exposure: Float64, gross: bool = False
    ) -> Callable[[], Iterator[tuple[Block, Float64]]]:
        """Blocks of the accumulated counts of positions, with squared row weights; anew at each call.

        `gross` ones have the background, which their noise comes from.
        """
        lit = exposure > 0
        index, exposure = index[lit], exposure[lit]
        typical = float(np.median(exposure)) if exposure.size else 0.0
        squared = row_weights(exposure, typical, self._config.bright_clip)

        def blocks() -> Iterator[tuple[Block, Float64]]:
            first = 0
            for part, counts in store.chunks(index, self.rows_at_once):
                background = store.background(part) if gross else None
                block = as_float32(counts) if background is None else as_dense(counts) + background
                yield block, squared[first : first + part.size]
                first += part.size

        return blocks

    def _scaling_of(self, blocks: Callable[[], Iterator[tuple[Block, Float64]]]) -> Scaling:
        total, profile = np.zeros(self.total.size), np.zeros(self.total.size)
        for block, squared in blocks():
            total += column_sums(block)
            profile += weighted_sum([block], squared)
        return self._final_scaling(total, profile)

    def _final_scaling(self, total: Float64, profile: Float64) -> Scaling:
        """Between the mean, which errors are weighed by, and the profile, by which all noise is white.

        On each specimen it was as good as the better one. The scaling of a running scan is all by the profile: how far
        noise reaches past the edge is only measured at the end, and of many spectra any that does is a component.
        """
        visits, between = max(self.n_seen, 1), np.sqrt(np.maximum(total, 0.0) * np.maximum(profile, 0.0))
        return make_scaling(total / visits, visits, self.noise, self._peak_width, between)

    def counted_moment(self, store: CountStore, index: NDArray[Any], exposure: Float64) -> CountedMoment | None:
        """What `refit` can use where the positions to fit are among these, with so few counts that it pays."""
        lit = exposure > 0
        values = self._n_values / max(index.size, 1)
        if not isinstance(self._tracker, Moments) or values > _COUNTED_VALUES or not lit.any():
            return None
        squared = np.zeros(store.n_positions)
        squared[index] = row_weights(exposure, float(np.median(exposure[lit])), self._config.bright_clip)
        return CountedMoment(store, squared)

    def refit(
        self, store: CountStore, index: NDArray[Any], exposure: Float64, counted: CountedMoment | None
    ) -> LearntState:
        """Fit the accumulated counts of positions from scratch (but for the start vectors)."""
        n = float(np.count_nonzero(exposure > 0))
        if counted is not None:
            counted.cover(index[exposure > 0], self.rows_at_once)
            scaling = self._final_scaling(np.maximum(counted.total, 0.0), np.maximum(counted.profile, 0.0))
            start, level = self._start(scaling), n * self._white_edge(scaling, n)
            vectors, values = counted.components(scaling, start, self._keep, level)
        else:
            blocks = self._weighted(store, index, exposure)
            scaling = self._scaling_of(self._weighted(store, index, exposure, gross=True))
            level = n * self._white_edge(scaling, n) if self.noise.is_poisson else 0.0
            vectors, values = fit_components(
                lambda: (ScaledRows((block,), np.sqrt(squared), scaling) for block, squared in blocks()),
                scaling.n_groups, self._start(scaling), self._keep, level,
            )  # fmt: skip
        self._fitted = scaling, vectors
        return self._state(vectors, values / max(n, 1.0), scaling, n)

    def _start(self, scaling: Scaling) -> Float64:
        """Columns near the components: of the last fit, else of what was tracked."""
        if self._fitted is not None:
            before, vectors = self._fitted
            return before.moved(vectors, scaling)
        if isinstance(self._tracker, Moments):
            return self._tracker.solve(scaling)[0]
        if self._tracker is None or self._scaling is None:
            return np.zeros((scaling.n_groups, 0))
        return self._scaling.moved(self._tracker.vectors, scaling)
