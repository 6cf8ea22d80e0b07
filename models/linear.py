"""The linear engine: a stream of spectra in, a versioned linear model of every position out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.anomaly import ScanWindows
from models.axis import Axis
from models.base import Basis, Counts, Float32, Float64, Index
from models.learner import Learner
from models.noise import NoiseModel
from models.preprocess import as_float32
from models.published import Published, empty_basis, publish, subspace_angle_deg
from models.rank import smallest_visible_phase_px
from models.store import CountStore

FLAG_ANOMALOUS = 1
_SPARSE_BELOW = 0.1
_CHUNK_VALUES = 400_000
_SAMPLE = 16384


@dataclass(frozen=True)
class LinearConfig:
    """Settings of the linear engine.

    Attributes
    ----------
    max_rank : int
        Most components that are published; 8 more are tracked.
    batch, min_batch : int
        Spectra that one update of the model takes, and the fewest that a promotion does not wait for.
    anomaly_threshold : float
        Anomaly score above which a spectrum is flagged; 10 to 11 is a false-alarm rate of about 2e-4.
    novelty_min : int
        Fewer like spectra than this are a novelty to report, not structure to learn.
    store_limit_bytes : int
        Memory for accumulated counts.
    bright_clip : float
        Spectra with more than this many times the typical exposure have their weight in the fit clipped.
    move_tolerance : float
        Variance (noise is 1) outside the published span from which on a component counts as moved.
    """

    max_rank: int = 24
    batch: int = 256
    min_batch: int = 32
    anomaly_threshold: float = 10.6
    novelty_min: int = 8
    store_limit_bytes: int = 4 << 30
    bright_clip: float = 8.0
    move_tolerance: float = 0.1


@dataclass(frozen=True)
class BatchResult:
    """What is known about the positions of one block after it: accumulated scores, the visit's anomaly score and flag.

    `window` (n, 2) is the half-open channel range where the anomaly score was found.
    """

    index: Index
    scores: Float32
    anomaly: Float32
    flag: NDArray[np.uint8]
    window: NDArray[np.int64]
    version: int


class LinearEngine:
    """Streaming Poisson-scaled PCA of accumulated counts, with rank, shrinkage and an anomaly test.

    Deterministic: the same calls give the same bits. No clock, no thread, no unseeded random number.

    Parameters
    ----------
    n_positions, n_channels : int
        Size of the scan and of a spectrum.
    noise : NoiseModel, optional
        Estimated from the first data where not given.
    axis : Axis, optional
        Tells the width of a peak in channels.
    """

    def __init__(
        self,
        n_positions: int,
        n_channels: int,
        config: LinearConfig | None = None,
        noise: NoiseModel | None = None,
        axis: Axis | None = None,
    ) -> None:
        self.config = config or LinearConfig()
        axis = axis or Axis("channel", "", n_channels)
        self._width = axis.peak_width_channels()
        self._windows = ScanWindows.for_peaks(n_channels, self._width)
        self._learner = Learner(n_channels, self.config, noise, self._width)
        self._store = CountStore(n_positions, n_channels, self.config.store_limit_bytes)
        self._published: Published | None = None
        self._raw: Float32 = np.zeros((n_positions, 0), dtype=np.float32)
        self._angle = float("nan")
        self.n_positions, self.n_channels = n_positions, n_channels
        self.totals: Float64 = np.zeros(n_positions)
        self.visits: Index = np.zeros(n_positions, dtype=np.uint32)
        self.anomaly: Float32 = np.full(n_positions, np.nan, dtype=np.float32)
        self.exact: NDArray[np.bool_] = np.zeros(n_positions, dtype=np.bool_)
        self.held: NDArray[np.bool_] = np.zeros(n_positions, dtype=np.bool_)

    @property
    def basis(self) -> Basis | None:
        """The published basis; None before any data."""
        return None if self._published is None else self._published.basis

    @property
    def noise(self) -> NoiseModel:
        """The noise model in use."""
        return self._learner.noise

    @property
    def n_windows(self) -> int:
        """Windows that the anomaly test scans in a spectrum."""
        return self._windows.n_windows

    @property
    def subspace_angle_deg(self) -> float:
        """Largest principal angle between the last two published bases; NaN before there are two."""
        return self._angle

    def process(self, index: Index, counts: Counts, replace: bool = False) -> BatchResult:
        """Test a block of visits (n, D), store it, add it to the scores, and learn from what is not flagged.

        Parameters
        ----------
        index : ndarray of uint32, (n,)
            Positions; one may come several times.
        counts : (n, D)
            Dense of any numeric type (also a read-only view, which is neither kept nor changed), or CSR.
        replace : bool
            Counts replace what the position had instead of adding to it.
        """
        index = np.asarray(index, dtype=np.uint32)
        if replace:
            index, counts = _last_of_each(index, counts)
        stored = _compact(counts)
        block = as_float32(stored)
        total = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
        anomaly = np.zeros(index.size, dtype=np.float32)
        window = np.zeros(index.size, dtype=np.int64)
        raw = None
        if self._published is not None:
            raw = self._published.project(block)
            anomaly, window = self._tested(self._published, block, raw, total)
        flagged = anomaly > self.config.anomaly_threshold
        self._account(index, total, stored, replace)
        self._learn(block, total, flagged)
        if self._published is None:
            self.promote()
        else:
            self._accumulate(index, raw, replace)
        self.anomaly[index] = anomaly
        self.held[index[flagged]] = True
        flag = flagged.astype(np.uint8) * FLAG_ANOMALOUS
        return BatchResult(index, self._scores_at(index), anomaly, flag, self._windows.ranges(window), self._version)

    @property
    def _version(self) -> int:
        return 0 if self._published is None else self._published.basis.version

    def _tested(
        self, published: Published, block: Counts, raw: Float32, total: Float64
    ) -> tuple[Float32, NDArray[np.int64]]:
        exposure = self._learner.noise.row_variance(total, 1.0, self.n_channels)
        scores = published.shrinkage.apply(raw, exposure, fitted=False)
        return published.test(block, scores, exposure, np.ones(total.size))

    def _account(self, index: Index, total: Float64, stored: Counts, replace: bool) -> None:
        if replace:
            self.totals[index], self.visits[index] = total, 1
        else:
            np.add.at(self.totals, index, total)
            np.add.at(self.visits, index, 1)
        self._store.add(index, stored, replace)

    def _accumulate(self, index: Index, raw: Float32 | None, replace: bool) -> None:
        if raw is None:
            return
        fresh = self.visits[index] == 1
        if replace:
            self._raw[index] = raw
        else:
            np.add.at(self._raw, index, raw)
        self.exact[index[fresh]] = True

    def _learn(self, block: Float32 | sparse.csr_array, total: Float64, flagged: NDArray[np.bool_]) -> None:
        if flagged.any():
            block, total = block[~flagged], total[~flagged]
        self._learner.add(block, total)

    def _scores_at(self, index: NDArray[Any]) -> Float32:
        """Published scores of positions; NaN where nothing was measured."""
        if self._published is None:
            return np.zeros((index.size, 0), dtype=np.float32)
        scores = self._published.scores(self._raw[index], self._exposure(index))
        scores[self.visits[index] == 0] = np.nan
        return scores

    def _exposure(self, index: NDArray[Any]) -> Float64:
        return self._learner.noise.row_variance(self.totals[index], self.visits[index], self.n_channels)

    @property
    def scores(self) -> Float32:
        """Published scores of all positions (P, K), NaN where nothing was measured."""
        return self._scores_at(np.arange(self.n_positions))

    def promote(self) -> Basis | None:
        """Publish the tracker's present state if it moved enough; None if it did not, or nothing was learnt."""
        state = self._learner.state(first=self._published is None)
        if state is None:
            return None
        old = self._published
        if old is not None and old.moved_by(state) <= self.config.move_tolerance:
            return None
        return self._replace_published(old, state.vectors, state)

    def _replace_published(self, old: Published | None, vectors: Float64, state: Any) -> Basis:
        projector = state.scaling.projector(vectors)
        measured = np.flatnonzero(self.visits)
        if old is None:
            self._raw = np.zeros((self.n_positions, vectors.shape[1]), dtype=np.float32)
            self.exact[:] = False
            self._reproject(measured[self._store.complete(measured)], projector)
        else:
            self._raw = self._raw @ (old.basis.eigenspectra @ projector)
            self.exact[:] = False
        sample = measured[:: max(1, measured.size // _SAMPLE)]
        self._published = publish(
            self._version + 1, state, self._raw[sample], self._exposure(sample), self._windows, self._learner
        )
        self._angle = float("nan") if old is None else subspace_angle_deg(old, self._published)
        return self._published.basis

    def _reproject(self, index: NDArray[Any], projector: Float32) -> None:
        for part, counts in self._store.chunks(index, 2048):
            self._raw[part] = as_float32(counts) @ projector
            self.exact[part] = True

    def background(self) -> bool:
        """Re-project one bounded chunk of positions exactly; True while there is more."""
        if self._published is None:
            return False
        waiting = np.flatnonzero((self.visits > 0) & ~self.exact)
        waiting = waiting[self._store.complete(waiting)]
        if not waiting.size:
            return False
        per_row = max(16.0, 4 * self._learner.mean_values_per_row)
        chunk = int(np.clip(_CHUNK_VALUES / per_row, 32, 4096))
        self._reproject(waiting[:chunk], self._published.projector)
        return bool(waiting.size > chunk)

    def finish(self) -> Basis:
        """Refit from all stored counts and re-project every position; the final basis."""
        measured = np.flatnonzero(self.visits)
        if not measured.size or self._published is None:
            return empty_basis(self.n_channels)
        self._learner.flush()
        stored = measured[self._store.complete(measured)]
        teach = stored[~self.held[stored]]
        if teach.size:
            state = self._learner.refit(self._store, teach, self._exposure(teach), self.totals)
            basis = self._replace_published(self._published, state.vectors, state)
            self._reproject(stored, self._published.projector)
            basis = self._republish(state)
            return basis
        return self._published.basis

    def _republish(self, state: Any) -> Basis:
        measured = np.flatnonzero(self.visits)
        self._published = publish(
            self._version, state, self._raw[measured], self._exposure(measured), self._windows, self._learner
        )
        return self._published.basis

    def window(self, channels: tuple[int, int]) -> tuple[Float32, Float32]:
        """Denoised and raw counts (P,) in a half-open channel range, NaN where nothing was measured."""
        lo, hi = channels
        raw = np.full(self.n_positions, np.nan, dtype=np.float32)
        denoised = raw.copy()
        measured = np.flatnonzero(self.visits)
        if self._published is None or not measured.size:
            return denoised, raw
        raw[measured] = self._store.window_sums(measured, lo, hi)
        raw[~self._store.complete(np.arange(self.n_positions))] = np.nan
        basis = self._published.basis
        weights = basis.eigenspectra[:, lo:hi].sum(axis=1, dtype=np.float64)
        denoised[measured] = self._scores_at(measured) @ weights + basis.mean[lo:hi].sum(dtype=np.float64)
        return denoised, raw

    def denoise(self, index: NDArray[Any]) -> Float32:
        """Denoised accumulated spectra (n, D) of positions, counts."""
        basis = self.basis
        if basis is None:
            return np.full((len(index), self.n_channels), np.nan, dtype=np.float32)
        return np.asarray(basis.mean + self._scores_at(np.asarray(index)) @ basis.eigenspectra, dtype=np.float32)

    def spectrum(self, index: int) -> tuple[Float32, Float32, Float32]:
        """Raw, denoised and expected (noise-free by the model alone) counts (D,) of one position."""
        at = np.array([index])
        rows = self._store.rows(at)
        raw = (rows.toarray() if isinstance(rows, sparse.csr_array) else rows)[0]
        denoised = self.denoise(at)[0]
        return raw, denoised, denoised

    def state_summary(self) -> dict[str, Any]:
        """What the status shows: noise, counts a spectrum, kind of tracker, memory, smallest visible phase."""
        measured = max(int(np.count_nonzero(self.visits)), 1)
        exposure = float(self._exposure(np.flatnonzero(self.visits)).sum()) / measured
        noise = self._learner.noise
        return {
            "noise": {"model": noise.kind, "gain": noise.gain, "offset": noise.offset, "read_sigma": noise.read_sigma},
            "noise_estimated": self._learner.noise_estimated,
            "counts_per_spectrum": float(self.totals.sum() / measured),
            "engine": "ritz",
            "store_bytes": self._store.bytes_used,
            "exact_positions": int(np.count_nonzero(self.exact)),
            "smallest_visible_phase_px": smallest_visible_phase_px(self.n_channels, measured, 0.25 * exposure),
        }


def _last_of_each(index: Index, counts: Counts) -> tuple[Index, Counts]:
    """Only the last spectrum of each position."""
    _, last = np.unique(index[::-1], return_index=True)
    if last.size == index.size:
        return index, counts
    keep = np.sort(index.size - 1 - last)
    return index[keep], counts[keep]


def _compact(counts: Counts) -> Counts:
    """CSR where dense counts are mostly zeros (judged by a few rows), else as they are."""
    if isinstance(counts, sparse.csr_array) or counts.shape[0] == 0:
        return counts
    probe = counts[:: max(1, counts.shape[0] // 4)]
    if np.count_nonzero(probe) >= _SPARSE_BELOW * probe.size:
        return counts
    flat = np.flatnonzero(counts)
    channel = flat % counts.shape[1]
    indptr = np.searchsorted(flat, np.arange(counts.shape[0] + 1) * counts.shape[1]).astype(np.int32)
    data = counts.reshape(-1)[flat]
    return sparse.csr_array((data, channel.astype(np.int32), indptr), shape=counts.shape)
