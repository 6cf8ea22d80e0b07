"""Spectra as two models get them to be compared, in the metric of counting noise; and what is kept of comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from models.base import Counts, Float32, Float64, as_dense
from models.inference import Denoised, TrainedNetwork
from models.noise import NoiseModel
from models.published import Published
from models.thinning import thin

_MEMORY: Final = 256
_FLOOR: Final = 1e-3
NORMAL: Final = 1.349
"""Standard deviations between the quartiles of a normal distribution."""


class Tally:
    """Median and spread of numbers of which the latest `memory` count; a quarter of them may be anything."""

    def __init__(self, memory: int = _MEMORY) -> None:
        self._kept = np.zeros(memory)
        self.n = 0

    def add(self, values: Float64) -> None:
        """Take further numbers."""
        for value in values.tolist():
            self._kept[self.n % self._kept.size] = value
            self.n += 1

    @property
    def values(self) -> Float64:
        """The numbers that count."""
        return self._kept[: self.n]

    @property
    def median(self) -> float:
        """Their median, 0 without any."""
        return quartiles(self.values)[1] if self.n else 0.0

    @property
    def spread(self) -> float:
        """Standard deviation of a normal distribution with the same middle half; infinite where it is not known."""
        if self.n < 2:
            return float("inf")
        low, _, high = quartiles(self.values)
        return (high - low) / NORMAL

    @property
    def error(self) -> float:
        """Standard error of the median."""
        return float(np.sqrt(np.pi / 2) * self.spread / np.sqrt(max(self.values.size, 1)))


def quartiles(values: Float64) -> tuple[float, float, float]:
    """Quartiles of some hundreds of numbers, as `numpy.quantile` has them in ten times as long."""
    ordered, last = np.sort(values), values.size - 1
    low, middle, high = np.interp((0.25 * last, 0.5 * last, 0.75 * last), np.arange(values.size), ordered)
    return float(low), float(middle), float(high)


@dataclass(frozen=True)
class Metric:
    """Weights (D,) of channels in units of counting noise at unit exposure, and the basis they belong to."""

    published: Published
    weight: Float32

    @classmethod
    def of(cls, published: Published) -> Metric:
        variance = published.channel_variance
        least = _FLOOR * float(variance.mean())
        weight = np.divide(1.0, np.maximum(variance, least), out=np.zeros_like(variance), where=variance > 0)
        return cls(published, weight.astype(np.float32))


@dataclass(frozen=True)
class Seen:
    """Spectra as they are given to both models.

    `quanta` (n, D) is what the network gets; `counts` (n, D) in float32 is the same as the detector has it, which took
    `visits` (n,).
    """

    quanta: Counts
    counts: Float32
    visits: Float64
    total: Float64
    noise: NoiseModel

    @classmethod
    def of(cls, counts: Counts, visits: NDArray[Any], noise: NoiseModel) -> Seen:
        """Make it from accumulated counts (n, D)."""
        visits = np.asarray(visits, dtype=np.float64)
        dense = np.ascontiguousarray(as_dense(counts), dtype=np.float32)
        if noise.is_poisson:
            quanta = counts if isinstance(counts, sparse.csr_array) else dense
            return cls(quanta, dense, visits, dense.sum(axis=1, dtype=np.float64), noise)
        offset = (visits * noise.offset).astype(np.float32)
        return cls._of_quanta((dense - offset[:, None]) / np.float32(noise.gain), dense, visits, noise)

    @classmethod
    def _of_quanta(cls, quanta: Float32, counts: Float32, visits: Float64, noise: NoiseModel) -> Seen:
        return cls(quanta, counts, visits, np.maximum(quanta, 0.0).sum(axis=1, dtype=np.float64), noise)

    def by(self, network: TrainedNetwork) -> Denoised:
        """What a network makes of them, in quanta."""
        quanta = self.quanta
        if isinstance(quanta, sparse.csr_array) and not network.sums_rows(quanta):
            quanta = self.counts
        return network.denoise(quanta)

    def counted(self, quanta: Float32) -> Float32:
        """Quanta (n, D) in the detector's counts."""
        if self.noise.is_poisson:
            return quanta
        offset = (self.visits * self.noise.offset).astype(np.float32)
        return np.asarray(quanta * np.float32(self.noise.gain) + offset[:, None])

    def exposure(self, published: Published) -> Float64:
        """Variance (n,) summed over channels."""
        total = self.total if self.noise.is_poisson else self.counts.sum(axis=1, dtype=np.float64)
        return published.test.noise.row_variance(total, self.visits, self.counts.shape[1])

    def halves(self, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[Seen, Float32]:
        """Two independent measurements of half the dose from each of m rows.

        Returns
        -------
        halves : Seen
            2 m spectra: the first halves, then the second ones.
        others : ndarray, (2 m, D)
            Counts of the other half of each.
        """
        noise, visits = self.noise, np.tile(0.5 * self.visits[rows], 2)
        part = as_dense(self.quanta[rows])
        read = 0.0 if noise.is_poisson else noise.read_sigma / noise.gain * float(np.sqrt(self.visits[rows].max()))
        quanta = np.concatenate(thin(part, 0.5, rng, read))
        plain = Seen._of_quanta(quanta, quanta, visits, noise)
        counts = plain.counted(quanta)
        return Seen(quanta, counts, visits, plain.total, noise), np.roll(counts, rows.size, axis=0)


def linear_of(seen: Seen, published: Published) -> Float32:
    """What the components make of spectra that were never stored (n, D)."""
    scores = published.scores(published.project(seen.counts), seen.exposure(published))
    return np.asarray(published.basis.mean + scores @ published.eigenspectra, dtype=np.float32)


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def compare(
    counts: Float32, network: Float32, linear: Float32, weight: Float32
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared distance (n,) of two predictions (n, D), and how much nearer the first is to the counts, weighted (D,).

    |linear - counts|^2 - |network - counts|^2 = (network - linear) (2 counts - network - linear).
    """
    n, d = counts.shape
    distance, lean = np.zeros(n), np.zeros(n)
    for i in range(n):
        apart = np.float32(0.0)
        nearer = np.float32(0.0)
        for c in range(d):
            difference = network[i, c] - linear[i, c]
            weighed = weight[c] * difference
            apart += weighed * difference
            nearer += weighed * (counts[i, c] + counts[i, c] - network[i, c] - linear[i, c])
        distance[i], lean[i] = apart, nearer
    return distance, lean


@njit(cache=True, nogil=True)
def between(linear: Float32, network: Float32, inner: Float32, beyond: np.float32, further: np.float32) -> Float32:
    """Linear + beyond (network - linear) + further inner, each (n, D), while they are in the cache."""
    out = np.empty_like(linear)
    n, d = linear.shape
    for i in range(n):
        for c in range(d):
            near = linear[i, c]
            out[i, c] = near + beyond * (network[i, c] - near) + further * inner[i, c]
    return out


@njit(cache=True, nogil=True)
def scaled(spectra: Float32, channels: Float32, rows: Float32) -> Float32:
    """Spectra (n, D) times a factor for each channel (D,) and each row (n,)."""
    out = np.empty_like(spectra)
    n, d = spectra.shape
    for i in range(n):
        factor = rows[i]
        for c in range(d):
            out[i, c] = spectra[i, c] * channels[c] * factor
    return out


def compile_kernels(spectra: Float32) -> None:
    """Have everything compiled that is needed for spectra (n, D) of this type."""
    n, d = spectra.shape
    one = np.float32(1.0)
    compare(spectra, spectra, spectra, np.ones(d, dtype=np.float32))
    between(spectra, spectra, spectra, one, one)
    scaled(spectra, np.ones(d, dtype=np.float32), np.ones(n, dtype=np.float32))
