"""A network beside the linear model: what it says of positions, whether it may speak, and where the two disagree.

Everything is decided from the counts themselves, in the metric of counting noise that the linear model has:

- **Domain.** Total counts and latent coordinates must be like those of the training (`Domain`).
- **Attunement.** What all spectra of the scan have in common is measured and given to the network's (`Attunement`).
- **Agreement.** |network - linear|^2 of the same counts, against the noise that is in both. For that, some spectra are
  split by a coin into halves, which are independent measurements of the same: half of the squared difference between
  what a model makes of the one and of the other is noise and nothing else. The sum over both models is the most that
  noise can set them apart by. Its cube root is close to normal (Wilson & Hilferty 1931); median and middle half give
  the far quantile that is the threshold. The noise of the eigenspectra themselves, K D' / N, is common to both halves
  and comes on top (D' channels, those that are scaled together counting once).
- **Merit.** On the same halves each model predicts the one half from the other: the difference of the two errors is
  free of bias (Neufeld et al., arXiv 2301.07276), but for what the basis has learnt from the same counts, which
  flatters it by (K / N) (D' / D) in units of raw counts' error. From the same halves follows how much of the network's
  spectrum is best shown beside the linear model's (`Blend`), within the components and beyond them: what a scan has
  taught with certainty, that there is little beyond its components, is not known to a network. One that would add
  nothing is silent. Where the two disagree, the network is shown, unmixed, where it is nearer to the position's counts
  by more than chance and what it has of their noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from models import rebinned
from models.attune import Attunement
from models.axis import Axis
from models.base import Float32, Float64, as_dense
from models.blend import LEAST_JUDGED, Blend
from models.card import ModelCard
from models.inference import TrainedNetwork
from models.linear import LinearEngine
from models.noise import NoiseModel
from models.published import Published
from models.seen import Metric, Seen, Tally, between, compare, linear_of

FALSE_ALARM: Final = 1e-4
"""Share of spectra on which models that are both right are said to disagree."""
_FAR: Final = float(ndtri(1.0 - FALSE_ALARM))
_OFTEN, _SELDOM, _ENOUGH, _TOGETHER = 4, 64, 256, 8
_GROWN: Final = 1.5
"""Growth of what the linear model has learnt, from which on it is another."""
_LEAST_WEIGHT: Final = 0.05
_APART: Final = 3.0
_FEWER, _MORE = 0.5, 10.0


@dataclass(frozen=True)
class Opinion:
    """What a network says of n positions.

    Attributes
    ----------
    index : ndarray, (n,)
    spectra : ndarray of float32, (n, D)
        Denoised accumulated counts as they are to be shown, in the detector's counts; the linear model has its part.
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
        self._tuning: Attunement | None = None
        self._domain = Domain(network.card)
        self._rng = np.random.default_rng(seed)
        self._metric: Metric | None = None
        self._noise = Tally()
        """Cube roots of squared distances that are noise."""
        self._bolder = Tally()
        """By how much more of the noise of a spectrum is in what the network makes of it, in units of the exposure."""
        self._apart = Tally()
        """The same of all distances."""
        self.merit = Tally()
        """Squared error of the linear model less that of the network, per channel: raw counts have 1.

        The median counts: a phase that only one of them knows decides about itself alone.
        """
        self.within, self.beyond = Blend(), Blend()
        """Of what the network says within the components of the linear model, and of what it says beyond them."""
        self._judged_by, self._fresh = (0.0, -1), 0
        self._unsplit = 0
        self.looked = self.outside = self.disagreed = self.spoke = 0

    @property
    def is_worse(self) -> bool:
        """Whether the network was judged, and would add nothing to what the linear model says of this scan."""
        return self.within.is_known and max(self.weights) < _LEAST_WEIGHT

    @property
    def may_speak(self) -> bool:
        """Whether it was judged, and adds something."""
        return self.within.is_known and not self.is_worse

    @property
    def weights(self) -> tuple[float, float]:
        """How far what is shown lies from the linear model towards the network: within the components, and beyond."""
        return self.within.weight, self.beyond.weight

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
            self._metric = Metric.of(published)
        self._follow(published)
        seen = Seen.of(score_map.store.rows(index), score_map.visits[index], engine.noise)
        tuning = self._tuned(engine.noise)
        found = seen.by(self.network)
        spectra = seen.counted(tuning.tune(found.spectra, seen.total, seen.visits))
        inside = self._domain.holds(found.latent, seen.total)
        exposure = np.maximum(score_map.exposure(index, engine.noise), 1e-12)
        linear = score_map.denoise(index)
        distance, lean = compare(seen.counts, spectra, linear, self._metric.weight)
        self._sample(seen, inside, self._metric, score_map.measured.size)
        # A network that does not know this scan would only say so everywhere.
        trusted = inside & self.may_speak
        disagree = trusted & (distance > exposure * self._threshold(published, score_map.measured.size))
        speaks = trusted & (~disagree | self._is_nearer(lean, distance, exposure))
        quanta = seen.counts if engine.noise.is_poisson else as_dense(seen.quanta)
        ordinary = inside & ~disagree & self._is_ordinary(np.cbrt(distance / exposure), inside)
        tuning.take(quanta, found.spectra, seen.total, seen.visits, ordinary)
        self.looked += index.size
        self.outside += int(np.count_nonzero(~inside))
        self.disagreed += int(np.count_nonzero(disagree))
        self.spoke += int(np.count_nonzero(speaks))
        agreed = ~disagree
        spectra[agreed] = self._between(linear[agreed], spectra[agreed], published)
        return Opinion(index, spectra, inside, disagree, speaks)

    def judge_anew(self) -> None:
        """Forget most of how the two were judged: the linear model has become another."""
        self._fresh = 0
        self.within.age(LEAST_JUDGED)
        self.beyond.age(LEAST_JUDGED)

    def _follow(self, published: Published) -> None:
        """A linear model that knows little is easily improved on; with what it learns it needs less of a network."""
        learnt, components = self._judged_by
        if published.n_spectra >= _GROWN * learnt or published.basis.n_components != components:
            self._judged_by = published.n_spectra, published.basis.n_components
            self.judge_anew()

    def _is_nearer(self, lean: Float64, distance: Float64, exposure: Float64) -> NDArray[np.bool_]:
        """Whether networks are nearer to the truth (n,), not only to counts: by more than noise does that.

        What follows the noise more is nearer to it, by twice its part in the prediction; and where the linear model is
        right, the lean has a standard deviation of 2 sqrt(exposure distance).
        """
        follows = 2.0 * exposure * max(self._bolder.median, 0.0)
        return np.asarray(lean > follows + 2.0 * _FAR * np.sqrt(exposure * distance))

    def _between(self, linear: Float32, network: Float32, published: Published) -> Float32:
        """Spectra (n, D) on the way from the one to the other."""
        within, beyond = self.weights
        inner = published.project(network - linear) @ published.eigenspectra
        return between(linear, network, inner, np.float32(beyond), np.float32(within - beyond))

    def spectrum(self, counts: Float32, visits: int, noise: NoiseModel) -> Float32:
        """Denoised counts (D,) of one position's counts (D,), which came in so many visits."""
        seen = Seen.of(counts[None, :], np.array([visits]), noise)
        tuned = self._tuned(noise).tune(seen.by(self.network).spectra, seen.total, seen.visits)
        return np.asarray(seen.counted(tuned)[0])

    def _is_ordinary(self, apart: Float64, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which spectra (n,) the models are no farther apart on than on most so far: what the scan has in common.

        By the scan itself, for a network that has not been attuned disagrees everywhere. What only a part of the map
        shows must not be taken for the response of the detector.
        """
        known = self._apart.n >= LEAST_JUDGED
        limit = self._apart.median + _APART * self._apart.spread if known else float("inf")
        self._apart.add(apart[inside][::_OFTEN])
        return np.asarray(apart <= limit)

    def _tuned(self, noise: NoiseModel) -> Attunement:
        if self._tuning is None:
            read = 0.0 if noise.is_poisson else noise.read_sigma / noise.gain
            self._tuning = Attunement(self.network.card.axis.axis(), read)
        return self._tuning

    def _threshold(self, published: Published, n_fitted: int) -> float:
        """Squared distance that noise alone exceeds in one spectrum of 1 / FALSE_ALARM; infinite until it is known."""
        if self._noise.n < LEAST_JUDGED:
            return float("inf")
        quantile = (self._noise.median + _FAR * self._noise.spread) ** 3
        return quantile + published.basis.n_components * published.scaling.n_effective / max(n_fitted, 1)

    def _sample(self, seen: Seen, inside: NDArray[np.bool_], metric: Metric, n_fitted: int) -> None:
        """Split some of the spectra into halves: how much do the models differ by noise, and which predicts better?"""
        rows = self._chosen(inside.size)
        rows = rows[inside[rows]]
        if not rows.size:
            return
        self._fresh += rows.size
        published, weight = metric.published, metric.weight
        half, other = seen.halves(rows, self._rng)
        exposure = np.maximum(half.exposure(published).reshape(2, -1).mean(axis=0), 1e-12)
        tuning = self._tuned(half.noise)
        network = half.counted(tuning.tune(half.by(self.network).spectra, half.total, half.visits))
        linear = linear_of(half, published)
        nearer = compare(other, network, linear, weight)[1].reshape(2, -1).sum(axis=0)
        apart = [a[: rows.size] - a[rows.size :] for a in (network, linear)]
        own, its = (0.5 * (a * a) @ weight / exposure for a in apart)
        self._noise.add(np.cbrt(own + its))
        self._bolder.add(own - its)
        # Channels that are scaled together have one part of the noise.
        freedom = published.scaling.n_effective / weight.size
        learnt = published.basis.n_components * freedom / n_fitted
        unit = 0.5 / exposure / weight.size
        self.merit.add(nearer * unit + learnt - tuning.optimism)
        self._weigh(network, linear, other, metric, unit, (learnt, tuning.optimism))

    def _chosen(self, n: int) -> NDArray[np.int64]:
        """Which of n spectra are to be split: some together, for one takes a network nearly as long as many."""
        every = _OFTEN if self._fresh < _ENOUGH else _SELDOM
        self._unsplit += n
        due = self._unsplit // every
        if due < min(_TOGETHER, n):
            return np.zeros(0, dtype=np.int64)
        self._unsplit -= due * every
        return np.unique(np.linspace(0, n, min(due, n), endpoint=False, dtype=np.int64))

    def _weigh(
        self, network: Float32, linear: Float32, other: Float32, metric: Metric, unit: Float64,
        flattery: tuple[float, float],
    ) -> None:  # fmt: skip
        """Learn the weights from N and L of halves and the other halves B of the counts, each (2 m, D).

        What is shown is made of all counts, which the mean of both halves' predictions comes near: half of the counts
        are twice as noisy, and a network that adds no more than a little less noise would seem to be worth twice as
        much. What the basis has learnt from B it has as components: the noise of B looks smaller beyond them than it
        is, as far as the network says there what the components say.
        """
        published = metric.published
        apart, away = network - linear, other - np.tile(_mean_of_halves(linear), (2, 1))
        parts = _within(apart, published), _within(away, published)
        more = 0.5 * (_alike(network, linear, published) * flattery[0] - flattery[1])
        for blend, a, b, correction in (
            (self.within, *parts, 0.0),
            (self.beyond, apart - parts[0], away - parts[1], more),
        ):
            gain = ((a * b) @ metric.weight).reshape(2, -1).sum(axis=0) * unit
            distance = 2.0 * (_mean_of_halves(a) ** 2 @ metric.weight) * unit
            blend.add(distance, gain + correction)


def _mean_of_halves(spectra: Float32) -> Float32:
    """Mean (m, D) of what was made of first halves and of second ones (2 m, D)."""
    return np.asarray(spectra.reshape(2, -1, spectra.shape[1]).mean(axis=0), dtype=np.float32)


def _alike(network: Float32, linear: Float32, published: Published) -> float:
    """How much of the linear model's scores the network's spectra (n, D) have, from 0 to 1."""
    known = published.basis.n_components
    variance = np.maximum(published.basis.eigenvalues[:known].astype(np.float64) - 1.0, 1e-3)
    said, true = (published.project(x).astype(np.float64) for x in (network, linear))
    total = float((true * true / variance).sum())
    return float(np.clip((said * true / variance).sum() / total, 0.0, 1.0)) if total > 0 else 1.0


def _within(spectra: Float32, published: Published) -> Float32:
    """The part of differences of spectra (n, D) that lies in the components."""
    return np.asarray(published.project(spectra) @ published.eigenspectra, dtype=np.float32)


def misfit(card: ModelCard, technique: str, axis: Axis, noise: NoiseModel, *, rebin: bool = False) -> str | None:
    """Return why a network does not fit a series of this technique, axis and noise; None where it does.

    With `rebin`, one that can be had on the axis (`models.rebinned`) fits.
    """
    if card.architecture.side > 1:
        return "it sees neighbourhoods, which a scan that is still running does not have"
    if noise.gain <= 0:
        return "the detector's noise is not that of counting"
    read, trained = noise.read_sigma / noise.gain, card.noise.read_sigma / card.noise.gain
    counting = card.counts[0] / axis.size
    if read**2 > 4.0 * trained**2 + 0.25 * counting:
        return f"it was trained with a read noise of {trained:.3g} quanta, the series has {read:.3g}"
    return rebinned.misfit(card, technique, axis) if rebin else card.misfit(technique, axis)
