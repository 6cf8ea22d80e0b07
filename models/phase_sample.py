"""What is known of positions of a scan, as the mixture of phases wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from models.anomaly import ScanWindows
from models.base import Float32, Float64, Pieces
from models.composition import CompositionSpace, exposure_of, net_signal
from models.neighbours import boxes, neighbours, patches
from models.noise import NoiseModel
from models.phase_likelihood import CountLikelihood, GaussLikelihood
from models.phase_mixture import Cloud, Likelihood, Mixture, Sample
from models.preprocess import as_float32
from models.published import Published
from models.scoremap import ScoreMap
from models.store import CountStore

Positions = NDArray[np.int64]
_POOLED, _READ_ROWS = 64, 128
_STRATUM = 128
_TILE, _TILES_AT_ONCE = 2, 64
_CROWD_PX = 5
FEW_COUNTS = 150.0
"""Counts a position up to which single counts say more than scores with Gaussian noise."""


@dataclass(frozen=True)
class PhaseView:
    """One published basis, as a space of compositions and a likelihood there.

    Attributes
    ----------
    published : Published
    likelihood : Likelihood
    typical : float
        Exposure of a position.
    """

    published: Published
    likelihood: Likelihood
    typical: float
    _map: ScoreMap
    _noise: NoiseModel
    _bins: ScanWindows

    @classmethod
    def of(cls, scores: ScoreMap, noise: NoiseModel, bins: ScanWindows) -> PhaseView | None:
        """The view of the present basis; None where it cannot tell phases apart (fewer than two components)."""
        published, measured = scores.published, scores.measured
        if published is None or published.basis.rank < 2:
            return None
        some = measured[:: max(1, measured.size // 1024)]
        signal, exposure = _exposure(scores, noise, some)
        lit = exposure > 0
        if not lit.any():
            return None
        variance = noise.row_variance(scores.totals[some], scores.visits[some], scores.n_channels)
        shot = float(np.clip(np.median(noise.gain * signal[lit] / variance[lit]), 0.0, 1.0))
        space = CompositionSpace.of_basis(published.eigenspectra, published.projector, published.shrinkage, shot)
        typical = float(np.median(exposure[lit]))
        likelihood: Likelihood = GaussLikelihood(space)
        plain = type(scores.store) is CountStore and bool(scores.store.complete(some).all())
        if noise.is_poisson and plain and typical <= FEW_COUNTS:
            likelihood = _count_likelihood(published, space, bins, typical)
        return cls(published, likelihood, typical, scores, noise, bins)

    @property
    def space(self) -> CompositionSpace:
        """Where coordinates are."""
        return self.likelihood.space

    @property
    def needs_counts(self) -> bool:
        """Whether samples must have counts."""
        return isinstance(self.likelihood, CountLikelihood)

    def counts(self, positions: Positions) -> Float32 | None:
        """Accumulated counts in bins (n, bins), where they are needed; for a few hundred positions at a time."""
        return self._bins.bins(as_float32(self._map.store.rows(positions))) if self.needs_counts else None

    def sample(self, positions: Positions, counts: Sequence[Float32] | None = None) -> Sample:
        """Coordinates and exposures of positions, and their counts (read here, or in parts before)."""
        given = self.counts(positions) if counts is None else np.concatenate(counts) if counts else None
        return replace(self.composition(positions), counts=given)

    def sampled(self, positions: Positions) -> Pieces[Sample]:
        """As `sample`, reading counts in pieces."""
        counts = []
        for first in range(0, positions.size if self.needs_counts else 0, _READ_ROWS):
            counts.append(self.counts(positions[first : first + _READ_ROWS]))
            yield
        return self.sample(positions, [c for c in counts if c is not None])

    def composition(self, positions: Positions) -> Sample:
        """Coordinates and exposures of positions alone."""
        signal, exposure = _exposure(self._map, self._noise, positions)
        raw, present = self._map.raw(positions), self._map.published
        if present is not None and present is not self.published:
            raw = raw @ (present.eigenspectra @ self.published.projector)
        if self._noise.offset:
            dark = self._noise.offset * self.published.projector.sum(axis=0, dtype=np.float64)
            raw = (raw - self._map.visits[positions, None] * dark).astype(np.float32)
        z = self.space.coordinates(raw, signal)
        z[exposure <= 0] = 0.0
        return Sample(z, exposure, np.ones(positions.size), np.full(positions.size, -1))

    def exposure(self, positions: Positions) -> Float64:
        """Measurements of unit variance that the spectra of positions are worth (n,)."""
        return _exposure(self._map, self._noise, positions)[1]

    def usable(self, positions: Positions) -> NDArray[np.bool_]:
        """Which positions can be sampled: something was counted, and it is still there if it is needed."""
        _, exposure = _exposure(self._map, self._noise, positions)
        return (exposure > 0) & (self._map.store.complete(positions) | (not self.needs_counts))

    def spectra(self, z: Float64) -> Float64:
        """Spectra (n, D) of sum 1 at coordinates (n, d)."""
        return np.asarray(self.space.lift(z) @ self.published.eigenspectra.astype(np.float64))

    def spectrum(self, positions: Positions) -> tuple[Float64, float] | None:
        """Spectrum (D,) of unit sum of some positions together, and its exposure; None where counts are not stored."""
        stored = positions[self._map.store.complete(positions)][:_POOLED]
        signal, exposure = _exposure(self._map, self._noise, stored)
        if not exposure.sum() > 0:
            return None
        dark = self._noise.offset * float(self._map.visits[stored].sum())
        counts = self._map.counts(stored).sum(axis=0, dtype=np.float64) - dark
        return counts / float(signal.sum()), float(exposure.sum())

    def coordinates_of(self, spectra: Float64) -> Float64:
        """Coordinates (n, d) of noiseless spectra (n, D)."""
        t = spectra @ self.published.projector / np.maximum(spectra.sum(axis=1, keepdims=True), 1e-300)
        return np.asarray((t - self.space.foot) @ self.space.axes)

    def carried(self, mixture: Mixture, before: PhaseView) -> Mixture:
        """A mixture of an earlier view, through the spectra that it stands for."""
        turn = before.space.axes.T @ before.published.eigenspectra @ self.published.projector @ self.space.axes

        def carried(cloud: Cloud) -> Cloud:
            mean = self.coordinates_of(before.spectra(cloud.mean[None]))[0]
            return Cloud.of(mean, turn.T @ cloud.covariance @ turn, self.space.noise(mean))

        phases = tuple(carried(cloud) for cloud in mixture.phases)
        return Mixture(phases, mixture.share, dict(mixture.bridges), carried(mixture.rest), mixture.rest_share)


@dataclass(frozen=True)
class Grid:
    """Where the spectra of a sample lie on the grid of the scan.

    Attributes
    ----------
    positions : ndarray of int
        Of the sample.
    shape : tuple of int
    view : PhaseView
    scores : ScoreMap
    ordinary : ndarray of bool, (P,)
        What may teach phases: measured, not flagged, and of no phase that somebody named.
    is_sparse : bool
        Whether some positions are measured and others not: patches and tiles are as much wider as these lie apart.
    """

    positions: Positions
    shape: tuple[int, ...]
    view: PhaseView
    scores: ScoreMap
    ordinary: NDArray[np.bool_]
    is_sparse: bool = False

    def around(self, rows: NDArray[np.int64]) -> tuple[Sample, NDArray[np.int64]]:
        """Spectra of measured positions beside those of some rows, and which of the rows each is beside."""
        beside, owner = neighbours(self.positions[rows], self.shape)
        there = (self.scores.visits[beside] > 0) & self.view.usable(beside)
        return self.view.sample(beside[there]), owner[there]

    def patches(self, rows: NDArray[np.int64]) -> tuple[Sample, NDArray[np.int64]]:
        """Compositions of measured positions up to a step from some rows in every direction, and of which row each."""
        near, owner = patches(self.positions[rows], self.shape, round(self._spacing))
        there = self.scores.visits[near] > 0
        return self.view.composition(near[there]), owner[there]

    def tiles(self, most: int) -> Pieces[Sample]:
        """Mean compositions of so many tiles at most of two positions a side, spread out over the grid."""
        sides = [-(-n // self._tile) for n in self.shape]
        chosen = spread_out(int(np.prod(sides)), most)
        parts = []
        for first in range(0, chosen.size, _TILES_AT_ONCE):
            parts.append(self._tiles(chosen[first : first + _TILES_AT_ONCE], sides))
            yield
        z, exposure = (np.concatenate(p) for p in zip(*parts, strict=True))
        weight = np.full(exposure.size, np.prod(sides) / chosen.size)
        return Sample(z, exposure, weight, np.full(exposure.size, -1))

    @property
    def _spacing(self) -> float:
        return float(np.sqrt(self.scores.n_positions / self.scores.measured.size)) if self.is_sparse else 1.0

    @property
    def _tile(self) -> int:
        return round(_TILE * self._spacing)

    def _tiles(self, number: Positions, sides: list[int]) -> tuple[Float64, Float64]:
        """Coordinates and exposures of tiles in which something was counted."""
        corners = np.stack(np.unravel_index(number, sides), axis=1) * self._tile
        at, owner = boxes(corners, range(self._tile), self.shape)
        there = self.ordinary[at]
        one, owner = self.view.composition(at[there]), owner[there]
        exposure = np.asarray(np.bincount(owner, one.exposure, number.size), dtype=np.float64)
        sums = np.zeros((number.size, one.z.shape[1]))
        np.add.at(sums, owner, one.z * one.exposure[:, None])
        lit = exposure > 0
        return sums[lit] / exposure[lit, None], exposure[lit]


def _exposure(scores: ScoreMap, noise: NoiseModel, positions: Positions) -> tuple[Float64, Float64]:
    totals, visits = scores.totals[positions], scores.visits[positions]
    signal = net_signal(totals, visits, noise, scores.n_channels)
    return signal, exposure_of(signal, noise.row_variance(totals, visits, scores.n_channels))


def _count_likelihood(
    published: Published, space: CompositionSpace, bins: ScanWindows, typical: float
) -> CountLikelihood:
    starts = np.arange(bins.total_bins) * bins.step
    spectra = np.add.reduceat(published.eigenspectra.astype(np.float64), starts, axis=1)
    mean = np.maximum(np.add.reduceat(published.basis.mean.astype(np.float64), starts), 0.0)
    # Where nothing was ever counted, all phases agree.
    mean = mean / mean.sum() + 1e-7
    return CountLikelihood.for_exposure(space, spectra, mean / mean.sum(), typical)


def spread_out(n: int, most: int) -> Positions:
    """At most `most` of n, spread out evenly and in step with nothing (multiples of the golden section), rising."""
    if n <= most:
        return np.arange(n)
    step = round(n * 0.6180339887498949)
    while np.gcd(step, n) != 1:
        step += 1
    return np.sort(np.arange(most) * step % n)


def drawn(
    positions: Positions, key: Positions, n: int, sparse: tuple[int, ...] | None = None
) -> Pieces[tuple[Positions, Float64]]:
    """About n of some positions, of every key but 0 at least 128, as far as there are, and how many each stands for.

    On the grid of a `sparse` scan that is more where fewer are around: crowds along interfaces would pass for a phase
    of their own, or for a gradient.
    """
    sizes = np.bincount(key)
    sizes[0] = 0
    order = [int(k) for k in np.argsort(sizes, kind="stable") if sizes[k]]
    chosen, weight, left = [positions[:0]], [np.zeros(0)], n
    for number, k in enumerate(order):
        # Small ones leave their part to the larger.
        group = np.flatnonzero(key == k)
        part = positions[group[spread_out(group.size, max(_STRATUM, left // (len(order) - number)))]]
        left -= part.size
        chosen.append(part)
        weight.append(np.full(part.size, group.size / max(part.size, 1)))
        yield
    if sparse is not None:
        weight = [w * each for w, each in zip(weight, _scarcity(positions, chosen, sparse), strict=True)]
    return np.concatenate(chosen), np.concatenate(weight)


def _scarcity(measured: Positions, chosen: list[Positions], shape: tuple[int, ...]) -> list[Float64]:
    """How many positions of a grid each of the chosen ones stands for, with a mean of 1 over all of them."""
    there = np.zeros(shape)
    there.ravel()[measured] = 1.0
    density = np.maximum(uniform_filter(there, _CROWD_PX, mode="reflect"), 1.0 / _CROWD_PX ** len(shape)).ravel()
    mean = np.concatenate([1.0 / density[at] for at in chosen]).mean() if any(at.size for at in chosen) else 1.0
    return [1.0 / (density[at] * mean) for at in chosen]
