"""Compiled Poisson fit of a few known spectra to many spectra, one after the other."""

from __future__ import annotations

import numpy as np
from numba import njit

from models.base import Float64

_EM_STEPS, _STEPS, _SWEEPS, _HALVINGS = 4, 30, 60, 12
_TOLERANCE, _LEAST = 1e-6, 1e-12


@njit(cache=True, nogil=True)
def _loss(x: Float64, unit: Float64, base: Float64, amounts: Float64) -> float:
    """Negative log likelihood but for the base; spectra have unit sum, so that empty channels need no look."""
    total = amounts.sum()
    for g in range(x.size):
        if x[g] > 0.0:
            expected = base[g]
            for m in range(amounts.size):
                expected += amounts[m] * unit[m, g]
            total -= x[g] * np.log(max(expected, _LEAST))
    return float(total)


@njit(cache=True, nogil=True)
def _derivatives(
    x: Float64, unit: Float64, base: Float64, amounts: Float64, gradient: Float64, hessian: Float64, observed: float
) -> None:
    """Gradient of the log likelihood, and its negative curvature: as observed (1), or the expected one (0)."""
    n = amounts.size
    gradient[:] = -1.0
    hessian[:] = 0.0
    for g in range(x.size):
        if observed == 1.0 and x[g] == 0.0:
            continue
        expected = base[g]
        for m in range(n):
            expected += amounts[m] * unit[m, g]
        expected = max(expected, _LEAST)
        ratio = x[g] / expected
        weight = (observed * ratio + 1.0 - observed) / expected
        for m in range(n):
            gradient[m] += ratio * unit[m, g]
            part = weight * unit[m, g]
            for k in range(m + 1):
                hessian[m, k] += part * unit[k, g]
    largest = 0.0
    for m in range(n):
        largest = max(largest, hessian[m, m])
        for k in range(m):
            hessian[k, m] = hessian[m, k]
    for m in range(n):
        hessian[m, m] += 1e-10 * hessian[m, m] + 1e-9 * largest + _LEAST


@njit(cache=True, nogil=True)
def _target(hessian: Float64, gradient: Float64, amounts: Float64, target: Float64) -> None:
    """Best of the quadratic model with no amount negative, by coordinate descent."""
    slope = gradient.copy()
    target[:] = amounts
    for _ in range(_SWEEPS):
        largest = 0.0
        for m in range(target.size):
            change = max(target[m] + slope[m] / hessian[m, m], 0.0) - target[m]
            target[m] += change
            for k in range(target.size):
                slope[k] -= change * hessian[k, m]
            largest = max(largest, change * change * hessian[m, m])
        if largest < 1e-2 * _TOLERANCE:
            break


@njit(cache=True, nogil=True)
def fit_rows(counts: Float64, unit: Float64, base: Float64) -> tuple[Float64, Float64]:
    """Most likely amounts (n, M), none negative, of spectra of unit sum (M, G) in counts (n, G) on a base (n, G).

    Newton's method with the constraint in its quadratic model and a line search. Second, their covariance (n, M, M):
    inverse Fisher information with each amount at least one count, as in `models.mixture.MixtureFit`.
    """
    n, m = counts.shape[0], unit.shape[0]
    amounts, covariance = np.empty((n, m)), np.empty((n, m, m))
    gradient, hessian, target = np.empty(m), np.empty((m, m)), np.empty(m)
    for i in range(n):
        x, pedestal, a = counts[i], base[i], amounts[i]
        a[:] = max(float((x - pedestal).sum()), 1.0) / m
        for _ in range(_EM_STEPS):
            _derivatives(x, unit, pedestal, a, gradient, hessian, 1.0)
            a *= 1.0 + gradient
        loss = _loss(x, unit, pedestal, a)
        for _ in range(_STEPS):
            _derivatives(x, unit, pedestal, a, gradient, hessian, 1.0)
            _target(hessian, gradient, a, target)
            step = target - a
            gain = float((gradient * step).sum())
            if gain <= _TOLERANCE * max(1.0, 1e-5 * float(x.sum())):
                break
            length = 1.0
            for _ in range(_HALVINGS):
                tried = _loss(x, unit, pedestal, a + length * step)
                if tried <= loss - 1e-4 * length * gain + 1e-12 * abs(loss):
                    a += length * step
                    loss = tried
                    break
                length *= 0.5
        _derivatives(x, unit, pedestal, np.maximum(a, 1.0), gradient, hessian, 0.0)
        covariance[i] = np.linalg.inv(hessian)
    return amounts, covariance
