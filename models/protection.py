"""Test, then learn: what the model does not know is reported, kept from teaching it, and not denoised away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.anomaly import ScanWindows
from models.base import Float32, Float64, Index, done
from models.linear_config import LinearConfig
from models.novelty import HeldBack, NoveltySpectra, Positions, carriers, pooled_residual
from models.null import LEVELS, EmpiricalNull
from models.nullpool import NullPool, Sample
from models.published import Published
from models.scoremap import ScoreMap
from models.visits import Visits

_MAX_NOVELTIES = 16
_VARIANCE_FLOOR = 0.1
_CHANCE = 0.05
_FIRST_DRAWS, _FINAL_ROWS = 16, 128


@dataclass(frozen=True)
class Tested:
    """Raw scores (n, K) of single visits, their anomaly scores (n,), p-values and windows."""

    raw: Float32
    score: Float32
    p_value: Float64
    window: NDArray[np.int64]

    @classmethod
    def nothing(cls, n: int) -> Tested:
        """Before there is a basis."""
        return cls(np.zeros((n, 0), np.float32), np.zeros(n, np.float32), np.ones(n), np.zeros(n, np.int64))


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
        self.held_back = HeldBack(n, windows, config.novelty_min)
        self._null = EmpiricalNull(windows)
        self.pool = NullPool(windows)
        self.score: Float32 = np.full(n, np.nan, dtype=np.float32)
        self.p_value: Float64 = np.full(n, np.nan)
        self.novelty_due = False
        self._bulk: Float64 | None = None

    @property
    def held(self) -> NDArray[np.bool_]:
        """Positions whose flagged spectra do not teach, (P,)."""
        return self.held_back.mask

    def test(self, published: Published | None, visits: Visits, guessed: bool) -> Tested:
        """Test single visits; where the noise is guessed, against the bulk of the spectra before."""
        self.pool.sample(visits)
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
        return Tested(raw, score, self.pool.p_value(score, exposure), window)

    def hold(self, index: Index, tested: Tested) -> tuple[NDArray[np.bool_], Positions]:
        """Keep flagged visits from teaching: which visits (n,) teach, and positions that may after all."""
        self.score[index], self.p_value[index] = tested.score, tested.p_value
        teaches = ~(tested.p_value <= self.config.false_alarm)
        if teaches.all():
            return teaches, self.held_back.positions[:0]
        flagged = ~teaches
        teaches[flagged] = self.held_back.hold(index[flagged], tested.window[flagged])
        self.novelty_due = True
        released = self.held_back.release_crowds()
        return teaches, released[self._map.store.complete(released)]

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
        held = self.held_back.positions
        # Chance alone makes none in twenty scans.
        held = held[self._map.store.complete(held) & (self.p_value[held] * self._map.n_positions < _CHANCE)]
        groups = self.held_back.groups(held, self.score[held], _MAX_NOVELTIES)
        members = np.concatenate([held[:0], *groups])
        noise, expected = published.test.noise, self._map.expected(members)
        residual = self._map.counts(members) - expected
        floor = _VARIANCE_FLOOR * np.outer(self._map.exposure(members, noise), published.channel_variance)
        variance = np.maximum(noise.row_variance(expected, self._map.visits[members, None], 1), floor)
        spectra, scores, first = [], [], 0
        for group in groups:
            part = slice(first, first + group.size)
            first += group.size
            pooled, share = pooled_residual(residual[part], variance[part], noise.gain, self._windows.width)
            spectra.append(pooled)
            scores.append(share)
        stack = np.stack(spectra) if spectra else np.zeros((0, self._map.n_channels), dtype=np.float32)
        self._map.novelties = NoveltySpectra(stack, tuple(groups), tuple(scores))

    def retest(self, published: Published, stored: Positions, guessed: bool, rows: int) -> None:
        """Exact scores and anomaly scores of the accumulated counts of positions; decides anew which are held.

        Parameters
        ----------
        rows : int
            Positions whose counts are read together.
        """
        test, visits = published.test, self._map.visits
        window = np.zeros(stored.size, dtype=np.int64)
        exposure = self._map.exposure(stored, test.noise)
        for first in range(0, stored.size, rows):
            part = slice(first, first + rows)
            index = stored[part]
            read = self._map.reproject(index)
            if read is not None:
                scores = published.shrinkage.apply(self._map.raw(index), exposure[part])
                found = test(read[0], scores, exposure[part], visits[index], None, read[1])
                self.score[index], window[part] = found
        pool = self._calibrated(published, stored)
        self.score[stored] /= np.float32(pool.dispersion)
        if guessed:
            bulk = pool.quantiles(LEVELS)
            self.score[stored] = self._null.correct(self.score[stored], self.score[stored], bulk)
        self.p_value[stored] = pool.p_value(self.score[stored], exposure)
        alone = carriers(self._map.raw(stored), exposure, published.shrinkage, self.config.novelty_min)
        novel = self.p_value[stored] * stored.size < _CHANCE
        novel[alone] = True
        self.held_back.replace(stored[novel], window[novel])
        self.held_back.release_crowds()

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
