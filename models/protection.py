"""Test, then learn: what the model does not know is reported, kept from teaching it, and not denoised away."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.accepted import Accepted
from models.anomaly import ScanWindows
from models.base import Float32, Float64, Index, Pieces, as_dense, done
from models.grouping import Group, Residuals, find_groups, group_of, steepest
from models.linear_config import LinearConfig
from models.novelty import HeldBack, NoveltySpectra, Positions, carriers
from models.null import LEVELS, EmpiricalNull
from models.nullpool import NullPool, Sample
from models.published import Published
from models.scoremap import ScoreMap
from models.suspects import Reviewed, Suspects
from models.visits import Visits

ENOUGH = 25.0
"""Log likelihood ratio of a group's pooled counts from which on it may be a phase."""
_MAX_NOVELTIES = 16
_MOST_GROUPED, _MOST_EXPLAINED, _TYPICAL = 256, 64, 48
_SWEEP_VALUES = 1 << 15
_VARIANCE_FLOOR = 0.1
_CHANCE, _LEFT = 0.05, 0.25
_FIRST_DRAWS, _FINAL_ROWS, _CLOSE = 16, 128, 1024


@dataclass(frozen=True)
class Tested:
    """Raw scores (n, K) of single visits, their anomaly scores (n,), p-values, windows, accepted features (or -1)."""

    raw: Float32
    score: Float32
    p_value: Float64
    window: NDArray[np.int64]
    feature: NDArray[np.int64]
    part: Float64
    """Of the feature, 1 as in its group."""

    @classmethod
    def nothing(cls, n: int) -> Tested:
        """Before there is a basis."""
        nowhere = np.zeros(n, np.int64)
        return cls(np.zeros((n, 0), np.float32), np.zeros(n, np.float32), np.ones(n), nowhere, nowhere - 1, np.zeros(n))


