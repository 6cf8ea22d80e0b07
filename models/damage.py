"""Damage by the beam: what a phase loses from visit to visit of the same positions, found early and told as a dose.

A visit is compared with all counts of its position together, its own included. Where nothing is damaged, each count
fell into this visit with the probability f of its share of the dwell, whatever the position is and whatever was
concluded from the counts of all visits together: so positions may be sorted into phases by their counts without the
choice making a difference of its own, and a raster that comes from one phase to another shows nothing.

Where the amount of a phase falls as exp(-dose / De), the share of a visit of dose t after a dose D0 is
f(De) = (exp(-D0/De) - exp(-(D0+t)/De)) / (1 - exp(-(D0+t)/De)), again whatever the brightness of the position.
Its score at no damage is the test; its least-squares fit over dose gives De.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from models.base import Float64

_BINS_PER_OCTAVE, _MOST_BINS, _MOST_OCTAVES = 4, 64, 16
_STEPS, _TOLERANCE = 50, 1e-9
_ALIKE = 1e-3
_TRACE = 1e-3
"""Part of its counts that a position is sure to have of its phase, however few they are."""
_LESS_LIKELY = 9.0
"""Units of chi-squared by which a hypothesis is worse: three standard deviations."""


@dataclass(frozen=True)
class DamageConfig:
    """Settings of the damage test.

    Attributes
    ----------
    false_alarms : float
        Probability that one look at one phase without damage reports some.
    loss : float
        Relative loss until which the dose left is told.
    """

    false_alarms: float = 1e-6
    loss: float = 0.05


@dataclass(frozen=True)
class Damage:
    """What a phase loses.

    Attributes
    ----------
    phase : int
        Place among the phases that were tested; `DamageFeed` tells the phase's number, -1 before there are phases.
    statistic, threshold : float
        Of the more telling of two tests at the positions of the phase: chi-squared of the changes of all amounts, or
        the square of the loss of its own amount, in standard errors, the others being as they were.
    rate, rate_error : float
        Relative loss of the phase's own amount per unit of dose, 1 / De, with its standard error; negative: it grows.
    dose : float
        Mean dose that the phase's positions have had.
    dose_left : float
        Dose until the loss that was asked for; 0 where it is reached, infinite where nothing is lost.
    kind : {'damage', 'intensity'}
        'intensity' where all phases lose alike, within errors: then beam or detector may have changed.
    """

    phase: int
    statistic: float
    threshold: float
    rate: float
    rate_error: float
    dose: float
    dose_left: float
    kind: Literal["damage", "intensity"]

    @property
    def dose_constant(self) -> float:
        """Dose after which 1/e is left; infinite where nothing is lost."""
        return 1.0 / self.rate if self.rate > 0 else float("inf")

    @property
    def dose_constant_error(self) -> float:
        """Standard error of the dose constant."""
        return self.rate_error / self.rate**2 if self.rate > 0 else float("inf")

    @property
    def lost(self) -> float:
        """Part of the phase's amount that is gone at its mean dose."""
        return float(-np.expm1(-self.dose * max(self.rate, 0.0)))


@dataclass(frozen=True)
class Repeats:
    """Visits (n,) to positions that were visited before; second halves of a dwell are repeats of the first ones.

    Attributes
    ----------
    posterior : ndarray, (n, M)
        Probabilities of the phases, from all counts of the position, those of the visit included.
    fresh, total : ndarray, (n, M)
        Amounts of the phases in the counts of the visit, and in all counts; any fixed linear function of counts.
    counts : ndarray, (n,)
        Counts of the position in all.
    dose_before, dose : ndarray, (n,)
        Dose of the position before the visit, and of the visit.
    """

    posterior: Float64
    fresh: Float64
    total: Float64
    counts: Float64
    dose_before: Float64
    dose: Float64


