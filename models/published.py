"""A published basis together with what is needed to apply it: projector, shrinkage, anomaly test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.anomaly import ScanTest, ScanWindows
from models.base import Basis, Float32, Float64
from models.blocks import Block, times
from models.learnt import LearntState
from models.noise import NoiseModel
from models.pca import orthonormal
from models.preprocess import Scaling
from models.rank import noise_edge, rank_criteria
from models.shrink import ScoreShrinkage, fit_shrinkage


@dataclass(frozen=True)
class Published:
    """One version: the basis of components as everybody sees it, and its inner side."""

    basis: Basis
    scaling: Scaling
    projector: Float32
    shrinkage: ScoreShrinkage
    mean_score: Float32
    test: ScanTest
    n_spectra: float

    @property
    def eigenspectra(self) -> Float32:
        """Components (K, D) in counts, without novelties."""
        return self.basis.eigenspectra

    def project(self, counts: Block) -> Float32:
        """Raw scores (n, K) of counts in float32: linear in them, so that visits add up."""
        return times(counts, self.projector)

    def scores(self, raw: Float32, exposure: Float64) -> Float32:
        """Published scores: shrunk, relative to the mean."""
        return self.shrinkage.apply(raw, exposure) - self.mean_score

    def relative_error(self, raw: Float32, exposure: Float64) -> Float32:
        """Expected error (n,) of denoised spectra over their size, both in noise-weighted norm; NaN where empty."""
        size = (self.shrinkage.apply(raw, exposure).astype(np.float64) ** 2).sum(axis=1)
        variance = self.shrinkage.error_variance(exposure, self.test.noise.gain)
        ratio = np.divide(variance, size, out=np.full_like(size, np.nan), where=size > 0)
        return np.asarray(np.sqrt(ratio), dtype=np.float32)

    def rank_criteria(self) -> dict[str, int]:
        """Rank by several criteria; the edge decides (but for limits), the others are to be shown."""
        basis = self.basis
        return rank_criteria(basis.eigenvalues, basis.noise_edge, self.scaling.n_effective, self.n_spectra)

    def with_novelties(self, spectra: Float32) -> Basis:
        """The basis with further eigenspectra (G, D)."""
        if not len(spectra):
            return self.basis
        return replace(self.basis, eigenspectra=np.concatenate([self.eigenspectra, spectra]), n_novelties=len(spectra))

    @cached_property
    def channel_variance(self) -> Float64:
        """Noise variance of each channel for unit exposure in the mean spectrum, (D,); 0 for dead ones."""
        return self.scaling.scale[self.scaling.group] ** 2 * self.scaling.share

    @cached_property
    def error_weights(self) -> Float32:
        """What the error is estimated by (`models.live_error`), (D, 2 K + 1).

        Side by side, for one product with counts: the projector, squares along the axes of the compositions, and
        weights of noise.
        """
        projector = self.projector.astype(np.float64)
        squares = (projector @ self.shrinkage.axes) ** 2
        return np.concatenate([projector, squares, self.scaling.weight[:, None]], axis=1).astype(np.float32)

    def moved_by(self, state: LearntState) -> float:
        """Largest variance (noise is 1) of a component of the state outside this basis; infinite for another rank."""
        if state.vectors.shape[1] != self.basis.rank:
            return float("inf")
        if not self.basis.rank:
            return 0.0
        mine = orthonormal(state.scaling.merge(self.eigenspectra.T))
        inside = ((mine.T @ state.vectors) ** 2).sum(axis=0)
        return float(np.max(state.eigenvalues[: self.basis.rank] * (1.0 - inside)))

    def angle_deg(self, state: LearntState) -> float:
        """Largest principal angle between this basis and a state; 90 for another rank."""
        if state.vectors.shape[1] != self.basis.rank or not self.basis.rank:
            return 90.0
        mine = orthonormal(state.scaling.merge(self.eigenspectra.T))
        return _angle_deg(mine, state.vectors)


def publish(
    version: int,
    state: LearntState,
    raw: Float32,
    exposure: Float64,
    n_positions: int,
    windows: ScanWindows,
    noise: NoiseModel,
) -> Published:
    """Make a version from what was learnt, and from raw scores (n, K) of some positions with these exposures.

    `n_positions` were measured in all: each has pulled the basis by the noise of its accumulated counts, no matter in
    how many visits they came.
    """
    level = max(1.0, state.edge / noise_edge(state.scaling.n_effective, state.n_spectra))
    shrinkage = fit_shrinkage(raw, exposure, state.scaling.n_effective, n_positions, level)
    spectra = state.scaling.eigenspectra(state.vectors)
    mean_score = np.zeros(raw.shape[1], dtype=np.float32)
    if raw.shape[0]:
        mean_score = shrinkage.apply(raw, exposure).mean(axis=0, dtype=np.float64).astype(np.float32)
    basis = Basis(version, mean_score @ spectra, spectra, state.eigenvalues.astype(np.float32), state.edge)
    test = ScanTest.build(windows, noise, spectra, shrinkage, state.total, state.exposure)
    return Published(
        basis, state.scaling, state.scaling.projector(state.vectors), shrinkage, mean_score, test, state.n_spectra
    )


def empty_basis(n_channels: int) -> Basis:
    """Basis of a series without any data: version 0, nothing in it."""
    none = np.zeros(0, dtype=np.float32)
    return Basis(0, np.zeros(n_channels, dtype=np.float32), np.zeros((0, n_channels), dtype=np.float32), none, 0.0)


def subspace_angle_deg(old: Published, new: Published) -> float:
    """Largest principal angle between two bases, in the scaled space of the new one; 90 where one is empty."""
    a = orthonormal(new.scaling.merge(old.eigenspectra.T))
    b = orthonormal(new.scaling.merge(new.eigenspectra.T))
    if not a.size or not b.size:
        return 90.0
    # The sine of the angle, from what the smaller one leaves outside the larger, is accurate also for small angles.
    small, large = (a, b) if a.shape[1] <= b.shape[1] else (b, a)
    return _angle_deg(large, small)


def _angle_deg(large: NDArray[Any], small: NDArray[Any]) -> float:
    """Largest angle between a column of `small` and the span of `large`, both orthonormal."""
    outside = small - large @ (large.T @ small)
    largest = np.linalg.eigvalsh((outside.T @ outside).astype(np.float64))[-1]
    return float(np.degrees(np.arcsin(np.sqrt(np.clip(largest, 0.0, 1.0)))))
