"""Which known phase a spectrum is of, with calibrated probabilities, or none of them.

A reference is worth so many counts: in each channel it tells a gamma distribution, under which counts are negative
binomial. What a reference does not know about its own phase is not held against a spectrum. 'None of these' is decided
by goodness of fit, not by probability: an unknown phase is always most like one of the known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from scipy.special import gammaincc, gammaln, logsumexp, xlogy

from models.base import Counts, Float64
from models.library import Library
from models.mixture import equivalent_counts, fit_mixtures, poisson_deviance
from models.noise import POISSON, NoiseModel

NONE = -1
SIGNIFICANCE = 1e-3
"""A spectrum that fits worse than all but this share of its phase's own spectra is of none."""
_PRIOR_COUNTS = 1.0
_PRIOR_SHARE = 1e-6
"""A channel that a reference has nothing in has at least this share of its mean channel."""
_SURE = 0.01
_LEAST_COUNTS = 10.0
"""Fewer cannot tell that they are of none."""
_BINS_PER_FWHM = 3
_BLOCK_VALUES = 1 << 20
_MANY = 60.0


@dataclass(frozen=True)
class Classification:
    """What n spectra are.

    Attributes
    ----------
    labels : i4[n]
        Index of the phase's name, the largest share of a mixed position, or `NONE`.
    probabilities : f8[n, K]
        Of each known phase, if it is one of them; of a mixed position the shares of its counts.
    p_value : f8[n]
        Of the goodness of fit of what was decided (for `NONE`, of the best that was tried).
    mixed : bool[n]
        No phase alone explains the spectrum, several together do.
    """

    labels: NDArray[np.int32]
    probabilities: Float64
    p_value: Float64
    mixed: NDArray[np.bool_]