class DamageMonitor:
    """Sums of what repeats show, by phase; memory does not grow.

    Parameters
    ----------
    covariance : ndarray, (M, M, M)
        Covariance of the amounts in one count of each phase: sum over channels of endmember * readout * readout', the
        end-member of unit sum.
    config : DamageConfig, optional
    """

    def __init__(self, covariance: Float64, config: DamageConfig | None = None) -> None:
        self.config = config or DamageConfig()
        m = len(covariance)
        self._unit = covariance
        self._score: Float64 = np.zeros((m, m))
        self._variance: Float64 = np.zeros((m, m, m))
        # By dose before in doses of the visit, and by octaves of the whole dose: amounts of the visit and in all,
        # variance, what the visit has of all by its dose, and that times the dose before. The last two keep what is
        # expected exact to first order in the rate, however different the doses in a bin are.
        self._bins: Float64 = np.zeros((m, _MOST_BINS * _MOST_OCTAVES, 5))
        self._smallest = 0.0
        self._latest: Float64 = np.zeros((m, 2))

    def add(self, repeats: Repeats) -> None:
        """Take repeats; visits without a dose before or of their own say nothing."""
        told = (repeats.dose_before > 0) & (repeats.dose > 0) & (repeats.counts > 0)
        before, dose, weight = repeats.dose_before[told], repeats.dose[told], repeats.posterior[told]
        share = dose / (before + dose)
        total, counts = repeats.total[told], repeats.counts[told]
        surprise = repeats.fresh[told] - share[:, None] * total
        # The best weight of a visit is half of the dose so far; what would then be seen goes with the dose before.
        reach = 0.5 * (before + dose)
        self._score += (weight * reach[:, None]).T @ surprise
        # Counts of a mixture scatter otherwise than those of the phase that makes up most of it.
        composition = np.maximum(total, 0.0) + _TRACE * counts[:, None] * weight
        composition *= (counts / np.maximum(composition.sum(axis=1), 1e-300))[:, None]
        chance = (reach**2 * share * (1.0 - share))[:, None] * composition
        self._variance += np.einsum("kj,jab->kab", (weight**2).T @ chance, self._unit)
        number = self._bin_of(before, dose)
        unit = composition @ self._unit.diagonal(axis1=1, axis2=2)
        own = weight * total
        parts = (
            weight * repeats.fresh[told], own, weight**2 * unit, own * share[:, None],
            own * (share * before)[:, None],
        )  # fmt: skip
        np.add.at(self._bins.swapaxes(0, 1), number, np.stack(parts, axis=-1))
        self._latest += np.stack([weight.sum(axis=0), weight.T @ (before + dose)], axis=1)

    def _bin_of(self, before: Float64, dose: Float64) -> NDArray[np.int64]:
        """Number of the bin (n,) of each visit."""
        whole = before + dose
        if not self._smallest:
            self._smallest = float(whole.min(initial=np.inf)) if whole.size else 0.0
        by_ratio = np.clip(np.rint(_BINS_PER_OCTAVE * np.log2(whole / dose)), 0, _MOST_BINS - 1)
        octave = np.clip(np.floor(np.log2(whole / (self._smallest or 1.0))), 0, _MOST_OCTAVES - 1)
        return np.asarray(by_ratio * _MOST_OCTAVES + octave, dtype=np.int64)

    def found(self) -> list[Damage]:
        """Phases that change, as far as can be told now."""
        m = len(self._unit)
        # Two tests share the false alarms. The second is one-sided, and sees a phase that fades with fewer counts.
        share = self.config.false_alarms / (2 * m)
        thresholds = np.array([chi2.isf(share, m), norm.isf(share) ** 2])
        statistics = np.array([self._statistics(k) for k in range(m)])
        fits = [self._fit(k) for k in range(m)]
        kind: Literal["damage", "intensity"] = "intensity" if _all_alike(fits) else "damage"
        telling = np.argmax(statistics / thresholds, axis=1)
        return [
            self._damage(k, float(statistics[k, which]), float(thresholds[which]), *fits[k], kind)
            for k, which in enumerate(telling.tolist())
            if statistics[k, which] > thresholds[which]
        ]

    def _statistics(self, phase: int) -> tuple[float, float]:
        """Chi-squared of all changes, and that part of it which is a loss of the phase's own amount alone."""
        if not self._variance[phase].any():
            return 0.0, 0.0
        inverse = np.linalg.pinv(self._variance[phase], hermitian=True)
        weighted = inverse @ self._score[phase]
        lost = max(0.0, -float(weighted[phase])) / np.sqrt(max(float(inverse[phase, phase]), 1e-300))
        return float(self._score[phase] @ weighted), float(lost**2)

    def _fit(self, phase: int) -> tuple[float, float]:
        """Rate of loss 1 / De of the phase's own amount and its standard error (infinite: nothing is known)."""
        bins = self._bins[phase]
        fresh, total, variance, expected, weighted = bins[
            (bins[:, 2] > 0) & (bins[:, 3] > 0) & (bins[:, 3] < bins[:, 1])
        ].T
        nominal, before = expected / total, weighted / expected
        dose = before * nominal / (1.0 - nominal)
        weight = 1.0 / (variance * nominal * (1.0 - nominal))
        rate, information = 0.0, 0.0
        for _ in range(_STEPS if fresh.size else 0):
            expected, slope = _share(before, dose, rate)
            information = float((weight * (total * slope) ** 2).sum())
            if not information > 0:
                break
            step = float((weight * total * slope * (fresh - total * expected)).sum()) / information
            # A step over more than the doses that were seen would leave what the data can tell.
            most = 1.0 / float((before + dose).max())
            rate += float(np.clip(step, -most, most))
            if abs(step) < _TOLERANCE * most:
                break
        return rate, 1.0 / np.sqrt(information) if information > 0 else float("inf")

    def _damage(
        self, phase: int, statistic: float, threshold: float, rate: float, error: float,
        kind: Literal["damage", "intensity"],
    ) -> Damage:  # fmt: skip
        visits, doses = self._latest[phase]
        dose = float(doses / max(visits, 1e-300))
        left = float("inf") if rate <= 0 else max(0.0, -np.log1p(-self.config.loss) / rate - dose)
        return Damage(phase, statistic, threshold, rate, error, dose, float(left), kind)


