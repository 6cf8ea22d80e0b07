"""What anomaly scores chance gives: a pool of null spectra drawn from the model, tested like real ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.anomaly import ScanWindows
from models.base import Float32, Float64, Pieces, as_dense
from models.bootstrap import VARIANTS, draw_null
from models.noise import NoiseModel
from models.tail import NullTail
from models.visits import Visits

if TYPE_CHECKING:
    from models.published import Published

_ONE_IN = 64
_MOST_WAITING = 64
_POOL = 8192
_ROWS = 4
_REFIT = 256
_VALUES = 1 << 17
_SURE = 4.0
_REMEMBERED = 2048.0
_SUSPECT = 1e-3
_BIASED = 1.0


@dataclass(frozen=True)
class Sample:
    """Spectra (n, D) as measured, of some visits (n,) each, with the backgrounds (n, D) that the model leaves out."""

    spectra: Float32
    visits: Float64
    background: Float32 | None = None

    def take(self, rows: NDArray[Any] | slice) -> Sample:
        """Some of them."""
        background = None if self.background is None else self.background[rows]
        return Sample(self.spectra[rows], self.visits[rows], background)

    def joined(self, other: Sample) -> Sample:
        """Both."""
        background = None
        if self.background is not None and other.background is not None:
            background = np.concatenate([self.background, other.background])
        spectra = np.concatenate([self.spectra, other.spectra])
        return Sample(spectra, np.concatenate([self.visits, other.visits]), background)


@dataclass(frozen=True)
class _Fit:
    """A sample under a published basis: shrunk scores (n, K) and exposures (n,)."""

    sample: Sample
    scores: Float32
    exposure: Float64

    def take(self, rows: NDArray[Any] | slice) -> _Fit:
        """Some of them."""
        return _Fit(self.sample.take(rows), self.scores[rows], self.exposure[rows])

    def expected(self, published: Published) -> Float32:
        """Expected spectra as measured (n, D), not negative."""
        net = self.scores @ published.eigenspectra
        gross = net if self.sample.background is None else net + self.sample.background
        return np.asarray(np.maximum(gross, 0.0), dtype=np.float32)

    def score(self, published: Published) -> Float32:
        """Anomaly scores (n,)."""
        sample = self.sample
        known = self.scores, self.exposure, sample.visits, None, sample.background
        return published.test(sample.spectra, *known)[0]

    def unrest(self, published: Published) -> Float64:
        """How much the windows of each scatter, (n,)."""
        sample = self.sample
        return published.test.unrest(sample.spectra, self.scores, self.exposure, sample.visits, sample.background)


@dataclass(frozen=True)
class Spread:
    """Number, sum and sum of squares of positive values."""

    n: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def joined(self, values: Float64, weight: float, fade: float) -> Spread:
        """With further values of this weight, the earlier ones counting less."""
        return Spread(
            fade * self.n + weight * values.size,
            fade * self.total + weight * float(values.sum()),
            fade * self.squares + weight * float((values**2).sum()),
        )

    @property
    def mean(self) -> float:
        """Mean, 0 of nothing."""
        return self.total / self.n if self.n else 0.0

    def error2(self, least: float) -> float:
        """Squared relative error of a positive mean, of values whose relative variance is at least so much."""
        relative = self.squares / self.n / self.mean**2 - 1.0
        return max(relative, least) / self.n


class NullPool:
    """p-values of anomaly scores by a parametric bootstrap, and how much noisier the data are than the noise model.

    One spectrum in 64 is kept. The model's expectation of it is taken for the truth, null spectra are drawn from that,
    and each goes through projection, shrinkage and test as if it had been measured: what estimating its scores costs
    is in the p-values. How much more (or less) residuals of real spectra scatter than those of drawn ones is the
    dispersion; scores are divided by it. For a Poisson count n with expectation b, (n - b)^2 - n is four times the
    product of the residuals of its two halves, averaged over all ways to split it by coin: the dispersion is what
    thinned pairs show, without throwing coins.

    Deterministic: draws are seeded by their running number.
    """

    def __init__(self, windows: ScanWindows) -> None:
        self._windows = windows
        self._waiting: Sample | None = None
        self._job: Pieces[None] | None = None
        self._slices = 0
        self._forget(None)

    def _forget(self, noise: NoiseModel | None) -> None:
        """Begin anew for this noise."""
        self._noise = noise
        self._seen = 0
        self._score: Float32 = np.zeros(0, dtype=np.float32)
        self._weight: Float64 = np.zeros(0)
        self._exposure: Float64 = np.zeros(0)
        self._found, self._drawn = Spread(), Spread()
        self._tail: NullTail | None = None
        self._fresh = 0
        self.dispersion = 1.0

    @property
    def n_waiting(self) -> int:
        """Spectra kept, of which nothing was drawn yet."""
        return 0 if self._waiting is None else len(self._waiting.spectra)

    @property
    def n_drawn(self) -> int:
        """Null spectra in the pool."""
        return int(self._score.size)

    def sample(self, visits: Visits) -> None:
        """Keep one of 64 single visits, and of the first 64 each; none while there is enough to be done."""
        n, first = visits.total.size, self._seen
        self._seen += n
        if first >= _ONE_IN and -first % _ONE_IN >= n:
            return
        number = np.arange(first, first + n)
        rows = np.flatnonzero((number % _ONE_IN == 0) | (number < _ONE_IN))[: _MOST_WAITING - self.n_waiting]
        if not rows.size:
            return
        spectra = np.asarray(as_dense(visits.block[rows]), dtype=np.float32)
        background = None if visits.background is None else visits.background[rows]
        kept = Sample(spectra if background is None else spectra + background, np.ones(rows.size), background)
        self._waiting = kept if self._waiting is None else self._waiting.joined(kept)

    @property
    def is_behind(self) -> bool:
        """Whether spectra pass that would have been kept."""
        return self.n_waiting >= _MOST_WAITING

    @property
    def wants_work(self) -> bool:
        """Whether `work` would do something."""
        return self._job is not None or self._waiting is not None

    def work(self, published: Published) -> bool:
        """Do one piece of drawing null spectra like some that were kept; False where there are none."""
        if self._job is None:
            waiting, rows = self._waiting, self.rows_at_once
            if waiting is None:
                return False
            self._waiting = waiting.take(slice(rows, None)) if self.n_waiting > rows else None
            self._job = self.draw(published, waiting.take(slice(rows)))
        if next(self._job, self) is self:
            self._job = None
        return True

    def catch_up(self, published: Published, times: int = 1) -> None:
        """Draw at once like some of the spectra that were kept, as many as `work` takes for as many jobs."""
        for _ in range(times):
            while self.work(published) and self._job is not None:
                pass

    @property
    def rows_at_once(self) -> int:
        """Spectra that null spectra are drawn like in one job, whose pieces take less than half a millisecond."""
        return int(np.clip(_VALUES // (VARIANTS**2 * self._windows.n_channels), 1, _ROWS))

    def draw(self, published: Published, sample: Sample, fitted: bool = False) -> Pieces[None]:
        """Draw null spectra like these into the pool, and see how much more the real ones scatter.

        Parameters
        ----------
        fitted : bool
            Whether the basis was fitted on these spectra.
        """
        if published.test.noise != self._noise:
            self._forget(published.test.noise)
        dispersion = self.dispersion
        real = _fit(published, sample, fitted)
        real = real.take(self.p_value(real.score(published) / np.float32(dispersion), real.exposure) > _SUSPECT)
        # What the model cannot express without counts below zero is nothing to draw from.
        ideal = _fit(published, replace(real.sample, spectra=real.expected(published)))
        real = real.take(ideal.score(published) < _BIASED)
        if not real.exposure.size:
            return
        self._slices += 1
        noise, rng = _dispersed(published.test.noise, dispersion), np.random.default_rng(self._slices)
        yield
        expected, visits = real.expected(published), real.sample.visits
        draws = yield from draw_null(expected, visits, VARIANTS, self._windows, noise, rng)
        yield
        drawn = _fit(published, replace(real.sample.take(draws.row), spectra=draws.spectra))
        score = drawn.score(published) / np.float32(dispersion)
        yield
        self._pool(score, draws.weight, drawn.exposure)
        plain = drawn.take(slice(None, None, VARIANTS))
        # Of the noise of spectra that it was fitted on, a basis explains as large a share as it has components to a
        # spectrum; when they came, it did not know them.
        left = 1.0 if fitted else max(0.5, 1.0 - published.basis.rank / max(published.n_spectra, 1.0))
        weight = 1.0 if fitted else min(1.0, published.n_spectra / max(published.scaling.n_effective, 1))
        self._compare(real.unrest(published) / left, plain.unrest(published) / dispersion, weight)
        if self._fresh >= _REFIT:
            yield
            self._refit()

    def _refit(self) -> None:
        self._tail, self._fresh = NullTail.fit(self._score, self._weight, self._exposure), 0

    def _pool(self, score: Float32, weight: Float64, exposure: Float64) -> None:
        self._score = np.concatenate([self._score, score])[-_POOL:]
        self._weight = np.concatenate([self._weight, weight])[-_POOL:]
        self._exposure = np.concatenate([self._exposure, exposure])[-_POOL:]
        self._fresh += score.size

    def _compare(self, found: Float64, drawn: Float64, weight: float) -> None:
        """Dispersion: unrest of real spectra over that of drawn ones, drawn towards 1 as far as it may be chance.

        By the positive part of James and Stein's estimator, with the bound of two standard errors: what is no further
        from 1 is none, and what is beyond doubt is not held back (as by a prior that is worth so many spectra).
        """
        fade = 0.5 if self._found.n > _REMEMBERED else 1.0
        self._found, self._drawn = (
            known.joined(more, weight, fade) for known, more in ((self._found, found), (self._drawn, drawn))
        )
        if not min(self._found.mean, self._drawn.mean) > 0:
            return
        # A spectrum says no more than its windows that do not overlap, each with the variance of a squared normal.
        least = 2.0 * self._windows.n_bins / self._windows.n_windows
        ratio = self._found.mean / self._drawn.mean
        error2 = self._found.error2(least) + self._drawn.error2(least)
        more = ratio - 1.0
        self.dispersion = 1.0 + more * max(0.0, 1.0 - _SURE * error2 / max(more**2, 1e-300))

    def quantiles(self, levels: Float64) -> Float64 | None:
        """Scores below which these shares of null spectra lie; None while there are too few."""
        if self.n_drawn < _REFIT:
            return None
        order = np.argsort(self._score)
        share = np.cumsum(self._weight[order])
        at = np.minimum(np.searchsorted(share, levels * share[-1]), order.size - 1)
        return np.asarray(self._score[order][at], dtype=np.float64)

    def p_value(self, score: Float32, exposure: Float64) -> Float64:
        """Chance (n,) that a null spectrum of this exposure has a score (over the dispersion) at least this high.

        Before anything was drawn: Chernoff's bound for each window, Bonferroni's over windows.
        """
        if self._fresh and self._tail is None:
            self._refit()
        if self._tail is None:
            return np.asarray(np.minimum(1.0, self._windows.n_windows * np.exp(-score.astype(np.float64))))
        return self._tail.p_value(score, exposure)


def _fit(published: Published, sample: Sample, fitted: bool = False) -> _Fit:
    spectra, noise = sample.spectra, published.test.noise
    exposure = noise.row_variance(spectra.sum(axis=1, dtype=np.float64), sample.visits, spectra.shape[1])
    raw = published.project(spectra if sample.background is None else spectra - sample.background)
    return _Fit(sample, published.shrinkage.apply(raw, exposure, fitted=fitted), exposure)


def _dispersed(noise: NoiseModel, dispersion: float) -> NoiseModel:
    """The noise with its variance multiplied."""
    gain, read = dispersion * noise.gain, float(np.sqrt(dispersion)) * noise.read_sigma
    return replace(noise, gain=gain, read_sigma=read)