class Classifier:
    """A library made ready for spectra on one axis.

    Parameters
    ----------
    library : Library
        Of whole spectra.
    values : f8[D]
        Channel centres.
    units : str
    peak_width : float
        FWHM of a typical peak in channels.

    Raises
    ------
    ValueError
        Where the library does not fit the axis.
    """

    def __init__(self, library: Library, values: Float64, units: str, peak_width: float) -> None:
        spectra = library.on_axis(values, units)
        self.names, self._owner = library.names, library.of_reference
        self._fine = _starts(values.size, peak_width / _BINS_PER_FWHM)
        self._coarse = _starts(self._fine.size, _BINS_PER_FWHM)
        fine = np.add.reduceat(spectra, self._fine, axis=1)
        self._shape = fine / fine.sum(axis=1, keepdims=True)
        self._worth = np.array([r.counts for r in library.references])
        # Gamma posterior of each channel: its own counts, and a prior worth one count from its neighbourhood.
        own = self._shape * self._worth[:, None]
        around = uniform_filter1d(own, 2 * _BINS_PER_FWHM + 1, axis=1, mode="nearest")
        around = np.maximum(around, _PRIOR_SHARE * own.mean(axis=1, keepdims=True))
        self._known = own + _PRIOR_COUNTS
        mean = self._known / (1.0 + _PRIOR_COUNTS / around)
        self._mean = mean / mean.sum(axis=1, keepdims=True)

    def classify(
        self, spectra: Counts, noise: NoiseModel = POISSON, visits: NDArray[Any] | float = 1.0
    ) -> Classification:
        """Classify spectra (n, D), each the sum of `visits` (n,)."""
        rows = max(1, _BLOCK_VALUES // (spectra.shape[1] * max(1, len(self._owner))))
        times = np.broadcast_to(np.asarray(visits, dtype=np.float64), (spectra.shape[0],))
        n, found = spectra.shape[0], []
        for first in range(0, n, rows):
            part = slice(first, first + rows)
            counts, pedestal = equivalent_counts(spectra[part], noise, times[part])
            fine = np.add.reduceat(counts, self._fine, axis=1)
            widths = np.diff(np.append(self._fine, counts.shape[1]))
            found.append(self._block(fine, pedestal[:, None] * widths))
        if not found:
            empty = np.zeros(0)
            return Classification(empty.astype(np.int32), np.zeros((0, len(self.names))), empty, empty.astype(bool))
        parts = (np.concatenate(column) for column in zip(*found, strict=True))
        return Classification(*parts)

    def _block(self, counts: Float64, pedestal: Float64) -> tuple[Any, ...]:
        likelihood = self._log_likelihood(counts, pedestal)
        best_reference = np.argmax(likelihood, axis=1)
        probabilities = self._posterior(likelihood)
        labels = np.argmax(probabilities, axis=1).astype(np.int32)
        signal = np.maximum(counts.sum(axis=1) - pedestal.sum(axis=1), 0.0)
        shape, worth = self._shape[best_reference], self._worth[best_reference]
        p_value = self._goodness(counts - pedestal, signal[:, None] * shape, pedestal, signal / worth, 1)
        mixed = np.zeros(len(counts), dtype=bool)
        doubtful = np.flatnonzero((p_value < SIGNIFICANCE) & (signal >= _LEAST_COUNTS))
        if doubtful.size:
            p_mixed, shares = self._mixture(counts[doubtful], pedestal[doubtful])
            several = (p_mixed >= SIGNIFICANCE) & (np.count_nonzero(shares > 0, axis=1) > 1)
            mixed[doubtful] = several
            probabilities[doubtful[several]] = shares[several]
            labels[doubtful] = np.where(several, np.argmax(shares, axis=1), NONE)
            p_value[doubtful] = np.maximum(p_value[doubtful], p_mixed)
        return labels, probabilities, p_value, mixed

    def _log_likelihood(self, counts: Float64, pedestal: Float64) -> Float64:
        """Negative binomial log likelihood (n, R), up to what all references share."""
        signal = np.maximum(counts.sum(axis=1) - pedestal.sum(axis=1), 1e-9)[:, None]
        if signal.max() < _SURE * self._worth.min() and not pedestal.any():
            # References that know so much more than the spectra: Poisson, by one matrix product.
            return np.asarray(counts @ np.log(self._mean).T)
        out = np.empty((len(counts), len(self._mean)))
        for k, (mean, known) in enumerate(zip(self._mean, self._known, strict=True)):
            expected = signal * mean + pedestal
            # A pedestal is known: the relative error is that of the signal alone.
            shape = known * (expected / (signal * mean)) ** 2
            out[:, k] = _negative_binomial(counts, expected, shape).sum(axis=1)
        return out

    def _posterior(self, likelihood: Float64) -> Float64:
        """Probabilities (n, K) with equal priors of the names; several spectra of one name share its prior."""
        per_name = np.bincount(self._owner, minlength=len(self.names))
        weighted = likelihood - np.log(per_name[self._owner])
        classes = [logsumexp(weighted[:, self._owner == k], axis=1) for k in range(len(self.names))]
        logits = np.stack(classes, axis=1)
        return np.asarray(np.exp(logits - logsumexp(logits, axis=1, keepdims=True)))

    def _goodness(self, signal: Float64, expected: Float64, pedestal: Float64, doubt: Float64, fitted: int) -> Float64:
        """P-value (n,) of the deviance over bins of a peak's width.

        `doubt` (n,) is counts over the reference's own: expected counts are pooled from both, as in a test of two
        samples, or a count where the reference happens to have none would be impossible.
        """
        x, mean, base = (np.add.reduceat(a, self._coarse, axis=1) for a in (signal, expected, pedestal))
        share = (doubt / (1.0 + doubt))[:, None]
        pooled = np.maximum((1 - share) * mean + share * x, 1e-9) + base
        # The reference's half of the two samples: it has mean / doubt counts where pooled / doubt are expected.
        each = poisson_deviance(x + base, pooled)
        own = poisson_deviance(mean + base, pooled)
        each += np.divide(own, doubt[:, None], out=np.zeros_like(own), where=doubt[:, None] > 0)
        moments = deviance_moments(pooled)
        return gamma_tail(each.sum(axis=1), moments[0].sum(axis=1) - fitted, moments[1].sum(axis=1))

    def _mixture(self, counts: Float64, pedestal: Float64) -> tuple[Float64, Float64]:
        """P-value (n,) of the best mixture, and shares (n, K) of the counts."""
        flat = pedestal.mean(axis=1)
        fit = fit_mixtures(counts, self._shape, flat)
        signal = fit.amounts.sum(axis=1)
        doubt = (fit.amounts / self._worth).sum(axis=1)
        base = np.broadcast_to(flat[:, None], counts.shape)
        significant = np.where(fit.amounts > 2 * fit.errors, fit.amounts, 0.0)
        shares = np.zeros((len(counts), len(self.names)))
        np.add.at(shares.T, self._owner, significant.T)
        shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-300)
        fitted = int(np.median(np.count_nonzero(significant, axis=1))) if signal.size else 1
        return self._goodness(counts - base, fit.amounts @ self._shape, base, doubt, max(fitted, 1)), shares