def _share(before: Float64, dose: Float64, rate: float) -> tuple[Float64, Float64]:
    """Share of a visit in what a position gave in all, at a rate of loss, and its derivative by the rate."""
    whole = before + dose
    x, y = rate * before, rate * whole
    if np.abs(y).max(initial=0.0) < 1e-4:
        share = dose / whole
        return share * (1.0 - 0.5 * x), -0.5 * share * before
    fading, last, all_of_it = np.exp(-x), np.exp(-y), -np.expm1(-y)
    share = (fading - last) / all_of_it
    slope = (-before * fading + whole * last - share * whole * last) / all_of_it
    return share, slope


def _all_alike(fits: list[tuple[float, float]]) -> bool:
    """Whether two phases or more are known to lose, and all at rates that differ by no more than chance.

    A phase of which little is known yet may lose like the others, or not at all: that only one loses must explain the
    rates much worse than that all do.
    """
    rates, errors = np.array([f for f in fits if np.isfinite(f[1])]).reshape(-1, 2).T
    if rates.size < 2:
        return False
    weight = 1.0 / errors**2
    mean = float((weight * rates).sum() / weight.sum())
    spread = float((weight * (rates - mean) ** 2).sum())
    squares = weight * rates**2
    spread_of_one = float(squares.sum() - squares.max())
    telling = np.count_nonzero(rates > 3.0 * errors)
    return bool(telling >= 2 and chi2.sf(spread, rates.size - 1) > _ALIKE and spread_of_one > spread + _LESS_LIKELY)


def readouts(endmembers: NDArray[np.floating]) -> tuple[Float64, Float64]:
    """Readouts (D, M) that give the amounts of end-members (M, D) in counts, and their covariances (M, M, M).

    Weighted least squares with the variance of the mean end-member: linear, so that amounts of visits add up, which
    the best (Poisson) fit of each spectrum is not.
    """
    shapes = np.asarray(endmembers, dtype=np.float64)
    shapes = shapes / shapes.sum(axis=1, keepdims=True)
    mean = shapes.mean(axis=0)
    weighted = shapes * np.divide(1.0, mean, out=np.zeros_like(mean), where=mean > 0)
    matrix = weighted.T @ np.linalg.pinv(weighted @ shapes.T, hermitian=True)
    return matrix, np.einsum("md,da,db->mab", shapes, matrix, matrix)
