"""What a test for drift could do that knows what is at each position: a bound for the benchmark of drift.

Each spectrum has the score and the Fisher information of shift and gain under its own expectation, exactly. The
statistic, its splits and its threshold are those of `models.drift`; the spectra before the change are the reference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.axis import Axis
from models.calibration import Calibration
from models.drift import _FEWEST_BEFORE, _WINDOWS, DriftConfig
from simulator.detector import Emitters, draw_events
from simulator.sample import Specimen

Float = NDArray[np.float64]
Recorded = Callable[[Float, Axis, Calibration], Float]
_STEP = Calibration(5e-4, 0.0), Calibration(0.0, 5e-5)
_LONGEST = 4096


def known_delay(
    specimen: Specimen, axis: Axis, recorded: Recorded, change: Calibration, counts: float, before: int, seed: int
) -> float:
    """Spectra after a change until it is found, `before` spectra being the reference; infinite where it never is."""
    config, rng = DriftConfig(), np.random.default_rng(seed)
    shapes, n = specimen.endmembers, specimen.n_positions
    slopes = [_slope(shapes, axis, recorded, step) for step in _STEP]
    emitters = [Emitters(shapes), Emitters(recorded(shapes, axis, change))]
    score, information = np.zeros((1, 2)), np.zeros((1, 2, 2))
    reference = before // config.segment
    for segment in range(reference + _LONGEST // config.segment):
        shares = counts * specimen.abundances[np.arange(segment * config.segment, (segment + 1) * config.segment) % n]
        events = draw_events(rng, shares, emitters[segment >= reference])
        x = np.zeros((config.segment, axis.size))
        np.add.at(x, (np.repeat(np.arange(config.segment), np.diff(events.offsets)), events.channels), 1.0)
        s, i = _told(x, shares @ shapes, np.stack([shares @ slope for slope in slopes]))
        score, information = np.vstack([score, score[-1:] + s]), np.vstack([information, information[-1:] + i])
        if segment >= reference and _statistic(score, information) >= config.threshold:
            return float((segment + 1 - reference) * config.segment)
    return float("inf")


def _slope(shapes: Float, axis: Axis, recorded: Recorded, step: Calibration) -> Float:
    """Derivative of recorded spectra by shift or gain, by the size of a step."""
    back = Calibration(-step.shift, -step.gain)
    return (recorded(shapes, axis, step) - recorded(shapes, axis, back)) / (2.0 * (step.shift + step.gain))


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
