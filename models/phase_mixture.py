"""Mixture of phases, with the mixed spectra between them, seen through noise that is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.base import Float32, Float64, Pieces
from models.composition import CompositionSpace

Pair: TypeAlias = tuple[int, int]
FAINTEST = 1e-9
_MOST_REST = 0.05
_STRANGE_DOUBT = 0.3
"""Part of the spectra explained by nothing that were called wrongly: measured in simulated scans, .1 to .33."""


@dataclass(frozen=True)
class Sample:
    """Some spectra, each for several.

    Attributes
    ----------
    z : ndarray, (n, d)
        Coordinates in a `CompositionSpace`.
    exposure : ndarray, (n,)
        Noise is that of unit exposure over this.
    weight : ndarray, (n,)
        How many spectra each stands for.
    known : ndarray of int, (n,)
        Phase that somebody named for it, -1 where nobody did.
    counts : ndarray of float32, (n, bins), optional
        What was counted, in bins of channels; where there are few counts, they say more than coordinates do.
    """

    z: Float64
    exposure: Float64
    weight: Float64
    known: NDArray[np.int64]
    counts: Float32 | None = None

    @property
    def size(self) -> float:
        """Spectra that it stands for."""
        return float(self.weight.sum())

    def rows(self, some: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Sample:
        """Some of the spectra."""
        counts = None if self.counts is None else self.counts[some]
        return Sample(self.z[some], self.exposure[some], self.weight[some], self.known[some], counts)


@dataclass(frozen=True)
class Cloud:
    """A Gaussian of true compositions.

    In the coordinates y = frame (z - mean) the noise is the unit matrix over the exposure, and the true spread is
    diagonal: spread and noise are diagonalised together, once for all exposures.

    Attributes
    ----------
    mean : ndarray, (d,)
    frame : ndarray, (d, d)
    spread : ndarray, (d,)
        Variance of the true compositions along each y, falling; mostly 0.
    log_volume : float
        Log determinant of the frame.
    """

    mean: Float64
    frame: Float64
    spread: Float64
    log_volume: float

    @classmethod
    def of(cls, mean: Float64, covariance: Float64, noise: Float64) -> Cloud:
        """From the covariances (d, d) of the true compositions, and of noise at unit exposure."""
        white = whitening(noise)
        values, vectors = np.linalg.eigh(white @ covariance @ white.T)
        values, vectors = values[::-1], vectors[:, ::-1]
        return cls.turned(mean, white, vectors, np.where(values > 1e-12, values, 0.0))

    @classmethod
    def turned(cls, mean: Float64, white: Float64, axes: Float64, spread: Float64) -> Cloud:
        """From the matrix that whitens the noise, and axes (columns) and variances of the spread there."""
        return cls(mean, axes.T @ white, spread, float(np.log(np.abs(np.diag(white))).sum()))

    @property
    def n_wide(self) -> int:
        """Axes with a spread of their own."""
        return int(np.count_nonzero(self.spread))

    @cached_property
    def back(self) -> Float64:
        """Inverse of the frame, (d, d)."""
        return np.asarray(np.linalg.inv(self.frame))

    @cached_property
    def covariance(self) -> Float64:
        """Of the true compositions, (d, d)."""
        return np.asarray((self.back * self.spread) @ self.back.T)

    @cached_property
    def noise(self) -> Float64:
        """Covariance (d, d) of noise at unit exposure."""
        return np.asarray(self.back @ self.back.T)


def whitening(covariance: Float64) -> Float64:
    """Triangular matrices that take noise of these covariances (..., d, d) to the unit matrix."""
    return np.asarray(np.linalg.inv(np.linalg.cholesky(covariance)))


@dataclass(frozen=True)
class Mixture:
    """Phases, the mixtures of some pairs of them, and a little that is none of these.

    Attributes
    ----------
    phases : tuple of Cloud
    share : ndarray, (C,)
        Of each phase, pure.
    bridges : dict of float
        Share of the mixtures of a pair (a, b), a < b.
    rest : Cloud
        As wide as all spectra together.
    rest_share : float
    """

    phases: tuple[Cloud, ...]
    share: Float64
    bridges: dict[Pair, float]
    rest: Cloud
    rest_share: float

    @property
    def pairs(self) -> list[Pair]:
        """Pairs that have mixtures, in the order in which they are evaluated."""
        return list(self.bridges)

    @property
    def means(self) -> Float64:
        """Means of the phases, (C, d)."""
        return np.stack([cloud.mean for cloud in self.phases])

    def reordered(self, order: Sequence[int]) -> Mixture:
        """The same with phases in another order."""
        place = {c: k for k, c in enumerate(order)}
        bridges = {(min(place[i], place[j]), max(place[i], place[j])): s for (i, j), s in self.bridges.items()}
        return replace(
            self, phases=tuple(self.phases[c] for c in order), share=self.share[list(order)], bridges=bridges
        )


@dataclass(frozen=True)
class Densities:
    """Log densities of spectra under phases (C, n), mixtures of pairs (B, n), and none of them (n,).

    `second` (B, n) is the probability that the second phase of a pair dominates, given that it is mixed; `third` (C, n)
    that what is none of these is a mixture of three in which a phase dominates, where such mixtures are looked for.
    """

    phases: Float64
    bridges: Float64
    second: Float64
    rest: Float64
    third: Float64 | None = None


class Likelihood(Protocol):
    """How probable spectra are under phases."""

    @property
    def space(self) -> CompositionSpace:
        """Where coordinates are."""
        ...

    @property
    def spreads(self) -> bool:
        """Whether true compositions may be spread within a phase."""
        ...

    def of(self, mixture: Mixture) -> Pieces[Callable[[Sample], Densities]]:
        """Return what evaluates each part of a mixture."""
        ...

    def rows_at_once(self, mixture: Mixture) -> int:
        """Return how many spectra can be evaluated in half a millisecond."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What a mixture says of spectra.

    Attributes
    ----------
    log_density : ndarray, (n,)
    posterior : ndarray, (C + B + 1, n)
        Of each phase pure, of each pair mixed, of none.
    second : ndarray, (B, n)
        Given a mixture of the pair, the probability that its second phase dominates.
    third : ndarray, (C, n)
        Given that it is neither pure nor of a pair, the probability to be of three of which a phase dominates.
    pairs : list of (int, int)
    n_phases : int
    """

    log_density: Float64
    posterior: Float64
    second: Float64
    third: Float64
    pairs: list[Pair]
    n_phases: int

    @property
    def dominant(self) -> Float64:
        """Probability of each phase to make up most of a spectrum, pure or mixed, (C, n)."""
        out = self.posterior[: self.n_phases].copy()
        for b, (i, j) in enumerate(self.pairs):
            mixed = self.posterior[self.n_phases + b]
            out[i] += mixed * (1.0 - self.second[b])
            out[j] += mixed * self.second[b]
        return np.asarray(out + self.posterior[-1] * self.third)

    @property
    def mixed(self) -> Float64:
        """Probability to be a mixture of two phases, or of three where these are looked for, (n,)."""
        return np.asarray(self.posterior[self.n_phases : -1].sum(axis=0) + self.posterior[-1] * self.third.sum(axis=0))

    @property
    def unexplained(self) -> Float64:
        """Probability to be neither a phase nor a mixture of two, nor of three where these are looked for, (n,)."""
        return np.asarray(self.posterior[-1] * np.maximum(1.0 - self.third.sum(axis=0), 0.0))

    @property
    def doubt(self) -> Float64:
        """Probability that another phase than the likeliest one makes up most of a spectrum, (n,).

        What neither a phase nor a mixture explains may still be called rightly.
        """
        return doubt_of(self.dominant, self.unexplained)

    def involving(self, phase: int) -> Float64:
        """Probability of a phase to take part, pure or in a pair, (n,)."""
        rows = [phase, *(self.n_phases + b for b, pair in enumerate(self.pairs) if phase in pair)]
        return np.asarray(self.posterior[rows].sum(axis=0))


def doubt_of(dominant: Float64, unexplained: Float64) -> Float64:
    """Probability of being called wrongly (n,), where each phase makes up most with these probabilities (C, n)."""
    among = 1.0 - dominant.max(axis=0) / np.maximum(dominant.sum(axis=0), 1e-300)
    return np.asarray((1.0 - unexplained) * among + unexplained * np.maximum(among, _STRANGE_DOUBT))


def largest_step(old: Mixture, new: Mixture, space: CompositionSpace) -> float:
    """How far a phase has moved at most, in spreads of noise at unit exposure; infinite if there are more or fewer."""
    if len(old.phases) != len(new.phases):
        return float("inf")
    steps = [
        np.linalg.norm(whitening(space.noise(b.mean)) @ (b.mean - a.mean))
        for a, b in zip(old.phases, new.phases, strict=True)
    ]
    return float(max(steps))


def evaluate(mixture: Mixture, sample: Sample, likelihood: Likelihood) -> Pieces[Evaluation]:
    """Log density of each spectrum, and what it belongs to."""
    densities = yield from likelihood.of(mixture)
    shares = np.concatenate([mixture.share, list(mixture.bridges.values()), [mixture.rest_share]])
    log_shares = np.log(np.maximum(shares, 1e-300))[:, None]
    parts, rows = [], likelihood.rows_at_once(mixture)
    for first in range(0, sample.weight.size, rows):
        parts.append(_posterior(densities, log_shares, sample.rows(slice(first, first + rows))))
        yield
    log_density, posterior, second, third = (np.concatenate(p, axis=-1) for p in zip(*parts, strict=True))
    return Evaluation(log_density, posterior, second, third, mixture.pairs, len(mixture.phases))


def _posterior(
    densities: Callable[[Sample], Densities], log_shares: Float64, sample: Sample
) -> tuple[Float64, Float64, Float64, Float64]:
    found = densities(sample)
    joint = np.concatenate([found.phases, found.bridges, found.rest[None]])
    joint += log_shares
    named = np.flatnonzero(sample.known >= 0)
    if named.size:
        told = joint[sample.known[named], named]
        joint[:, named] = -np.inf
        joint[sample.known[named], named] = told
    top = joint.max(axis=0)
    joint -= top
    np.exp(joint, out=joint)
    total = joint.sum(axis=0)
    joint /= total
    third = np.zeros_like(found.phases) if found.third is None else found.third
    return np.asarray(top + np.log(total)), np.asarray(joint), found.second, third


def refined(mixture: Mixture, sample: Sample, found: Evaluation, likelihood: Likelihood) -> Pieces[Mixture]:
    """One step of expectation-maximisation: shares, means and spreads anew from what the spectra belong to."""
    mass = found.posterior @ sample.weight
    total = float(mass.sum())
    n = len(mixture.phases)
    phases = []
    for c, cloud in enumerate(mixture.phases):
        phases.append(updated(cloud, sample, found.posterior[c] * sample.weight, likelihood.space))
        yield
    bridges = {pair: float(mass[n + b]) / total for b, pair in enumerate(found.pairs)}
    rest_share = min(max(float(mass[-1]), 0.5) / total, _MOST_REST)
    return replace(mixture, phases=tuple(phases), share=mass[:n] / total, bridges=bridges, rest_share=rest_share)


def updated(cloud: Cloud, sample: Sample, mass: Float64, space: CompositionSpace) -> Cloud:
    """A cloud anew from spectra that belong to it with these masses (n,)."""
    near = mass > 1e-6 * max(float(mass.max(initial=0.0)), 1e-300)
    mass, e = mass[near], np.maximum(sample.exposure[near], FAINTEST)
    if float(mass.sum()) < 1e-3:
        return cloud
    # Weighted by what each knows of the mean, along each axis.
    away = (sample.z[near] - cloud.mean) @ cloud.frame.T
    precision = mass[:, None] / (cloud.spread + 1.0 / e[:, None])
    shift = (precision * away).sum(axis=0) / precision.sum(axis=0)
    mean = cloud.mean + np.linalg.solve(cloud.frame, shift)
    white = whitening(space.noise(mean))
    values, vectors, doubt = excess((sample.z[near] - mean) @ white.T, mass, e, float(cloud.spread.mean()))
    return Cloud.turned(mean, white, vectors, np.where(values > doubt, values, 0.0))


def excess(away: Float64, mass: Float64, e: Float64, typical: float = 0.0) -> tuple[Float64, Float64, float]:
    """Variance that noise does not explain: falling values (d,), their axes (d, d), and what noise may feign.

    One step of Fisher scoring from a spherical spread `typical`.

    Parameters
    ----------
    away : ndarray, (n, d)
        Distance from the mean, in coordinates in which noise is the unit matrix over e (n,).
    """
    information = mass / (typical + 1.0 / e) ** 2
    known = float(information.sum())
    if not known > 0:
        # Nobody is there, or nobody who knows anything.
        return np.zeros(away.shape[1]), np.eye(away.shape[1]), np.inf
    second = (away * information[:, None]).T @ away - np.eye(away.shape[1]) * float((information / e).sum())
    values, vectors = np.linalg.eigh(second / known)
    # Largest eigenvalue of the same from noise alone: edge of a Wishart matrix, and three spreads of one entry.
    doubt = (2.0 * np.sqrt(away.shape[1]) + 3.0) / np.sqrt(known)
    return values[::-1], vectors[:, ::-1], float(doubt)
