"""What a scan as a whole says of all its spectra at once, and a network that sees one at a time cannot know.

Two things, both measured from counts alone and both 1 where counts say nothing:

- **Response.** Smoothed over a peak width, the mean spectrum of the scan over the mean of what the network makes of the
  same positions: background, efficiency and lines that all spectra have in common. It is shrunk by what counting noise
  makes of such a ratio (empirical Bayes: the variance beyond that of noise is the prior's).
- **Dose.** A network takes the counts of a spectrum for their expectation. Where all positions have nearly the same,
  most of the difference is noise; each total is shrunk towards the mean of the scan accordingly, but for those that are
  farther out than three standard deviations.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from models.axis import Axis
from models.base import Float32, Float64
from models.seen import scaled

_POOLED: Final = 2.0 * float(np.sqrt(np.pi))
"""A Gaussian of standard deviation s pools the noise of so many times s channels."""
_GROWTH: Final = 1.1
_FAR: Final = 3.0


class Attunement:
    """Fits a network's spectra to a scan.

    Deterministic: the same calls give the same bits.

    Parameters
    ----------
    axis : Axis
    read_sigma : float
        Read noise of a channel in a visit, in quanta.
    """

    def __init__(self, axis: Axis, read_sigma: float = 0.0) -> None:
        self._width = axis.peak_width_channels()
        self._read_variance = axis.size * read_sigma**2
        self._seen: Float64 = np.zeros(axis.size)
        self._said: Float64 = np.zeros(axis.size)
        self._response: Float32 = np.ones(axis.size, dtype=np.float32)
        self._due = 0.0
        self.n = 0
        """Spectra that were taken."""
        self._dose = self._square = self._noise = 0.0

    @property
    def optimism(self) -> float:
        """By how much spectra that were taken look better than others, in units of the error of raw counts."""
        return 1.0 / (_POOLED * self._width * self.n) if self.n else 0.0

    def take(
        self, quanta: Float32, spectra: Float32, total: Float64, visits: Float64, chosen: NDArray[np.bool_]
    ) -> None:
        """Learn from the chosen ones (n,) of quanta (n, D) and what the network makes of them (n, D)."""
        part = chosen.astype(np.float32)
        self._seen += part @ quanta
        self._said += part @ spectra
        dose, noise = self._doses(total[chosen], visits[chosen])
        self.n += len(dose)
        self._dose += float(dose.sum())
        self._square += float((dose**2).sum())
        self._noise += float(noise.sum())

    def tune(self, spectra: Float32, total: Float64, visits: Float64) -> Float32:
        """Return a network's spectra (n, D) of total quanta (n,) in so many visits (n,) as they are in this scan."""
        if self.n < 2:
            return spectra
        if self._said.sum() >= self._due:
            self._respond()
        dose, noise = self._doses(total, visits)
        mean = self._dose / self.n
        spread = max(self._square / self.n - mean**2 - self._noise / self.n, 0.0)
        away = dose - mean
        shrunk = mean + away * spread / np.maximum(spread + noise, 1e-30)
        shrunk = np.where(away**2 > _FAR**2 * (spread + noise), dose, shrunk)
        scale = np.divide(shrunk, dose, out=np.ones_like(dose), where=dose > 0)
        return scaled(np.ascontiguousarray(spectra), self._response, scale.astype(np.float32))

    def _doses(self, total: Float64, visits: Float64) -> tuple[Float64, Float64]:
        """Quanta in a visit, and the variance of that by noise."""
        dose = total / visits
        return dose, (dose + self._read_variance) / visits

    def _respond(self) -> None:
        self._due = _GROWTH * float(self._said.sum())
        seen, said = (gaussian_filter1d(x, self._width, mode="nearest") for x in (self._seen, self._said))
        said = np.maximum(said, 1e-12)
        excess, noise = seen / said - 1.0, 1.0 / (_POOLED * self._width * said)
        prior = max(float((said * (excess**2 - noise)).sum() / said.sum()), 0.0)
        self._response = (1.0 + excess * prior / (prior + noise)).astype(np.float32)


def attuned(spectra: Float32, quanta: NDArray[Any], axis: Axis, read_sigma: float = 0.0) -> Float32:
    """Return a network's spectra (n, D) of the quanta (n, D) of a whole map as they are in it."""
    tuning, once = Attunement(axis, read_sigma), np.ones(len(quanta))
    total = np.maximum(quanta, 0).sum(axis=1, dtype=np.float64)
    tuning.take(np.asarray(quanta, dtype=np.float32), spectra, total, once, np.ones(len(quanta), dtype=np.bool_))
    return tuning.tune(spectra, total, once)
