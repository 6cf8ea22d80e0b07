"""What a test for drift could do that knows what is at each position: a bound for the benchmark of drift.

Each spectrum has the score and the Fisher information of shift and gain under its own expectation, exactly. The
statistic, its splits and its threshold are those of `models.drift`; the spectra before the change are the reference.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.interpolate import CubicSpline

from models.axis import Axis
from models.calibration import Calibration
from models.drift import _FEWEST_BEFORE, _WINDOWS, DriftConfig
from simulator.sample import Specimen

Float = NDArray[np.float64]
_STEP = Calibration(5e-4, 0.0), Calibration(0.0, 5e-5)


def axis_of(specimen: Specimen) -> Axis:
    """Axis of a specimen as the models take it."""
    values = specimen.axis.values
    return Axis("Energy", "keV", values.size, float(values[0]), float(values[1] - values[0]))


def recorded_spectra(spectra: Float, axis: Axis, calibration: Calibration) -> Float:
    """Spectra (m, D) as an instrument records them that is so far off."""
    if calibration.is_nominal:
        return spectra
    moved = CubicSpline(axis.values, spectra, axis=1)(calibration.true(axis.values)) / (1 + calibration.gain)
    return np.asarray(np.maximum(moved, 0.0))


class KnownTest:
    """The test of a scan of a specimen whose spectra it knows.

    Attributes
    ----------
    has_found : bool
        Whether there is a change in what has been added so far.
    """

    def __init__(self, specimen: Specimen) -> None:
        axis, self._shapes = axis_of(specimen), specimen.endmembers
        self._slopes = [_slope(self._shapes, axis, step) for step in _STEP]
        self._score, self._information = np.zeros((1, 2)), np.zeros((1, 2, 2))
        self.has_found = False

    def add(self, shares: Float, counts: sparse.csr_array) -> None:
        """Take a segment: spectra (n, D) of positions with these abundances (n, M) in counts."""
        s, i = _told(counts.toarray(), shares @ self._shapes, np.stack([shares @ slope for slope in self._slopes]))
        self._score = np.vstack([self._score, self._score[-1:] + s])
        self._information = np.vstack([self._information, self._information[-1:] + i])
        if len(self._score) > _FEWEST_BEFORE + 1:
            self.has_found = _statistic(self._score, self._information) >= DriftConfig().threshold


def _slope(shapes: Float, axis: Axis, step: Calibration) -> Float:
    """Derivative of recorded spectra by shift or gain, by the size of a step."""
    back = Calibration(-step.shift, -step.gain)
    return (recorded_spectra(shapes, axis, step) - recorded_spectra(shapes, axis, back)) / (
        2.0 * (step.shift + step.gain)
    )


def _told(x: Float, expected: Float, slopes: Float) -> tuple[Float, Float]:
    """Score (2,) and information (2, 2) of spectra (n, D) with derivatives (2, n, D)."""
    weight = np.divide(1.0, expected, out=np.zeros_like(expected), where=expected > 1e-9)
    weighted = slopes * weight
    return np.einsum("tnd,nd->t", weighted, x - expected), np.einsum("tnd,und->tu", weighted, slopes)


def _statistic(score: Float, information: Float) -> float:
    """Largest chi-squared of the later part against the earlier one, from sums (m + 1, ...) over segments."""
    splits = len(score) - 1 - _WINDOWS
    splits = splits[splits >= _FEWEST_BEFORE]
    after, told = score[-1] - score[splits], information[-1] - information[splits]
    transfer = told @ np.linalg.inv(information[splits])
    difference = after - np.einsum("mtu,mu->mt", transfer, score[splits])
    covariance = told + transfer @ told
    return float(np.einsum("mt,mtu,mu->m", difference, np.linalg.inv(covariance), difference).max())
