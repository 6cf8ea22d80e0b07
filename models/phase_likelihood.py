"""How probable spectra are under phases and their mixtures: by coordinates, or by single counts where there are few."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from models.base import Float32, Float64, Pieces
from models.composition import CompositionSpace
from models.phase_mixture import FAINTEST, MOST_TRIANGLES, Cloud, Densities, Mixture, Sample

_LOG_2PI = float(np.log(2 * np.pi))
_FLOOR = 0.02
_CORNERS = np.array([[1, 1, 1], [3, 1, 1], [1, 3, 1], [1, 1, 3]]) / np.array([[3], [5], [5], [5]])
_TUBES = 4
_MOST_TRIPLES = 10
_FLAT, _HIDDEN, _LIKE = 1e-3, 0.2, 3.0


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
        tubes = []
        for i, j in mixture.pairs:
            tubes.append(_Tube.between(mixture.phases[i], mixture.phases[j], self.space))
            if len(tubes) % _TUBES == 0:
                yield

        triangles = []
        for corners in _triples(mixture)[:MOST_TRIANGLES].tolist():
            triangle = _Triangle.between(corners, mixture, self.space)
            triangles += [] if triangle is None else [triangle]
        yield

        def densities(sample: Sample) -> Densities:
            z, e = sample.z, np.maximum(sample.exposure, FAINTEST)
            found = [_cloud_density(cloud, z, e) for cloud in mixture.phases]
            phases, squared = (np.stack(part) for part in zip(*found, strict=True))
            bridges, second = np.empty((2, len(tubes), z.shape[0]))
            for b, tube in enumerate(tubes):
                bridges[b], second[b] = tube.density(z, e)
            rest = _cloud_density(mixture.rest, z, e)[0]
            third = np.zeros_like(phases)
            # What is like a phase is no mixture of three.
            d = z.shape[1]
            other = np.flatnonzero(squared.min(axis=0) > d + _LIKE * np.sqrt(2.0 * d))
            if triangles and other.size:
                rest[other], third[:, other] = _with_triples(rest[other], triangles, z[other], e[other], len(phases))
            return Densities(phases, bridges, second, rest, third)

        self._made[:] = [(mixture, densities)]
        return densities


@dataclass(frozen=True)
class _Tube:
    """Compositions evenly spread on the line between two phases, with the spread of both at its sides."""

    cloud: Cloud
    step: Float64

    @classmethod
    def between(cls, a: Cloud, b: Cloud, space: CompositionSpace) -> _Tube:
        noise = space.noise((a.mean + b.mean) / 2)
        cloud = Cloud.of(a.mean, (a.covariance + b.covariance) / 2, noise)
        return cls(cloud, cloud.frame @ (b.mean - a.mean))

    def density(self, z: Float64, e: Float64) -> tuple[Float64, Float64]:
        """Log density (n,), and the probability that the second phase dominates."""
        away = (z - self.cloud.mean) @ self.cloud.frame.T
        variance = self.cloud.spread + 1.0 / e[:, None]
        curvature = np.maximum((1.0 / variance) @ self.step**2, 1e-12)
        along = ((away / variance) @ self.step) / curvature
        squared = (away**2 / variance).sum(axis=1) - along**2 * curvature
        root = np.sqrt(curvature)
        low, middle, high = (ndtr((x - along) * root) for x in (0.0, 0.5, 1.0))
        inside = high - low
        log_density = -0.5 * (squared + np.log(variance).sum(axis=1) + (z.shape[1] - 1) * _LOG_2PI)
        log_density += self.cloud.log_volume + np.log(np.maximum(inside, 1e-300)) - np.log(root)
        second = np.divide(high - middle, inside, out=(along > 0.5).astype(np.float64), where=inside > 1e-300)
        return log_density, second


@dataclass(frozen=True)
class _Triangle:
    """Compositions evenly spread over the triangle of three phases, with their mean spread at its sides."""

    corners: list[int]
    cloud: Cloud
    steps: Float64

    @classmethod
    def between(cls, corners: list[int], mixture: Mixture, space: CompositionSpace) -> _Triangle | None:
        """None where the three lie on one line."""
        clouds = [mixture.phases[c] for c in corners]
        noise = space.noise(np.mean([c.mean for c in clouds], axis=0))
        covariance = np.mean([c.covariance for c in clouds], axis=0)
        cloud = Cloud.of(clouds[0].mean, covariance, noise)
        steps = np.stack([cloud.frame @ (c.mean - cloud.mean) for c in clouds[1:]])
        gram = steps @ steps.T
        return cls(corners, cloud, steps) if np.linalg.det(gram) > _FLAT * gram[0, 0] * gram[1, 1] else None

    def density(self, z: Float64, e: Float64) -> tuple[Float64, Float64]:
        """Log density (n,), and the probability that each of the three dominates, (3, n)."""
        away = (z - self.cloud.mean) @ self.cloud.frame.T
        variance = self.cloud.spread + 1.0 / e[:, None]
        u, w = self.steps
        uu, uw, ww = (1.0 / variance @ product for product in (u * u, u * w, w * w))
        determinant = np.maximum(uu * ww - uw**2, 1e-300)
        along = [(away / variance) @ step for step in (u, w)]
        second = (ww * along[0] - uw * along[1]) / determinant
        third = (uu * along[1] - uw * along[0]) / determinant
        squared = (away**2 / variance).sum(axis=1) - second * along[0] - third * along[1]
        # Variances and covariance of the shares of the second and the third; the first has what is left.
        vb, vc, vbc = ww / determinant, uu / determinant, -uw / determinant
        shares = (1.0 - second - third, second, third)
        sigmas = np.sqrt([vb + vc + 2 * vbc, vb, vc])
        inside = np.prod([ndtr(x / sigma) for x, sigma in zip(shares, sigmas, strict=True)], axis=0)
        log_density = -0.5 * (squared + np.log(variance).sum(axis=1) + (z.shape[1] - 2) * _LOG_2PI)
        log_density += self.cloud.log_volume + np.log(2.0 * np.maximum(inside, 1e-300)) - 0.5 * np.log(determinant)
        # Where noise hides the triangle, its sides are not independent; and pairs explain as much.
        log_density[np.max(sigmas, axis=0) > _HIDDEN] = -1e9
        # How sure each is to be more than each other.
        over = {
            (0, 1): ndtr((shares[0] - shares[1]) / np.sqrt(4 * vb + vc + 4 * vbc)),
            (0, 2): ndtr((shares[0] - shares[2]) / np.sqrt(vb + 4 * vc + 4 * vbc)),
            (1, 2): ndtr((shares[1] - shares[2]) / np.sqrt(vb + vc - 2 * vbc)),
        }
        first = [over[0, 1] * over[0, 2], (1 - over[0, 1]) * over[1, 2], (1 - over[0, 2]) * (1 - over[1, 2])]
        dominates = np.maximum(first, 1e-12)
        return log_density, dominates / dominates.sum(axis=0)


def _with_triples(
    strange: Float64, triangles: list[_Triangle], z: Float64, e: Float64, n_phases: int
) -> tuple[Float64, Float64]:
    """Log density (n,) of what is no phase and no mixture of two: half of it is strange, half are mixtures of three.

    And the probability (C, n) to be such a mixture in which each phase dominates.
    """
    logs = np.empty((len(triangles) + 1, z.shape[0]))
    dominates = []
    for t, triangle in enumerate(triangles):
        logs[t], found = triangle.density(z, e)
        dominates.append(found)
    logs[:-1] -= np.log(len(triangles))
    logs[-1] = strange
    top = logs.max(axis=0)
    parts = np.exp(logs - top)
    total = parts.sum(axis=0)
    third = np.zeros((n_phases, z.shape[0]))
    for triangle, part, found in zip(triangles, parts, dominates, strict=False):
        third[triangle.corners] += found * (part / total)
    return top + np.log(total / 2.0), third


def _cloud_density(cloud: Cloud, z: Float64, e: Float64) -> tuple[Float64, Float64]:
    """Log density (n,) of noisy coordinates (n, d) of exposures e (n,), and squared distances (n,) in spreads."""
    away = (z - cloud.mean) @ cloud.frame.T
    wide, d = cloud.n_wide, away.shape[1]
    squared = e * np.einsum("ij,ij->i", away[:, wide:], away[:, wide:])
    log_variance = (wide - d) * np.log(e)
    if wide:
        variance = cloud.spread[:wide] + 1.0 / e[:, None]
        squared += (away[:, :wide] ** 2 / variance).sum(axis=1)
        log_variance += np.log(variance).sum(axis=1)
    return np.asarray(cloud.log_volume - 0.5 * (squared + log_variance + d * _LOG_2PI)), np.asarray(squared)


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

    def spectra(self, z: Float64) -> Float64:
        """Spectra (n, bins) of sum 1 at coordinates (n, d), nowhere negative."""
        spectra = np.maximum(self.space.lift(z) @ self.eigenspectra, 1e-3 * _FLOOR * self.mean)
        return np.asarray(spectra / spectra.sum(axis=1, keepdims=True))


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
