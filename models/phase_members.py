"""Named phases in a mixture, and which of its phases is which of those before."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from models.base import Float64
from models.composition import CompositionSpace
from models.phase_mixture import Evaluation, Mixture, Sample
from models.phase_sample import PhaseView, Positions
from models.phase_starts import with_phase, without

_OVERLAP = 0.3
_STRANGE_SIGMA = 6.0


@dataclass(frozen=True)
class PhaseInfo:
    """One phase: its number, which it keeps, its name, and how many positions are mostly of it."""

    id: int
    name: str
    n_positions: int


def is_told_apart(view: PhaseView, positions: Positions, others: Float64) -> bool:
    """Whether components know more of what sets a named phase apart than they leave out.

    A phase that was accepted may consist of what the components do not know. Its scores then lie anywhere among the
    others, and in a mixture it would drift to what is nearest there.

    Parameters
    ----------
    positions : ndarray of int
        Known to be of the phase.
    others : ndarray, (C, d)
        Coordinates of the other phases.
    """
    scaling, found = view.published.scaling, view.spectrum(positions)
    if found is None or not len(others):
        return True
    spectrum, exposure = found
    whole = scaling.merge(spectrum[:, None])[:, 0]
    inside = spectrum @ view.published.projector
    outside = float(whole @ whole) - float(inside @ inside) - scaling.n_effective / exposure
    apart = float(((inside - view.space.lift(others)) ** 2).sum(axis=1).min())
    return outside < apart


def without_phases(mixture: Mixture, present: list[int], gone: list[int]) -> tuple[Mixture, list[int]]:
    """The mixture without some phases, and the numbers of those that are left: one at least."""
    for number in gone:
        if number in present and len(present) > 1:
            mixture = without(mixture, present.index(number))
            present = [i for i in present if i != number]
    return mixture, present


def named_first(
    mixture: Mixture,
    present: list[int],
    named: list[int],
    sample: Sample,
    pinned: NDArray[np.int32],
    space: CompositionSpace,
) -> tuple[Mixture, Sample, list[int]]:
    """The mixture with named phases first, the sample in which their spectra are known, and the numbers of all phases.

    Parameters
    ----------
    present, named : list of int
        Numbers of the phases of the mixture, and of the named ones.
    pinned : ndarray of int, (n,)
        Number of the named phase that each spectrum of the sample is known to be of, another number where none is.
    """
    ids = sorted(named, key=lambda i: i not in present)
    known = np.full(pinned.size, -1)
    for k, number in enumerate(ids):
        known[pinned == number] = k
    sample = replace(sample, known=known)
    return _with_named(mixture, present, ids, sample, space), sample, [*ids, *(i for i in present if i not in ids)]


def _with_named(
    mixture: Mixture, present: list[int], named: list[int], sample: Sample, space: CompositionSpace
) -> Mixture:
    """The mixture with named phases first, in this order: those that it has, then those that it gets.

    Parameters
    ----------
    present, named : list of int
        Numbers of the phases of the mixture, and of the named ones.
    sample : Sample
        Of which `known` spectra are those of the named ones, by their place in that order.
    """
    order = [present.index(i) for i in named if i in present]
    mixture = mixture.reordered([*order, *(c for c in range(len(mixture.phases)) if c not in order)])
    for k in range(len(order), len(named)):
        rows = sample.known == k
        e = sample.exposure[rows]
        mean = e @ sample.z[rows] / max(float(e.sum()), 1e-300)
        mixture = with_phase(mixture, mean, float(sample.weight[rows].sum()) / sample.size, space, at=k)
    return mixture


def renumbered(
    found: Evaluation, before: Evaluation, weight: Float64, numbers: list[int], n_named: int, unused: int
) -> tuple[list[int], int]:
    """Numbers of the phases of a fit, matched by the spectra (n,) that bore them before; new ones for new phases.

    Parameters
    ----------
    weight : ndarray, (n,)
        How many spectra each stands for.
    numbers : list of int
        Of the phases before, named ones first, which keep theirs.
    unused : int
        From which on numbers have never been used; returned as it is afterwards.
    """
    old, new = (e.dominant[n_named:] * weight for e in (before, found))
    shared = before.dominant[n_named:] @ new.T
    given = list(numbers[:n_named])
    matched = dict(zip(*reversed(linear_sum_assignment(-shared)), strict=True))
    for column in range(len(new)):
        row = matched.get(column)
        least = _OVERLAP * min(float(new[column].sum()), float(old[row].sum())) if row is not None else np.inf
        if row is not None and shared[row, column] > least:
            given.append(numbers[n_named + row])
        else:
            given.append(unused)
            unused += 1
    return given, unused


def are_strange(mixture: Mixture, sample: Sample, phase: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which spectra are far from the phase (n,) that they are said to be of; -1 is never far.

    Parameters
    ----------
    sample : Sample
        Its coordinates and exposures alone are looked at.
    """
    strange = np.zeros(phase.size, dtype=np.bool_)
    for c, cloud in enumerate(mixture.phases):
        rows = np.flatnonzero(phase == c)
        y = (sample.z[rows] - cloud.mean) @ cloud.frame.T
        squared = (y**2 / (cloud.spread + 1.0 / sample.exposure[rows, None])).sum(axis=1)
        d = y.shape[1]
        strange[rows] = squared > d + _STRANGE_SIGMA * np.sqrt(2.0 * d)
    return strange