class Protection:
    """Anomaly test of a scan, and the positions that it keeps from teaching the model.

    Parameters
    ----------
    positions : ScoreMap
        Counts and scores of all positions.
    """

    def __init__(self, positions: ScoreMap, windows: ScanWindows, config: LinearConfig) -> None:
        n = positions.n_positions
        self._map, self._windows, self.config = positions, windows, config
        self.held_back = HeldBack(n, windows)
        self._null = EmpiricalNull(windows)
        self.pool = NullPool(windows)
        self.score: Float32 = np.full(n, np.nan, dtype=np.float32)
        self.p_value: Float64 = np.full(n, np.nan)
        self.novelty_due = False
        self.groups: tuple[Group, ...] = ()
        self.steep = 1.0
        self.accepted = Accepted(n, positions.n_channels)
        self._dismissed = np.zeros(n, dtype=np.bool_)
        self._bulk: Float64 | None = None
        self.suspects = Suspects(n)
        self._pooled: list[Group] = []
        self._window = np.zeros(n, dtype=np.int64)
        self._final_pool = self.pool

    @property
    def held(self) -> NDArray[np.bool_]:
        """Positions whose flagged spectra do not teach, (P,)."""
        return self.held_back.mask

    def test(self, published: Published | None, visits: Visits, guessed: bool) -> Tested:
        """Test single visits; where the noise is guessed, against the bulk of the spectra before."""
        self.pool.sample(visits)
        self.suspects.n_seen += visits.total.size
        if published is None:
            return Tested.nothing(visits.total.size)
        raw, test = published.project(visits.block), published.test
        exposure = test.noise.row_variance(visits.total, 1.0, self._windows.n_channels)
        scores = published.shrinkage.apply(raw, exposure, fitted=False)
        alone = np.ones(visits.total.size)
        score, window = test(visits.block, scores, exposure, alone, visits.bins, visits.background)
        score = score / np.float32(self.pool.dispersion)
        if guessed:
            score = self._null.follow(score, self._bulk)
        tested = Tested(
            raw, score, self.pool.p_value(score, exposure), window, np.full(len(raw), -1), np.zeros(len(raw))
        )
        if len(self.accepted):
            self._explain(published, visits, scores, exposure, tested)
        return tested

    def _explain(
        self, published: Published, visits: Visits, scores: Float32, exposure: Float64, tested: Tested
    ) -> None:
        """Test what is flagged again, with accepted features in what is expected."""
        rows = np.flatnonzero(tested.p_value <= self.config.false_alarm)[:_MOST_EXPLAINED]
        if not rows.size:
            return
        background = np.float32(0.0) if visits.background is None else visits.background[rows]
        gross = np.asarray(as_dense(visits.block[rows]), dtype=np.float32) + background
        expected = scores[rows] @ published.eigenspectra + background
        floor = _VARIANCE_FLOOR * np.outer(exposure[rows], published.channel_variance)
        variance = np.maximum(published.test.noise.row_variance(expected, 1.0, 1), floor)
        part, _ = self.accepted.parts(gross - expected, variance, exposure[rows])
        best = np.argmax(part, axis=1)
        part = part[np.arange(rows.size), best]
        more = background + self._of_feature(best, part, exposure[rows])
        score, window = published.test(gross, scores[rows], exposure[rows], np.ones(rows.size), None, more)
        score = score / np.float32(self.pool.dispersion)
        tested.score[rows], tested.window[rows] = score, window
        tested.p_value[rows] = self.pool.p_value(score, exposure[rows])
        explained = tested.p_value[rows] > self.config.false_alarm
        tested.feature[rows[explained]], tested.part[rows] = best[explained], part

    def _of_feature(self, number: NDArray[np.int64], part: Float64, exposure: Float64) -> Float32:
        """Counts (n, D) that parts (n,) of features (n,) make."""
        height = np.maximum(part * exposure, 0.0).astype(np.float32)
        return np.asarray(height[:, None] * self.accepted.spectra[number])

    def hold(self, index: Index, tested: Tested) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Positions]:
        """Keep flagged visits from teaching.

        Returns
        -------
        ndarray of bool, ndarray of bool, ndarray of int
            Which visits (n,) teach, which flags (n,) wait, and positions that may teach after all.
        """
        self.score[index], self.p_value[index] = tested.score, tested.p_value
        self.accepted.join(index, tested.feature, tested.part)
        teaches = ~(tested.p_value <= self.config.false_alarm)
        waits = np.zeros_like(teaches)
        if teaches.all():
            return teaches, waits, self.held_back.positions[:0]
        flagged = ~teaches
        teaches[flagged] = self.held_back.hold(index[flagged], tested.window[flagged])
        waits[flagged] = self.suspects.add(index[flagged], teaches[flagged])
        self.novelty_due = True
        released = self.held_back.release_crowds(self.config.false_alarm * self.suspects.n_seen)
        # The model that they teach is not the one that they were tested against.
        self.p_value[np.append(index[flagged & teaches], released)] = np.nan
        return teaches, waits, released[self._map.store.complete(released)]

    def adopt(self, published: Published) -> None:
        """Take a new version: what it does not know is held again, and has an eigenspectrum of its own."""
        self.held_back.settle()
        if not self.pool.n_drawn:
            self.pool.catch_up(published, _FIRST_DRAWS)
        self._bulk = self.pool.quantiles(LEVELS)
        self._pool_novelties(published)

    def _pool_novelties(self, published: Published) -> None:
        """Make each group of held spectra one more eigenspectrum, so that denoising does not hide it."""
        self.novelty_due = False
        groups = self._known_groups(published)
        if (found := self._flagged(published)) is not None:
            measured = self._map.measured
            some = measured[:: max(1, measured.size // _TYPICAL)]
            self.steep = steepest(np.median(self._map.expected(some), axis=0), self._windows.width)
            new, hot = find_groups(found, self._windows, self.steep, _MAX_NOVELTIES, self._is_enough)
            groups += [replace(group, evidence=group.evidence / self.pool.dispersion) for group in new]
            for positions in hot:
                self.held_back.bar(self.held_back.window_of(positions))
        self._pooled = groups
        self.groups = tuple(group for group in groups if self.suspects.settled(group.positions).any())
        stack = np.array([group.spectrum for group in groups], dtype=np.float32).reshape(-1, self._map.n_channels)
        parts = tuple(group.positions for group in groups), tuple(group.share for group in groups)
        self._map.novelties = NoveltySpectra(stack, *parts)

    def _is_enough(self, positions: Positions, evidence: float) -> bool:
        """Whether flagged positions are a group, and no chance: that alone makes none in twenty scans."""
        chance = self.p_value[positions].min() * self._map.n_positions
        return bool(evidence / self.pool.dispersion > ENOUGH or chance < _CHANCE)

    def _flagged(self, published: Published) -> Residuals | None:
        """What the strongest of the held spectra have beyond the model; None where nothing is held."""
        held = self.held_back.positions
        held = held[self._map.store.complete(held) & ~self._dismissed[held]]
        if not held.size:
            return None
        held = np.sort(held[np.argsort(-self.score[held], kind="stable")[:_MOST_GROUPED]])
        return self._residuals(published, held)

    def _known_groups(self, published: Published) -> list[Group]:
        """Accepted features, with what the components do not explain of them."""
        groups = []
        for number in range(len(self.accepted)):
            members = self.accepted.positions(number)
            members = members[self._map.store.complete(members)]
            if members.size:
                members = members[np.argsort(-self.score[members], kind="stable")[:_MOST_GROUPED]]
                found = self._residuals(published, np.sort(members))
                groups.append(replace(group_of(found, self._windows), feature=number))
        return groups

    def _residuals(self, published: Published, index: Positions) -> Residuals:
        noise, expected = published.test.noise, self._map.expected(index)
        background = self._map.store.background(index)
        exposure = self._map.exposure(index, noise)
        floor = _VARIANCE_FLOOR * np.outer(exposure, published.channel_variance)
        gross = expected if background is None else expected + background
        variance = np.maximum(noise.row_variance(gross, self._map.visits[index, None], 1), floor)
        residual = self._map.counts(index) - expected
        window = np.maximum(self.held_back.window_of(index), 0)
        return Residuals(index, residual, variance, window, self.score[index], noise.gain)

    def accept(self, published: Published, group: Group) -> tuple[int, Positions]:
        """Know a group from now on: its positions teach, and spectra that it explains are not flagged any more.

        Returns
        -------
        int, ndarray of int
            Number of the feature, and positions whose counts are to be learnt.
        """
        number = self.accepted.add(group, float(self._map.exposure(group.positions, published.test.noise).sum()))
        self.held_back.release(group.positions)
        self.novelty_due = True
        return number, group.positions[self._map.store.complete(group.positions)]

    def join(self, group: Group) -> int:
        """Let positions have the accepted feature that their group has the shape of; its number, -1 for none."""
        number = self.accepted.alike(group.spectrum)
        members = self.accepted.member[group.positions]
        if 2 * np.count_nonzero(members >= 0) > members.size:
            number = int(np.bincount(members[members >= 0]).argmax())
        if number >= 0:
            self.accepted.join(group.positions, np.full(group.positions.size, number), 1.0)
            self.held_back.release(group.positions)
        return number

    def dismiss(self, positions: Positions) -> None:
        """Take positions for defects: they go on not teaching, and are no group any more."""
        self._dismissed[positions] = True
        self.novelty_due = True

    @property
    def wants_work(self) -> bool:
        """Whether `work` would do something."""
        return self.pool.wants_work or self.accepted.sweeping

    def work(self, published: Published) -> bool:
        """Use a moment of idle time: draw null spectra, or look for accepted features in what was measured before."""
        if self.pool.work(published):
            return True
        if not self.accepted.sweeping:
            return False
        self._look_back(published, self.accepted.next_positions(max(1, _SWEEP_VALUES // self._map.n_channels)))
        return True

    def _look_back(self, published: Published, index: Positions) -> None:
        """Find accepted features at positions."""
        index = index[(self._map.visits[index] > 0) & (self.accepted.member[index] < 0)]
        index = index[self._map.store.complete(index) & ~self._dismissed[index]]
        if index.size:
            found, exposure = self._residuals(published, index), self._map.exposure(index, published.test.noise)
            number, part = self.accepted.found_in(found.residual, found.variance, exposure)
            rows = np.flatnonzero(number >= 0)
            number[rows[~self._explains(published, index[rows], number[rows], part[rows])]] = -1
            self.accepted.join(index, number, part)
            self.held_back.release(index[number >= 0])
            self.novelty_due |= bool((number >= 0).any())

    def _explains(
        self, published: Published, index: Positions, number: NDArray[np.int64], part: Float64
    ) -> NDArray[np.bool_]:
        """Whether nothing, or little of what there was, is left of positions (n,) beside parts of features (n,)."""
        if not index.size:
            return np.zeros(0, dtype=np.bool_)
        background, exposure = self._map.store.background(index), self._map.exposure(index, published.test.noise)
        known = np.zeros((1, 1), np.float32) if background is None else background
        gross = self._map.counts(index) + known
        scores = published.shrinkage.apply(self._map.raw(index), exposure)
        left, before = (
            published.test(gross, scores, exposure, self._map.visits[index], None, known + more)[0]
            for more in (self._of_feature(number, part, exposure), np.zeros_like(gross))
        )
        chance = self.pool.p_value(left / np.float32(self.pool.dispersion), exposure)
        return np.asarray((chance > self.config.false_alarm) | (left < _LEFT * before))

    def retest(
        self, published: Published, stored: Positions, guessed: bool, rows: int, only_close: bool = False
    ) -> Pieces[None]:
        """Exact scores and anomaly scores of the accumulated counts of positions; decides anew which are held.

        Parameters
        ----------
        rows : int
            Positions whose counts are read together.
        only_close : bool
            The model is nearly that of the last time: only what was near a decision then is looked at again.
        """
        some, exposure = stored, self._map.exposure(stored, published.test.noise)
        if only_close:
            some = self._close_to_decision(published, stored, exposure)
        for first in range(0, some.size, rows):
            part = some[first : first + rows]
            self.score[part], self._window[part] = self._again(published, part, fitted=True)
            yield
        if not only_close:
            self._final_pool = self._calibrated(published, stored)
        pool = self._final_pool
        self.score[some] /= np.float32(pool.dispersion)
        if guessed:
            bulk = pool.quantiles(LEVELS)
            self.score[some] = self._null.correct(self.score[some], self.score[some], bulk)
        self.p_value[some] = pool.p_value(self.score[some], self._map.exposure(some, published.test.noise))
        alone = carriers(self._map.raw(stored), exposure, published.shrinkage)
        novel = self.p_value[stored] * stored.size < _CHANCE
        novel[alone] = True
        if len(self.accepted):
            for first in range(0, some.size, rows):
                self._look_back(published, some[first : first + rows])
            novel &= self.accepted.member[stored] < 0
        self.held_back.replace(stored[novel], self._window[stored[novel]])
        self.held_back.release_crowds(_CHANCE)

    def _close_to_decision(self, published: Published, stored: Positions, exposure: Float64) -> Positions:
        """Positions that are held, were found novel or carry a component, and those of the highest scores, rising."""
        few = min(_CLOSE, stored.size)
        top = np.argpartition(-self.score[stored], few - 1)[:few]
        alone = carriers(self._map.raw(stored), exposure, published.shrinkage)
        near = self.held[stored] | (self.p_value[stored] * stored.size < _CHANCE)
        near[top], near[alone] = True, True
        return stored[near]

    @property
    def wants_version(self) -> bool:
        """Whether a new version would tell something new, even of the same model."""
        ripe = self.suspects.ripe
        return self.novelty_due or bool((self.held[ripe] & self._can_be_tested(ripe)).any())

    def _can_be_tested(self, positions: Positions) -> NDArray[np.bool_]:
        return self._map.store.complete(positions) & ~self._dismissed[positions]

    def review(self, published: Published, guessed: bool) -> Reviewed:
        """Test some of the flagged positions again by their accumulated counts.

        What the model did not know when they came, it may know by now: the first spectra of each phase are flagged.
        What nothing more has come of, though it waited for that, is an anomaly. Where the noise is guessed, the bulk
        that scores were compared with is gone, and they stay as they are.
        """
        index = self.suspects.to_review(self._can_be_tested)
        if not index.size:
            return Reviewed(index, index, index)
        by_chance = self.config.false_alarm * self.suspects.n_seen
        pooled = [g.positions for g in self._pooled if g.kind == "feature" and g.feature < 0]
        alike = [self.held_back.release_alike(positions[self.held[positions]], by_chance) for positions in pooled]
        crowds = np.concatenate([index[:0], *alike])
        self.p_value[crowds] = np.nan
        cleared = np.zeros(index.size, dtype=np.bool_)
        if not guessed:
            score = self._again(published, index, fitted=False)[0] / np.float32(self.pool.dispersion)
            p_value = self.pool.p_value(score, self._map.exposure(index, published.test.noise))
            cleared = p_value > self.config.false_alarm
            self.score[index[cleared]], self.p_value[index[cleared]] = score[cleared], p_value[cleared]
        self.suspects.clear(index[cleared])
        held = self.held[index]
        self.held_back.release(index[cleared & held])
        confirmed = self.suspects.confirm(index[~cleared & held])
        released = np.union1d(crowds[self._map.store.complete(crowds)], index[cleared & held])
        if released.size or confirmed.size:
            self._pool_novelties(published)
        # What they teach is to be seen, however little it moves the model.
        self.novelty_due |= bool(released.size)
        return Reviewed(index[cleared], released, confirmed)

    def _again(self, published: Published, index: Positions, *, fitted: bool) -> tuple[Float32, NDArray[np.int64]]:
        """Anomaly scores and windows (n,) of the accumulated counts of positions, whose scores become exact."""
        exposure, visits = self._map.exposure(index, published.test.noise), self._map.visits[index]
        read = self._map.reproject(index)
        if read is None:
            return np.zeros(index.size, np.float32), np.zeros(index.size, np.int64)
        scores = published.shrinkage.apply(self._map.raw(index), exposure, fitted=fitted)
        return published.test(read[0], scores, exposure, visits, None, read[1])

    def _calibrated(self, published: Published, stored: Positions) -> NullPool:
        """What chance gives for accumulated counts like those of some of these positions."""
        pool = NullPool(self._windows)
        sample = stored[:: max(1, stored.size // _FINAL_ROWS)]
        for first in range(0, sample.size, pool.rows_at_once):
            index = sample[first : first + pool.rows_at_once]
            background = self._map.store.background(index)
            counts = self._map.counts(index) if background is None else self._map.counts(index) + background
            visits = self._map.visits[index].astype(np.float64)
            done(pool.draw(published, Sample(counts, visits, background), fitted=True))
        return pool
