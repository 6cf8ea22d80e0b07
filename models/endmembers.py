"""End-members of a scan: the corners of the simplex that its compositions fill, from its phases and their gradients."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb

import numpy as np
from numpy.typing import NDArray

from models.base import Float64, Pieces
from models.composition import CompositionSpace
from models.phase_mixture import FAINTEST, Cloud, Mixture, Sample, whitening

_GRADIENT, _BESIDE = 1.0, 0.3
_OFF_HULL, _OFF_SIZE = 1.0, 0.05
_GRID = 128
_KERNEL = 0.6
_ROWS = 256
_SETTLED = 1e-3
_STIFF = 1e-4
_EVEN = 0.3
"""Spectra, for each there is, that a distribution over ends of gradients alone has evenly beforehand."""


@dataclass(frozen=True)
class Corners:
    """Corners of a simplex in a `CompositionSpace`.

    Attributes
    ----------
    z : ndarray, (M, d)
    phase : tuple of int or None, (M,)
        Component of the mixture of phases that a corner is; None where it is the end of a gradient.
    """

    z: Float64
    phase: tuple[int | None, ...]

    @property
    def free(self) -> NDArray[np.bool_]:
        """Which corners are no phase, (M,)."""
        return np.array([p is None for p in self.phase], dtype=np.bool_)


def corners_of(mixture: Mixture, space: CompositionSpace, typical: float) -> Corners:
    """Phases, and ends of the gradients within phases, that are mixtures of no others.

    A phase that is one composition is a candidate; of one that is spread, the ends of its spread are (a uniform
    distribution ends at sqrt(3) standard deviations). Of these, the ones farthest apart are taken, and then as long as
    there is one off the hull of those before.

    Parameters
    ----------
    typical : float
        Exposure of a position: what it cannot see is no gradient and no corner.
    """
    white = whitening(space.noise(mixture.share @ mixture.means / max(float(mixture.share.sum()), 1e-300)))
    found = [pair for c in range(len(mixture.phases)) for pair in _candidates(mixture, c, white, typical)]
    z, phase = np.stack([z for z, _ in found]), [p for _, p in found]
    chosen = _apart(z @ white.T, space.n_axes + 1, _OFF_HULL / np.sqrt(typical))
    return Corners(z[chosen], tuple(phase[k] for k in chosen))


def _candidates(mixture: Mixture, c: int, white: Float64, typical: float) -> list[tuple[Float64, int | None]]:
    cloud = mixture.phases[c]
    away = [float(np.linalg.norm(white @ (o.mean - cloud.mean))) for k, o in enumerate(mixture.phases) if k != c]
    least = max(_GRADIENT / np.sqrt(typical), _BESIDE * min(away, default=0.0))
    ends = [end for end in _ends(cloud) if 2 * np.linalg.norm(white @ (end - cloud.mean)) > least]
    return [(end, None) for end in ends] if ends else [(cloud.mean, c)]


def _ends(cloud: Cloud) -> list[Float64]:
    back = np.linalg.inv(cloud.frame)
    steps = [np.sqrt(3.0 * cloud.spread[k]) * back[:, k] for k in range(cloud.n_wide)]
    return [cloud.mean + sign * step for step in steps for sign in (1.0, -1.0)]


def _apart(y: Float64, most: int, least: float) -> list[int]:
    """Rows of points (n, d) that are corners: the two farthest apart, then what is farthest from their hull."""
    distance = np.linalg.norm(y[:, None] - y[None], axis=2)
    first, second = np.unravel_index(int(np.argmax(distance)), distance.shape)
    size = float(distance[first, second])
    chosen = [int(first), int(second)] if size > least else [int(first)]
    while 1 < len(chosen) < min(most, len(y)):
        axes, _ = np.linalg.qr((y[chosen[1:]] - y[chosen[0]]).T)
        off = y - y[chosen[0]]
        off = np.linalg.norm(off - (off @ axes) @ axes.T, axis=1)
        off[chosen] = 0.0
        if off.max() < max(least, _OFF_SIZE * size):
            break
        chosen.append(int(np.argmax(off)))
    return chosen


def fitted(corners: Corners, sample: Sample, space: CompositionSpace, steps: int) -> Pieces[Corners]:
    """Free corners moved to where the spectra are most likely; corners that are phases stay.

    Expectation-maximisation of a mixture over a grid on the simplex: abundances are not fitted one by one, which would
    push the corners out until all noise is covered, but marginalised. Where some corners are phases, the distribution
    of abundances is that which the data themselves show (nonparametric maximum likelihood; Laird, J. Am. Stat. Assoc.
    73 (1978) 805), for much is pure. Where none is, hardly a position need be pure, any larger simplex would fit as
    well, and the corners would drift: abundances are expected to be spread evenly then, and learned only as far as many
    spectra say otherwise, so that the likeliest simplex is the smallest that holds the compositions but for noise
    (Nascimento and Bioucas-Dias, IEEE Trans. Geosci. Remote Sens. 50 (2012) 863, with one flat Dirichlet density).
    """
    free, z = corners.free, corners.z.copy()
    if not free.any() or len(z) < 2 or not sample.size:
        return corners
    flat = bool(free.all())
    grid, resolution = cell_grid(len(z)) if flat else abundance_grid(len(z))
    weight = np.ones(len(grid))
    for _ in range(steps):
        white = whitening(space.noise(z.mean(axis=0)))
        size = max(float(np.linalg.norm(white @ (a - b))) for a in z for b in z)
        # Seen more sharply than the grid is fine, spectra would see its gaps.
        sharpest = (resolution / (_KERNEL * max(size, 1e-12))) ** 2
        step = _Step(grid, np.log(np.maximum(weight / weight.sum(), 1e-12)), grid @ z @ white.T, white, sharpest)
        mass, squares, cross = np.zeros(len(grid)), np.zeros(len(grid)), np.zeros((len(grid), z.shape[1]))
        for first in range(0, sample.weight.size, _ROWS):
            part = step.sums(sample.rows(slice(first, first + _ROWS)))
            mass += part[0]
            squares += part[1]
            cross += part[2]
            yield
        weight = mass + flat * _EVEN * sample.size / len(grid)
        moved = _moved(z, free, (grid * squares[:, None]).T @ grid, grid.T @ cross)
        shift, z = float(np.linalg.norm((moved - z) @ white.T, axis=1).max()), moved
        if shift < _SETTLED * size:
            break
    return Corners(z, corners.phase)


@dataclass(frozen=True)
class _Step:
    """Grid (G, M) of abundances, log weights (G,), whitened compositions (G, d), and the sharpest exposure."""

    grid: Float64
    log_weight: Float64
    y: Float64
    white: Float64
    sharpest: float

    def sums(self, sample: Sample) -> tuple[Float64, Float64, Float64]:
        """Per grid point: spectra there, their exposures, and exposure-weighted coordinates."""
        exposure = np.maximum(sample.exposure, FAINTEST)
        y = sample.z @ self.white.T
        squared = (y**2).sum(axis=1)[:, None] - 2.0 * y @ self.y.T + (self.y**2).sum(axis=1)
        belongs = self.log_weight - 0.5 * np.minimum(exposure, self.sharpest)[:, None] * squared
        belongs -= belongs.max(axis=1, keepdims=True)
        np.exp(belongs, out=belongs)
        belongs *= (sample.weight / belongs.sum(axis=1))[:, None]
        exposed = belongs * exposure[:, None]
        return belongs.sum(axis=0), exposed.sum(axis=0), exposed.T @ sample.z


def _moved(z: Float64, free: NDArray[np.bool_], gram: Float64, cross: Float64) -> Float64:
    """Weighted least squares for the free corners; those that no spectrum speaks of stay where they were."""
    stiff = _STIFF * float(np.trace(gram)) / len(gram) * np.eye(int(free.sum()))
    wanted = cross[free] - gram[np.ix_(free, ~free)] @ z[~free] + stiff @ z[free]
    out = z.copy()
    out[free] = np.linalg.solve(gram[np.ix_(free, free)] + stiff, wanted)
    return out


def abundance_grid(n: int) -> tuple[Float64, int]:
    """Abundances (G, n), of unit sum, in steps of one over a resolution; as fine as a hundred points allow."""
    resolution = 1
    while comb(resolution + n, n - 1) <= _GRID:
        resolution += 1
    found = [np.bincount(c, minlength=n) for c in combinations_with_replacement(range(n), resolution)]
    return np.array(found) / resolution, resolution


def cell_grid(n: int) -> tuple[Float64, int]:
    """Centres (G, n) of the cells around the points of `abundance_grid`, together as large as the simplex."""
    grid, resolution = abundance_grid(n)
    return (grid * resolution + 1.0 / n) / (resolution + 1), resolution + 1
