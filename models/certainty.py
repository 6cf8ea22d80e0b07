"""How sure it is which phase each position is of, and how fast further counts would make it so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.base import Float32, Float64, done
from models.composition import exposure_of, net_signal
from models.information import chernoff_informations
from models.linear import LinearEngine
from models.phase_context import seen_in_context
from models.phase_mixture import evaluate
from models.phases import Phases
from models.surroundings import error_among_neighbours

FinishedMap: TypeAlias = tuple[NDArray[np.int32], Float32]
_BINS = 256
_STAYS = 0.5
_OWN = 0.2
"""Part of the error by a position's own counts that stays, whatever lies around it: a stop counts that error in full,
and positions that had no dwell any more for being like all around them would hold it up for ever."""


@dataclass(frozen=True)
class Certainty:
    """Positions that were measured and are of some phase.

    Attributes
    ----------
    index : ndarray of int, (m,)
        Flat positions, rising.
    error : ndarray, (m,)
        Probability that the phase map is wrong there.
    mixed : ndarray, (m,)
        Probability to be a mixture of two phases.
    rate : ndarray, (m,)
        Chernoff information a second between its two likeliest phases; 0 where they are not known.
    """

    index: NDArray[np.int64]
    error: Float64
    mixed: Float64
    rate: Float64


def phase_errors(
    phases: Phases, engine: LinearEngine, doubt: Float32 | None = None
) -> tuple[NDArray[np.int64], Float64]:
    """Measured positions (m,), and the probability of each that the phase map is wrong there.

    That is the doubt (P,) given, else by its own spectrum alone. Spectra that are held back as anomalies are reported,
    and not called by any phase; a position without counts has none. What has no label yet counts as wrong.
    """
    index = np.flatnonzero((engine.visits > 0) & (engine.totals != 0) & ~engine.held)
    return index, (phases.doubt if doubt is None else doubt)[index].astype(np.float64)


def finished_map(phases: Phases, engine: LinearEngine, grid: tuple[int, int] | None) -> FinishedMap:
    """Labels (P,) of the map as it would be if the scan ended now, and the probability of each to be wrong.

    On a grid what lies around positions has its say, but for labels from before the phases that there are now.
    """
    label, doubt = phases.label, phases.doubt
    if grid is None:
        return label, doubt
    voting = ~engine.held & ~phases.outdated(np.arange(label.size))
    return seen_in_context(label, phases.runner_up, doubt, voting, grid)


def swayed(phases: Phases, index: NDArray[np.int64], error: Float64) -> float:
    """How many errors there may be beyond those (m,) that what lies around positions leaves of mixtures' own.

    Which of two phases makes up most of a border's position is told less well by what lies beside it than the phase of
    a pure one: a spectrum that is half of each errs there to one side, however many counts it has. Against the truth of
    simulated borders about half of what mixtures are relieved of was still wrong.
    """
    own = phases.doubt[index].astype(np.float64)
    mixed = np.nan_to_num(phases.mixed[index].astype(np.float64))
    return float((_STAYS * mixed * np.maximum(own - error, 0.0)).sum())


def posterior_of(phases: Phases, positions: NDArray[np.int64]) -> Float64:
    """Probability of each phase to make up most of positions (n, C), from all their counts; C is 0 before any phase."""
    known = phases.found
    if known is None:
        return np.zeros((positions.size, 0))
    view, mixture, _ = known
    return done(evaluate(mixture, view.sample(positions), view.likelihood)).dominant.T


def certainty_of(
    phases: Phases, engine: LinearEngine, dwell_s: Float64, grid: tuple[int, int] | None
) -> Certainty | None:
    """What is known now of positions that had `dwell_s` (P,) so far; None before there are phases to tell apart.

    On a grid, what lies around a position has its part in how sure it is.
    """
    ids, spectra = phases.spectra()
    if len(ids) < 2:
        return None
    index, error = phase_errors(phases, engine)
    if grid is not None:
        among = error_among_neighbours(error, phases.label, phases.runner_up, index, grid)
        error = np.maximum(_OWN * error, among)
    place = np.full(max(ids) + 1, -1)
    place[ids] = np.arange(len(ids))
    pair = np.stack([phases.label[index], phases.runner_up[index]])
    known = np.isin(pair, ids).all(axis=0)
    first, second = place[np.where(known, pair, ids[0])]
    visits, noise = engine.visits[index], engine.noise
    signal = net_signal(engine.totals[index], visits, noise, engine.n_channels)
    exposure = exposure_of(signal, noise.row_variance(engine.totals[index], visits, engine.n_channels))
    spent = dwell_s[index]
    a_second = np.divide(exposure, spent, out=np.zeros_like(exposure), where=spent > 0)
    rate = np.where(known, _informations(spectra)[first, second] * a_second, 0.0)
    return Certainty(index, error, np.nan_to_num(phases.mixed[index].astype(np.float64)), rate)


def _informations(spectra: Float64) -> Float64:
    """Chernoff information (C, C) for each count, of spectra (C, D) in a few hundred bins of channels."""
    width = -(-spectra.shape[1] // _BINS)
    return chernoff_informations(np.add.reduceat(spectra, np.arange(0, spectra.shape[1], width), axis=1))
