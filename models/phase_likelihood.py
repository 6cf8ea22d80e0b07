"""How probable spectra are under phases and their mixtures: by coordinates, or by single counts where there are few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from models.base import Float32, Float64, Pieces
from models.composition import CompositionSpace
from models.phase_kernels import Clouds, fill_phases, fill_triangles, fill_tubes
from models.phase_mixture import FAINTEST, Cloud, Densities, Mixture, Sample, whitening

_FLOOR = 0.02
_CORNERS = np.array([[1, 1, 1], [3, 1, 1], [1, 3, 1], [1, 1, 3]]) / np.array([[3], [5], [5], [5]])
_MOST_TRIPLES = 10
_FLAT, _LIKE = 1e-3, 3.0
_MOST_TRIANGLES = 4
"""Mixtures of three phases that are looked for among coordinates."""
_FEWEST_ROWS, _MOST_ROWS, _AT_ONCE = 48, 512, 4096


@dataclass(frozen=True)
class GaussLikelihood:
    """Coordinates with Gaussian noise of known covariance, and phases that may be spread: right for many counts."""

    space: CompositionSpace
    spreads: bool = True
    _made: list[tuple[Mixture, Callable[[Sample], Densities]]] = field(default_factory=list, repr=False, compare=False)

    def of(self, mixture: Mixture) -> Pieces[Callable[[Sample], Densities]]:
        """Return what evaluates each part of a mixture; of the last mixture it is kept."""
        if self._made and self._made[0][0] is mixture:
            return self._made[0][1]
        pure, rest = packed(mixture.phases), packed([mixture.rest])
        tubes, steps = _between(np.array(mixture.pairs, dtype=np.int64).reshape(-1, 2), mixture, self.space)
        along = steps[:, 0].copy()
        corners = _triples(mixture)[:_MOST_TRIANGLES]
        sides, spans = _between(corners, mixture, self.space)
        gram = spans @ spans.transpose(0, 2, 1)
        wide = np.flatnonzero(np.linalg.det(gram) > _FLAT * gram[:, 0, 0] * gram[:, 1, 1])
        triangles, corners, spans = sides.some(wide), corners[wide], spans[wide]
        yield

        def densities(sample: Sample) -> Densities:
            z, e = sample.z, np.maximum(sample.exposure, FAINTEST)
            n, d = z.shape
            phases, nearest = np.empty((len(mixture.phases), n)), np.full(n, np.inf)
            fill_phases(z, e, pure, phases, nearest)
            bridges, second = np.empty((2, len(steps), n))
            fill_tubes(z, e, tubes, along, bridges, second)
            none, third = np.empty((1, n)), np.zeros_like(phases)
            fill_phases(z, e, rest, none, np.full(n, np.inf))
            # What is like a phase is no mixture of three.
            other = np.flatnonzero(nearest > d + _LIKE * np.sqrt(2.0 * d))
            if wide.size and other.size:
                strange, dominates = none[0, other], np.zeros((len(phases), other.size))
                fill_triangles(z[other], e[other], triangles, spans, corners, strange, dominates)
                none[0, other], third[:, other] = strange, dominates
            return Densities(phases, bridges, second, none[0], third)

        self._made[:] = [(mixture, densities)]
        return densities

    def rows_at_once(self, mixture: Mixture) -> int:
        """Return how many spectra can be evaluated in half a millisecond."""
        return _rows_at_once(len(mixture.phases) + 2 * len(mixture.bridges))


def packed(clouds: Sequence[Cloud]) -> Clouds:
    """Clouds side by side."""
    return Clouds(
        np.array([c.mean for c in clouds]),
        np.array([c.frame.T for c in clouds]),
        np.array([c.spread for c in clouds]),
        np.array([c.n_wide for c in clouds]),
        np.array([c.log_volume for c in clouds]),
    )


def _between(corners: NDArray[np.int64], mixture: Mixture, space: CompositionSpace) -> tuple[Clouds, Float64]:
    """What lies evenly between the means of some phases (m, k), with their mean spread at its sides.

    Returns
    -------
    clouds : Clouds
        At the first of each.
    steps : ndarray, (m, k - 1, d)
        From there to the others, in their frames.
    """
    means = mixture.means[corners]
    covariance = np.stack([cloud.covariance for cloud in mixture.phases])[corners].mean(axis=1)
    white = whitening(space.noise(means.mean(axis=1)))
    values, vectors = np.linalg.eigh(white @ covariance @ white.transpose(0, 2, 1))
    spread = np.where(values > 1e-12, values, 0.0)[:, ::-1].copy()
    turned = white.transpose(0, 2, 1) @ vectors[:, :, ::-1]
    volume = np.log(np.abs(np.diagonal(white, axis1=1, axis2=2))).sum(axis=1)
    steps = (means[:, 1:] - means[:, :1]) @ turned
    return Clouds(means[:, 0].copy(), turned, spread, np.count_nonzero(spread, axis=1), volume), steps


@dataclass(frozen=True)
class CountLikelihood:
    """Poisson counts of phases that are one spectrum each: right for few counts, which are far from Gaussian.

    Mixtures are looked at in some places between two phases. Log densities are relative to the mean spectrum.

    Attributes
    ----------
    space : CompositionSpace
    eigenspectra : ndarray, (K, bins)
        In bins of channels.
    mean : ndarray, (bins,)
        Mean spectrum, of sum 1.
    n_places : int
        Even; the more counts, the closer they must lie.
    """

    space: CompositionSpace
    eigenspectra: Float64
    mean: Float64
    n_places: int
    spreads: bool = False
    _made: list[tuple[Mixture, Callable[[Sample], Densities]]] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def for_exposure(cls, space: CompositionSpace, spectra: Float64, mean: Float64, exposure: float) -> CountLikelihood:
        """With as many places as the exposure asks for: unlike phases are some 2.5 sqrt(exposure) sigma apart."""
        return cls(space, spectra, mean, 2 * int(np.ceil(np.sqrt(exposure) / 3.0)))

    def of(self, mixture: Mixture) -> Pieces[Callable[[Sample], Densities]]:
        """Return what evaluates each part of a mixture; what is of no pair is taken for a mixture of three phases."""
        if self._made and self._made[0][0] is mixture:
            return self._made[0][1]
        spectra = self.spectra(mixture.means)
        first, second = (np.array([p[k] for p in mixture.pairs], dtype=np.int64) for k in (0, 1))
        places = (np.arange(self.n_places) + 0.5) / self.n_places
        pairs = places[:, None, None] * spectra[second] + (1 - places)[:, None, None] * spectra[first]
        triples = np.einsum("ck,tkb->ctb", _CORNERS, spectra[_triples(mixture)])
        stacked = np.concatenate([part.reshape(-1, self.mean.size) for part in (spectra, pairs, triples)])
        # A count where a phase should have none speaks against it, but not without end.
        logs = np.log(np.maximum(stacked / self.mean, _FLOOR)).astype(np.float32)
        n_phases, n_pairs = len(spectra), first.size

        def densities(sample: Sample) -> Densities:
            if sample.counts is None:
                raise ValueError("counts are needed for a likelihood of counts")
            n = sample.z.shape[0]
            found = logs @ sample.counts.T
            phases, bridges, rest = np.split(found, np.cumsum([n_phases, places.size * n_pairs]))
            mixed, shares = _mean_density(bridges.reshape(places.size, n_pairs, n))
            other = _mean_density(rest)[0] if rest.size else np.full(n, -1e9)
            return Densities(phases.astype(np.float64), mixed, shares[places > 0.5].sum(axis=0), other)

        self._made[:] = [(mixture, densities)]
        yield
        return densities

    def rows_at_once(self, mixture: Mixture) -> int:
        """Return how many spectra can be evaluated in half a millisecond."""
        n = len(mixture.phases)
        triples = min(n * (n - 1) * (n - 2) // 6, _MOST_TRIPLES)
        return _rows_at_once(n + 2 * len(mixture.bridges) + 2 * triples)

    def spectra(self, z: Float64) -> Float64:
        """Spectra (n, bins) of sum 1 at coordinates (n, d), nowhere negative."""
        spectra = np.maximum(self.space.lift(z) @ self.eigenspectra, 1e-3 * _FLOOR * self.mean)
        return np.asarray(spectra / spectra.sum(axis=1, keepdims=True))


def _rows_at_once(parts: int) -> int:
    return max(_FEWEST_ROWS, min(_MOST_ROWS, _AT_ONCE // parts))


def _triples(mixture: Mixture) -> NDArray[np.int64]:
    """Triples of phases (t, 3) that are the most likely to have mixtures."""
    found = np.array(list(combinations(range(len(mixture.phases)), 3)), dtype=np.int64).reshape(-1, 3)
    order = np.argsort(-mixture.share[found].prod(axis=1), kind="stable")
    return found[order[:_MOST_TRIPLES]]


def _mean_density(logs: Float32) -> tuple[Float64, Float64]:
    """Log of the mean density over the first axis, and the share of each part in it."""
    top = logs.max(axis=0)
    parts = np.exp(logs - top)
    total = parts.sum(axis=0)
    return (top + np.log(total / len(logs))).astype(np.float64), (parts / total).astype(np.float64)
