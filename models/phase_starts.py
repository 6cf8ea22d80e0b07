"""Where a mixture of phases begins: all spectra as one phase, the corners of all of them, one phase more or less."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.base import Float64
from models.composition import CompositionSpace
from models.phase_mixture import FAINTEST, Cloud, Mixture, Sample, whitening

_BRIDGE_SHARE = 0.01
_NEAR = 0.05


def first_mixture(sample: Sample, space: CompositionSpace) -> Mixture:
    """One phase for all spectra."""
    mass = sample.weight * np.maximum(sample.exposure, FAINTEST)
    mean = (mass @ sample.z) / mass.sum()
    away = sample.z - mean
    noise = space.noise(mean)
    scatter = (away * mass[:, None]).T @ away / mass.sum()
    cloud = Cloud.of(mean, scatter, noise)
    rest = Cloud.of(mean, 2.0 * scatter, noise)
    return Mixture((cloud,), np.array([1.0 - 1e-3]), {}, rest, 1e-3)


def corner_mixture(mixture: Mixture, sample: Sample, space: CompositionSpace, n_kept: int, most: int) -> Mixture:
    """Phases without spread at the corners of all spectra, with mixtures of all pairs.

    Where most positions are mixed, phases are no crowds among the spectra but the ends that they spread between. Each
    corner is the spectrum the farthest from those before, in spreads of its noise (Gram-Schmidt, as in vertex component
    analysis), averaged with what is near it.

    Parameters
    ----------
    n_kept : int
        Phases of the mixture, its first ones, that are corners whatever the spectra say.
    most : int
        Phases at most.
    """
    e = np.maximum(sample.exposure, FAINTEST)
    mass = e * sample.weight
    centre = mass @ sample.z / mass.sum()
    white = whitening(space.noise(centre))
    y = (sample.z - centre) @ white.T
    corners = [(cloud.mean, float(share)) for cloud, share in zip(mixture.phases, mixture.share, strict=True)][:n_kept]
    for _ in range(min(most, space.n_axes + 1) - n_kept):
        away = _off([white @ (mean - centre) for mean, _ in corners], y)
        squared = (away**2).sum(axis=1)
        far = int(np.argmax(e * squared))
        near = ((y - y[far]) ** 2).sum(axis=1) / (1.0 / e + 1.0 / e[far] + _NEAR**2 * squared[far])
        crowd = np.exp(-0.5 * near)
        corners.append(((crowd * mass) @ sample.z / float(crowd @ mass), float(crowd @ sample.weight) / sample.size))
    return with_phases(mixture, 0, corners, space)


def with_phases(mixture: Mixture, n_kept: int, found: list[tuple[Float64, float]], space: CompositionSpace) -> Mixture:
    """The first phases of a mixture, and others of these means and shares, with mixtures of all pairs."""
    bridges = {pair: share for pair, share in mixture.bridges.items() if max(pair) < n_kept}
    made = replace(mixture, phases=mixture.phases[:n_kept], share=mixture.share[:n_kept], bridges=bridges)
    for mean, share in found:
        made = with_phase(made, mean, share, space)
    return made


def _off(corners: list[Float64], y: Float64) -> Float64:
    """What takes points (n, d) off the plane through some corners; off the origin, where there is none."""
    if not corners:
        return y
    steps = np.array([corner - corners[0] for corner in corners[1:]]).reshape(-1, y.shape[1])
    axes, _ = np.linalg.qr(steps.T)
    away = y - corners[0]
    return np.asarray(away - away @ axes @ axes.T)


def with_phase(
    mixture: Mixture, mean: Float64, share: float, space: CompositionSpace, at: int | None = None
) -> Mixture:
    """With another phase (behind all others if not told), and mixtures of all pairs."""
    noise = space.noise(mean)
    cloud = Cloud.of(mean, np.zeros_like(noise), noise)
    share = max(share, 1e-4)
    n = len(mixture.phases)
    grown = replace(mixture, phases=(*mixture.phases, cloud), share=np.append(mixture.share, share))
    return all_bridged(grown.reordered(np.insert(np.arange(n), n if at is None else at, n).tolist()))


def without(mixture: Mixture, c: int) -> Mixture:
    """Without a phase; mixtures of all other pairs."""
    phases = mixture.phases[:c] + mixture.phases[c + 1 :]
    bridges = {(i - (i > c), j - (j > c)): s for (i, j), s in mixture.bridges.items() if c not in {i, j}}
    return all_bridged(replace(mixture, phases=phases, share=np.delete(mixture.share, c), bridges=bridges))


def all_bridged(mixture: Mixture) -> Mixture:
    n = len(mixture.phases)
    pairs = [(i, j) for j in range(n) for i in range(j)]
    return replace(mixture, bridges={pair: mixture.bridges.get(pair, _BRIDGE_SHARE) for pair in pairs})


def halves(u: Float64, mass: Float64) -> NDArray[np.bool_] | None:
    """Which values (n,) lie above the cut that leaves the least variance in two parts (Otsu); None if there is none."""
    order = np.argsort(u, kind="stable")
    below, first = np.cumsum(mass[order])[:-1], np.cumsum((mass * u)[order])[:-1]
    total, all_first = float(mass.sum()), float(mass @ u)
    if not below.size:
        return None
    between = (total * first - all_first * below) ** 2 / np.maximum(below * (total - below), 1e-300)
    cut = u[order[int(np.argmax(between))]]
    above = np.asarray(u > cut)
    return above if above.any() and not above.all() else None
