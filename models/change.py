"""Whether a specimen has changed between two visits: each position is compared with itself.

A phase that the scan comes upon for the first time is no change. So only positions that were seen before count: their
new scores against what their earlier counts predict, and their new anomaly score against the last one. Sums over
enough visits are standard normal where nothing changes, and a CUSUM (Page 1954) tells when they no longer are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Float32, Float64
from models.noise import NoiseModel
from models.published import Published

_VISITS = 64
_ALLOWANCE, _LIMIT = 1.0, 10.0
_TOLERANCE = 0.1
_MOST_SCORE = 20.0
_CALIBRATION, _MEMORY = 16, 64


@dataclass(frozen=True)
class Seen:
    """Visits (n,) to positions seen before: raw scores and exposures of the visits, and of all earlier ones together.

    `variance` (n, K) is the noise of the scores of the visits along the principal axes of the compositions, `offset`
    the counts in each channel of a visit that are not signal.
    """

    raw: Float32
    exposure: Float64
    variance: Float64
    earlier_raw: Float32
    earlier_exposure: Float64
    earlier_visits: NDArray[Any]
    offset: float


def score_variance(
    published: Published, gross: Float32 | sparse.csr_array, noise: NoiseModel, n_channels: int
) -> Float64:
    """Noise variance (n, K) of the scores of single visits along the axes, from the counts (n, D) themselves."""
    squared = (published.projector @ published.shrinkage.axes.astype(np.float32)) ** 2
    base = noise.read_sigma**2 - noise.gain * noise.offset
    variance = noise.gain * (gross @ squared) + base * squared.sum(axis=0)
    return np.maximum(np.asarray(variance, dtype=np.float64), 1e-12 * n_channels)


def score_change(published: Published, seen: Seen) -> Float64:
    """How much more the scores of each visit differ from what was known than noise lets them, per component, (n,).

    Zero in the mean where nothing changed, whatever the composition; a change adds its squared distance. Earlier
    scores are freed of the pull that their own noise had on the basis.
    """
    shrinkage = published.shrinkage
    ratio = (seen.exposure / seen.earlier_exposure)[:, None]
    # An offset adds up with visits, whatever their exposure was.
    empty = seen.offset * published.projector.sum(axis=0, dtype=np.float64)
    centre = shrinkage.centre - empty * float(seen.earlier_visits.sum() / seen.earlier_exposure.sum())
    new = (seen.raw - empty - seen.exposure[:, None] * centre) @ shrinkage.axes
    old = seen.earlier_raw - seen.earlier_visits[:, None] * empty - seen.earlier_exposure[:, None] * centre
    old = old @ shrinkage.axes / shrinkage.pull
    # Earlier counts of the same composition are as noisy for their exposure as the new ones.
    excess = (new - ratio * old) ** 2 / (1.0 + ratio) - seen.variance
    return np.asarray((excess / seen.variance.mean(axis=0)).mean(axis=1))


class Cusum:
    """One-sided CUSUM of values that have mean zero until something changes.

    Parameters
    ----------
    lasting : float
        Values over which a rise must last: what is over sooner was a part of the specimen.
    calibrates : bool
        The zero is not known: the first sums tell it.
    """

    def __init__(self, lasting: float, calibrates: bool = False) -> None:
        self._lasting, self._lasted = lasting, 0
        self._left = _CALIBRATION if calibrates else 0
        self._known = 0
        self._level = 0.0
        self._sum = self._squares = 0.0
        self._n = 0
        self._risen = 0.0

    def add(self, values: NDArray[Any]) -> bool:
        """Take values (n,); whether they have risen."""
        self._sum += float(values.sum())
        self._squares += float((values**2).sum())
        self._n += values.size
        if self._n < _VISITS:
            return False
        mean, spread, n = self._sum / self._n, np.sqrt(self._squares) / self._n, self._n
        self._sum = self._squares = 0.0
        self._n = 0
        if self._left:
            self._left -= 1
            self._learn(mean)
            return False
        z = (mean - self._level - _TOLERANCE) / max(spread, 1e-12)
        # Bounded, so that a rise that is over is soon forgotten.
        self._risen = min(max(0.0, self._risen + z - _ALLOWANCE), 2.0 * _LIMIT)
        self._lasted += n if z > _ALLOWANCE else 0
        if self._risen == 0.0:
            self._learn(mean)
            self._lasted = 0
        return self._risen > _LIMIT and self._lasted >= self._lasting

    def _learn(self, mean: float) -> None:
        """What passes for no change is its own null."""
        self._known = min(self._known + 1, _MEMORY)
        self._level = max(
            0.0, self._level + (mean - self._level) / max(self._known, _CALIBRATION if not self._left else 1)
        )


class ChangeWatch:
    """Watches scores and anomaly scores of positions that are visited again.

    Parameters
    ----------
    n_positions : int
        Of the scan; a change is one of at least an eighth of it.
    calibrates : bool
        The noise is not known: its level is learnt before anything is called a change.
    """

    def __init__(self, n_positions: int, calibrates: bool) -> None:
        lasting = n_positions / 8.0
        self._scores, self._anomaly = Cusum(lasting, calibrates), Cusum(lasting)

    def add(self, change: Float64, anomaly: Float32, earlier_anomaly: Float32) -> bool:
        """Take score changes (n,) and anomaly scores (n,) with the earlier ones; whether the specimen has changed."""
        tested = earlier_anomaly > 0
        rise = np.minimum(anomaly[tested], _MOST_SCORE) - np.minimum(earlier_anomaly[tested], _MOST_SCORE)
        by_scores = self._scores.add(change)
        by_anomaly = self._anomaly.add(rise.astype(np.float64))
        return by_scores or by_anomaly
