"""Where to measure next, and how long: dwell of the next pass, visits of a sparse scan, going on at a position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import Float64
from models.certainty import Certainty, certainty_of, posterior_of
from models.dwell import Budget, Limits, allocate, tiles, with_anomalies
from models.linear import LinearEngine
from models.phases import Phases
from models.prospects import Prospects, prospects
from models.sampling import Inpainted, next_visits
from models.stopping import Condition
from streamer.config_decisions import DecisionConfig
from streamer.decisions import Proposal, with_arrays
from streamer.evidence import Dose

_EPSILON = 0.25
"""Positions are measured on until their error is this part of what the whole map may have."""
_ENOUGH = 0.5
"""Part of the area that may be called wrongly that is aimed at."""
_LEAST_CHANGE, _LEAST_PASS = 0.05, 0.1
_POWERS = {"relative_error": 0.5, "half_dose_angle_deg": 0.5, "error_slope_per_pass": 1.5, "unseen_area": 1.0}
"""By which power of the dose targets are come nearer to."""
_BLOCKS_FADE, _BLOCKS_AHEAD = 0.9, 1.25
_DARK = 50.0
"""Counts that others gave in the dwell of a position without any, from which on nothing is there."""
_VISITS_SHARE, _FEWEST_VISITS, _FIRST_ERROR = 0.02, 16, 0.25
_LEAST_WORTH = 0.25
"""Part of the area that may be wrong that the planned dwell of a whole map must bring, or a visit is not worth it."""
_LEAST_STEP = 0.25
"""Part of a position's dwell so far that tells anything new about it."""


@dataclass
class Progress:
    """How far the present pass has come, and what is planned after it.

    Attributes
    ----------
    planned_s : float
        Dwell of the pass, as planned.
    planned_visits : int
        Of the pass.
    number : int
        Of the pass.
    measured_s, block_s : float
        Dwell of the pass so far, and of a large block of late.
    measured_visits, block_visits : int
        The same in visits.
    visits : int
        Of the whole scan.
    """

    planned_s: float
    planned_visits: int
    number: int = 0
    measured_s: float = 0.0
    block_s: float = 0.0
    measured_visits: int = 0
    block_visits: int = 0
    visits: int = 0

    def add(self, dwell_s: float, n: int) -> None:
        """Take a block of n visits."""
        self.measured_s += dwell_s
        self.block_s = max(dwell_s, _BLOCKS_FADE * self.block_s)
        self.measured_visits += n
        self.block_visits = max(n, int(_BLOCKS_FADE * self.block_visits))
        self.visits += n

    def extend(self, dwell_s: float, n: int) -> None:
        """Let the pass have n more visits."""
        self.planned_s += dwell_s
        self.planned_visits += n

    def next_pass(self, planned_s: float, planned_visits: int) -> None:
        """Begin a pass of so much dwell, and so many visits."""
        self.number, self.measured_s, self.measured_visits = self.number + 1, 0.0, 0
        self.planned_s, self.planned_visits = planned_s, planned_visits

    @property
    def is_over(self) -> bool:
        """Whether all of the pass was seen, but for rounding."""
        return self.measured_s >= self.planned_s * (1.0 - 1e-6)

    def ends_within(self, lead_s: float) -> bool:
        """Whether the pass may be over before another block after the next would be seen.

        Blocks may be cut by time or by visits, and visits last differently long.
        """
        soon = self.planned_s - self.measured_s <= lead_s + _BLOCKS_AHEAD * self.block_s
        return soon or self.planned_visits - self.measured_visits <= _BLOCKS_AHEAD * self.block_visits


