"""A network beside the linear model: what it says of positions, whether it may speak, and where the two disagree.

Everything is decided from the counts themselves, in the metric of counting noise that the linear model has:

- **Domain.** Total counts and latent coordinates must be like those of the training (`Domain`).
- **Agreement.** |network - linear|^2 of the same counts, against the noise that is in both. For that, some spectra are
  split by a coin into halves, which are independent measurements of the same: half of the squared difference between
  what a model makes of the one and of the other is noise and nothing else. The sum over both models is the most that
  noise can set them apart by. Its cube root is close to normal (Wilson & Hilferty 1931); median and middle half give
  the far quantile that is the threshold. The noise of the eigenspectra themselves, K D / N, is common to both halves
  and comes on top.
- **Merit.** On the same halves each model predicts the one half from the other: the difference of the two errors is
  free of bias (Neufeld et al., arXiv 2301.07276), but for what the basis has learnt from the same counts, which
  flatters it by K / N in units of raw counts' error. A network that is worse by two standard errors is silent; where
  the two disagree, the one that is nearer to the position's counts is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import ndtri

from models.axis import Axis
from models.base import Counts, Float32, Float64, as_dense
from models.card import ModelCard
from models.inference import TrainedNetwork
from models.linear import LinearEngine
from models.noise import NoiseModel
from models.published import Published
from models.thinning import thin

FALSE_ALARM: Final = 1e-4
"""Share of spectra on which models that are both right are said to disagree."""
_FAR: Final = float(ndtri(1.0 - FALSE_ALARM))
_OFTEN, _SELDOM, _ENOUGH = 4, 32, 64
_LEAST_JUDGED: Final = 24
_MEMORY: Final = 256
_FEWER, _MORE = 0.5, 10.0
_FLOOR: Final = 1e-3


@dataclass(frozen=True)
class Opinion:
    """What a network says of n positions.

    Attributes
    ----------
    index : ndarray, (n,)
    spectra : ndarray of float32, (n, D)
        Denoised accumulated counts, as the detector has them.
    inside : ndarray of bool, (n,)
        In the network's domain.
    disagree : ndarray of bool, (n,)
        The linear model says something else, by more than noise allows (inside the domain).
    speaks : ndarray of bool, (n,)
        The network's spectrum is to be shown, and not the linear model's.
    """

    index: NDArray[Any]
    spectra: Float32
    inside: NDArray[np.bool_]
    disagree: NDArray[np.bool_]
    speaks: NDArray[np.bool_]


class Domain:
    """Where a network was trained, by its card."""

    def __init__(self, card: ModelCard) -> None:
        self._mean = np.asarray(card.latent.mean)
        self._precision = np.linalg.inv(np.asarray(card.latent.covariance))
        self._distance = card.latent.distance
        self._least, self._most = _FEWER * card.counts[0], _MORE * card.counts[1]

    def holds(self, latent: Float32, quanta: Float64) -> NDArray[np.bool_]:
        """Whether spectra with latent coordinates (n, K) and total quanta (n,) are like those of the training.

        More counts than in training only make a spectrum clearer; far fewer are a noise it never saw.
        """
        away = latent - self._mean
        distance = np.sqrt(np.einsum("nk,kl,nl->n", away, self._precision, away))
        enough = (quanta >= self._least) & (quanta <= self._most)
        return np.asarray(enough & (distance <= self._distance))


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
        return float(np.median(self.values)) if self.n else 0.0

    @property
    def spread(self) -> float:
        """Standard deviation of a normal distribution with the same middle half; infinite where it is not known."""
        if self.n < 2:
            return float("inf")
        low, high = np.quantile(self.values, (0.25, 0.75))
        return float((high - low) / 1.349)

    @property
    def error(self) -> float:
        """Standard error of the median."""
        return float(np.sqrt(np.pi / 2) * self.spread / np.sqrt(max(self.values.size, 1)))


@dataclass(frozen=True)
class _Metric:
    """Weights (D,) of channels in units of counting noise at unit exposure, and the basis they belong to."""

    published: Published
    weight: Float32

    @classmethod
    def of(cls, published: Published) -> _Metric:
        variance = published.channel_variance
        least = _FLOOR * float(variance.mean())
        weight = np.divide(1.0, np.maximum(variance, least), out=np.zeros_like(variance), where=variance > 0)
        return cls(published, weight.astype(np.float32))


class SecondOpinion:
    """Lets a network look at positions of a linear engine.

    Deterministic: the same calls give the same bits.

    Parameters
    ----------
    network : TrainedNetwork
        It must take quanta: its own noise is Poisson.
    seed : int
        Of the coin that splits spectra.
    """

    def __init__(self, network: TrainedNetwork, seed: int = 0) -> None:
        self.network = network
        self._domain = Domain(network.card)
        self._rng = np.random.default_rng(seed)
        self._metric: _Metric | None = None
        self._noise = Tally()
        """Cube roots of squared distances that are noise."""
        self.merit = Tally()
        """Squared error of the linear model less that of the network, per channel: raw counts have 1.

        The median counts: a phase that only one of them knows decides about itself alone.
        """
        self._next_sample = 0
        self.looked = self.outside = self.disagreed = self.spoke = 0

    @property
    def is_worse(self) -> bool:
        """Whether the network predicts this scan worse than the linear model, by two standard errors."""
        return self.merit.median + 2.0 * self.merit.error < 0.0

    @property
    def may_speak(self) -> bool:
        """Whether it was judged, and is not worse."""
        return self.merit.n >= _LEAST_JUDGED and not self.is_worse

    def look(self, engine: LinearEngine, index: NDArray[Any]) -> Opinion | None:
        """Denoise the accumulated counts of positions, each named once; None where none of them is known.

        Parameters
        ----------
        engine : LinearEngine
            Without preprocessing: the network sees counts as they came.
        index : ndarray, (n,)
        """
        score_map, published = engine.score_map, engine.score_map.published
        index = index[(score_map.visits[index] > 0) & score_map.store.complete(index)]
        if published is None or not index.size:
            return None
        if self._metric is None or self._metric.published is not published:
            self._metric = _Metric.of(published)
        seen = _Seen.of(score_map.store.rows(index), score_map.visits[index], engine.noise)
        found = self.network.denoise(seen.quanta)
        spectra = seen.counted(found.spectra)
        inside = self._domain.holds(found.latent, seen.total)
        exposure = np.maximum(score_map.exposure(index, engine.noise), 1e-12)
        distance, lean = compare(seen.counts, spectra, score_map.denoise(index), self._metric.weight)
        self._sample(seen, inside, self._metric, score_map.measured.size)
        # A network that does not know this scan would only say so everywhere.
        trusted = inside & self.may_speak
        disagree = trusted & (distance > exposure * self._threshold(published, score_map.measured.size))
        speaks = trusted & (~disagree | (lean >= 0.0))
        self.looked += index.size
        self.outside += int(np.count_nonzero(~inside))
        self.disagreed += int(np.count_nonzero(disagree))
        self.spoke += int(np.count_nonzero(speaks))
        return Opinion(index, spectra, inside, disagree, speaks)

    def spectrum(self, counts: Float32, visits: int, noise: NoiseModel) -> Float32:
        """Denoised counts (D,) of one position's counts (D,), which came in so many visits."""
        seen = _Seen.of(counts[None, :], np.array([visits]), noise)
        return np.asarray(seen.counted(self.network.denoise(seen.quanta).spectra)[0])

    def _threshold(self, published: Published, n_fitted: int) -> float:
        """Squared distance that noise alone exceeds in one spectrum of 1 / FALSE_ALARM; infinite until it is known."""
        if self._noise.n < _LEAST_JUDGED:
            return float("inf")
        quantile = (self._noise.median + _FAR * self._noise.spread) ** 3
        return quantile + published.basis.n_components * len(published.channel_variance) / max(n_fitted, 1)

    def _sample(self, seen: _Seen, inside: NDArray[np.bool_], metric: _Metric, n_fitted: int) -> None:
        """Split some of the spectra into halves: how much do the models differ by noise, and which predicts better?"""
        every = _OFTEN if self._noise.n < _ENOUGH else _SELDOM
        rows = np.arange(self._next_sample, inside.size, every)
        self._next_sample = int(rows[-1] + every if rows.size else self._next_sample) - inside.size
        rows = rows[inside[rows]]
        if not rows.size:
            return
        published, weight = metric.published, metric.weight
        halves = seen.halves(rows, self._rng)
        denoised, merit = [], np.zeros(rows.size)
        exposure = np.maximum(0.5 * (halves[0].exposure(published) + halves[1].exposure(published)), 1e-12)
        for half, other in (halves, halves[::-1]):
            network, linear = half.counted(self.network.denoise(half.quanta).spectra), _linear(half, published)
            denoised.append(np.stack([network, linear]))
            merit += compare(other.counts, network, linear, weight)[1] / exposure
        apart = denoised[0] - denoised[1]
        noise = 0.5 * ((apart * apart) @ weight.astype(np.float64)).sum(axis=0)
        self._noise.add(np.cbrt(noise / exposure))
        self.merit.add(0.5 * merit / weight.size + published.basis.n_components / n_fitted)


