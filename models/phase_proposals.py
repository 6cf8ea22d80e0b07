"""Where another phase may be: in a phase that varies more than noise does, or far from all phases."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.base import Float64
from models.composition import CompositionSpace
from models.phase_mixture import FAINTEST, Evaluation, Mixture, Sample, excess, whitening
from models.phase_starts import halves, with_phase, without

_FAR_ROWS = 192
_SPLITS, _CROWDS = 2, 2


def proposals(mixture: Mixture, found: Evaluation, sample: Sample, space: CompositionSpace) -> Iterator[Mixture]:
    """Mixtures with one more phase: one split in two, a part of one split off, or what is far from all."""
    named = set(sample.known.tolist())
    for c, low, high, shares in _splits(mixture, found, sample)[:_SPLITS]:
        less = int(shares[1] < shares[0])
        yield with_phase(mixture, (low, high)[less], shares[less], space)
        if c in named:
            continue
        yield with_phase(with_phase(without(mixture, c), low, shares[0], space), high, shares[1], space)
    for mean, share in _crowds(mixture, found, sample, space):
        yield with_phase(mixture, mean, share, space)


_Split = tuple[int, Float64, Float64, tuple[float, float]]


def _splits(mixture: Mixture, evaluated: Evaluation, sample: Sample) -> list[_Split]:
    """Phases with more variance than noise makes, the strangest first: means and shares of their two halves."""
    found = []
    dominant = evaluated.dominant
    for c, cloud in enumerate(mixture.phases):
        mass = dominant[c] * sample.weight
        near = mass > 1e-3
        e = np.maximum(sample.exposure[near], FAINTEST)
        values, vectors, doubt = excess((sample.z[near] - cloud.mean) @ cloud.frame.T, mass[near], e)
        above = halves((sample.z[near] @ cloud.frame.T) @ vectors[:, 0], mass[near] * e)
        if above is None or values[0] < doubt:
            continue
        z, mass = sample.z[near], mass[near]
        means = [((mass * e)[side] @ z[side]) / (mass * e)[side].sum() for side in (~above, above)]
        shares = tuple(float(mass[side].sum()) / sample.size for side in (~above, above))
        found.append((float(values[0] / doubt), (c, means[0], means[1], (shares[0], shares[1]))))
    return [split for _, split in sorted(found, key=lambda pair: -pair[0])]


def _crowds(
    mixture: Mixture, found: Evaluation, sample: Sample, space: CompositionSpace
) -> Iterator[tuple[Float64, float]]:
    """Mean and share of crowds among the spectra farthest from the phases they belong to, the most striking first."""
    belongs = found.dominant.argmax(axis=0)
    away = np.empty(belongs.size)
    for c, cloud in enumerate(mixture.phases):
        rows = belongs == c
        y = (sample.z[rows] - cloud.mean) @ cloud.frame.T
        away[rows] = sample.exposure[rows] * (y**2).sum(axis=1)
    order = np.argsort(-away, kind="stable")[:_FAR_ROWS]
    far, striking = sample.rows(order), sample.weight[order] * away[order]
    e = np.maximum(far.exposure, FAINTEST)
    y = far.z @ whitening(space.noise((e @ far.z) / e.sum())).T
    squared = ((y[:, None] - y[None]) ** 2).sum(axis=2) / (1.0 / e[:, None] + 1.0 / e)
    near = np.exp(-0.5 * squared)
    for _ in range(_CROWDS):
        crowd = near[int(np.argmax(near @ striking))]
        mass = crowd * far.weight
        yield (mass * e) @ far.z / float(mass @ e), float(mass.sum()) / sample.size
        striking = striking * (1.0 - crowd)
