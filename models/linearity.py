"""Whether spectra of mixtures are mixtures of spectra: what residuals off the hull of the end-members say."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import f as f_distribution

from models.base import Float64, Pieces

_FEWEST = 40
_ROUNDS, _OUTLIER = 3, 5.0


@dataclass(frozen=True)
class Bend:
    """What mixtures of one pair of end-members have that no sum of end-members has.

    Attributes
    ----------
    pair : (int, int)
    p_value : float
        Of the residual in step with the product of both shares, were mixing linear.
    coefficients : ndarray, (r,)
        That residual per unit of the product, on the axes of the residuals.
    n_mixed : float
        Spectra that it rests on.
    """

    pair: tuple[int, int]
    p_value: float
    coefficients: Float64
    n_mixed: float


def bends(shares: Float64, residual: Float64, exposure: Float64) -> Pieces[list[Bend]]:
    """Test each pair of end-members for a term in the product of their shares (the generalised bilinear model).

    Absorption, fluorescence and plural scattering leave one (Halimi et al., IEEE Trans. Geosci. Remote Sens. 49 (2011)
    4153); so does a third phase at their interfaces. Errors of the end-members themselves are linear in the shares, and
    are fitted too. The covariance of the coefficients comes from the residuals themselves (White, Econometrica 48
    (1980) 817), so that a noise that depends on composition does not matter.

    Parameters
    ----------
    shares : ndarray, (n, M)
    residual : ndarray, (n, r)
        Off the hull of the end-members, in units of noise at unit exposure.
    exposure : ndarray, (n,)
    """
    n, r = residual.shape
    if not r or n <= _FEWEST:
        return []
    root = np.sqrt(exposure)[:, None]
    found = []
    for pair in combinations(range(shares.shape[1]), 2):
        bend = _tested(pair, shares, root, residual * root)
        yield
        if bend is not None:
            found.append(bend)
    return found


def _tested(pair: tuple[int, int], shares: Float64, root: Float64, target: Float64) -> Bend | None:
    """Fit and test one term; spectra that are far from the fit are of something else, and are left out."""
    product = shares[:, pair[0]] * shares[:, pair[1]]
    design = np.concatenate([shares, product[:, None]], axis=1) * root
    r = target.shape[1]
    kept = np.ones(len(design), dtype=np.bool_)
    for _ in range(_ROUNDS):
        some = design[kept]
        if len(some) <= _FEWEST or not some.any():
            return None
        coefficients = np.linalg.solve(_ridged(some.T @ some), some.T @ target[kept])
        squared = ((target - design @ coefficients) ** 2).sum(axis=1)
        kept = squared <= r + _OUTLIER * np.sqrt(2.0 * r) + _OUTLIER**2 / 2.0
    return _significance(pair, design[kept], target[kept])


def _significance(pair: tuple[int, int], design: Float64, target: Float64) -> Bend | None:
    hull, _ = np.linalg.qr(design[:, :-1])
    product = design[:, -1] - hull @ (hull.T @ design[:, -1])
    target = target - hull @ (hull.T @ target)
    squared, r = product**2, target.shape[1]
    # As many spectra as would say so much with equal weights.
    n_mixed = float(squared.sum() ** 2 / max(float((squared**2).sum()), 1e-300))
    if n_mixed <= max(_FEWEST, 4 * r):
        return None
    coefficients = product @ target / squared.sum()
    left = target - np.outer(product, coefficients)
    spread = (left * squared[:, None]).T @ left / squared.sum() ** 2
    if not spread.any():
        return None
    statistic = float(coefficients @ np.linalg.solve(_ridged(spread), coefficients))
    # Hotelling's T squared.
    ratio = statistic * (n_mixed - r) / (r * n_mixed)
    return Bend(pair, float(f_distribution.sf(ratio, r, n_mixed - r)), coefficients, n_mixed)


def _ridged(matrix: Float64) -> Float64:
    return np.asarray(matrix + 1e-10 * np.trace(matrix) * np.eye(len(matrix)))
