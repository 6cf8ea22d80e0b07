"""Where to measure next, and how long: dwell of the next pass, visits of a sparse scan, going on at a position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.base import Float64
from models.certainty import Certainty, certainty_of, posterior_of
from models.dwell import Limits, allocate, expected_errors, tiles
from models.linear import LinearEngine
from models.phases import Phases
from models.sampling import Inpainted, next_visits
from models.stopping import Condition
from streamer.config_decisions import DecisionConfig
from streamer.decisions import Proposal, with_arrays
from streamer.evidence import Dose

_EPSILON = 0.25
"""Positions are measured on until their error is this part of what the whole map may have."""
_OF_POSITIONS = frozenset({"misclassified_area", "unmeasured_area", "open_anomalies"})
_BLOCKS_FADE, _BLOCKS_AHEAD = 0.9, 1.25
_VISITS_SHARE, _FEWEST_VISITS = 0.02, 16


@dataclass
class Progress:
    """How far the present pass has come, and what is planned after it.

    Attributes
    ----------
    number : int
        Of the pass.
    measured_s, planned_s : float
        Dwell of the pass so far, and as planned.
    block_s : float
        Dwell of a large block of late.
    visits, planned_visits : int
        Of the whole scan.
    """

    planned_s: float
    planned_visits: int
    number: int = 0
    measured_s: float = 0.0
    block_s: float = 0.0
    visits: int = 0

    def add(self, dwell_s: float, n: int) -> None:
        """Take a block of n visits."""
        self.measured_s += dwell_s
        self.block_s = max(dwell_s, _BLOCKS_FADE * self.block_s)
        self.visits += n

    def next_pass(self, planned_s: float) -> None:
        """Begin a pass of so much dwell."""
        self.number, self.measured_s, self.planned_s = self.number + 1, 0.0, planned_s

    def ends_within(self, lead_s: float) -> bool:
        """Whether the pass may be over before another block after the next would be seen."""
        return self.planned_s - self.measured_s <= lead_s + _BLOCKS_AHEAD * self.block_s


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

    def next_pass(self, config: DecisionConfig, dose: Dose, number: int, unmet: Sequence[Condition]) -> Proposal | None:
        """Dwell of all positions in pass `number`; None where nothing is known that would make it other than planned.

        Each position gets what its error needs, and what lies over the planned dwell of a pass is taken where it brings
        least. Positions that have not been measured get the planned dwell, and all get what other targets ask for.

        Parameters
        ----------
        unmet : sequence of Condition
            Of a stop.
        """
        known = certainty_of(self._phases, self._engine, dose.dwell_s)
        if known is None or dose.planned_s is None:
            return None
        limits = self._limits(config, dose.planned_s)
        error, rate = self._errors(known, config), self._rates(known)
        n = self._engine.n_positions
        fresh = np.flatnonzero(self._engine.visits == 0)
        # All positions take part, so that lines and tiles have whatever lies in them.
        errors, rates = np.zeros(n), np.zeros(n)
        errors[known.index], rates[known.index] = error, rate
        given_s = np.minimum(dose.committed_s, self._dose_limit_s)
        base_s = np.minimum(self._base_s(dose, unmet, limits), np.clip(self._dose_limit_s - given_s, 0.0, None))
        needed_s = _needed_s(error, rate, self._epsilon(config), limits)
        budget_s = min(needed_s, max(dose.planned_s * n - float(base_s.sum()), 0.0))
        dwell_s = allocate(errors, rates, given_s, budget_s, limits, self._groups(config)).dwell_s
        base_s[fresh] = np.minimum(dose.planned_s, self._dose_limit_s - given_s[fresh])
        dwell_s = np.maximum(dwell_s, _shared(base_s, self._groups(config)))
        used_s, planned_s = float(dwell_s.sum()), dose.planned_s * n
        evidence = {
            "pass": number,
            "expected_wrong_area": float(error.sum() / n),
            "positions": int(np.count_nonzero(dwell_s)),
            "dwell_s": used_s,
            "planned_dwell_s": planned_s,
        }
        reason = (
            f"Pass {number + 1} takes {used_s:.4g} s instead of {planned_s:.4g} s: {np.count_nonzero(dwell_s == 0)} of "
            f"{n} positions are left out, and dwell goes where phases are not known yet."
        )
        return with_arrays("dwell", str(number), reason, evidence, np.arange(n), dwell_s)

    def next_visits(self, config: DecisionConfig, dose: Dose, guess: Inpainted, visits: int) -> Proposal | None:
        """Positions of a sparse scan to be measured next: uncertain guesses, and measured ones that are not decided."""
        known = certainty_of(self._phases, self._engine, dose.dwell_s)
        if self._nav_shape is None or dose.planned_s is None:
            return None
        limits = self._limits(config, dose.planned_s)
        n = max(_FEWEST_VISITS, round(_VISITS_SHARE * self._engine.n_positions))
        again, again_s = self._again(config, dose, known, n * dose.planned_s / 2, limits)
        fresh = next_visits(
            guess, self._nav_shape, n - min(n // 2, again.size), config.stop_object_px**0.5, self._novelty()
        )
        index = np.concatenate([again, fresh])
        if not index.size:
            return None
        dwell_s = np.concatenate([again_s, np.full(fresh.size, min(dose.planned_s, limits.dose))])
        order = np.argsort(index, kind="stable")
        wrong = 1.0 - guess.posterior.max(axis=1)
        evidence = {
            "measured": int(np.count_nonzero(self._engine.visits)),
            "expected_wrong_area": float(wrong.mean()),
            "farthest_px": float(guess.distance.max()),
            "again": int(again.size),
            "fresh": int(fresh.size),
        }
        reason = (
            f"{evidence['measured']} of {self._engine.n_positions} positions are measured; {fresh.size} others "
            f"tell most about the rest, and {again.size} of those measured are not decided."
        )
        return with_arrays("visit", str(visits), reason, evidence, index[order], dwell_s[order])

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
            known = certainty_of(self._phases, self._engine, dose.dwell_s)
            telling = np.zeros(0) if known is None else known.rate[known.rate > 0]
            self._rate_of = self._engine.revision
            self._rate = float(np.median(telling)) if telling.size else 0.0
        return self._rate

    def _base_s(self, dose: Dose, unmet: Sequence[Condition], limits: Limits) -> Float64:
        """Dwell (P,) that targets other than that of the phase map ask for; errors fall with the root of the dose."""
        planned_s, n = dose.planned_s or 0.0, self._engine.n_positions
        base_s = np.zeros(n)
        for condition in unmet:
            if condition.name.startswith("relative_error"):
                factor = min((condition.value / condition.target) ** 2, 1e6)
                base_s = np.maximum(base_s, (factor - 1.0) * dose.dwell_s)
            elif condition.name not in _OF_POSITIONS:
                # How much more the others need is not known: a little, and then it is looked at again.
                base_s = np.maximum(base_s, limits.shortest)
        return np.where(base_s > 0, np.clip(base_s, limits.shortest, max(planned_s, limits.shortest)), 0.0)

    def _limits(self, config: DecisionConfig, planned_s: float) -> Limits:
        return Limits(config.dwell_shortest * planned_s, config.dwell_longest * planned_s, self._dose_limit_s)

    def _epsilon(self, config: DecisionConfig) -> float:
        return _EPSILON * max(config.stop_misclassified_area, 1e-6)

    def _errors(self, known: Certainty, config: DecisionConfig) -> Float64:
        # What chance gives as seldom as it may be flagged counts as 1.
        p_value = np.clip(np.nan_to_num(self._engine.p_value[known.index], nan=1.0), 1e-300, 1.0)
        anomaly = np.log(p_value) / np.log(self._engine.config.false_alarm)
        both = np.stack([1.0 - known.error, known.error], axis=1)
        likely = np.maximum(expected_errors(np.sort(both, axis=1), anomaly), known.error)
        return np.asarray(np.where(likely > self._epsilon(config), likely, 0.0))

    def _rates(self, known: Certainty) -> Float64:
        # What has no label learns as fast as the others do.
        typical = float(np.median(known.rate[known.rate > 0])) if (known.rate > 0).any() else 0.0
        return np.where(known.rate > 0, known.rate, typical * (known.error >= 1.0))

    def _again(
        self, config: DecisionConfig, dose: Dose, known: Certainty | None, budget_s: float, limits: Limits
    ) -> tuple[NDArray[np.int64], Float64]:
        if known is None:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        error, rate = self._errors(known, config), self._rates(known)
        budget_s = min(budget_s, _needed_s(error, rate, self._epsilon(config), limits))
        given_s = np.minimum(dose.committed_s[known.index], self._dose_limit_s)
        dwell_s = allocate(error, rate, given_s, budget_s, limits).dwell_s
        rows = np.flatnonzero(dwell_s)
        return known.index[rows], dwell_s[rows]

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


def _needed_s(error: Float64, rate: Float64, epsilon: float, limits: Limits) -> float:
    """Dwell of all positions together after which each is expected to be decided, as far as a pass can bring it."""
    open_ = (error > epsilon) & (rate > 0)
    wanted = np.log(error[open_] / epsilon) / rate[open_]
    return float(np.clip(wanted, limits.shortest, limits.longest).sum())


def _shared(dwell_s: Float64, groups: NDArray[np.int64] | None) -> Float64:
    """Dwells (P,) such that all positions of a group have that of the one that has most."""
    if groups is None:
        return dwell_s
    most = np.zeros(int(groups.max()) + 1)
    np.maximum.at(most, groups, dwell_s)
    return np.asarray(most[groups])
