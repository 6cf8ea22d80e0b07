"""A powder pattern with everything that is not known about it, and its fit to Poisson counts.

Expected counts are a falling background, broad humps of glass, and lines of crystals whose places move with strain and
zero error, whose widths are fitted, and whose intensities may each be off by texture. Every parameter has a prior, so
that a fit is a maximum of the posterior, and a Laplace approximation there gives the evidence of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Float64

_DECAYS = (0.0, 1.0, 2.5, 6.0)
"""Backgrounds are sums of exp(-k s), s from 0 to 1 along the axis: completely monotone, so that a hump is none."""
_BACKGROUND_SD = 3.0
_AMOUNT_SD = 2.5
_STRAIN_SD = 0.004
_ZERO_SD_DEG = 0.03
_TEXTURE_SD = 0.5
_FWHM_DEG, _FWHM_SD = 0.15, 0.6
_SLOPE_SD, _CURVE_SD = 0.5, 0.3
_PHASE_WIDTH_SD = 0.3
_HUMP_FWHM_DEG, _HUMP_SD = 7.0, 0.35
_ETA_SD = 0.2
_REACH_FWHM = 25.0
_OUTSIDE_DEG = 3.0
"""Lines so far outside the axis still send their tails into it."""
_MOST_TEXTURED = 24
_LEAST = 1e-9
_MAX_STEPS = 30


@dataclass(frozen=True, eq=False)
class Lines:
    """Reflections of a phase: spacings in angstrom and integrated intensities, f8[L].

    The first `n_inside` lie on the axis, strongest first; the others only send tails into it.
    """

    name: str
    d_a: Float64
    intensities: Float64
    n_inside: int

    @property
    def total(self) -> float:
        """Sum of the intensities on the axis."""
        return float(self.intensities[: self.n_inside].sum())


@dataclass(frozen=True, eq=False)
class Shape:
    """A broad pattern of a phase, f8[D], of unit sum."""

    name: str
    counts: Float64


@dataclass(frozen=True)
class Hump:
    """A broad hump of something amorphous, first guessed at `centre_deg`."""

    centre_deg: float


Part = Lines | Shape | Hump


@dataclass(frozen=True, eq=False)
class Scan:
    """Counts on an axis of two theta: centres f8[D] in degrees, rising, radiation in angstrom, pedestal a channel."""

    two_theta_deg: Float64
    counts: Float64
    wavelength_a: float
    pedestal: float = 0.0
    step_deg: float = field(init=False)
    place: Float64 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        axis = self.two_theta_deg
        object.__setattr__(self, "step_deg", float((axis[-1] - axis[0]) / (axis.size - 1)))
        object.__setattr__(self, "place", (axis - axis[0]) / (axis[-1] - axis[0]))

    @property
    def total(self) -> float:
        """All counts, at least one."""
        return max(float(self.counts.sum()) - self.pedestal * self.counts.size, 1.0)

    def lines(self, name: str, d_a: Float64, intensities: Float64) -> Lines:
        """Lines of a phase as they concern this axis."""
        sine = self.wavelength_a / (2 * d_a)
        angle = np.degrees(2 * np.arcsin(np.minimum(sine, 1.0)))
        low, high = float(self.two_theta_deg[0]), float(self.two_theta_deg[-1])
        inside = (sine < 1) & (angle > low) & (angle < high)
        near = (sine < 1) & (angle > low - _OUTSIDE_DEG) & (angle < high + _OUTSIDE_DEG) & ~inside
        order = np.flatnonzero(inside)[np.argsort(-intensities[inside], kind="stable")]
        order = np.concatenate([order, np.flatnonzero(near)])
        return Lines(name, d_a[order], intensities[order], int(np.count_nonzero(inside)))


def bragg_deg(d_a: Float64, wavelength_a: float, strain: float | Float64 = 0.0) -> Float64:
    """Two theta of spacings that are stretched by a strain, degrees."""
    return np.asarray(np.degrees(2 * np.arcsin(np.minimum(wavelength_a / (2 * d_a * (1 + strain)), 1.0))))


def profiles(away_deg: Float64, fwhm: Float64, eta: float) -> tuple[Float64, Float64, Float64, Float64]:
    """Pseudo-Voigt lines (L, K) of unit area at distances (L, K) from their centres.

    Returns
    -------
    Value, and derivatives by centre, by log FWHM and by the Lorentzian share `eta`.
    """
    away = away_deg / fwhm[:, None]
    gauss = np.exp(-4 * np.log(2) * away**2) * (2 * np.sqrt(np.log(2) / np.pi) / fwhm[:, None])
    bell = 1.0 / (1.0 + 4 * away**2)
    lorentz = bell * (2 / np.pi / fwhm[:, None])
    value = eta * lorentz + (1 - eta) * gauss
    steep = 8 * (eta * lorentz * bell + (1 - eta) * gauss * np.log(2)) * away
    return value, steep / fwhm[:, None], steep * away - value, lorentz - gauss


@dataclass(frozen=True, eq=False)
class Jacobian:
    """Derivatives of the expected counts: rows (P, D), of which those for single lines are short."""

    dense: Float64
    short: sparse.csr_array
    of_dense: NDArray[np.int64]
    of_short: NDArray[np.int64]

    def __matmul__(self, channels: Float64) -> Float64:
        out = np.empty(self.of_dense.size + self.of_short.size)
        out[self.of_dense], out[self.of_short] = self.dense @ channels, self.short @ channels
        return out

    def information(self, weight: Float64) -> Float64:
        """Sum over channels of weight times products of rows, (P, P)."""
        out = np.empty((self.of_dense.size + self.of_short.size,) * 2)
        heavy = self.dense * weight
        out[np.ix_(self.of_dense, self.of_dense)] = heavy @ self.dense.T
        crossed = np.asarray(self.short @ heavy.T)
        out[np.ix_(self.of_short, self.of_dense)] = crossed
        out[np.ix_(self.of_dense, self.of_short)] = crossed.T
        weighted = sparse.csr_array(
            (self.short.data * weight[self.short.indices], self.short.indices, self.short.indptr),
            shape=self.short.shape,
        )
        out[np.ix_(self.of_short, self.of_short)] = (weighted @ self.short.T).toarray()
        return out


@dataclass(frozen=True, eq=False)
class Fit:
    """A maximum of the posterior.

    Attributes
    ----------
    parts : sequence of Part
    theta : f8[P]
        All parameters.
    covariance : f8[P, P]
    expected : f8[D]
    evidence : float
        Log of the marginal likelihood, up to what all models of these counts share.
    dispersion : float
        Pearson's chi squared over its degrees of freedom, at least 1: what the model cannot do at high counts.
    """

    parts: Sequence[Part]
    theta: Float64
    covariance: Float64
    expected: Float64
    evidence: float
    dispersion: float


class PatternModel:
    """Expected counts of some parts, with derivatives by every parameter.

    Parameters: log background amplitudes; log width at tan theta = 1/2 and two coefficients of its course, Lorentzian
    share, zero error; then those of each part. Of a part, the first is the log of its amount.
    """

    def __init__(self, scan: Scan, parts: Sequence[Part]) -> None:
        self.scan, self.parts = scan, list(parts)
        self._background = np.stack([np.exp(-k * scan.place) for k in _DECAYS])
        self._background /= self._background.sum(axis=1, keepdims=True)
        level = np.log(scan.total / len(_DECAYS))
        mean, sd = [level] * len(_DECAYS), [_BACKGROUND_SD] * len(_DECAYS)
        mean += [np.log(_FWHM_DEG), 0.0, 0.0, 0.5, 0.0]
        sd += [_FWHM_SD, _SLOPE_SD, _CURVE_SD, _ETA_SD, _ZERO_SD_DEG]
        self.first: list[int] = []
        short: list[int] = []
        for part in self.parts:
            self.first.append(len(mean))
            more_mean, more_sd = self._priors(part)
            mean += more_mean
            sd += more_sd
            if isinstance(part, Lines):
                short += range(self.first[-1] + 3, len(mean))
        self.mean, self.sd = np.array(mean), np.array(sd)
        self._of_short = np.array(short, dtype=np.int64)
        self._of_dense = np.setdiff1d(np.arange(len(mean)), self._of_short)

    @staticmethod
    def width(theta: Float64) -> float:
        """FWHM in the middle of the axis, degrees."""
        return float(np.exp(theta[len(_DECAYS)]))

    def _priors(self, part: Part) -> tuple[list[float], list[float]]:
        guess = float(np.log(0.1 * self.scan.total))
        if isinstance(part, Shape):
            return [guess], [_AMOUNT_SD]
        if isinstance(part, Hump):
            return [guess, part.centre_deg, float(np.log(_HUMP_FWHM_DEG))], [_AMOUNT_SD, 3.0, _HUMP_SD]
        textured = min(part.n_inside, _MOST_TEXTURED)
        mean = [guess - float(np.log(part.total)), 0.0, 0.0] + [0.0] * textured
        return mean, [_AMOUNT_SD, _STRAIN_SD, _PHASE_WIDTH_SD] + [_TEXTURE_SD] * textured

    def block(self, k: int) -> slice:
        """Parameters of part k."""
        ends = [*self.first[1:], self.mean.size]
        return slice(self.first[k], ends[k])

    def expected(self, theta: Float64) -> tuple[Float64, Jacobian]:
        """Expected counts f8[D] and their derivatives."""
        rows = np.zeros((theta.size, self.scan.counts.size))
        n = len(_DECAYS)
        rows[:n] = np.exp(theta[:n])[:, None] * self._background
        total = rows[:n].sum(axis=0) + self.scan.pedestal
        short: list[tuple[Float64, NDArray[np.int64]]] = []
        for k, part in enumerate(self.parts):
            block = self.block(k)
            if isinstance(part, Lines):
                short.append(self._add_lines(part, theta, block, rows))
            else:
                self._add_broad(part, theta[block], rows[block])
            total += rows[block.start]
        return np.maximum(total, _LEAST), Jacobian(
            rows[self._of_dense], self._short(short), self._of_dense, self._of_short
        )

    def _add_broad(self, part: Shape | Hump, theta: Float64, rows: Float64) -> None:
        if isinstance(part, Shape):
            rows[0] = np.exp(theta[0]) * part.counts
            return
        sigma = np.exp(theta[2]) / 2.3548
        away = (self.scan.two_theta_deg - theta[1]) / sigma
        rows[0] = np.exp(theta[0] - 0.5 * away**2) * self.scan.step_deg / (sigma * np.sqrt(2 * np.pi))
        rows[1], rows[2] = rows[0] * away / sigma, rows[0] * (away**2 - 1)

    def _add_lines(self, part: Lines, theta: Float64, block: slice, rows: Float64) -> tuple[Float64, NDArray[np.int64]]:
        """Add a crystal; return its single lines (textured, K) and the channels they lie in."""
        (log_width, slope, curve, eta, zero), own = theta[len(_DECAYS) : len(_DECAYS) + 5], theta[block]
        textured = own.size - 3
        centre = bragg_deg(part.d_a, self.scan.wavelength_a, own[1])
        tangent = np.tan(np.radians(centre / 2))
        course = tangent - 0.5
        fwhm = np.exp(np.clip(log_width + slope * course + curve * course**2 + own[2], -5.0, 2.0))
        texture = np.zeros(part.d_a.size)
        texture[:textured] = own[3:]
        height = (self.scan.step_deg * np.exp(own[0] + texture) * part.intensities)[:, None]
        channels = self._channels(centre + zero, float(fwhm.max()))
        away = self.scan.two_theta_deg[channels] - (centre + zero)[:, None]
        value, steep, wider, longer = (height * each for each in profiles(away, fwhm, eta))
        moved = -2 * np.degrees(tangent) / (1 + own[1])
        start, shared = block.start, len(_DECAYS)
        for row, each in (
            (start, value), (start + 1, moved[:, None] * steep), (start + 2, wider),
            (shared, wider), (shared + 1, course[:, None] * wider), (shared + 2, course[:, None] ** 2 * wider),
            (shared + 3, longer), (shared + 4, steep),
        ):  # fmt: skip
            rows[row] += np.bincount(channels.ravel(), each.ravel(), minlength=rows.shape[1])
        return value[:textured], channels[:textured]

    def _channels(self, centre: Float64, fwhm: float) -> NDArray[np.int64]:
        """Channels (L, K) around each line, as many for each."""
        n = self.scan.counts.size
        k = min(n, 2 * int(_REACH_FWHM * fwhm / self.scan.step_deg) + 1)
        middle = np.rint((centre - self.scan.two_theta_deg[0]) / self.scan.step_deg).astype(np.int64)
        return np.asarray(np.clip(middle - k // 2, 0, n - k)[:, None] + np.arange(k, dtype=np.int64))

    def _short(self, parts: list[tuple[Float64, NDArray[np.int64]]]) -> sparse.csr_array:
        data = np.concatenate([value.ravel() for value, _ in parts]) if parts else np.zeros(0)
        channels = np.concatenate([c.ravel() for _, c in parts]) if parts else np.zeros(0, dtype=np.int64)
        lengths = (
            np.concatenate([np.full(len(c), c.shape[1]) for _, c in parts]) if parts else np.zeros(0, dtype=np.int64)
        )
        ends = np.concatenate([[0], np.cumsum(lengths)])
        return sparse.csr_array((data, channels, ends), shape=(lengths.size, self.scan.counts.size))

    def part_counts(self, theta: Float64) -> Float64:
        """Expected counts of each part, f8[parts, D]."""
        _, jacobian = self.expected(theta)
        # The derivative by the log of an amount is what there is of it.
        rows = np.searchsorted(jacobian.of_dense, self.first)
        return jacobian.dense[rows]

    def strangeness(self, fit: Fit, k: int) -> tuple[float, float]:
        """How far a crystal's lines are from its table: mean square, in the prior's units, of all and of the weak.

        Counted over the lines that the counts say something about; 1 is what the prior allows on average. Lines that
        are too strong may be another phase's; lines that are missing are nobody's.
        """
        textured = slice(self.first[k] + 3, self.block(k).stop)
        away = fit.theta[textured] / self.sd[textured]
        told = 1.0 - np.diagonal(fit.covariance)[textured] / self.sd[textured] ** 2
        n = max(float(told.sum()), 1.0)
        return float((away**2).sum()) / n, float((np.minimum(away, 0.0) ** 2).sum()) / n

    def start(self) -> Float64:
        """Parameters to begin with: the priors' own centres."""
        return self.mean.copy()

    def fit(self, theta: Float64, tolerance: float = 0.1) -> Fit:
        """Climb to the maximum of the posterior (Levenberg and Marquardt, with Fisher's information).

        Parameters
        ----------
        tolerance : float
            Gain of log likelihood below which a step is the last.
        """
        x, damping = self.scan.counts, 1e-2
        expected, jacobian = self.expected(theta)
        score = self._log_posterior(theta, expected)
        for _ in range(_MAX_STEPS):
            gradient = jacobian @ (x / expected - 1.0) - (theta - self.mean) / self.sd**2
            information = self._information(jacobian, expected)
            step = np.linalg.solve(information + damping * np.diag(np.diagonal(information)), gradient)
            # No step beyond two standard deviations of what was thought before any data.
            step /= max(1.0, float(np.abs(step / self.sd).max()) / 2.0)
            tried, tried_jacobian = self.expected(theta + step)
            tried_score = self._log_posterior(theta + step, tried)
            if tried_score >= score:
                gained = tried_score - score
                theta, expected, jacobian, score = theta + step, tried, tried_jacobian, tried_score
                damping = max(damping / 5, 1e-6)
                if gained < tolerance:
                    break
            else:
                damping *= 8
                if damping > 1e6:
                    break
        return self._result(theta, expected, jacobian, score)

    def _result(self, theta: Float64, expected: Float64, jacobian: Jacobian, score: float) -> Fit:
        information = self._information(jacobian, expected)
        # Laplace: the prior's own volume, and that of the posterior.
        evidence = score - 0.5 * float(np.linalg.slogdet(information)[1]) - float(np.log(self.sd).sum())
        chi2 = float(((self.scan.counts - expected) ** 2 / expected).sum())
        dispersion = max(chi2 / max(expected.size - theta.size / 2, 1.0), 1.0)
        covariance = np.asarray(np.linalg.inv(information), dtype=np.float64)
        return Fit(self.parts, theta, covariance, expected, evidence, dispersion)

    def _information(self, jacobian: Jacobian, expected: Float64) -> Float64:
        return jacobian.information(1.0 / expected) + np.diag(self.sd**-2.0)

    def _log_posterior(self, theta: Float64, expected: Float64) -> float:
        away = (theta - self.mean) / self.sd
        return float(self.scan.counts @ np.log(expected) - expected.sum() - 0.5 * away @ away)
