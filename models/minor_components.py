"""Components that few positions carry: what has taught the model before it could be told from anything else.

A component is structure where many positions carry it. One that a few do is a feature of these, to be looked at, also
where the model knows it by now: because it was in the first spectra, or because it is spread so far that no single
spectrum stood out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.base import Float32, Float64
from models.grouping import Group, Residuals, group_of
from models.linear import LinearEngine
from models.protection import ENOUGH
from models.published import Published

_SHARE = 0.01
_FIRST_LOOK, _LAST_LOOK = 256, 32768
_CARRIER = 20.0
_READ = 256
_HALF = 0.5


class MinorComponents:
    """Looks for minor components at the end of each pass, and before that whenever twice as many positions are there.

    What the scan has only just come to has few positions as well: in the middle of a pass, only a group that has not
    grown since the last look is one.
    """

    def __init__(self) -> None:
        self._n = _FIRST_LOOK // 2
        self._before: list[Group] = []

    def look(self, engine: LinearEngine, *, ended: bool) -> list[Group]:
        """Groups as they stand at the end of a pass (`ended`); in its middle those that last, where a look is due."""
        n = int(np.count_nonzero(engine.visits))
        if not ended and not 2 * self._n <= n <= _LAST_LOOK:
            return []
        found, before = minor_components(engine, _SHARE), self._before
        self._n, self._before = n, found
        return found if ended else [group for group in found if any(_lasts(group, old) for old in before)]


def _lasts(group: Group, before: Group) -> bool:
    shared = np.isin(group.positions, before.positions).sum()
    return bool(2 * shared > group.positions.size and group.positions.size <= before.positions.size)


def minor_components(engine: LinearEngine, most: float) -> list[Group]:
    """Groups of the positions that carry half of a component, where they are no more than a share `most` of all.

    Of scores that are spread normally an eighth of the positions carry half of the squares, of ones with exponential
    tails a twentieth. A group's spectrum and evidence are those of its counts beyond the model without that component.
    """
    published, scores = engine.score_map.published, engine.score_map
    measured = scores.measured
    measured = measured[scores.store.complete(measured) & ~engine.held[measured]]
    if published is None or not published.basis.rank or not measured.size:
        return []
    exposure = scores.exposure(measured, engine.noise)
    noise = engine._protection.pool.dispersion
    along = _along(published, scores.raw(measured), exposure)
    groups: list[Group] = []
    for axis in np.flatnonzero(published.shrinkage.signal > 0):
        rows = _carriers(along[:, axis], noise, round(most * measured.size))
        known = np.concatenate([g.positions for g in groups]) if groups else measured[:0]
        if not rows.size or 2 * np.isin(measured[rows], known).sum() > rows.size:
            continue
        group = _without(engine, published, int(axis), measured[rows])
        if group.evidence > ENOUGH:
            groups.append(group)
    return groups


def _along(published: Published, raw: Float32, exposure: Float64) -> Float64:
    """Scores (n, K) along the axes of the compositions, from the mean one, in units of their noise."""
    shrinkage = published.shrinkage
    h = np.maximum(exposure, 1e-12)[:, None]
    return np.asarray((raw - h * shrinkage.centre) @ shrinkage.axes / np.sqrt(h))


def _carriers(along: Float64, noise: float, most: int) -> NDArray[np.int64]:
    """Fewest rows on one side that carry half of the signal, strongest first; none where those are more than `most`."""
    energy = along**2
    signal = float((energy - noise).sum())
    if not 0 < most < energy.size:
        return np.zeros(0, dtype=np.int64)
    strong = np.sort(np.argpartition(energy, -most)[-most:])
    order = strong[np.argsort(-energy[strong], kind="stable")]
    enough = np.flatnonzero(np.cumsum(energy[order] - noise) >= _HALF * signal)
    if not enough.size or signal <= 0:
        return order[:0]
    rows = order[: enough[0] + 1]
    rows = rows[energy[rows] > _CARRIER * noise]
    side = np.sign(along[rows])
    return np.asarray(rows[side == np.sign((side * energy[rows]).sum())])


def _without(engine: LinearEngine, published: Published, axis: int, positions: NDArray[np.int64]) -> Group:
    """Positions as one group, by what they have beyond the model without one axis."""
    some = np.sort(positions[:_READ])
    scores, noise = engine.score_map, engine.noise
    exposure = scores.exposure(some, noise)
    shrunk = published.shrinkage.apply(scores.raw(some), exposure).astype(np.float64)
    direction = published.shrinkage.axes[:, axis]
    away = (shrunk - exposure[:, None] * published.shrinkage.centre) @ direction
    expected = (shrunk - np.outer(away, direction)) @ published.eigenspectra
    background = scores.store.background(some)
    gross = expected if background is None else expected + background
    variance = np.maximum(
        noise.row_variance(gross, scores.visits[some, None], 1), 0.1 * np.outer(exposure, published.channel_variance)
    )
    residual = np.asarray(scores.counts(some) - expected, dtype=np.float32)
    window = np.zeros(some.size, dtype=np.int64)
    found = Residuals(some, residual, variance, window, engine.anomaly[some], noise.gain)
    group = group_of(found, engine.windows)
    share = np.full(positions.size, 1.0 / positions.size, dtype=np.float32)
    evidence = group.evidence / engine._protection.pool.dispersion
    return replace(group, positions=np.sort(positions), share=share, evidence=evidence)
