"""Phases that few positions are of, and that nobody named: what a test of single spectra cannot find.

A compound of elements that lie beside it may have, as good as, the spectrum of their mixture: no spectrum of it is
unlikely, but that many have the same composition where mixtures would have any is. The mixture of phases sees that.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.base import Float32, done
from models.grouping import Group, Residuals, group_of
from models.linear import LinearEngine
from models.phase_mixture import Mixture, evaluate
from models.phase_sample import PhaseView, Positions, spread_out
from models.phase_starts import without
from models.phases import Phases

_FEWEST, _READ, _TESTED = 10, 256, 1024
_SURE = 0.5


def minor_phases(phases: Phases, engine: LinearEngine, most: float) -> list[tuple[int, Group]]:
    """Unnamed phases at no more than a share `most` of the measured positions, as groups, by their numbers.

    A group's evidence is the log likelihood ratio of its positions' spectra under all phases (and their mixtures) to
    that under all others; its window is where it has most beyond the phase that is most like it.
    """
    found = phases.found
    if found is None or len(found[2]) < 2:
        return []
    view, mixture, ids = found
    groups = []
    for c, number in enumerate(ids):
        # What is held back is like no phase well enough to be sure; what it is most like, it can be the core of.
        positions = np.flatnonzero((phases.label == number) & ((phases.confidence > _SURE) | engine.held))
        if phases.is_named(number) or not _FEWEST <= positions.size <= most * np.count_nonzero(engine.visits):
            continue
        evidence = _evidence(view, mixture, c, positions[spread_out(positions.size, _TESTED)])
        group = _beyond_nearest(engine, view, mixture, c, positions[spread_out(positions.size, _READ)])
        share = np.full(positions.size, 1.0 / positions.size, dtype=np.float32)
        groups.append((number, replace(group, positions=positions, share=share, evidence=evidence, kind="phase")))
    return groups


def _evidence(view: PhaseView, mixture: Mixture, c: int, positions: Positions) -> float:
    sample = view.sample(positions)
    whole, less = (done(evaluate(m, sample, view.likelihood)) for m in (mixture, without(mixture, c)))
    return float((whole.log_density - less.log_density).sum())


def _beyond_nearest(engine: LinearEngine, view: PhaseView, mixture: Mixture, c: int, positions: Positions) -> Group:
    """What positions have beyond the phase that is most like the one that they are of."""
    place = view.space.lift(mixture.means)
    distance = ((place - place[c]) ** 2).sum(axis=1)
    distance[c] = np.inf
    spectrum = view.spectra(mixture.means)[int(np.argmin(distance))]
    scores, noise = engine.score_map, engine.noise
    counts = scores.counts(positions)
    dark = noise.offset * scores.visits[positions, None].astype(np.float64)
    signal = counts.sum(axis=1, dtype=np.float64, keepdims=True) - dark * scores.n_channels
    expected = np.maximum(signal, 0.0) * np.maximum(spectrum, 0.0) + dark
    variance = np.maximum(noise.row_variance(expected, scores.visits[positions, None], 1), 1e-6 * signal.clip(1.0))
    residual: Float32 = np.asarray(counts - expected, dtype=np.float32)
    window = np.zeros(positions.size, dtype=np.int64)
    return group_of(
        Residuals(positions, residual, variance, window, engine.anomaly[positions], noise.gain), engine.windows
    )
