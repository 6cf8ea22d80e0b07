"""Compiled inner loops of the mixture of phases: densities of spectra under phases, pairs and triples of them.

Matrices are a few numbers wide, and each spectrum has some dozens of them: in numpy all the time goes into calls.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.base import Float64

_LOG_2PI = math.log(2.0 * math.pi)
_ROOT_HALF = math.sqrt(0.5)
_LEAST = 1e-300
_HIDDEN = 0.2
_NONE = -1e9


class Clouds(NamedTuple):
    """Gaussians in coordinates in which their noise is the unit matrix over the exposure and their spread diagonal.

    Attributes
    ----------
    mean : ndarray, (m, d)
    turned : ndarray, (m, d, d)
        Their frames, transposed.
    spread : ndarray, (m, d)
        Falling; the first `n_wide` (m,) are not 0.
    log_volume : ndarray, (m,)
    """

    mean: Float64
    turned: Float64
    spread: Float64
    n_wide: NDArray[np.int64]
    log_volume: Float64

    def some(self, rows: NDArray[np.int64]) -> Clouds:
        """Some of the clouds."""
        return Clouds(self.mean[rows], self.turned[rows], self.spread[rows], self.n_wide[rows], self.log_volume[rows])


@njit(cache=True, nogil=True, error_model="numpy")
def _ndtr(x: float) -> float:
    """Normal distribution function."""
    return float(0.5 * math.erfc(-x * _ROOT_HALF))


@njit(cache=True, nogil=True, error_model="numpy")
def _whiten(z: Any, mean: Any, turned: Any, y: Any) -> None:
    """Fill y (d,) with the frame's coordinates of z (d,)."""
    d = z.shape[0]
    for i in range(d):
        y[i] = 0.0
    for j in range(d):
        away = z[j] - mean[j]
        for i in range(d):
            y[i] += away * turned[j, i]


@njit(cache=True, nogil=True, error_model="numpy")
def _precisions(spread: Any, n_wide: int, e: float, precision: Any) -> float:
    """Fill the inverse variances (d,) of spread and noise; return the sum of the logarithms of the variances."""
    d = spread.shape[0]
    logs = -(d - n_wide) * math.log(e)
    for k in range(n_wide):
        variance = spread[k] + 1.0 / e
        precision[k] = 1.0 / variance
        logs += math.log(variance)
    for k in range(n_wide, d):
        precision[k] = e
    return float(logs)


@njit(cache=True, nogil=True, error_model="numpy")
def _tube(y: Any, step: Any, precision: Any, logs: float, log_volume: float) -> tuple[float, float]:
    """Log density of y (d,) of compositions evenly spread from 0 to `step`, and probability to be past the middle."""
    d = y.shape[0]
    curvature, along, squared = 0.0, 0.0, 0.0
    for k in range(d):
        weighted = precision[k] * step[k]
        curvature += weighted * step[k]
        along += weighted * y[k]
        squared += precision[k] * y[k] * y[k]
    curvature = max(curvature, 1e-12)
    along /= curvature
    squared -= along * along * curvature
    root = math.sqrt(curvature)
    # Counted from the nearer side: far out, the other has no digits left.
    side = -root if along < 0.0 else root
    near, far = _ndtr((1.0 - along) * side), _ndtr(-along * side)
    inside = abs(near - far)
    density = log_volume - 0.5 * (squared + logs + (d - 1) * _LOG_2PI + math.log(curvature))
    density += math.log(max(inside, _LEAST))
    if inside <= _LEAST:
        return density, 1.0 if along > 0.5 else 0.0
    return density, abs(near - _ndtr((0.5 - along) * side)) / inside


