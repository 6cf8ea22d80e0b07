"""Compiled Poisson fit of a few known spectra to many spectra, one after the other."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.base import Float64

_EM_STEPS, _STEPS, _SWEEPS, _HALVINGS = 4, 30, 60, 12
_TOLERANCE, _LEAST = 1e-6, 1e-12


@njit(cache=True, nogil=True)
def _lit(counts: Float64, unit: Float64, base: Float64, x: Float64, spectra: Float64, pedestal: Float64) -> int:
    """Gather the sums that hold counts, with what belongs to them; their number."""
    n = 0
    for g in range(counts.size):
        if counts[g] > 0.0:
            x[n], pedestal[n] = counts[g], base[g]
            for m in range(unit.shape[0]):
                spectra[n, m] = unit[m, g]
            n += 1
    return n


@njit(cache=True, nogil=True)
def _loss(x: Float64, spectra: Float64, base: Float64, n: int, amounts: Float64) -> float:
    """Negative log likelihood but for the base; spectra have unit sum, so that empty sums need no look."""
    total = amounts.sum()
    for g in range(n):
        expected = base[g]
        for m in range(amounts.size):
            expected += amounts[m] * spectra[g, m]
        total -= x[g] * np.log(max(expected, _LEAST))
    return float(total)


@njit(cache=True, nogil=True)
def _derivatives(
    x: Float64, spectra: Float64, base: Float64, n: int, amounts: Float64, gradient: Float64, hessian: Float64
) -> None:
    """Gradient of the log likelihood, and its negative curvature."""
    gradient[:] = -1.0
    hessian[:] = 0.0
    for g in range(n):
        expected = base[g]
        for m in range(amounts.size):
            expected += amounts[m] * spectra[g, m]
        expected = max(expected, _LEAST)
        ratio = x[g] / expected
        weight = ratio / expected
        for m in range(amounts.size):
            gradient[m] += ratio * spectra[g, m]
            part = weight * spectra[g, m]
            for k in range(m + 1):
                hessian[m, k] += part * spectra[g, k]
    _completed(hessian)


@njit(cache=True, nogil=True)
def _grown(x: Float64, spectra: Float64, base: Float64, n: int, amounts: Float64, factor: Float64) -> None:
    """One step of expectation-maximisation, in place; `factor` is room to work in."""
    factor[:] = 0.0
    for g in range(n):
        expected = base[g]
        for m in range(amounts.size):
            expected += amounts[m] * spectra[g, m]
        ratio = x[g] / max(expected, _LEAST)
        for m in range(amounts.size):
            factor[m] += ratio * spectra[g, m]
    amounts *= factor


@njit(cache=True, nogil=True)
def _completed(lower: Float64) -> None:
    """Fill the upper triangle, and raise the diagonal a little, so that it can be inverted."""
    n = lower.shape[0]
    largest = 0.0
    for m in range(n):
        largest = max(largest, lower[m, m])
        for k in range(m):
            lower[k, m] = lower[m, k]
    for m in range(n):
        lower[m, m] += 1e-10 * lower[m, m] + 1e-9 * largest + _LEAST


@njit(cache=True, nogil=True)
def _information(unit: Float64, base: Float64, amounts: Float64, found: Float64) -> None:
    """Fisher information about amounts of which none is taken for less than one count."""
    found[:] = 0.0
    n = amounts.size
    for g in range(base.size):
        expected = base[g]
        for m in range(n):
            expected += max(amounts[m], 1.0) * unit[m, g]
        weight = 1.0 / max(expected, _LEAST)
        for m in range(n):
            part = weight * unit[m, g]
            for k in range(m + 1):
                found[m, k] += part * unit[k, g]
    _completed(found)


@njit(cache=True, nogil=True)
def _factor(matrix: Float64, free: NDArray[np.bool_], lower: Float64) -> None:
    """Cholesky factor of a small positive definite matrix; rows and columns that are not free are those of the unit."""
    n = matrix.shape[0]
    for i in range(n):
        for j in range(i + 1):
            unit = 1.0 if i == j else 0.0
            rest = matrix[i, j] if free[i] and free[j] else unit
            for k in range(j):
                rest -= lower[i, k] * lower[j, k]
            lower[i, j] = np.sqrt(max(rest, _LEAST * matrix[i, i])) if i == j else rest / lower[j, j]


@njit(cache=True, nogil=True)
def _solve(lower: Float64, right: Float64) -> None:
    """Put the solution of a system of this Cholesky factor in the place of its right side."""
    n = right.size
    for i in range(n):
        for k in range(i):
            right[i] -= lower[i, k] * right[k]
        right[i] /= lower[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            right[i] -= lower[k, i] * right[k]
        right[i] /= lower[i, i]


@njit(cache=True, nogil=True)
def _target(
    hessian: Float64, gradient: Float64, amounts: Float64, target: Float64, lower: Float64, free: NDArray[np.bool_]
) -> None:
    """Best of the quadratic model with no amount negative: the lowest are set to 0 one by one, then all are improved.

    `free` says which amounts may be other than 0 at first, and then which are; `lower` is room to work in.
    """
    n = target.size
    while True:
        for m in range(n):
            target[m] = gradient[m] if free[m] else 0.0
            for k in range(n if free[m] else 0):
                target[m] += hessian[m, k] * amounts[k]
        _factor(hessian, free, lower)
        _solve(lower, target)
        worst = int(np.argmin(target))
        if target[worst] >= 0.0:
            break
        free[worst] = False
    slope = gradient.copy()
    for m in range(n):
        for k in range(n):
            slope[m] -= hessian[m, k] * (target[k] - amounts[k])
    for _ in range(_SWEEPS):
        largest = 0.0
        for m in range(n):
            change = max(target[m] + slope[m] / hessian[m, m], 0.0) - target[m]
            target[m] += change
            for k in range(n):
                slope[k] -= change * hessian[k, m]
            largest = max(largest, change * change * hessian[m, m])
        if largest < 1e-2 * _TOLERANCE:
            break


@njit(cache=True, nogil=True)
def _stepped(
    x: Float64, spectra: Float64, base: Float64, n: int, amounts: Float64, target: Float64, gain: float, loss: float
) -> float:
    """Move amounts towards a target, as far as that pays; the loss there."""
    length = 1.0
    for m in range(target.size):
        target[m] -= amounts[m]
    for _ in range(_HALVINGS):
        for m in range(target.size):
            amounts[m] += length * target[m]
        tried = _loss(x, spectra, base, n, amounts)
        if tried <= loss - 1e-4 * length * gain + 1e-12 * abs(loss):
            return tried
        for m in range(target.size):
            amounts[m] -= length * target[m]
        length *= 0.5
    return loss


@njit(cache=True, nogil=True)
def fit_rows(counts: Float64, unit: Float64, base: Float64) -> tuple[Float64, Float64]:
    """Most likely amounts (n, M), none negative, of spectra of unit sum (M, G) in counts (n, G) on a base (n, G).

    Newton's method with the constraint in its quadratic model and a line search. Second, their covariance (n, M, M):
    inverse Fisher information with each amount at least one count, as in `models.mixture.MixtureFit`.
    """
    (n, size), m = counts.shape, unit.shape[0]
    amounts, covariance = np.empty((n, m)), np.empty((n, m, m))
    gradient, hessian, target = np.empty(m), np.empty((m, m)), np.empty(m)
    lower, free = np.empty((m, m)), np.ones(m, np.bool_)
    x, spectra, pedestal = np.empty(size), np.empty((size, m)), np.empty(size)
    for i in range(n):
        a = amounts[i]
        lit = _lit(counts[i], unit, base[i], x, spectra, pedestal)
        signal, held = 0.0, 0.0
        for g in range(size):
            signal += counts[i, g] - base[i, g]
            held += counts[i, g]
        a[:] = max(signal, 1.0) / m
        for _ in range(_EM_STEPS):
            _grown(x, spectra, pedestal, lit, a, gradient)
        loss = _loss(x, spectra, pedestal, lit, a)
        # What one step sets to 0 is 0 at first in the next: improving all of them brings back what is wanted.
        free[:] = True
        for _ in range(_STEPS):
            _derivatives(x, spectra, pedestal, lit, a, gradient, hessian)
            _target(hessian, gradient, a, target, lower, free)
            gain = 0.0
            for k in range(m):
                gain += gradient[k] * (target[k] - a[k])
            if gain <= _TOLERANCE * max(1.0, 1e-5 * held):
                break
            loss = _stepped(x, spectra, pedestal, lit, a, target, gain, loss)
        _information(unit, base[i], a, hessian)
        free[:] = True
        _factor(hessian, free, lower)
        covariance[i] = np.eye(m)
        for k in range(m):
            _solve(lower, covariance[i, k])
    return amounts, covariance
