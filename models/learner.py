"""The learning side of the linear engine: running mean, noise, scaling, and the tracked second moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Float32, Float64
from models.noise import POISSON, NoiseModel, estimate_noise
from models.pca import Rows, ScaledRows, Tracker
from models.preprocess import Scaling, as_float32, make_scaling, row_weights
from models.rank import noise_edge, rank_by_edge
from models.refit import fit_components
from models.store import CountStore

if TYPE_CHECKING:
    from models.linear import LinearConfig

_SPARE = 8
_RESCALE_GROWTH = 1.5
_NOISE_ROWS = (1, 64, 256)
Block: TypeAlias = Float32 | sparse.csr_array


@dataclass(frozen=True)
class LearntState:
    """A candidate for publication: scaled vectors (m, K), scree, edge and the scaling they live in."""

    vectors: Float64
    eigenvalues: Float64
    edge: float
    scaling: Scaling
    n_spectra: float
    total: Float64
    exposure: float


class Learner:
    """Learns noise, scaling and subspace from blocks of single visits."""

    def __init__(self, n_channels: int, config: LinearConfig, noise: NoiseModel | None, peak_width: float) -> None:
        self._config, self._peak_width = config, peak_width
        self.noise = noise or POISSON
        self.noise_estimated = noise is None
        self._estimates_left = list(_NOISE_ROWS) if noise is None else []
        self._first: list[Block] = []
        self._buffer: list[tuple[Block, Float64]] = []
        self._buffered = 0
        self._tracker: Tracker | None = None
        self._scaling: Scaling | None = None
        self._scaled_at = 0.0
        self.total: Float64 = np.zeros(n_channels)
        self.exposure = 0.0
        self.n_seen = 0
        self._n_values = 0

    @property
    def mean_values_per_row(self) -> float:
        """Stored numbers in a block per spectrum."""
        return self._n_values / max(self.n_seen, 1)

    def add(self, block: Block, total: Float64) -> None:
        """Take visits (n, D) in; they are learnt when there are enough of them."""
        if block.shape[0] == 0:
            return
        self._buffer.append((block if isinstance(block, sparse.csr_array) else block.copy(), total))
        self._buffered += block.shape[0]
        if self._buffered >= self._config.batch:
            self.flush()

    def flush(self) -> None:
        """Learn what is buffered."""
        if not self._buffer:
            return
        blocks = [b for b, _ in self._buffer]
        block = _stacked(blocks)
        total = np.concatenate([t for _, t in self._buffer])
        self._buffer, self._buffered = [], 0
        self.n_seen += block.shape[0]
        self._n_values += block.nnz if isinstance(block, sparse.csr_array) else block.size
        self.total += np.asarray(block.sum(axis=0, dtype=np.float64)).ravel()
        if self._estimates_left:
            self._estimate(block)
        self._update(block, total)

    def _estimate(self, block: Block) -> None:
        """Estimate the noise from the first spectra, and again from more; a new estimate starts the model anew."""
        self._first.append(block)
        if self.n_seen < self._estimates_left[0]:
            return
        self._estimates_left = [n for n in self._estimates_left if n > self.n_seen]
        noise = estimate_noise(_stacked(self._first))
        if noise != self.noise:
            self.noise, self._tracker = noise, None
            self.exposure = 0.0
            earlier = self._first[:-1]
            for part in earlier:
                self._update(part, np.asarray(part.sum(axis=1, dtype=np.float64)).ravel())
        if not self._estimates_left:
            self._first = []

    def _update(self, block: Block, total: Float64) -> None:
        exposure = self.noise.row_variance(total, 1.0, self.total.size)
        self.exposure += float(exposure.sum())
        lit = exposure > 0
        if not lit.any():
            return
        if not lit.all():
            block, exposure = block[lit], exposure[lit]
        tracker, scaling = self._rescaled()
        typical = float(np.median(exposure)) if tracker.n_rows == 0 else self.exposure / max(self.n_seen, 1)
        weight = np.sqrt(row_weights(exposure, typical, self._config.bright_clip))
        tracker.update(ScaledRows(block, weight, scaling))

    def _rescaled(self) -> tuple[Tracker, Scaling]:
        """The tracker in a scaling that is renewed whenever the counts have grown by half."""
        fresh = self.n_seen < _RESCALE_GROWTH * self._scaled_at
        if fresh and self._tracker is not None and self._scaling is not None:
            return self._tracker, self._scaling
        new = make_scaling(self.total / max(self.n_seen, 1), self.n_seen, self.noise, self._peak_width)
        if self._tracker is None or self._scaling is None:
            self._tracker = Tracker(self._config.max_rank + _SPARE, np.zeros((new.n_groups, 0)))
        else:
            self._tracker.rescale(self._scaling, new)
        self._scaling, self._scaled_at = new, self.n_seen
        return self._tracker, new

    def state(self, first: bool) -> LearntState | None:
        """What could be published now; None where there is nothing."""
        if first or self._buffered >= self._config.min_batch:
            self.flush()
        if self.n_seen == 0:
            return None
        if self._tracker is None or self._scaling is None:
            return self._nothing()
        n = self._tracker.n_rows
        edge = noise_edge(self._scaling.n_effective, n)
        return self._state(self._tracker.vectors, self._tracker.eigenvalues, edge, self._scaling, n)

    def _nothing(self) -> LearntState:
        """The state after nothing but empty spectra: no component."""
        size = self.total.size
        scaling = make_scaling(np.zeros(size), 1, self.noise, self._peak_width)
        none = np.zeros(0)
        return LearntState(np.zeros((scaling.n_groups, 0)), none, 0.0, scaling, self.n_seen, self.total, 0.0)

    def _state(self, vectors: Float64, eigenvalues: Float64, edge: float, scaling: Scaling, n: float) -> LearntState:
        rank = min(max(rank_by_edge(eigenvalues, edge), 1), self._config.max_rank, eigenvalues.size)
        return LearntState(vectors[:, :rank], eigenvalues, edge, scaling, n, self.total, self.exposure)

    def refit(self, store: CountStore, index: NDArray[Any], exposure: Float64) -> LearntState:
        """Fit the accumulated counts of positions from scratch (but for the start vectors)."""
        total = np.zeros(self.total.size)
        for _, counts in store.chunks(index, 1024):
            total += np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel()
        visits = max(self.n_seen, 1)
        scaling = make_scaling(total / visits, visits, self.noise, self._peak_width)
        lit = exposure > 0
        index, exposure = index[lit], exposure[lit]
        weight = np.sqrt(
            row_weights(exposure, float(np.median(exposure)) if exposure.size else 1.0, self._config.bright_clip)
        )

        def blocks() -> Iterator[Rows]:
            at = 0
            for part, counts in store.chunks(index, 1024):
                yield ScaledRows(as_float32(counts), weight[at : at + part.size], scaling)
                at += part.size

        start = self._start(scaling)
        vectors, values = fit_components(blocks, scaling.n_groups, start, self._config.max_rank + _SPARE)
        edge = noise_edge(scaling.n_effective, index.size)
        return self._state(vectors, values / max(index.size, 1), edge, scaling, float(index.size))

    def _start(self, scaling: Scaling) -> Float64:
        if self._tracker is None or self._scaling is None:
            return np.zeros((scaling.n_groups, 0))
        old = self._scaling
        return scaling.merge((self._tracker.vectors * old.scale[:, None])[old.group] * old.share[:, None])


def _stacked(blocks: list[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    if any(isinstance(b, sparse.csr_array) for b in blocks):
        return sparse.csr_array(sparse.vstack([sparse.csr_array(b) for b in blocks], format="csr"))
    return np.concatenate(blocks)