class Planner:
    """Plans for one series.

    Parameters
    ----------
    engine : LinearEngine
    phases : Phases
    nav_shape : tuple of int, optional
        Of the grid; None where positions are no grid.
    dose_limit_s : float, optional
        Most dwell of a position in all.
    """

    def __init__(
        self, engine: LinearEngine, phases: Phases, nav_shape: tuple[int, int] | None, dose_limit_s: float | None
    ) -> None:
        self._engine, self._phases, self._nav_shape = engine, phases, nav_shape
        self._dose_limit_s = dose_limit_s if dose_limit_s is not None else float("inf")
        self._rate, self._rate_of = 0.0, -1

    def next_pass(
        self, config: DecisionConfig, dose: Dose, number: int, in_force_s: Float64, unmet: Sequence[Condition]
    ) -> Proposal | None:
        """Dwell of all positions in pass `number`; None where that would hardly be other than what is in force.

        Each position gets what its error needs, those first where it brings most. Positions that have not been
        measured get the planned dwell, and all get what other targets ask for.

        Parameters
        ----------
        in_force_s : ndarray, (P,)
            Dwells that the pass has as things stand.
        unmet : sequence of Condition
            Of a stop.
        """
        known = certainty_of(self._phases, self._engine, dose.dwell_s, self._nav_shape)
        if known is None or dose.planned_s is None:
            return None
        n, groups, limits = self._engine.n_positions, self._groups(config), self._limits(config, dose.planned_s)
        given_s = np.minimum(dose.committed_s, self._dose_limit_s)
        left_s = self._dose_limit_s - given_s
        base_s = np.minimum(self._base_s(dose, unmet, limits), left_s)
        fresh = np.flatnonzero((self._engine.visits == 0) | self._dark(dose))
        base_s[fresh] = np.minimum(dose.planned_s, left_s[fresh])
        # All positions take part, so that lines and tiles have whatever lies in them.
        error, some = self._errors(known, config), self._prospects(known, config, dose)
        every = Prospects.none(n)
        every.step_s[known.index], every.gain[known.index] = some.step_s, some.gain
        budget = self._budget(error, config, dose, max(dose.planned_s * n - float(base_s.sum()), 0.0), number)
        dwell_s = np.maximum(allocate(every, given_s, budget, limits, groups), _shared(base_s, groups))
        if unmet and not dwell_s.any():
            dwell_s = np.minimum(limits.shortest, left_s)
        if float(np.abs(dwell_s - in_force_s).sum()) < _LEAST_CHANGE * float(in_force_s.sum()):
            return None
        used_s, planned_s, left_out = float(dwell_s.sum()), float(in_force_s.sum()), int((dwell_s == 0).sum())
        evidence = {
            "pass": number,
            "expected_wrong_area": float(error.sum() / n),
            "positions": n - left_out,
            "dwell_s": used_s,
            "planned_dwell_s": planned_s,
        }
        how = f"{left_out} of {n} positions are left out, and " if left_out else ""
        reason = (
            f"Pass {number + 1} takes {used_s:.4g} s instead of {planned_s:.4g} s: {how}dwell goes where phases are "
            "not known yet."
        )
        return with_arrays("dwell", str(number), reason, evidence, np.arange(n), dwell_s)

    def _budget(self, error: Float64, config: DecisionConfig, dose: Dose, most_s: float, number: int) -> Budget:
        """The same part of what is to be had in each pass that is left, such that the last one reaches the target.

        But a tenth of a planned pass, as far as it brings anything: passes are few, and each costs time of its own.
        What it would take to reach the target is not committed ahead: where it is out of reach, that would be spent on
        positions that are hard to tell, before those that the next look would show to be easy.
        """
        left = max(dose.passes - number, 1)
        aim = _ENOUGH * config.stop_misclassified_area * error.size
        share = 1.0 - min(aim / max(float(error.sum()), 1e-300), 1.0) ** (1.0 / left)
        least_s = _LEAST_PASS * (dose.planned_s or 0.0) * dose.planned
        return Budget(most_s, min(least_s, most_s), share)

    def next_visits(
        self, config: DecisionConfig, dose: Dose, guess: Inpainted, progress: Progress, unmet: Sequence[Condition]
    ) -> Proposal | None:
        """Positions of a sparse scan to be measured next: fresh ones, and measured ones that are not decided.

        Those of which a second is expected to bring most, but none that would bring so little that the whole map, at
        that rate, would not come nearer to its target by a fair part of it. Where there is none, those that other
        targets ask for; None where these ask for nothing either: then the scan ends with what it has.

        Parameters
        ----------
        unmet : sequence of Condition
            Of a stop.
        """
        known = certainty_of(self._phases, self._engine, dose.dwell_s, self._nav_shape)
        if self._nav_shape is None or dose.planned_s is None:
            return None
        limits = self._limits(config, dose.planned_s)
        # More than come before the answer to the next decision, or the instrument would think that that is all.
        ahead = int(np.ceil(_BLOCKS_AHEAD * progress.block_visits))
        n = max(_FEWEST_VISITS, round(_VISITS_SHARE * self._engine.n_positions), ahead)
        fresh, wanted = next_visits(guess, self._nav_shape, n, config.stop_object_px**0.5, self._novelty())
        first_s = self._first_s(known, dose.planned_s, limits)
        again, again_s, worth = self._again(config, dose, known, limits)
        index, dwell_s = np.concatenate([again, fresh]), np.concatenate([again_s, np.full(fresh.size, first_s)])
        # What is measured says something of those around it as well, as far as these are guesses.
        each = guess.stands_for[guess.measured].mean()
        worth = np.concatenate([worth * guess.stands_for[again], wanted / first_s * each])
        best = np.argsort(-worth, kind="stable")[:n]
        best = best[worth[best] * dose.planned_s > _LEAST_WORTH * config.stop_misclassified_area]
        index, dwell_s = index[best], dwell_s[best]
        if index.size < n:
            others, others_s = self._evenly(dose, unmet, limits, n)
            new = np.flatnonzero(~np.isin(others, index))[: n - index.size]
            index, dwell_s = np.concatenate([index, others[new]]), np.concatenate([dwell_s, others_s[new]])
        if not index.size:
            return None
        order = np.argsort(index, kind="stable")
        n_again = int(np.count_nonzero(self._engine.visits[index]))
        evidence = {
            "measured": int(np.count_nonzero(self._engine.visits)),
            "expected_wrong_area": float((1.0 - guess.posterior.max(axis=1)).mean()),
            "farthest_px": float(guess.distance.max()),
            "again": n_again,
            "fresh": index.size - n_again,
        }
        told = [f"{evidence['fresh']} others tell most about the rest"] if evidence["fresh"] else []
        told += [f"{n_again} of those are not decided"] if n_again else []
        reason = f"{evidence['measured']} of {self._engine.n_positions} positions are measured; {', and '.join(told)}."
        return with_arrays("visit", str(progress.visits), reason, evidence, index[order], dwell_s[order])

    def extension(
        self, config: DecisionConfig, dose: Dose, position: int, spent_s: float, piece_s: float
    ) -> Proposal | None:
        """Dwell in all at the position being measured; None where it is to be as planned.

        A position that is decided is left after the piece that is being counted; one that is not when its last planned
        piece is being counted is counted on for as long as that takes, or may last.

        Parameters
        ----------
        spent_s, piece_s : float
            Dwell of this visit so far, and of a piece.
        """
        planned_s = dose.planned_s or 0.0
        posterior = posterior_of(self._phases, np.array([position]))
        if posterior.shape[1] < 2:
            return None
        error, epsilon = float(1.0 - posterior[0].max()), self._epsilon(config)
        limits = self._limits(config, planned_s)
        most_s = min(limits.longest, self._dose_limit_s - float(dose.dwell_s[position]) + spent_s)
        if error <= epsilon:
            total_s = spent_s + piece_s
        elif spent_s + 1.5 * piece_s > planned_s:
            rate = self._typical_rate(dose)
            more_s = float(np.log(error / epsilon)) / rate if rate > 0 else 0.0
            total_s = min(spent_s + max(piece_s, more_s), most_s)
        else:
            return None
        if abs(total_s - planned_s) <= 0.05 * planned_s or total_s < spent_s + piece_s:
            return None
        evidence = {"expected_error": error, "spent_s": spent_s, "planned_s": planned_s, "dwell_s": total_s}
        what = "it is counted on" if total_s > planned_s else "the next may come"
        reason = (
            f"Position {position} may be called wrongly with a probability of {error:.2%}: {what} at {total_s:.4g} s."
        )
        valid_ns = max(1_000_000, round((planned_s - spent_s) * 1e9))
        occasion = f"{position}/{dose.dwell_s[position]:.6g}"
        return with_arrays("extend", occasion, reason, evidence, np.array([position]), np.array([total_s]), valid_ns)

    def _typical_rate(self, dose: Dose) -> float:
        """Information a second of a usual position, as it was when the model last changed."""
        if self._rate_of != self._engine.revision:
            known = certainty_of(self._phases, self._engine, dose.dwell_s, self._nav_shape)
            self._rate_of = self._engine.revision
            self._rate = 0.0 if known is None else _typical(known)
        return self._rate

    def _base_s(self, dose: Dose, unmet: Sequence[Condition], limits: Limits) -> Float64:
        """Dwell (P,) that targets other than that of the phase map ask for, by how each falls with the dose.

        What is not known yet does not say how much it asks for.
        """
        planned_s, n = dose.planned_s or 0.0, self._engine.n_positions
        base_s = np.zeros(n)
        for condition in unmet:
            power = next((p for name, p in _POWERS.items() if condition.name.startswith(name)), None)
            if power is not None and np.isfinite(condition.value):
                times = min(condition.value / max(condition.target, 1e-12), 1e6) ** (1.0 / power)
                base_s = np.maximum(base_s, (times - 1.0) * dose.dwell_s)
        return np.where(base_s > 0, np.clip(base_s, limits.shortest, max(planned_s, limits.shortest)), 0.0)

    def _dark(self, dose: Dose) -> NDArray[np.bool_]:
        """Positions (P,) that have not given a count yet, though that may be chance."""
        totals, dwell_s = self._engine.totals, np.nan_to_num(dose.dwell_s)
        lit = totals > 0
        a_second = float(totals[lit].sum()) / max(float(dwell_s[lit].sum()), 1e-300)
        return np.asarray(~lit & (dwell_s * a_second < _DARK))

    def _limits(self, config: DecisionConfig, planned_s: float) -> Limits:
        return Limits(config.dwell_shortest * planned_s, config.dwell_longest * planned_s, self._dose_limit_s)

    def _epsilon(self, config: DecisionConfig) -> float:
        return _EPSILON * max(config.stop_misclassified_area, 1e-6)

    def _errors(self, known: Certainty, config: DecisionConfig) -> Float64:
        # What chance gives as seldom as it may be flagged counts as 1.
        p_value = np.clip(np.nan_to_num(self._engine.p_value[known.index], nan=1.0), 1e-300, 1.0)
        likely = with_anomalies(known.error, np.log(p_value) / np.log(self._engine.config.false_alarm))
        return np.asarray(np.where(likely > self._epsilon(config), likely, 0.0))

    def _prospects(self, known: Certainty, config: DecisionConfig, dose: Dose) -> Prospects:
        # What has no label learns as fast as the others do.
        rate = np.where(known.rate > 0, known.rate, _typical(known) * (known.error >= 1.0))
        return prospects(self._errors(known, config), known.mixed, rate, dose.dwell_s[known.index])

    def _again(
        self, config: DecisionConfig, dose: Dose, known: Certainty | None, limits: Limits
    ) -> tuple[NDArray[np.int64], Float64, Float64]:
        """Measured positions (m,), how long each is to be measured on, and what a second of that is expected to bring.

        What a position's counts have not told, a few more will not tell: whatever the phases promise, it takes a part
        of what it has had already. So each takes its steps in growing distances, and what is between two phases, or
        like none of them, is given up in the end.
        """
        if known is None:
            return np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0)
        some = self._prospects(known, config, dose)
        given_s = dose.committed_s[known.index]
        whole_s = np.maximum(some.step_s, _LEAST_STEP * given_s)
        worth = np.divide(some.gain, whole_s, out=np.zeros(whole_s.size), where=whole_s > 0)
        dwell_s = np.minimum(np.clip(whole_s, limits.shortest, limits.longest), limits.dose - given_s)
        worth *= np.minimum(whole_s / np.maximum(dwell_s, limits.shortest), 1.0)
        rows = np.flatnonzero((worth > 0) & (dwell_s >= limits.shortest))
        return known.index[rows], dwell_s[rows], worth[rows]

    def _evenly(
        self, dose: Dose, unmet: Sequence[Condition], limits: Limits, n: int
    ) -> tuple[NDArray[np.int64], Float64]:
        """Up to n measured positions that have had least, and dwells that other targets than the phase map ask for.

        No position gets more for that than the longest dwell of one visit in all: a target may be out of reach.
        """
        base_s = self._base_s(dose, unmet, limits)
        if any(c.name == "misclassified_area" and not np.isfinite(c.value) for c in unmet):
            # Compositions differ, and not enough was counted to say how.
            base_s = np.full(base_s.size, dose.planned_s or 0.0)
        given_s = np.where(self._engine.visits > 0, dose.committed_s, np.inf)
        some = np.argsort(given_s, kind="stable")[:n]
        dwell_s = np.minimum(base_s[some], min(limits.dose, limits.longest) - given_s[some])
        has = dwell_s >= limits.shortest
        return some[has], dwell_s[has]

    def _first_s(self, known: Certainty | None, planned_s: float, limits: Limits) -> float:
        """First dwell of a position: as planned, or as much as it takes to tell the phases that are known by now.

        Further visits are for those that it does not tell.
        """
        rate = 0.0 if known is None else _typical(known)
        enough_s = float(np.log(1.0 / _FIRST_ERROR)) / rate if rate > 0 else planned_s
        return min(max(enough_s, limits.shortest), planned_s, limits.dose)

    def _novelty(self) -> Float64 | None:
        """Neighbours of flagged positions are wanted: what is rare has a size."""
        held = np.flatnonzero(self._engine.held)
        if not held.size or self._nav_shape is None:
            return None
        near = np.zeros(self._engine.n_positions)
        y, x = np.divmod(held, self._nav_shape[1])
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                inside = (y + dy >= 0) & (y + dy < self._nav_shape[0]) & (x + dx >= 0) & (x + dx < self._nav_shape[1])
                near[(y + dy)[inside] * self._nav_shape[1] + (x + dx)[inside]] = 1.0
        return near

    def _groups(self, config: DecisionConfig) -> NDArray[np.int64] | None:
        if config.dwell_by == "position" or self._nav_shape is None:
            return None
        if config.dwell_by == "tile":
            return tiles(self._nav_shape, config.tile_px)
        return np.arange(self._engine.n_positions) // self._nav_shape[1]


def _typical(known: Certainty) -> float:
    """Information a second of a usual position; 0 where nothing is told."""
    telling = known.rate[known.rate > 0]
    return float(np.median(telling)) if telling.size else 0.0


def _shared(dwell_s: Float64, groups: NDArray[np.int64] | None) -> Float64:
    """Dwells (P,) such that all positions of a group have that of the one that has most."""
    if groups is None:
        return dwell_s
    most = np.zeros(int(groups.max()) + 1)
    np.maximum.at(most, groups, dwell_s)
    return np.asarray(most[groups])
