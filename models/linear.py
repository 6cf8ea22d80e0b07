"""The linear engine: a stream of spectra in, a versioned linear model of every position out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as with_changes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.anomaly import ScanWindows
from models.axis import Axis
from models.base import Basis, BatchResult, Counts, Float32, Float64, Index, Pieces, done
from models.finishing import finish_engine
from models.forgetting import Forgetting
from models.grouping import Group, is_spike
from models.learner import Learner
from models.learnt import Arrays, LearntState
from models.linear_config import LinearConfig
from models.live_error import LiveError, error_of_map
from models.merging import arrays_of, merge_into
from models.noise import NoiseModel
from models.protection import Protection, Tested
from models.published import Published, publish, subspace_angle_deg
from models.relearn import Relearning
from models.scoremap import ScoreMap
from models.summary import Summary
from models.visits import Visits, last_of_each, read_visits

FLAG_ANOMALOUS, FLAG_WAITS = 1, 8
_CHUNK_VALUES = 60_000
_SAMPLE = 4096


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
        self.revision = 0
        """Rises whenever positions get other scores for the same counts."""
        width = (axis or Axis("channel", "", n_channels)).peak_width_channels()
        self.windows = ScanWindows.for_peaks(n_channels, width)
        """Where the anomaly test looks."""
        self._learner = Learner(n_channels, self.config, noise, width)
        self._map = ScoreMap(n_positions, n_channels, self.config.max_rank, self.config.store_limit_bytes)
        self._protection = Protection(self._map, self.windows, self.config)
        self._angle = float("nan")
        self._preparing = self.prepared = self._finished = False
        self._forgetting = Forgetting(self.config, self._learner, self._map, self._clear)
        self._relearning = Relearning(self)
        self._cleared: list[NDArray[np.int64]] = []
        self._summary = Summary()
        self._confirmed: list[NDArray[np.int64]] = []
        self.n_positions, self.n_channels = n_positions, n_channels

    @property
    def basis(self) -> Basis | None:
        """The published basis; None before any data."""
        return None if self._map.published is None else self._map.basis()

    @property
    def score_map(self) -> ScoreMap:
        """What is known of each position."""
        return self._map

    @property
    def noise(self) -> NoiseModel:
        """The noise model in use."""
        return self._learner.noise

    @property
    def totals(self) -> Float64:
        """Accumulated counts of each position, (P,)."""
        return self._map.totals

    @property
    def visits(self) -> NDArray[np.uint32]:
        """Visits of each position, (P,)."""
        return self._map.visits

    @property
    def exact(self) -> NDArray[np.bool_]:
        """Positions whose scores come from their counts under the present basis, not from rotated ones, (P,)."""
        return self._map.exact

    @property
    def held(self) -> NDArray[np.bool_]:
        """Positions whose flagged spectra do not teach the model, (P,)."""
        return self._protection.held

    @property
    def anomaly(self) -> Float32:
        """Anomaly score of each position's last test, (P,); NaN where there was none."""
        return self._protection.score

    @property
    def p_value(self) -> Float64:
        """How often chance gives such a score, (P,); NaN where none is known, as where it was found to be structure."""
        return self._protection.p_value

    @property
    def groups(self) -> tuple[Group, ...]:
        """Flagged positions that are alike, and accepted features, with eigenspectra of their own."""
        return self._protection.groups

    def accept(self, group: Group) -> int:
        """Know one of `groups` from now on: it teaches, and spectra that it explains are not flagged; its number."""
        if self._map.published is None:
            raise ValueError("there are no groups before there is a model")
        number, positions = self._protection.accept(self._map.published, group)
        if positions.size:
            self._relearning.add(positions, self._read_stored(positions))
        return number

    def window_of(self, group: Group) -> tuple[int, int]:
        """Half-open channel range in which a group stands out most."""
        lo, hi = self.windows.ranges(np.array([group.window]))[0]
        return int(lo), int(hi)

    def shows_spike(self, spectrum: Float32, expected: Float32, channel: int) -> bool:
        """Whether what a spectrum (D,) has beyond what was expected, near a channel, is narrower than any line."""
        return is_spike(spectrum, expected, self.noise, self.windows, self._protection.steep, channel)

    def accepted(self, number: int, least: float = 0.0) -> NDArray[np.int64]:
        """Positions that have such a part of the accepted feature of this number (1: as its group), rising."""
        return self._protection.accepted.positions(number, least)

    def join(self, group: Group) -> int:
        """Number of the accepted feature that a group has the shape of, and now belongs to; -1 for none."""
        return self._protection.join(group)

    def dismiss(self, positions: NDArray[np.int64]) -> None:
        """Take positions for defects: they do not teach, and are no group."""
        self._protection.dismiss(positions)

    @property
    def scores(self) -> Float32:
        """Published scores of all positions (P, K), NaN where nothing was measured."""
        return self.scores_at(np.arange(self.n_positions))

    def scores_at(self, index: NDArray[Any]) -> Float32:
        """Published scores of positions (n, K), NaN where nothing was measured."""
        return self._map.scores(index)

    @property
    def relative_error(self) -> Float32:
        """As `ScoreMap.relative_error`, under the noise in use, (P,)."""
        return self._map.relative_error(self.noise)

    @property
    def changes(self) -> int:
        """How often the specimen was found to have changed."""
        return self._forgetting.changes

    def configure(self, config: LinearConfig) -> None:
        """Take what may change during a scan: the false-alarm rate."""
        self.config = with_changes(self.config, false_alarm=config.false_alarm)
        self._protection.config = self.config

    @property
    def subspace_angle_deg(self) -> float:
        """Largest principal angle by which the last promotion found the basis moved; NaN before the second."""
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
        # What numpy indexes with takes a third of the time that other integers take.
        index = np.asarray(index, dtype=np.intp)
        if replace:
            index, counts = last_of_each(index, counts)
        visits = self._read(index, counts)
        published = self._map.published
        tested = self._protection.test(published, visits, self._learner.noise_is_guessed)
        if self._forgetting.is_active and not replace:
            self._forgetting.see(index, visits, tested.raw, tested.score, self.anomaly[index])
        self._account(index, visits, replace)
        if published is not None:
            self._map.accumulate(index, tested.raw)
        waits = self._learn(index, visits, tested)
        if self._map.published is None:
            self.promote()
        flagged = tested.p_value <= self.config.false_alarm
        flag = flagged.astype(np.uint8) * np.where(waits, np.uint8(FLAG_WAITS), np.uint8(FLAG_ANOMALOUS))
        ranges = self.windows.ranges(tested.window)
        scores = self._map.scores(index)
        return BatchResult(index.astype(np.uint32), scores, tested.score, flag, tested.p_value, ranges, self._version)

    @property
    def _version(self) -> int:
        return 0 if self._map.published is None else self._map.published.basis.version

    def _learn(self, index: Index, visits: Visits, tested: Tested) -> NDArray[np.bool_]:
        """Teach what is not flagged, and flagged spectra that are like a crowd of others; which flags (n,) wait."""
        teaches, waits, released = self._protection.hold(index, tested)
        self._relearning.add(index, visits, teaches)
        if released.size:
            self._relearning.add(released, self._read_stored(released))
        return waits

    def _account(self, index: Index, visits: Visits, replace: bool) -> None:
        self._map.account(index, visits.total, visits.stored, replace)

    def _clear(self, index: NDArray[Any]) -> None:
        self._map.clear(index)

    def _read(self, index: Index, counts: Counts) -> Visits:
        """Counts of single visits, as they are tested and learnt."""
        return read_visits(counts, self.windows)

    def _read_stored(self, index: NDArray[Any]) -> Visits:
        """The same of the accumulated counts of positions."""
        return read_visits(self._map.store.rows(index), self.windows)

    def catch_up(self) -> None:
        """Draw what the next `promote` asks chance for, and idle time has not drawn: this part may come before it."""
        published = self._map.published
        if published is not None and self._protection.pool.is_behind:
            self._protection.pool.catch_up(published)

    def promote(self) -> Basis | None:
        """Publish the tracker's present state if it moved enough; None if it did not, or nothing was learnt."""
        old = self._map.published
        self._preparing = self.prepared = False
        self.catch_up()
        self._learner.dispersion = self._protection.pool.dispersion
        state = self._learner.state(first=old is None)
        if state is None:
            return None
        if old is not None and not self._protection.wants_version and old.moved_by(state) <= self.config.move_tolerance:
            self._angle = old.angle_deg(state)
            return None
        self._publish(state)
        self._review()
        return self._map.basis()

    def _review(self) -> None:
        """Let what the new version explains teach after all."""
        if self._map.published is not None:
            found = self._protection.review(self._map.published, self._learner.noise_is_guessed)
            self._cleared.append(found.cleared)
            self._confirmed.append(found.confirmed)
            if found.released.size:
                self._relearning.add(found.released, self._read_stored(found.released))

    def take_cleared(self) -> NDArray[np.int64]:
        """Positions that were found to be no anomalies since this was asked last."""
        cleared, self._cleared = self._cleared, []
        return _together(cleared)

    def take_confirmed(self) -> BatchResult:
        """Positions whose flags waited, and do no more, since this was asked last, as a test would tell them."""
        confirmed, self._confirmed = self._confirmed, []
        index = _together(confirmed)
        flag = np.full(index.size, FLAG_ANOMALOUS, dtype=np.uint8)
        window = self.windows.ranges(np.maximum(self._protection.held_back.window_of(index), 0))
        told = self.scores_at(index), self.anomaly[index], flag, self.p_value[index], window
        return BatchResult(index.astype(np.uint32), *told, self._version)

    def _publish(self, state: LearntState) -> Basis:
        """Make a state the published version, with every stored score re-expressed."""
        old = self._map.published
        self._map.reexpress(old, state.scaling.projector(state.vectors))
        measured = self._map.measured
        sample = measured[:: max(1, measured.size // _SAMPLE)]
        return self._adopt(state, sample, self._version + 1, old)

    def _adopt(self, state: LearntState, sample: NDArray[np.int64], version: int, old: Published | None) -> Basis:
        exposure = self._map.exposure(sample, self.noise)
        published = publish(
            version, state, self._map.raw(sample), exposure, self._map.measured.size, self.windows, self.noise
        )
        self._map.published = published
        self.revision += 1
        if old is not None:
            self._angle = subspace_angle_deg(old, published)
        self._protection.adopt(published)
        return self._map.basis()

    @property
    def wants_background(self) -> bool:
        """Whether `background` would do something."""
        waits = self._map.published is not None and self._protection.wants_work
        return waits or self._preparing or self._map.sweeping or self._learner.wants_work or self._relearning.is_due

    def prepare(self) -> None:
        """Let `background` do most of what the next `promote` has to do; it is `prepared` when that is done."""
        self._preparing, self.prepared = True, False
        self._learner.prepare()

    def background(self) -> bool:
        """Use idle time, a millisecond at most: learn, make scores exact, refine the model; True while there is more.

        In this order, for learning makes the others' results better.
        """
        if self._learner.learn_piece():
            return True
        if self._preparing:
            self._preparing = self._learner.refine()
            self.prepared = not self._preparing
            return True
        if self._relearning.work():
            return True
        if self._map.published is not None and self._protection.work(self._map.published):
            return True
        visits = max(1.0, self._learner.n_seen / max(self._map.measured.size, 1))
        per_row = max(1.0, visits * self._learner.mean_values_per_row)
        waiting = self._map.next_inexact(int(np.clip(_CHUNK_VALUES / per_row, 16, 2048)))
        if waiting is None:
            return self._learner.refine()
        self._map.reproject(waiting)
        return True

    def finish(self) -> Basis:
        """Refit from all stored counts, re-project and re-test every position; the final basis.

        Flagged positions that the settled model explains, and those that are a crowd, teach after all; positions that
        alone carry a component are held back, also if they had taught before that could be known.
        """
        return done(self.finishing())

    def finishing(self) -> Pieces[Basis]:
        """As `finish`, in pieces between which everything can be asked for."""
        self._finished = True
        return (yield from finish_engine(self))

    def window(self, channels: tuple[int, int], index: NDArray[Any] | None = None) -> tuple[Float32, Float32]:
        """Denoised and raw counts (n,) of positions (or all) in a half-open channel range, NaN where not measured."""
        return self._map.window(np.arange(self.n_positions) if index is None else index, *channels)

    def window_error(self, channels: tuple[int, int], index: NDArray[Any] | None = None) -> Float32:
        """Standard error (n,) of the denoised counts of positions in a half-open channel range, NaN as in `window`."""
        weights = np.bincount(np.arange(*channels), minlength=self.n_channels).astype(np.float64)
        index = np.arange(self.n_positions) if index is None else index
        return self._map.error(index, weights, self.held[index])

    def denoise(self, index: NDArray[Any]) -> Float32:
        """Denoised accumulated spectra (n, D) of positions, counts."""
        return self._map.denoise(np.asarray(index))

    def spectrum(self, index: int) -> tuple[Float32, Float32, Float32]:
        """Raw, denoised and expected (by the components alone, novelties left out) counts (D,) of one position."""
        at = np.array([index])
        return self._map.counts(at)[0], self._map.denoise(at)[0], self._map.expected(at)[0]

    def arrays(self) -> Arrays:
        """All that was learnt and counted, as plain arrays by name: what `merge` takes, here or on another machine."""
        return arrays_of(self)

    def merge(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Know also what another engine of the same scan knew (`models.merging.merge_into`)."""
        merge_into(self, arrays)

    def live_error(self) -> LiveError | None:
        """Error against the unknown truth, without bias; None where nothing is published or noise is only guessed."""
        if self._learner.noise_is_guessed:
            return None
        # While spectra wait for it a few positions must do; the standard error says what they are worth.
        rows = self._learner.rows_at_once // (1 if self._finished else 8)
        return error_of_map(self._map, self.held | self._forgetting.outdated, rows)

    def state_summary(self) -> dict[str, Any]:
        """What the status shows: noise, counts a spectrum, kind of tracker, memory, errors, ranks."""
        return self._summary.of(self)


def _together(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Positions of all parts, rising."""
    return np.unique(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)
