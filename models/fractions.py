"""Shares of reference spectra in many spectra, with the background under them and plural scattering marginalised.

For near-edge structure in EELS, such as Fe2+ beside Fe3+: the L2,3 edges of two references are fitted together with
power laws and with their own plural-scattering replicas, so that neither a wedge nor what else is in the specimen
counts as valence. The fit is linear with weights from the mean spectrum: unbiased at any dose, within a few per cent of
the error of the full Poisson fit, and one matrix product for a whole map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.base import Float64
from models.mixture import share_errors

_FIT_BELOW_EV = 55.0
"""Losses before the edge that tell its background."""
_POWERS = (0.0, 1.5, 3.0, 4.5)
_REPLICAS_EV = ((15.0, 6.0), (28.0, 8.0))
"""Energy and width of the valence losses that an edge is repeated at: nearly all solids lie in between."""
_REWEIGHTS = 4
_FLOOR = 1e-3


@dataclass(frozen=True)
class Fractions:
    """Shares (n, R) that add up to 1, their standard errors (n, R), and how well the fit does, (n,).

    `amounts` (n, R) are in units of the references, not bounded; `misfit` is in standard deviations of what chance
    makes: above about 5 something is there that no reference has.
    """

    shares: Float64
    errors: Float64
    amounts: Float64
    misfit: Float64


@dataclass(frozen=True, eq=False)
class FractionModel:
    """A linear estimator of the amounts of R references.

    Parameters
    ----------
    columns : f8[R + B, D']
        Edges of the references, then what is marginalised.
    window : slice
        Channels D' that are fitted.
    n_references : int
    """

    columns: Float64
    window: slice
    n_references: int

    @classmethod
    def of_edges(cls, loss_ev: Float64, references: NDArray[Any], onset_ev: float) -> Self:
        """Prepare from whole reference spectra.

        Parameters
        ----------
        loss_ev : f8[D]
            Energy losses, evenly spaced, rising.
        references : (R, D)
            Spectra of standards on that axis, with their backgrounds; little noise.
        onset_ev : float
            The edge begins above.

        Raises
        ------
        ValueError
            Where the axis has too little before or after the onset, or a reference has no edge there.
        """
        step = float(loss_ev[1] - loss_ev[0]) if loss_ev.size > 1 else 0.0
        if not np.allclose(np.diff(loss_ev), step, rtol=1e-3) or step <= 0:
            raise ValueError("fractions need energy losses that rise evenly")
        first = int(np.searchsorted(loss_ev, onset_ev - _FIT_BELOW_EV))
        start = int(np.searchsorted(loss_ev, onset_ev))
        if start - first < 8 or loss_ev.size - start < 8:
            raise ValueError(
                f"the axis has too few channels around {onset_ev:g} eV: from {loss_ev[0]:g} to {loss_ev[-1]:g}"
            )
        window = slice(first, loss_ev.size)
        ev, spectra = loss_ev[window], np.asarray(references, dtype=np.float64)[:, window]
        edges = np.stack([_without_background(ev, spectrum, start - first) for spectrum in spectra])
        if (edges.sum(axis=1) < 1e-2 * spectra[:, start - first :].sum(axis=1)).any():
            raise ValueError(f"a reference has no edge above {onset_ev:g} eV")
        together = (edges / edges.sum(axis=1, keepdims=True)).sum(axis=0)
        replicas = [np.convolve(together, _valence(step, *replica))[: ev.size] for replica in _REPLICAS_EV]
        powers = [(ev / onset_ev) ** -power for power in _POWERS]
        return cls(np.concatenate([edges, np.stack(replicas), np.stack(powers)]), window, len(edges))

    def estimate(self, counts: NDArray[Any], pedestal: NDArray[Any] | float = 0.0) -> Fractions:
        """Shares of each reference in Poisson counts (n, D), with a known background (n,) in each channel."""
        base = np.broadcast_to(np.asarray(pedestal, dtype=np.float64), (len(counts),))
        spectra = np.asarray(counts[:, self.window], dtype=np.float64)
        if not len(spectra) or not spectra.any():
            empty = np.full((len(counts), self.n_references), np.nan)
            return Fractions(empty, empty.copy(), empty.copy(), np.full(len(counts), np.nan))
        expected = self._mean_expected(spectra.mean(axis=0), float(base.mean()))
        weights = 1.0 / expected
        information = _ridged((self.columns * weights) @ self.columns.T)
        solver: Float64 = np.asarray(np.linalg.solve(information, self.columns * weights), dtype=np.float64)
        amounts = (spectra - base[:, None]) @ solver.T
        of_references = amounts[:, : self.n_references]
        shares, errors = self._shares(of_references, self._covariance(spectra, solver))
        return Fractions(shares, errors, of_references, self._misfit(spectra, amounts, base, weights))

    def _mean_expected(self, mean: Float64, base: float) -> Float64:
        """Smooth expected counts of the mean spectrum: the fit itself, reweighted until it agrees with its weights."""
        expected = np.maximum(np.full_like(mean, mean.mean()), 1e-12)
        for _ in range(_REWEIGHTS):
            weights = 1.0 / expected
            information = _ridged((self.columns * weights) @ self.columns.T)
            amounts = np.linalg.solve(information, (self.columns * weights) @ (mean - base))
            expected = np.maximum(amounts @ self.columns + base, _FLOOR * mean.mean() + 1e-12)
        return expected

    def _covariance(self, spectra: Float64, solver: Float64) -> Float64:
        """Covariance (n, R, R) of the amounts: the variance of each count is estimated by the count itself."""
        r = self.n_references
        first, second = np.triu_indices(r)
        flat = spectra @ (solver[first] * solver[second]).T
        covariance = np.empty((len(spectra), r, r))
        covariance[:, first, second] = flat
        covariance[:, second, first] = flat
        return covariance

    def _shares(self, amounts: Float64, covariance: Float64) -> tuple[Float64, Float64]:
        """Shares within [0, 1], and their errors to first order; NaN where there is nothing to share."""
        total = amounts.sum(axis=1, keepdims=True)
        spread = np.sqrt(np.maximum(covariance.sum(axis=(1, 2)), 0.0))[:, None]
        safe = np.where(total > spread, total, np.nan)
        raw = amounts / safe
        errors = np.where(np.isfinite(safe), share_errors(amounts, covariance), np.nan)
        shares = np.clip(raw, 0.0, 1.0)
        return shares / shares.sum(axis=1, keepdims=True), errors

    def _misfit(self, spectra: Float64, amounts: Float64, base: Float64, weights: Float64) -> Float64:
        """Weighted squared residuals beyond those of counting, in their standard deviations."""
        expected = np.maximum(amounts @ self.columns + base[:, None], 1e-12)
        squares = ((spectra - expected) ** 2) @ weights
        # Of a Poisson variable (x - m)^2 has mean m and variance 2 m^2 + m; the fit itself takes one for each column.
        kept = 1.0 - len(self.columns) / spectra.shape[1]
        variance = 2.0 * (expected**2) @ weights**2 + expected @ weights**2
        return np.asarray((squares - kept * (expected @ weights)) / np.sqrt(variance))


def _without_background(ev: Float64, spectrum: Float64, start: int) -> Float64:
    """Subtract the power law that fits what comes before channel `start`."""
    before = np.maximum(spectrum[:start], 1e-300)
    slope, level = np.polyfit(np.log(ev[:start]), np.log(before), 1)
    rest = spectrum - np.exp(level + slope * np.log(ev))
    rest[:start] = 0.0
    return np.asarray(np.maximum(rest, 0.0))


def _valence(step: float, ev: float, width_ev: float) -> Float64:
    """Distribution of one valence loss, of unit area."""
    losses = step * np.arange(int((ev + 4 * width_ev) / step) + 1)
    shape = np.exp(-0.5 * ((losses - ev) / width_ev) ** 2)
    return np.asarray(shape / shape.sum())


def _ridged(matrix: Float64) -> Float64:
    """A symmetric matrix made safely invertible: power laws are nearly alike."""
    return np.asarray(matrix + np.diag(1e-9 * np.diagonal(matrix)))
