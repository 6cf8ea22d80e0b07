"""Unmixing of a specimen whose thickness bends its mixtures: end-members at one thickness, and a thickness map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import Counts, Float32, Float64, Pieces
from models.linear import LinearEngine
from models.linearise import Blocks, by_level, expected_quanta, linearised, quanta, refined, scale_of
from models.noise import NoiseModel
from models.phase_growth import PhaseLimits
from models.phase_sample import Positions, spread_out
from models.share_fit import ShareFit
from models.thickness import Thickness

_MOST, _FOR_SCALE, _READ = 16384, 2048, 2048
_ROUNDS, _PARTS = 2, 8
_SCALE_COUNTS = 800.0
_SAME = 0.02

Learn = Callable[[Float32, tuple[int, ...] | None], Pieces[tuple[Float64, tuple[bool, ...]] | None]]
"""Finds end-members (M, D), and which of them are phases, in spectra (n, D) of positions of a grid."""


@dataclass(frozen=True)
class Correction:
    """What is needed to correct for thickness.

    Attributes
    ----------
    law : Thickness
        On the channels of the model.
    peak_width : float
        As `Phases` takes it; so are the others.
    nav_shape : tuple of int, optional
    limits : PhaseLimits
    """

    law: Thickness
    peak_width: float
    nav_shape: tuple[int, ...] | None = None
    limits: PhaseLimits = field(default_factory=PhaseLimits)


@dataclass(frozen=True)
class Corrected:
    """End-members of one thickness, and how thick each position is.

    Attributes
    ----------
    law : Thickness
    spectra : ndarray, (M, D)
        Of unit sum, at the reference.
    pure : tuple of bool, (M,)
        Which are phases; the others are ends of gradients.
    reference : float
        Mean thickness of the positions.
    thickness : ndarray, (P,)
        NaN where nothing was measured.
    """

    law: Thickness
    spectra: Float64
    pure: tuple[bool, ...]
    reference: float
    thickness: Float64

    def fit(
        self, counts: Counts, noise: NoiseModel, visits: NDArray[Any], thickness: Float64
    ) -> tuple[Float64, Float64]:
        """Shares (n, M) of counts as they were at the reference, of spectra (n, D) of thicknesses (n,), and errors."""
        shares, errors = np.empty((2, len(thickness), len(self.spectra)))
        for rows, mean in by_level(thickness):
            there = np.maximum(self.law.moved(self.spectra, self.reference, mean), 0.0)
            area = there.sum(axis=1)
            fitted = ShareFit(there / area[:, None]).fit(counts[rows], noise, visits[rows])
            # An end-member that loses more of its counts is more of the specimen than of the counts.
            whole = (fitted[0] / area).sum(axis=1, keepdims=True)
            shares[rows], errors[rows] = (part / area / whole for part in fitted)
        return shares, errors


def corrected(
    engine: LinearEngine, law: Thickness, shape: tuple[int, ...] | None, learn: Learn
) -> Pieces[Corrected | None]:
    """Correct for thickness; None where the spectra do not tell of any, or there are not two end-members.

    Counts of one visit are proportional to the thickness, in a steady beam, but for what the phases differ by. That is
    where it begins; the scale, and with it the absolute thickness, is what makes spectra of thin and thick parts alike.
    Then end-members are learnt from the spectra as of one thickness, and the thickness of each part of the map is
    fitted with them, in turns.
    """
    measured = engine.score_map.measured
    measured = measured[engine.score_map.store.complete(measured) & (engine.totals[measured] > 0)]
    if not measured.size:
        return None
    mean_counts = float(engine.totals[measured].mean())
    blocks = Blocks.of(shape, engine.n_positions, mean_counts)
    # Grains are of different brightness: thickness is what changes from one part of the map to another.
    relative = _relative(engine, Blocks.of(shape, engine.n_positions, mean_counts, _PARTS), measured)
    patches = Blocks.of(shape, engine.n_positions, mean_counts, wanted=_SCALE_COUNTS)
    counts, expected, of_patches = yield from _patch_sums(engine, patches, measured, relative)
    scale = scale_of(counts, expected, of_patches, law)
    yield
    if not scale:
        return None
    law = law.known_by(counts.mean(axis=0), scale)
    thickness, sums = scale * relative, _block_sums(engine, blocks, measured)
    chosen, chosen_shape = _strided(measured, shape, engine.n_positions)
    found = None
    for _ in range(_ROUNDS):
        reference = float(thickness[measured].mean())
        same = _same_thickness(engine, chosen, thickness[chosen], reference, law)
        yield
        learnt = yield from learn(same, chosen_shape)
        if learnt is None:
            return found
        spectra, pure = learnt
        before, thickness = thickness, _refined(blocks, sums, measured, thickness, spectra, reference, law)
        found = Corrected(law, spectra, pure, reference, np.where(engine.visits > 0, thickness, np.nan))
        yield
        if np.sqrt(np.mean((thickness - before)[measured] ** 2)) < _SAME * reference:
            break
    return found


def _relative(engine: LinearEngine, blocks: Blocks, measured: Positions) -> Float64:
    """Counts of a visit over their mean, smooth over the map, (P,)."""
    visits = engine.visits[measured].astype(np.float64)
    counts = engine.totals[measured] - visits * engine.noise.offset * engine.n_channels
    weight = blocks.sums(visits, measured)
    mean = np.divide(blocks.sums(counts, measured), weight, out=np.zeros_like(weight), where=weight > 0)
    smooth = np.maximum(blocks.at_positions(mean, weight), 1e-3 * float(mean.max()))
    return np.asarray(smooth / smooth[measured].mean())


def _patch_sums(
    engine: LinearEngine, blocks: Blocks, measured: Positions, relative: Float64
) -> Pieces[tuple[Float64, Float64, Float64]]:
    """Counts and denoised counts (n, D) of some blocks, and their relative thickness (n,).

    What thickness does to a spectrum of some tens of counts is below the edge of noise. Positions side by side are as
    thick, and their sum is a mixture as well.
    """
    some = np.unique(blocks.number[measured])
    some = some[spread_out(some.size, _FOR_SCALE)]
    chosen = measured[np.isin(blocks.number[measured], some)]
    counts, expected = np.zeros((2, some.size, engine.n_channels))
    for first in range(0, chosen.size, _READ):
        at = chosen[first : first + _READ]
        row = np.searchsorted(some, blocks.number[at])
        np.add.at(counts, row, quanta(engine, at))
        np.add.at(expected, row, expected_quanta(engine, at))
        yield
    row = np.searchsorted(some, blocks.number[chosen])
    thickness = np.bincount(row, relative[chosen]) / np.bincount(row)
    return counts, expected, thickness


def _same_thickness(
    engine: LinearEngine, positions: Positions, thickness: Float64, reference: float, law: Thickness
) -> Float32:
    out = np.empty((positions.size, engine.n_channels), dtype=np.float32)
    order = np.argsort(thickness, kind="stable")
    for first in range(0, positions.size, _READ):
        some = order[first : first + _READ]
        at = positions[some]
        out[some] = linearised(quanta(engine, at), expected_quanta(engine, at), thickness[some], reference, law)
    return out


def _block_sums(engine: LinearEngine, blocks: Blocks, measured: Positions) -> Float64:
    out = np.zeros((blocks.shape[0] * blocks.shape[1], engine.n_channels))
    for first in range(0, measured.size, _READ):
        part = measured[first : first + _READ]
        out += blocks.sums(quanta(engine, part), part)
    return out


def _strided(measured: Positions, shape: tuple[int, ...] | None, n: int) -> tuple[Positions, tuple[int, ...] | None]:
    """Positions to learn from: all of them, or every so many rows and columns where they are too many."""
    if shape is None or measured.size < n:
        return measured[spread_out(measured.size, _MOST)], None
    stride = int(np.ceil(np.sqrt(n / _MOST)))
    every = np.arange(n).reshape(shape)[tuple(slice(None, None, stride) for _ in shape)]
    return every.ravel(), every.shape


def _refined(
    blocks: Blocks, sums: Float64, measured: Positions, thickness: Float64, spectra: Float64, reference: float,
    law: Thickness,
) -> Float64:  # fmt: skip
    n = blocks.sums(np.ones(measured.size), measured)
    lit = (n > 0) & (sums.sum(axis=1) > 0)
    prior = blocks.sums(thickness[measured], measured)[lit] / n[lit]
    values, weight = np.zeros(n.size), np.zeros(n.size)
    values[lit], weight[lit] = refined(sums[lit], prior, spectra, reference, law)
    return blocks.at_positions(values, weight)
