"""What anomaly scores look like where there is no anomaly, told by the scores themselves (Efron 2004).

An estimated noise is a guess: channels are correlated, gains uneven, the model still learning. Then the bulk of the
spectra scores too high, and a threshold made for perfect noise flags half a map. The bulk's own location and spread
correct for that: it cannot be flagged, while what stands out of it still can.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from models.anomaly import ScanWindows
from models.base import Float32, Float64

_KEPT = 1024
_DRAWS = 256
LEVELS = np.array([0.5, 0.9])
_LEAST_SCALE, _LEAST_SHIFT = 0.89, -0.09
"""What chance makes of spread and location of 1,024 scores, at two standard deviations."""


class EmpiricalNull:
    """Running median and upper spread of anomaly scores, and the correction they ask for.

    Efron, J. Am. Stat. Assoc. 99 (2004) 96. Up to a tenth of the spectra may be anomalous without hiding each other.
    Scores are also raised, but no more than chance lowers them: a correction that goes one way only is no better known,
    and costs a third of the flags that were configured where the noise was guessed right.
    """

    def __init__(self, windows: ScanWindows) -> None:
        self._windows = windows
        self._recent: Float32 = np.zeros(0, dtype=np.float32)

    @cached_property
    def expected(self) -> Float64:
        """Median and upper decile of the score in white noise of known variance, drawn, (2,)."""
        windows = self._windows
        draws = np.random.default_rng(0).standard_normal((_DRAWS, windows.total_bins), dtype=np.float32)
        top = np.maximum(windows.sums(draws).max(axis=1), 0.0) ** 2 / (2.0 * windows.n_bins)
        return np.asarray(np.quantile(top, LEVELS), dtype=np.float64)

    def follow(self, score: Float32, expected: Float64 | None = None) -> Float32:
        """Corrected scores (n,) of a block; it and the spectra before it, up to 1,024, are the bulk."""
        recent = np.concatenate([self._recent, score])
        self._recent = recent[-_KEPT:]
        return self.correct(score, recent[-max(_KEPT, score.size) :], expected)

    def correct(self, score: Float32, bulk: Float32, expected: Float64 | None = None) -> Float32:
        """Scores (n,) with the location and spread of the `bulk` taken to those of chance, raised by little at most.

        Parameters
        ----------
        expected : ndarray, (2,), optional
            Median and upper decile of scores that chance gives; those in white noise if not given.
        """
        if not bulk.size:
            return score
        found, expected = _quantiles(bulk), self.expected if expected is None else expected
        scale = max(float(found[1] - found[0]) / max(float(expected[1] - expected[0]), 1e-6), _LEAST_SCALE)
        shift = max(float(found[0] - expected[0]), _LEAST_SHIFT)
        corrected = expected[0] + (score.astype(np.float64) - expected[0] - shift) / scale
        return np.asarray(np.maximum(corrected, 0.0), dtype=np.float32)


def _quantiles(values: Float32) -> Float64:
    """The levels, linearly interpolated (numpy's own takes ten times as long for a few hundred values)."""
    ranked = np.sort(values).astype(np.float64)
    return np.asarray(np.interp(LEVELS * (ranked.size - 1), np.arange(ranked.size), ranked))