@dataclass(frozen=True)
class _Seen:
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
    def of(cls, counts: Counts, visits: NDArray[Any], noise: NoiseModel) -> _Seen:
        visits = np.asarray(visits, dtype=np.float64)
        dense = np.ascontiguousarray(as_dense(counts), dtype=np.float32)
        if noise.is_poisson:
            quanta = counts if isinstance(counts, sparse.csr_array) else dense
            return cls(quanta, dense, visits, _totals(dense), noise)
        offset = (visits * noise.offset).astype(np.float32)
        quanta = (dense - offset[:, None]) / np.float32(noise.gain)
        return cls(quanta, dense, visits, _totals(quanta), noise)

    def counted(self, quanta: Float32) -> Float32:
        """Quanta (n, D) in the detector's counts."""
        if self.noise.is_poisson:
            return quanta
        offset = (self.visits * self.noise.offset).astype(np.float32)
        return np.asarray(quanta * np.float32(self.noise.gain) + offset[:, None])

    def exposure(self, published: Published) -> Float64:
        """Variance (n,) summed over channels."""
        total = self.counts.sum(axis=1, dtype=np.float64)
        return published.test.noise.row_variance(total, self.visits, self.counts.shape[1])

    def halves(self, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[_Seen, _Seen]:
        """Two independent measurements of half the dose from each of these rows."""
        noise, visits = self.noise, 0.5 * self.visits[rows]
        part = as_dense(self.quanta[rows])
        read = 0.0 if noise.is_poisson else noise.read_sigma / noise.gain * float(np.sqrt(self.visits[rows].max()))
        made = []
        for quanta in thin(part, 0.5, rng, read):
            half = _Seen(quanta, quanta, visits, _totals(quanta), noise)
            made.append(_Seen(quanta, half.counted(quanta), visits, half.total, noise))
        return made[0], made[1]


def _totals(quanta: Float32) -> Float64:
    return np.asarray(np.maximum(quanta, 0.0).sum(axis=1, dtype=np.float64))


def _linear(seen: _Seen, published: Published) -> Float32:
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


def misfit(card: ModelCard, technique: str, axis: Axis, noise: NoiseModel) -> str | None:
    """Return why a network does not fit a series of this technique, axis and noise; None where it does."""
    if card.architecture.side > 1:
        return "it sees neighbourhoods, which a scan that is still running does not have"
    if noise.gain <= 0:
        return "the detector's noise is not that of counting"
    read, trained = noise.read_sigma / noise.gain, card.noise.read_sigma / card.noise.gain
    counting = card.counts[0] / card.architecture.n_channels
    if read**2 > 4.0 * trained**2 + 0.25 * counting:
        return f"it was trained with a read noise of {trained:.3g} quanta, the series has {read:.3g}"
    return card.misfit(technique, axis)