@njit(cache=True, nogil=True, error_model="numpy")
def _triangle(y: Any, steps: Any, precision: Any, logs: float, log_volume: float, share: Any) -> float:
    """Log density of y (d,) of compositions evenly spread over the triangle of 0 and two steps (2, d).

    `share` (3,) is filled with the probability of each corner to dominate.
    """
    d = y.shape[0]
    uu, uw, ww, uy, wy, squared = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(d):
        u, w = precision[k] * steps[0, k], precision[k] * steps[1, k]
        uu += u * steps[0, k]
        uw += u * steps[1, k]
        ww += w * steps[1, k]
        uy += u * y[k]
        wy += w * y[k]
        squared += precision[k] * y[k] * y[k]
    determinant = max(uu * ww - uw * uw, _LEAST)
    second, third = (ww * uy - uw * wy) / determinant, (uu * wy - uw * uy) / determinant
    squared -= second * uy + third * wy
    first = 1.0 - second - third
    # Variances and covariance of the shares of the second and the third; the first has what is left.
    vb, vc, vbc = ww / determinant, uu / determinant, -uw / determinant
    sa, sb, sc = math.sqrt(max(vb + vc + 2.0 * vbc, 0.0)), math.sqrt(vb), math.sqrt(vc)
    # How sure each is to be more than each other.
    ab = _ndtr((first - second) / math.sqrt(4.0 * vb + vc + 4.0 * vbc))
    ac = _ndtr((first - third) / math.sqrt(vb + 4.0 * vc + 4.0 * vbc))
    bc = _ndtr((second - third) / math.sqrt(vb + vc - 2.0 * vbc))
    share[0], share[1], share[2] = max(ab * ac, 1e-12), max((1 - ab) * bc, 1e-12), max((1 - ac) * (1 - bc), 1e-12)
    total = share[0] + share[1] + share[2]
    for k in range(3):
        share[k] /= total
    # Where noise hides the triangle, its sides are not independent; and pairs explain as much.
    if max(sa, sb, sc) > _HIDDEN:
        return _NONE
    inside = _ndtr(first / sa) * _ndtr(second / sb) * _ndtr(third / sc)
    density = log_volume - 0.5 * (squared + logs + (d - 2) * _LOG_2PI)
    return float(density + math.log(2.0 * max(inside, _LEAST)) - 0.5 * math.log(determinant))


@njit(cache=True, nogil=True, error_model="numpy")
def fill_phases(z: Float64, e: Float64, clouds: Clouds, density: Float64, nearest: Float64) -> None:
    """Log densities (m, n) of coordinates (n, d) of exposures (n,), and squared distance (n,) of the nearest cloud."""
    n, d = z.shape
    y, precision = np.empty(d), np.empty(d)
    for c in range(len(clouds.mean)):
        for i in range(n):
            _whiten(z[i], clouds.mean[c], clouds.turned[c], y)
            logs = _precisions(clouds.spread[c], clouds.n_wide[c], e[i], precision)
            squared = 0.0
            for k in range(d):
                squared += precision[k] * y[k] * y[k]
            nearest[i] = min(nearest[i], squared)
            density[c, i] = clouds.log_volume[c] - 0.5 * (squared + logs + d * _LOG_2PI)


@njit(cache=True, nogil=True, error_model="numpy")
def fill_tubes(z: Float64, e: Float64, clouds: Clouds, steps: Float64, density: Float64, second: Float64) -> None:
    """Log densities (m, n) of even mixtures from the means of clouds along steps (m, d), and which end dominates."""
    n, d = z.shape
    y, precision = np.empty(d), np.empty(d)
    for b in range(len(clouds.mean)):
        for i in range(n):
            _whiten(z[i], clouds.mean[b], clouds.turned[b], y)
            logs = _precisions(clouds.spread[b], clouds.n_wide[b], e[i], precision)
            density[b, i], second[b, i] = _tube(y, steps[b], precision, logs, clouds.log_volume[b])


@njit(cache=True, nogil=True, error_model="numpy")
def fill_triangles(
    z: Float64, e: Float64, clouds: Clouds, steps: Float64, corners: NDArray[np.int64], rest: Float64, third: Float64
) -> None:
    """Make the log density (n,) of what is no phase and no pair one of which half are mixtures of three.

    Parameters
    ----------
    clouds, steps : (t,) and (t, 2, d)
        First corner of each triangle, and steps from there to the two others.
    corners : ndarray, (t, 3)
        Their phases.
    rest : ndarray, (n,)
        Log density of what is strange; changed in place.
    third : ndarray, (C, n)
        Filled with the probability to be such a mixture in which each phase dominates.
    """
    n, d = z.shape
    m = len(corners)
    y, precision, share, density = np.empty(d), np.empty(d), np.empty((m, 3)), np.empty(m)
    for i in range(n):
        top = rest[i]
        for t in range(m):
            _whiten(z[i], clouds.mean[t], clouds.turned[t], y)
            logs = _precisions(clouds.spread[t], clouds.n_wide[t], e[i], precision)
            density[t] = _triangle(y, steps[t], precision, logs, clouds.log_volume[t], share[t]) - math.log(m)
            top = max(top, density[t])
        total = math.exp(rest[i] - top)
        for t in range(m):
            density[t] = math.exp(density[t] - top)
            total += density[t]
        for t in range(m):
            for k in range(3):
                third[corners[t, k], i] += share[t, k] * density[t] / total
        rest[i] = top + math.log(total / 2.0)
