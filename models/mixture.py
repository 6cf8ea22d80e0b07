"""Non-negative Poisson fits of known spectra to many spectra at once, with the errors of their amounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from scipy.special import xlogy

from models.base import Counts, Float64
from models.noise import NoiseModel

_EM_STEPS = 4
_MAX_STEPS = 30
_SWEEPS = 100
_FEW = 16
_HALVINGS = 12
_TOLERANCE = 1e-8
_LEAST = 1e-12
_BLOCK_VALUES = 1 << 18


@dataclass(frozen=True)
class MixtureFit:
    """Amounts (n, M) of M spectra in n others, their covariance (n, M, M), and deviance (n,).

    The covariance is that of the unconstrained estimate (inverse Fisher information, with each amount at least one
    count), so that an amount of nothing has an error, too.
    """

    amounts: Float64
    covariance: Float64
    deviance: Float64

    @property
    def errors(self) -> Float64:
        """Standard errors of the amounts, (n, M)."""
        return np.asarray(np.sqrt(np.maximum(np.diagonal(self.covariance, axis1=1, axis2=2), 0.0)))


def equivalent_counts(
    spectra: Counts, noise: NoiseModel, visits: NDArray[Any] | float = 1.0
) -> tuple[Float64, Float64]:
    """Spectra (n, D) as if counted one by one, and the pedestal (n,) that carries the read noise.

    With gain g, offset o and read noise r, (x - v o) / g + v (r / g)^2 after v visits has the mean and variance of a
    Poisson variable with v (r / g)^2 background counts (Snyder et al., J. Opt. Soc. Am. A 12 (1995) 272).
    """
    dense = np.asarray(spectra.toarray() if isinstance(spectra, sparse.csr_array) else spectra, dtype=np.float64)
    times = np.broadcast_to(np.asarray(visits, dtype=np.float64), (dense.shape[0],))
    if noise.is_poisson:
        return dense, np.zeros(dense.shape[0])
    gain = noise.gain if noise.gain > 0 else 1.0
    pedestal = times * (noise.read_sigma / gain) ** 2
    counts = (dense - (times * noise.offset)[:, None]) / gain + pedestal[:, None]
    return np.maximum(counts, 0.0), pedestal


def poisson_deviance(counts: Float64, expected: Float64) -> Float64:
    """Twice the log likelihood ratio of a perfect fit to `expected`, per channel, as `counts` (..., D)."""
    ratio = np.divide(counts, expected, out=np.ones_like(expected), where=expected > 0)
    return np.asarray(2.0 * (xlogy(counts, np.maximum(ratio, _LEAST)) - counts + expected))


def share_errors(amounts: Float64, covariance: Float64) -> Float64:
    """Standard errors (n, M) of the shares that amounts (n, M) have of their sum, to first order; NaN where it is 0.

    `covariance` (n, M, M) is that of the amounts.
    """
    total = amounts.sum(axis=1, keepdims=True)
    total = np.where(total == 0.0, np.nan, total)
    shares = amounts / total
    gradient = (np.eye(amounts.shape[1])[None] - shares[:, :, None]) / total[:, :, None]
    variance = np.einsum("nri,nij,nrj->nr", gradient, covariance, gradient)
    return np.asarray(np.sqrt(np.maximum(variance, 0.0)))


def fit_mixtures(counts: NDArray[Any], columns: NDArray[Any], pedestal: NDArray[Any] | float = 0.0) -> MixtureFit:
    """Most likely amounts, none negative, of known spectra in Poisson counts.

    Newton's method with a line search and the constraint in its quadratic model, after a few steps of expectation
    maximisation (Richardson and Lucy); the problem is convex.

    Parameters
    ----------
    counts : (n, D)
        Not negative.
    columns : (M, D)
        Spectra, not negative, each with a positive sum.
    pedestal : float or (n,)
        Known background in each channel.

    Raises
    ------
    ValueError
        Where shapes disagree, or a spectrum is negative or empty.
    """
    x, known = np.asarray(counts, dtype=np.float64), np.asarray(columns, dtype=np.float64)
    if x.ndim != 2 or known.ndim != 2 or x.shape[1] != known.shape[1]:
        raise ValueError(f"counts {x.shape} and known spectra {known.shape} must have the same channels")
    if (known < 0).any() or not (known.sum(axis=1) > 0).all():
        raise ValueError("known spectra must not be negative or empty")
    base = np.broadcast_to(np.asarray(pedestal, dtype=np.float64), (x.shape[0],))
    # Columns of unit area: amounts are counts, and the problem is well scaled.
    area = known.sum(axis=1)
    unit = known / area[:, None]
    rows = max(1, _BLOCK_VALUES // x.shape[1])
    parts = [_fit_block(x[i : i + rows], unit, base[i : i + rows]) for i in range(0, x.shape[0], rows)]
    m = known.shape[0]
    amounts = np.concatenate([p.amounts for p in parts]) if parts else np.zeros((0, m))
    covariance = np.concatenate([p.covariance for p in parts]) if parts else np.zeros((0, m, m))
    deviance = np.concatenate([p.deviance for p in parts]) if parts else np.zeros(0)
    return MixtureFit(amounts / area, covariance / np.outer(area, area), deviance)


def _fit_block(x: Float64, unit: Float64, base: Float64) -> MixtureFit:
    problem = _Problem(x, unit, base)
    amounts = np.repeat(np.maximum(x.sum(axis=1) - base * x.shape[1], 1.0)[:, None], unit.shape[0], axis=1)
    amounts /= unit.shape[0]
    for _ in range(_EM_STEPS):
        amounts = amounts * problem.pull(amounts)
    active = np.arange(x.shape[0])
    for _ in range(_MAX_STEPS):
        if not active.size:
            break
        moved, done = problem.rows(active).newton(amounts[active])
        amounts[active] = moved
        active = active[~done]
    deviance = poisson_deviance(x, problem.expected(amounts)).sum(axis=1)
    return MixtureFit(amounts, problem.covariance(amounts), deviance)


@dataclass(frozen=True)
class _Problem:
    """Counts (n, D), known spectra of unit area (M, D), pedestal (n,)."""

    x: Float64
    unit: Float64
    base: Float64

    def rows(self, index: NDArray[np.int64]) -> _Problem:
        return self if index.size == self.base.size else _Problem(self.x[index], self.unit, self.base[index])

    def expected(self, amounts: Float64) -> Float64:
        """Expected counts (n, D), kept above 0 where no known spectrum has anything."""
        return np.asarray(np.maximum(amounts @ self.unit + self.base[:, None], _LEAST))

    def pull(self, amounts: Float64) -> Float64:
        """Factor of an EM step, (n, M): 1 + gradient of the log likelihood."""
        return np.asarray((self.x / self.expected(amounts)) @ self.unit.T)

    def loss(self, amounts: Float64) -> Float64:
        """Negative log likelihood, (n,)."""
        expected = self.expected(amounts)
        return np.asarray(expected.sum(axis=1) - np.einsum("nd,nd->n", self.x, np.log(expected)))

    def curvature(self, weight: Float64) -> Float64:
        """Sums over channels of weights (n, D) times products of spectra, (n, M, M), for many rows at once."""
        m = self.unit.shape[0]
        if weight.shape[0] < _FEW:
            return np.array([(self.unit * w) @ self.unit.T for w in weight]).reshape(-1, m, m)
        first, second = np.triu_indices(m)
        flat = weight @ (self.unit[first] * self.unit[second]).T
        full = np.empty((weight.shape[0], m, m))
        full[:, first, second] = flat
        full[:, second, first] = flat
        return full

    def newton(self, amounts: Float64) -> tuple[Float64, NDArray[np.bool_]]:
        """One step, and for which spectra it was the last."""
        expected = self.expected(amounts)
        ratio = self.x / expected
        gradient = ratio @ self.unit.T - 1.0
        step = _constrained_step(self.curvature(ratio / expected), gradient, amounts)
        gain = (gradient * step).sum(axis=1)
        moved = self._search(amounts, step, gain)
        return moved, gain <= _TOLERANCE * np.maximum(1.0, 1e-5 * self.x.sum(axis=1))

    def _search(self, amounts: Float64, step: Float64, gain: Float64) -> Float64:
        """Half the step until the likelihood has risen enough (Armijo)."""
        best, loss = amounts.copy(), self.loss(amounts)
        waiting, length = np.arange(loss.size), 1.0
        for _ in range(_HALVINGS):
            tried = amounts[waiting] + length * step[waiting]
            lower = loss[waiting] - 1e-4 * length * gain[waiting] + 1e-12 * np.abs(loss[waiting])
            good = self.rows(waiting).loss(tried) <= lower
            best[waiting[good]] = tried[good]
            waiting, length = waiting[~good], 0.5 * length
            if not waiting.size:
                break
        return best

    def covariance(self, amounts: Float64) -> Float64:
        # Where an amount is nothing, empty channels would know it without error: one count is the least there is.
        information = self.curvature(1.0 / self.expected(np.maximum(amounts, 1.0)))
        return np.asarray(np.linalg.inv(_ridged(information)))


def _constrained_step(hessian: Float64, gradient: Float64, amounts: Float64) -> Float64:
    """Step (n, M) to the best of the quadratic model with no amount negative.

    Active sets one by one (Lawson and Hanson) for many amounts, coordinate descent side by side for few.
    """
    system = _ridged(hessian)
    if amounts.shape[0] < amounts.shape[1]:
        steps = [_best_step(*each) for each in zip(system, gradient, amounts, strict=True)]
        return np.array(steps).reshape(amounts.shape)
    target, slope = amounts.copy(), gradient.copy()
    m = amounts.shape[1]
    for _ in range(_SWEEPS):
        largest = 0.0
        for j in range(m):
            curvature = system[:, j, j]
            change = np.maximum(target[:, j] + slope[:, j] / curvature, 0.0) - target[:, j]
            target[:, j] += change
            slope -= change[:, None] * system[:, j]
            largest = max(largest, float((change**2 * curvature).max()))
        if largest < _TOLERANCE:
            break
    return np.asarray(target - amounts)


def _best_step(hessian: Float64, gradient: Float64, amounts: Float64) -> Float64:
    root = np.linalg.cholesky(hessian)
    target, _ = nnls(root.T, solve_triangular(root, gradient + hessian @ amounts, lower=True))
    return np.asarray(target - amounts)


def _ridged(matrix: Float64) -> Float64:
    """Symmetric matrices (n, M, M) made safely invertible."""
    ridged = matrix.copy()
    diagonal = np.arange(matrix.shape[1])
    size = matrix[:, diagonal, diagonal]
    ridged[:, diagonal, diagonal] += 1e-10 * size + 1e-9 * size.max(axis=1, keepdims=True) + _LEAST
    return ridged
