"""What a series decides: evidence is gathered while it runs, and decisions follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.axis import Axis
from models.base import Counts, Float64
from models.guess import PhaseGuess, nothing_told, phase_guess
from models.linear import LinearEngine
from models.phases import Phases
from models.prepared import PreparedEngine
from streamer.config import PipelineConfig
from streamer.decisions import Ledger, Proposal
from streamer.events import Event
from streamer.evidence import Dose, StopEvidence
from streamer.hindsight import Hindsight
from streamer.placed import Placed
from streamer.planning import Planner, Progress
from streamer.watching import Watch
from streamer.wire import HeaderMap

_SLOW_S = 0.01
_STEERS = frozenset({"dwell", "visit", "extend"})


def enough_visits(n_positions: int) -> int:
    """Visits after which another look at the conditions of a stop pays."""
    return max(64, n_positions // 50)


class Deciding:
    """Decides for one series.

    Parameters
    ----------
    series : str
    header : HeaderMap
        Tells what the controller can do.
    dwell_s : ndarray, (P,)
        Dwell of each position so far; whoever adds to it tells by `seen`.
    """

    def __init__(self, series: str, header: HeaderMap, dwell_s: Float64) -> None:
        self.ledger = Ledger(series, header)
        self._header, self._dwell_s = header, dwell_s
        n, self._passes = dwell_s.size, header.passes or 1
        expected = header.expected or n * self._passes
        self._planned = header.planned(n)
        self._uniform_s = (header.dwell_s or 0.0) * self._planned
        self._pieces = max(1, round(expected / (self._passes * max(self._planned, 1))))
        self._progress = Progress(self._uniform_s, self._planned * self._pieces)
        self._agreed: dict[int, Float64] = {}
        self._in_force_s: Float64 | None = None
        self._committed_s: Float64 = np.full(n, header.dwell_s or 0.0)
        self._hindsight = Hindsight()
        self._at: tuple[int, int, float, float] = (-1, -1, 0.0, 0.0)
        self._extended = (-1, -1)
        self._asked_visits = -1
        self._job: Iterator[None] | None = None
        self.guess: PhaseGuess | None = None
        self._guess_at = -1

    def begin(self, engine: LinearEngine, phases: Phases | None, axis: Axis, config: PipelineConfig) -> None:
        """Take the model that decisions rest on."""
        self._engine, self._phases = engine, phases
        shape = self._header.nav_shape
        self._grid = (shape[0], shape[1]) if len(shape) == 2 and not self._header.positions else None
        self._evidence = StopEvidence(engine, phases, axis, self._grid, is_sparse=self._planned < self._dwell_s.size)
        self._planner = None if phases is None else Planner(engine, phases, self._grid, self._header.dose_limit_s)
        self._watch = Watch(engine, phases, axis, config, plain=not isinstance(engine, PreparedEngine))

    # What comes in

    def corrected(self, counts: Counts) -> Counts:
        """Counts (n, D) with the drift that is known taken out."""
        return self._watch.corrected(counts)

    def arrived(self, placed: Placed, t_ns: int, config: PipelineConfig, *, running: bool) -> list[Event]:
        """Decide what rests on counts alone, before the model takes them: whether the signal is as it was.

        Message by message: where several lines are processed together, one that is weak would be lost among the others.
        """
        again = self._dwell_s[placed.index] > 0
        if not running or not again.any():
            return []
        index = placed.index[again]
        expected = self._engine.totals[index] / self._dwell_s[index] * placed.dwell_s[again]
        self._watch.seen(index.size, float(expected.sum()), float(placed.totals()[again].sum()))
        proposals, told = self._watch.signal()
        return told + [e for proposal in proposals for e in self._issue(proposal, t_ns, config)]

    def seen(self, index: NDArray[np.intp], dwell_s: NDArray[np.float32], number: int) -> None:
        """Note visits (n,) of pass `number`, now that they are added."""
        if not self._steers:
            return
        self._enter(number)
        self._progress.add(float(dwell_s.sum()), index.size)
        position = int(index[-1])
        other = np.flatnonzero(index != position)
        run = slice(int(other[-1]) + 1 if other.size else 0, None)
        spent_s = float(dwell_s[run].sum())
        if not other.size and self._at[:2] == (position, number):
            spent_s += self._at[2]
        self._at = (position, number, spent_s, float(dwell_s[-1]))

    def _enter(self, number: int) -> None:
        """Begin the next pass, if it is one: as was agreed for it, or else for one before, or as planned."""
        while self._progress.number < number:
            self._in_force_s = self._agreed.pop(self._progress.number + 1, self._in_force_s)
            added = self._in_force_s
            self._committed_s += (self._header.dwell_s or 0.0) if added is None else added
            positions = self._planned if added is None else int(np.count_nonzero(added))
            planned_s = self._uniform_s if added is None else float(added.sum())
            self._progress.next_pass(planned_s, positions * self._pieces)

    @property
    def _steers(self) -> bool:
        return not _STEERS.isdisjoint(self._header.actions)

    def answered(self, identity: str, t_ns: int, *, ok: bool, error: str, controller: str) -> list[Event]:
        """Take a controller's answer; what it agreed to is the plan from now on."""
        order, events = self.ledger.answered(identity, t_ns, ok=ok, error=error, controller=controller)
        if order.action == "dwell":
            self._agreed[int(order.evidence["pass"])] = order.by_position(self._dwell_s.size)
        elif order.action == "visit":
            dwell_s = order.by_position(self._dwell_s.size)
            self._committed_s += dwell_s
            self._progress.extend(float(dwell_s.sum()), order.arrays["index"].size)
        elif order.action == "extend":
            self._extended = self._at[:2]
        return events

    # What is decided

    def tick(self, t_ns: int, config: PipelineConfig, *, running: bool) -> list[Event]:
        """Decide what cannot wait for the model: where to go on, and whether something is wrong."""
        events = self.ledger.tick(t_ns)
        proposals, told = self._watch.look(config)
        if running:
            # First whether to stop: where to go on is no question any more once that is decided.
            for proposal in proposals + self._confirmed_stop(t_ns, config):
                events += self._issue(proposal, t_ns, config)
            for proposal in self._steering(config):
                events += self._issue(proposal, t_ns, config)
        return told + events

    def promoted(self, t_ns: int, config: PipelineConfig) -> list[Event]:
        """Decide whether the scan may stop: the model has moved, or learnt that it need not."""
        finished = self._evidence.note()
        if "stop" not in self._header.actions:
            return []
        found = self._evidence.check(config, self._dose, self._filled(), finished)
        return [] if found is None else self._issue(found, t_ns, config)

    def _confirmed_stop(self, t_ns: int, config: PipelineConfig) -> list[Proposal]:
        """A stop whose conditions were met when the model last moved, and still are.

        It does not wait for the model to move again: that may take as long as a pass, and some scans have only one. Of
        a sparse scan it is not asked that they were: the model hardly moves, while each few visits change the map.
        """
        enough, finished = enough_visits(self._dwell_s.size), None
        if not self.ledger.may_issue("stop", t_ns):
            return []
        if self._is_sparse and self._evidence.visits_since >= enough:
            finished = self._evidence.note()
        elif not self._evidence.may_be_confirmed(config, self._planned, enough):
            return []
        found = self._evidence.check(config, self._dose, self._filled(), finished)
        return [] if found is None else [found]

    @property
    def _dose(self) -> Dose:
        committed_s = np.maximum(self._committed_s, np.nan_to_num(self._dwell_s))
        return Dose(self._dwell_s, committed_s, self._header.dwell_s, self._passes, self._planned)

    @property
    def _is_sparse(self) -> bool:
        return self._planned < self._dwell_s.size and self._grid is not None and self._phases is not None

    def _filled(self) -> Any:
        if not self._is_sparse or self._phases is None or self._grid is None:
            return None
        if self._guess_at != self._progress.visits or self.guess is None:
            self._guess_at = self._progress.visits
            self.guess = phase_guess(self._phases, self._engine.visits, self._grid)
        return None if self.guess is None else self.guess.filled

    def _steering(self, config: PipelineConfig) -> list[Proposal]:
        """Proposals for where to go on; none once a stop is under way."""
        if self._planner is None or not self._steers or self._header.dwell_s is None or self._stops(config):
            return []
        found = [self._next_pass(config), self._next_visits(config), self._extension(config)]
        return [p for p in found if p is not None]

    def _stops(self, config: PipelineConfig) -> bool:
        """Whether a stop was ordered, and taken or not yet answered."""
        waits = config.decisions.mode == "enforce" and self.ledger.waits_for("stop")
        return waits or self.ledger.agreed("stop")

    def _next_pass(self, config: PipelineConfig) -> Proposal | None:
        number = self._progress.number + 1
        due = number < self._passes and self._progress.ends_within(config.decisions.lead_s)
        # Once the last but one is over, the last has begun.
        late = number == self._passes - 1 and self._progress.is_over
        if not due or late or self._planner is None or not self.ledger.may_issue("dwell", 0, str(number)):
            return None
        unmet = [c for c in self._evidence.conditions(config, self._dose, self._filled()) if not c.is_met]
        in_force_s = self._in_force_s
        if in_force_s is None:
            in_force_s = np.full(self._dwell_s.size, self._header.dwell_s or 0.0)
        return self._planner.next_pass(config.decisions, self._dose, number, in_force_s, unmet)

    def _next_visits(self, config: PipelineConfig) -> Proposal | None:
        progress = self._progress
        due = self._is_sparse and "visit" in self._header.actions and progress.ends_within(config.decisions.lead_s)
        # As long as nobody obeys, asking for the same again and again says nothing new.
        few = progress.visits - self._asked_visits < max(16, self._dwell_s.size // 100) and self._asked_visits >= 0
        if not due or few or self.ledger.waits_for("visit") or self._planner is None:
            return None
        filled = self._filled()
        if filled is None and self._grid is not None:
            # Before there are phases, places are all that is known.
            filled = nothing_told(self._engine.visits, self._grid)
        if filled is None:
            return None
        self._asked_visits = progress.visits
        unmet = [c for c in self._evidence.latest if not c.is_met]
        return self._planner.next_visits(config.decisions, self._dose, filled, progress, unmet)

    def _extension(self, config: PipelineConfig) -> Proposal | None:
        planned_s, (position, _, spent_s, piece_s) = self._header.dwell_s or 0.0, self._at
        slow = planned_s >= _SLOW_S and "extend" in self._header.actions
        under_way = 0 < spent_s < 0.999 * planned_s and self._extended != self._at[:2]
        if not slow or self._planner is None or not under_way:
            return None
        return self._planner.extension(config.decisions, self._dose, position, spent_s, piece_s)

    def _issue(self, proposal: Proposal, t_ns: int, config: PipelineConfig) -> list[Event]:
        basis = self._engine.basis
        model = basis.version if basis is not None else 0
        events = self.ledger.issue(proposal, t_ns, model=model, config=config.decisions)
        if events and config.decisions.mode == "advise" and self._phases is not None:
            kept_s = proposal.arrays.get("dwell_s") if proposal.action == "dwell" else None
            if proposal.action in ("stop", "dwell"):
                identity = self.ledger.decisions[-1]["decision"]
                flagged = int(np.count_nonzero(self._engine.held))
                self._hindsight.note(
                    identity, proposal.action, self._phases.label, self._dwell_s, flagged,
                    None if kept_s is None else kept_s.astype(np.float64),
                )  # fmt: skip
        return events

    # Idle time

    @property
    def wants_work(self) -> bool:
        """Whether `work` would do something."""
        return self._job is not None or self._damage_work() is not None

    def _damage_work(self) -> Iterator[None] | None:
        return self._watch.damage_work(self._engine.score_map.n_visits, self._dwell_s)

    def work(self, t_ns: int, config: PipelineConfig, *, running: bool) -> list[Event]:
        """Do one piece of looking for damage; decide at its end."""
        if self._job is None:
            self._job = self._damage_work()
        if self._job is None or next(self._job, self) is not self:
            return []
        self._job = None

        def name(number: int) -> str:
            return self._phases.name(number) if self._phases is not None and number >= 0 else "The specimen"

        proposals, told = self._watch.damaged(config, self._header.dwell_s or 0.0, name)
        for proposal in proposals if running else []:
            told = told + self._issue(proposal, t_ns, config)
        return told

    # What is told

    def summary(self) -> dict[str, Any]:
        """What the status shows: how far each condition of a stop is, drift and damage."""
        conditions = {c.name: {"value": c.value, "target": c.target, "met": c.is_met} for c in self._evidence.latest}
        return {"stop_conditions": conditions, **self._watch.summary()}

    def finish(self) -> dict[str, Any]:
        """Fill the map for the last time; return what the end of the series says.

        `unmet`, what the last check of a stop found missing; `undecided`, in words, which phases are not told; and
        `hindsight`, what advice would have saved and missed.
        """
        told: dict[str, Any] = {}
        if unmet := {c.name: [c.value, c.target] for c in self._evidence.latest if not c.is_met}:
            told["unmet"] = {name: [v if np.isfinite(v) else None, target] for name, (v, target) in unmet.items()}
        if self._phases is None:
            return told
        if self._is_sparse and (words := self._evidence.undecided()):
            told["undecided"] = words
        self._guess_at = -1
        self._filled()
        flagged = int(np.count_nonzero(self._engine.held))
        dwell_s = np.nan_to_num(self._dwell_s)
        hindsight = self._hindsight.told(self._phases.alone, dwell_s, flagged, self._header.dwell_s or 0.0)
        return {**told, "hindsight": hindsight} if hindsight else told