def classify(
    spectra: Counts,
    library: Library,
    values: Float64,
    units: str,
    peak_width: float,
    noise: NoiseModel = POISSON,
    visits: NDArray[Any] | float = 1.0,
) -> Classification:
    """Classify spectra (n, D) in counts by a library of whole spectra; see `Classifier`."""
    return Classifier(library, values, units, peak_width).classify(spectra, noise, visits)


def _negative_binomial(x: Float64, mean: Float64, shape: Float64) -> Float64:
    """Log probability of counts of this mean whose own mean is gamma distributed, without the x! that all share."""
    both = shape + mean
    return np.asarray(_rising(shape, x) - x * np.log(both / mean) - shape * np.log(both / shape))


def _rising(alpha: Float64, x: Float64) -> Float64:
    """Log of Gamma(alpha + x) / Gamma(alpha); by Stirling's series where alpha is large, which costs a tenth."""
    top = alpha + x
    series = (top - 0.5) * np.log(top / alpha) + x * (np.log(alpha) - 1) + (1 / top - 1 / alpha) / 12
    small = (alpha < _MANY) & (x > 0)
    if small.any():
        series[small] = gammaln(top[small]) - gammaln(alpha[small])
    return np.where(x > 0, series, 0.0)


def _starts(n: int, width: float) -> NDArray[np.int64]:
    """First channels of bins of a whole number of channels, at least one."""
    return np.arange(0, n, max(1, round(width)), dtype=np.int64)


@lru_cache(maxsize=1)
def _moment_table() -> tuple[Float64, Float64, Float64]:
    """Mean and variance of the deviance of a Poisson variable, over the log of its mean."""
    means = np.geomspace(1e-6, _MANY, 400)
    k = np.arange(int(_MANY + 12 * np.sqrt(_MANY)) + 30)
    weight = np.exp(xlogy(k, means[:, None]) - means[:, None] - gammaln(k + 1))
    each = poisson_deviance(np.broadcast_to(k.astype(np.float64), weight.shape), np.repeat(means[:, None], k.size, 1))
    first = (weight * each).sum(axis=1)
    return np.log(means), first, (weight * each**2).sum(axis=1) - first**2


def deviance_moments(expected: Float64) -> tuple[Float64, Float64]:
    """Mean and variance of the deviance in each channel, by its expected counts: 1 and 2 where they are many."""
    place, mean, variance = _moment_table()
    at = np.log(np.clip(expected, 1e-6, _MANY))
    # Barlett's correction goes on where the table ends.
    beyond = expected > _MANY
    first = np.where(beyond, 1 + 1 / (6 * np.maximum(expected, 1.0)), np.interp(at, place, mean))
    second = np.where(beyond, 2 + 2 / (3 * np.maximum(expected, 1.0)), np.interp(at, place, variance))
    return first, second


def gamma_tail(value: Float64, mean: Float64, variance: Float64) -> Float64:
    """Probability of at least `value` under the gamma distribution of this mean and variance."""
    safe_mean, safe_variance = np.maximum(mean, 1e-9), np.maximum(variance, 1e-12)
    return np.asarray(gammaincc(safe_mean**2 / safe_variance, np.maximum(value, 0.0) * safe_mean / safe_variance))
