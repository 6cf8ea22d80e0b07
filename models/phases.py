"""Phases of a scan while it runs: which phase each position is of, how sure that is, and numbers that stay."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.anomaly import ScanWindows
from models.base import Float32, Float64, Pieces, done, together
from models.linear import LinearEngine
from models.phase_borders import mixtures_of
from models.phase_chains import chained
from models.phase_context import in_context
from models.phase_growth import Fit, PhaseLimits, grown, seen_in_tiles
from models.phase_members import PhaseInfo, are_strange, is_told_apart, named_first, renumbered, without_phases
from models.phase_mixture import Evaluation, Mixture, Sample, doubt_of, evaluate, largest_step
from models.phase_sample import Grid, PhaseView, Positions, drawn
from models.phase_starts import first_mixture

UNSEEN = -1
_FEWEST = 64
_SAMPLE, _FINAL_SAMPLE = 1024, 2048
_LABEL_ROWS, _SCAN_ROWS, _KEY_ROWS = 128, 16384, 8192
_LEFT_OUT, _PINNED = -3, -2
_BIN_WIDTHS = 0.6
_FINAL_ROUNDS = 2
_GROWTH, _GROWTH_STRANGE = 1.5, 1.1
_STRANGE_SHARE, _STRANGERS = 0.03, 20
_MOVED = 0.25
_LOOKED_IN = 0.5


class Phases:
    """A mixture of phases that is learnt from samples of the positions measured so far, and a map made with it.

    All work is done in pieces of less than a millisecond, one whenever `work` is called; nothing depends on a clock.

    Parameters
    ----------
    engine : LinearEngine
        Where scores and counts of the positions are.
    peak_width : float
        Of a typical peak in channels: how finely counts are looked at.
    nav_shape : tuple of int, optional
        Shape of the grid; None where positions are no grid.
    limits : PhaseLimits, optional
        How small and how many phases may be.
    is_sparse : bool
        Whether some positions are measured and not others, and more of them where phases meet.

    Attributes
    ----------
    label : ndarray of int32, (P,)
        Number of the phase that a position is mostly of, -1 where that is not known (yet).
    confidence : ndarray of float32, (P,)
        Probability that this is so; 0 where the model does not know the spectrum at all, NaN without a label.
    mixed : ndarray of float32, (P,)
        Probability that a position is a mixture of two or three phases, NaN without a label.
    doubt : ndarray of float32, (P,)
        Probability that another phase makes up most of a position than the one it is called by; 1 without a label.
    runner_up : ndarray of int32, (P,)
        Number of the next likely phase, -1 where there is none.
    alone : ndarray of int32, (P,)
        As `label`, but each position by its own spectrum: as all labels are until `finish`, to be compared with those.
    """

    def __init__(
        self, engine: LinearEngine, peak_width: float, nav_shape: tuple[int, ...] | None = None,
        limits: PhaseLimits | None = None, *, is_sparse: bool = False,
    ) -> None:  # fmt: skip
        self._engine, self._map = engine, engine.score_map
        self._bins = ScanWindows(self._map.n_channels, max(1, round(_BIN_WIDTHS * peak_width)), 1)
        self._nav_shape, self._limits, self._is_sparse = nav_shape, limits or PhaseLimits(), is_sparse
        self._view: PhaseView | None = None
        self._mixture: Mixture | None = None
        self._ids: list[int] = [0]
        self._next_id = 1
        self._names: dict[int, str] = {}
        self._seeds: dict[int, Positions] = {}
        self._job: Generator[None, None, None] | None = None
        self._learnt_at, self._learnt_from, self._learnt_rank, self._looked = 0, 0.0, 0, (0, 0)
        self._revision = self._since = self._strangers = self._seen = 0
        n = engine.n_positions
        self.label: NDArray[np.int32] = np.full(n, UNSEEN, dtype=np.int32)
        self.confidence: Float32 = np.full(n, np.nan, dtype=np.float32)
        self.mixed: Float32 = np.full(n, np.nan, dtype=np.float32)
        self.doubt: Float32 = np.ones(n, dtype=np.float32)
        self.runner_up: NDArray[np.int32] = np.full(n, UNSEEN, dtype=np.int32)
        self.alone = self.label
        self._chance: Float32 | None = None
        self._pinned = np.full(n, UNSEEN, dtype=np.int32)
        self._strange = np.zeros(n, dtype=np.bool_)
        self._made_by = np.full(n, -1, dtype=np.int32)
        self._made_from: Float64 = np.full(n, np.nan)
        self._cursor, self._turn = 0, False
        self._passed, self._passing = (-1, -1), (0, 0)

    # What is known

    @property
    def infos(self) -> list[PhaseInfo]:
        """Phases that some position is of, and named ones, by number."""
        sizes = np.bincount(self.label[self.label >= 0], minlength=self._next_id)
        return [PhaseInfo(i, self.name(i), int(n)) for i, n in enumerate(sizes) if n or i in self._names]

    def summary(self) -> list[dict[str, Any]]:
        """What the status shows."""
        return [{"id": p.id, "name": p.name, "n": p.n_positions} for p in self.infos]

    def is_named(self, phase: int) -> bool:
        """Whether somebody gave a phase a name."""
        return phase in self._names

    def name(self, phase: int) -> str:
        """Name of a phase."""
        return self._names.get(phase, f"phase {phase}")

    def call(self, phase: int, name: str) -> None:
        """Give a phase a name, unless somebody named it."""
        self._names.setdefault(phase, name)

    def spectra(self) -> tuple[list[int], Float64]:
        """Numbers of the phases, and their spectra (C, D) of unit sum; none before there are two components."""
        if self._view is None or self._mixture is None:
            return [], np.zeros((0, self._map.n_channels))
        return list(self._ids), self._view.spectra(self._mixture.means)

    @property
    def found(self) -> tuple[PhaseView, Mixture, list[int]] | None:
        """The mixture in force, where its coordinates are, and the numbers of its phases; None before there is one."""
        return None if self._view is None or self._mixture is None else (self._view, self._mixture, list(self._ids))

    def seed(self, name: str, positions: Positions) -> int:
        """Make a phase of some positions, which stay its own whatever the mixture says; others may join. Its number.

        Raises
        ------
        ValueError
            Where none of the positions has been measured.
        """
        positions = np.unique(np.asarray(positions, dtype=np.int64))
        positions = positions[self._engine.visits[positions] > 0]
        if not positions.size:
            raise ValueError(f"phase {name!r}: none of its positions has been measured")
        number, self._next_id = self._next_id, self._next_id + 1
        self._names[number] = name
        self._pin(number, positions)
        return number

    def join(self, number: int, positions: Positions) -> None:
        """Let further positions be of a seeded phase."""
        positions = positions[(self._engine.visits[positions] > 0) & (self._pinned[positions] != number)]
        if positions.size:
            self._pin(number, positions)

    def _pin(self, number: int, positions: Positions) -> None:
        self._seeds[number] = np.union1d(self._seeds.get(number, positions), positions)
        self._pinned[positions] = self.label[positions] = number
        self.confidence[positions], self.mixed[positions] = 1.0, 0.0
        self._job, self._learnt_at, self._learnt_from = None, 0, 0.0

    # Work

    @property
    def wants_work(self) -> bool:
        """Whether `work` would do something."""
        return self._map.published is not None and (
            self._job is not None or self._is_due() or self._passed != self._state()
        )

    @property
    def is_mapped(self) -> bool:
        """Whether every position has been looked at with the mixture in force, and no other is being learnt."""
        return self._job is None and self._passed[1] == self._revision

    @property
    def has_looked(self) -> bool:
        """Whether phases were looked for in what there is: with as many components, in half of the visits at least."""
        published = self._map.published
        if published is None or published.basis.rank < 2:
            return published is not None
        visits, rank = self._looked
        return rank >= published.basis.rank and visits >= _LOOKED_IN * self._map.n_visits

    def outdated(self, positions: Positions) -> NDArray[np.bool_]:
        """Which labels are from before the phases that there are now, so that their doubt says nothing of these."""
        return np.asarray(self._made_by[positions] < self._since)

    def waiting(self, positions: Positions) -> NDArray[np.bool_]:
        """Which have not been looked at since they were measured first, and have no label for no other reason."""
        return np.asarray((self._made_by[positions] < 0) & (self.label[positions] == UNSEEN))

    def work(self) -> None:
        """Do one piece: in turn learn, where that is due, and look for positions that want a label."""
        if self._job is None and self._is_due():
            self._job = self._learn(_SAMPLE)
        self._turn = not self._turn
        if self._job is None or (self._turn and self._passed != self._state()):
            found = self.found
            most = _LABEL_ROWS if found is None else found[0].likelihood.rows_at_once(found[1])
            self._relabel(_SCAN_ROWS, min(_LABEL_ROWS, most))
        elif next(self._job, self) is self:
            self._job = None

    def finish(self) -> None:
        """Learn once more from all that there is, and label every position; again where that leaves strange ones.

        On a grid, what lies beside a position has its say in these last labels.
        """
        done(self.finishing())

    def finishing(self) -> Pieces[None]:
        """As `finish`, in pieces between which everything can be asked for."""
        if self._map.published is None:
            return
        self._job = None
        for _ in range(_FINAL_ROUNDS):
            before = self._mixture
            yield from together(self._learn(_FINAL_SAMPLE))
            self._revision += 1
            self._cursor = 0
            self._chance = np.zeros((len(self._ids), self.label.size), dtype=np.float32)
            while self._passed != self._state():
                self._relabel(_SCAN_ROWS, _SCAN_ROWS)
                yield
            if self._strangers < self._limits.least or self._mixture is before:
                break
        self.alone = self.label.copy()
        chance, self._chance = self._chance, None
        if chance is not None and len(chance) > 1 and self._nav_shape is not None:
            yield from self._hear_neighbours(chance, self._nav_shape)

    def _hear_neighbours(self, chance: Float32, shape: tuple[int, ...]) -> Pieces[None]:
        """Call positions by phases that are probable (C, P) by their own spectra, and by those beside them."""
        unexplained = 1.0 - chance.sum(axis=0)
        chance = yield from in_context(chance, ~self._engine.held, shape, mixtures_of(self.mixed, self.found))
        known = np.flatnonzero(unexplained < 1.0)
        for first in range(0, known.size, _SCAN_ROWS):
            at = known[first : first + _SCAN_ROWS]
            dominant = chance[:, at].astype(np.float64)
            self._tell(at, dominant, self.mixed[at].astype(np.float64), doubt_of(dominant, unexplained[at]))
            yield

    def _state(self) -> tuple[int, int]:
        return self._map.n_visits, self._revision

    def _is_due(self) -> bool:
        """Whether there is so much more data, or so much that is strange, that learning again would pay."""
        published = self._map.published
        if published is None or published.basis.rank < 2 or self._map.measured.size < _FEWEST:
            return False
        strange = self._strangers > max(_STRANGERS, _STRANGE_SHARE * self._seen)
        changed = strange or published.basis.rank != self._learnt_rank
        factor = _GROWTH_STRANGE if changed else _GROWTH
        # A pass of adaptive dwell brings few visits and many counts.
        return self._map.n_visits > factor * self._learnt_at or self._map.n_counts > factor * self._learnt_from

    # Learning

    def _learn(self, n: int) -> Pieces[None]:
        view = self._present()
        if view is None:
            return
        looked = self._learnt_at, self._learnt_rank = self._map.n_visits, view.published.basis.rank
        self._learnt_from, self._strangers, self._seen = self._map.n_counts, 0, 0
        named = self._told_apart(view)
        yield
        positions, weight = yield from self._drawn(view, n, named)
        if positions.size < _FEWEST:
            return
        named = [i for i in named if (self._pinned[positions] == i).any()]
        sample = replace((yield from view.sampled(positions)), weight=weight)
        if self._view is not view and self._mixture is not None and self._view is not None:
            self._mixture, self._view = view.carried(self._mixture, self._view), view
        fresh = first_mixture(sample, view.space)
        start = fresh if self._mixture is None else replace(self._mixture, rest=fresh.rest)
        start, present = without_phases(start, list(self._ids), [i for i in self._seeds if i not in named])
        start, sample, numbers = named_first(start, present, named, sample, self._pinned[positions], view.space)
        ordinary = (self._map.visits > 0) & ~self._engine.held & (self._pinned == UNSEEN)
        grid = self._nav_shape
        where = None if grid is None else Grid(positions, grid, view, self._map, ordinary, self._is_sparse)
        before = yield from evaluate(start, sample, view.likelihood)
        fit = yield from grown(start, sample, view.likelihood, self._limits, where)
        fit = yield from chained(fit, sample, view.likelihood)
        self._put_in_force((start, before), fit, sample, view, numbers, len(named))
        self._looked = looked
        if where is not None:
            better = yield from seen_in_tiles(fit, sample, view.likelihood, self._limits, where)
            if better is not fit:
                better = yield from chained(better, sample, view.likelihood)
                self._put_in_force((fit.mixture, fit.found), better, sample, view, self._ids, len(named))

    def _put_in_force(
        self, old: tuple[Mixture, Evaluation], fit: Fit, sample: Sample, view: PhaseView, numbers: list[int], named: int
    ) -> None:
        """Go on with a fit; its phases get the numbers that theirs had in the old mixture, the named ones first."""
        was, had = self._mixture, self._ids
        self._ids, self._next_id = renumbered(fit.found, old[1], sample.weight, numbers, named, self._next_id)
        self._view, self._mixture = view, fit.mixture
        step = largest_step(old[0], fit.mixture, view.space) * np.sqrt(view.typical)
        anew = was is None or had != self._ids
        self._revision += int(anew or step > _MOVED)
        self._since = self._revision if anew else self._since

    def _present(self) -> PhaseView | None:
        """The view of the present basis, with the mixture carried into it."""
        if self._view is not None and self._view.published is self._map.published:
            return self._view
        view = PhaseView.of(self._map, self._engine.noise, self._bins)
        if view is not None:
            if self._mixture is not None and self._view is not None:
                self._mixture = view.carried(self._mixture, self._view)
            self._view = view
        return view

    def _told_apart(self, view: PhaseView) -> list[int]:
        """Named phases that components tell from the others: the mixture has those."""
        others = [c for c, i in enumerate(self._ids) if i not in self._seeds]
        means = self._mixture.means[others] if self._mixture is not None else np.zeros((0, view.space.n_axes))
        seeds = {i: at[self._pinned[at] == i] for i, at in self._seeds.items()}
        return [i for i, at in seeds.items() if at.size and is_told_apart(view, at, means)]

    def _drawn(self, view: PhaseView, n: int, named: list[int]) -> Pieces[tuple[Positions, Float64]]:
        """Positions to learn from, from every phase some and of the rest more, and how many each stands for."""
        measured = self._map.measured
        keys = np.empty(measured.size, dtype=np.int64)
        for first in range(0, measured.size, _KEY_ROWS):
            part = measured[first : first + _KEY_ROWS]
            key = np.where(self._strange[part], self._next_id, self.label[part])
            key = np.where(self._engine.held[part] | (self._pinned[part] >= 0), _LEFT_OUT, key)
            key = np.where(np.isin(self._pinned[part], named), _PINNED, key)
            keys[first : first + part.size] = np.where(view.usable(part), key, _LEFT_OUT)
            yield
        return (yield from drawn(measured, keys - _LEFT_OUT, n, self._nav_shape if self._is_sparse else None))

    # Labelling

    def _relabel(self, scan: int, most: int) -> None:
        """Look through the next positions, and label those that have new counts or a label of another mixture."""
        if self._cursor == 0:
            self._passing = self._state()
        some = slice(self._cursor, self._cursor + scan)
        measured = self._map.visits[some] > 0
        gone = np.flatnonzero(~measured & (self.label[some] != UNSEEN)) + self._cursor
        self._mark(gone, np.full(gone.size, UNSEEN), np.nan, np.nan)
        changed = self._map.totals[some] != self._made_from[some]
        stale = measured & (changed | (self._made_by[some] != self._revision))
        found = np.flatnonzero(stale) + self._cursor
        self._label(found[:most])
        self._cursor = int(found[most]) if found.size > most else self._cursor + scan
        if self._cursor >= self._engine.n_positions:
            self._cursor, self._passed = 0, self._passing

    def _label(self, positions: Positions) -> None:
        if not positions.size:
            return
        self._made_by[positions], self._made_from[positions] = self._revision, self._map.totals[positions]
        self._seen += positions.size
        view = self._present()
        lit = self._map.totals[positions] != 0 if view is None else view.usable(positions)
        self._mark(positions[~lit], np.full(np.count_nonzero(~lit), UNSEEN), np.nan, np.nan)
        positions = positions[lit]
        if view is None or self._mixture is None:
            self._mark(positions, np.full(positions.size, self._ids[0]), 1.0, 0.0)
            return
        if not positions.size:
            return
        sample = view.sample(positions)
        found = done(evaluate(self._mixture, sample, view.likelihood))
        self._tell(positions, dominant := found.dominant, found.mixed, found.doubt)
        if self._chance is not None:
            self._chance[:, positions] = dominant
        # Among single counts, what is left over is a mixture of three.
        explained = found.mixed + (0.0 if view.likelihood.spreads else found.unexplained)
        strange = are_strange(self._mixture, sample, np.where(explained < 0.5, dominant.argmax(axis=0), -1))
        self._strange[positions] = strange
        self._strangers += int(np.count_nonzero(strange))

    def _tell(self, positions: Positions, dominant: Float64, mixed: Float64, doubt: Float64) -> None:
        """Call positions (n,) by the phases that most probably (C, n) make up most of them."""
        ids = np.array(self._ids)
        self._mark(positions, ids[dominant.argmax(axis=0)], dominant.max(axis=0), mixed)
        self.doubt[positions] = doubt
        if len(dominant) > 1:
            self.runner_up[positions] = ids[np.argpartition(dominant, -2, axis=0)[-2]]

    def _mark(
        self, positions: Positions, label: NDArray[Any], confidence: Float64 | float, mixed: Float64 | float
    ) -> None:
        confidence, mixed = np.minimum(confidence, 1.0), np.minimum(mixed, 1.0)  # rounding may go beyond
        self.label[positions], self.confidence[positions], self.mixed[positions] = label, confidence, mixed
        self.doubt[positions] = np.where(np.asarray(label) == UNSEEN, 1.0, 0.0)
        self.confidence[positions[self._engine.held[positions] & (self.label[positions] >= 0)]] = 0.0
        pinned = positions[(self._pinned[positions] >= 0) & (self._map.visits[positions] > 0)]
        self.label[pinned], self.confidence[pinned], self.mixed[pinned] = self._pinned[pinned], 1.0, 0.0
