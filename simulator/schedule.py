"""Which position is measured when, and how decisions change that; time is an argument."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from simulator.raster import Index
from streamer.wire import ACTIONS

Floats = NDArray[np.float64]
StopsAt = Literal["point", "line", "section"]


@dataclass(frozen=True)
class Plan:
    """What the operator asked for.

    Parameters
    ----------
    order : u4[m]
        Positions of one pass, in order.
    passes : int
    dwell_s : float
        Planned for each position and pass.
    dose_limit_s : float, optional
        The most dwell a position gets in all.
    actions : tuple of str
        Decisions that this controller can obey.
    obeys_at : {"point", "line", "section"}
        Where a stop, a visit or a pause takes effect: controllers differ.
    pause_s : float
        How long an operator takes to look after a paused instrument.
    pieces : int
        A visit is read out so many times, each a spectrum of its own, so that what it brings is seen before it is over.
    """

    order: Index
    passes: int = 1
    dwell_s: float = 0.01
    dose_limit_s: float | None = None
    actions: tuple[str, ...] = ("stop", "dwell", "visit", "extend", "pause")
    obeys_at: StopsAt = "point"
    pause_s: float = 5.0
    pieces: int = 1

    def __post_init__(self) -> None:
        if unknown := set(self.actions) - set(ACTIONS):
            raise ValueError(f"unknown actions {sorted(unknown)}: the protocol has {', '.join(ACTIONS)}")
        if min(self.passes, len(self.order), self.pieces) < 1 or not self.dwell_s > 0:
            raise ValueError("a plan needs positions, passes, pieces and a dwell above 0")

    @property
    def expected(self) -> int:
        """Spectra planned."""
        return len(self.order) * self.passes * self.pieces


@dataclass(frozen=True)
class Decision:
    """A decision as far as an instrument cares: `index` u4[m] and `dwell_s` f4[m] where the action has them."""

    action: str
    series: str | None = None
    index: NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.uint32))
    dwell_s: NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass(frozen=True, eq=False)
class Visits:
    """n visits: positions u4, dwell f8, pass i8, and the time at which each was over, f8, since the start."""

    positions: Index
    dwell_s: Floats
    passes: NDArray[np.int64]
    ends_s: Floats

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, part: slice) -> Visits:
        return Visits(self.positions[part], self.dwell_s[part], self.passes[part], self.ends_s[part])

    @classmethod
    def joined(cls, pieces: list[Visits]) -> Visits:
        """Return visits one after another."""
        names = ("positions", "dwell_s", "passes", "ends_s")
        return cls(*(np.concatenate([getattr(p, name) for p in pieces]) for name in names))


class _Section:
    """Visits one after another, then perhaps a wait, and how far they have got."""

    def __init__(self, positions: Index, dwell_s: Floats, number: int, wait_s: float = 0.0) -> None:
        measured = dwell_s > 0
        self.positions = positions[measured]
        self.dwell_s = dwell_s[measured]
        self.number = number
        self.ends_s = np.cumsum(self.dwell_s)
        self.wait_s = wait_s
        self.done = 0
        self.elapsed_s = 0.0

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def lasts_s(self) -> float:
        return (float(self.ends_s[-1]) if len(self) else 0.0) + self.wait_s

    def run(self, at: int) -> slice:
        """Return the pieces of the visit that `at` belongs to."""
        others = np.flatnonzero(self.positions != self.positions[at])
        before, after = others[others < at], others[others > at]
        return slice(int(before[-1]) + 1 if len(before) else 0, int(after[0]) if len(after) else len(self))

    def last_piece(self, at: int, stop: int, dwell_s: float) -> None:
        """Let the piece `at` be the last one of its visit, which ends before `stop`, and last this long."""
        self.positions = np.delete(self.positions, slice(at + 1, stop))
        self.dwell_s = np.delete(self.dwell_s, slice(at + 1, stop))
        self.dwell_s[at] = dwell_s
        self.ends_s = np.cumsum(self.dwell_s)

    def split(self, at: int) -> _Section:
        """Keep the visits before `at` and return the others."""
        tail = _Section(self.positions[at:], self.dwell_s[at:], self.number, self.wait_s)
        self.positions, self.dwell_s, self.ends_s = self.positions[:at], self.dwell_s[:at], self.ends_s[:at]
        self.wait_s = 0.0
        return tail


class Schedule:
    """The plan as it stands after the decisions so far.

    Parameters
    ----------
    plan : Plan
    n_positions : int
        Of the whole map.
    line : int
        Positions in a line of the map.
    """

    def __init__(self, plan: Plan, n_positions: int, line: int) -> None:
        self.plan = plan
        self.stopped = False
        self.committed_s = np.zeros(n_positions)
        self._line = line
        self._dwell_s = np.full(n_positions, plan.dwell_s)
        self._passes_left = plan.passes
        self._sections: deque[_Section] = deque()
        self._started_s = 0.0

    @property
    def finished(self) -> bool:
        """Whether nothing is left to measure."""
        return self._current() is None

    def due_s(self, visits: int) -> float:
        """Return the time until this many more visits are over, or the section is."""
        section = self._current()
        if section is None:
            return 0.0
        last = min(section.done + visits, len(section)) - 1
        end = section.lasts_s if last < section.done else float(section.ends_s[last])
        return max(end - section.elapsed_s, 0.0)

    def advance(self, dt_s: float) -> list[Visits]:
        """Let time pass and return the visits that were completed in it."""
        found: list[Visits] = []
        while (section := self._current()) is not None:
            section.elapsed_s += dt_s
            # Time comes in cuts of any size: their sum may miss the end of a visit by rounding.
            reached = section.elapsed_s + 1e-9 * self.plan.dwell_s
            ready = int(np.searchsorted(section.ends_s, reached, side="right"))
            if ready > section.done:
                found.append(self._completed(section, ready))
            if reached < section.lasts_s:
                break
            dt_s = max(section.elapsed_s - section.lasts_s, 0.0)
            self._started_s += section.lasts_s
            self._sections.popleft()
        return found

    def obey(self, decision: Decision) -> str | None:
        """Change the plan; return why not, as a sentence, where that cannot be done."""
        if decision.action not in self.plan.actions:
            return f"this controller cannot {decision.action}"
        section = self._current()
        if section is None:
            return "the scan has ended"
        if decision.action in ("dwell", "visit", "extend"):
            error = self._misfit(decision)
            if error is not None:
                return error
        match decision.action:
            case "stop":
                self._stop(section)
            case "dwell":
                return self._dwell(decision)
            case "visit":
                return self._visit(section, decision)
            case "extend":
                return self._extend(section, decision)
            case "pause":
                self._pause(section)
        # What remains (recalibrate) changes nothing about which position is measured when.
        return None

    def _current(self) -> _Section | None:
        while self._sections and self._sections[0].lasts_s == 0:
            self._sections.popleft()
        while not self._sections and self._passes_left > 0:
            number = self.plan.passes - self._passes_left
            self._passes_left -= 1
            order, pieces = self.plan.order, self.plan.pieces
            dwell_s = np.repeat(self._within_limit(order) / pieces, pieces)
            section = _Section(np.repeat(order, pieces), dwell_s, number)
            np.add.at(self.committed_s, section.positions, section.dwell_s)
            if len(section):
                self._sections.append(section)
        return self._sections[0] if self._sections else None

    def _within_limit(self, positions: Index) -> Floats:
        dwell_s = self._dwell_s[positions]
        if self.plan.dose_limit_s is None:
            return dwell_s
        # Less than a thousandth of the planned dwell is rounding, not a visit.
        left = self.plan.dose_limit_s - self.committed_s[positions]
        clipped = np.minimum(dwell_s, left)
        return np.where(clipped > 1e-3 * self.plan.dwell_s, clipped, 0.0)

    def _completed(self, section: _Section, upto: int) -> Visits:
        part = slice(section.done, upto)
        numbers = np.full(upto - section.done, section.number, dtype=np.int64)
        section.done = upto
        ends_s = self._started_s + section.ends_s[part]
        return Visits(section.positions[part], section.dwell_s[part], numbers, ends_s)

    def _boundary(self, section: _Section) -> int:
        """Return the number of visits of the section that still come before a decision takes effect."""
        upcoming = section.positions[section.done :]
        if self.plan.obeys_at == "section" or len(upcoming) == 0:
            return len(section)
        if self.plan.obeys_at == "point":
            return section.done + 1
        other_line = upcoming // self._line != upcoming[0] // self._line
        return section.done + (int(np.argmax(other_line)) if other_line.any() else len(upcoming))

    def _misfit(self, decision: Decision) -> str | None:
        index, dwell_s = np.asarray(decision.index), np.asarray(decision.dwell_s)
        if len(index) == 0 or index.shape != dwell_s.shape:
            return f"{decision.action} needs an index and a dwell for each position"
        if index.max() >= len(self.committed_s):
            return f"position {int(index.max())} is outside a scan of {len(self.committed_s)}"
        if not np.all(np.isfinite(dwell_s)) or np.any(dwell_s < 0):
            return "a dwell must be a number of seconds, 0 or more"
        return None

    def _too_much(self, index: NDArray[Any], dwell_s: NDArray[Any]) -> str | None:
        limit_s = self.plan.dose_limit_s
        total_s = self.committed_s.copy()
        np.add.at(total_s, index, dwell_s)
        worst_s = float(total_s[index].max())
        # float32 on the wire: a dwell that was meant to reach the limit may be over it by rounding.
        if limit_s is None or worst_s <= limit_s * (1 + 1e-6):
            return None
        return f"a position would get {worst_s:.4g} s, over the dose limit of {limit_s:.4g} s"

    def _stop(self, section: _Section) -> None:
        section.split(self._boundary(section))
        while len(self._sections) > 1:
            self._sections.pop()
        self._passes_left = 0
        self.stopped = True

    def _dwell(self, decision: Decision) -> str | None:
        if self._passes_left == 0:
            return "no pass is left"
        error = self._too_much(decision.index, decision.dwell_s)
        if error is None:
            self._dwell_s[decision.index] = decision.dwell_s
        return error

    def _visit(self, section: _Section, decision: Decision) -> str | None:
        error = self._too_much(decision.index, decision.dwell_s)
        if error is None:
            positions, dwell_s = np.asarray(decision.index, np.uint32), np.asarray(decision.dwell_s, float)
            visits = _Section(positions, dwell_s, section.number)
            np.add.at(self.committed_s, visits.positions, visits.dwell_s)
            rest = section.split(self._boundary(section))
            self._sections.insert(1, rest)
            self._sections.insert(1, visits)
        return error

    def _extend(self, section: _Section, decision: Decision) -> str | None:
        position, dwell_s, at = int(decision.index[0]), float(decision.dwell_s[0]), section.done
        if len(decision.index) != 1 or at >= len(section) or section.positions[at] != position:
            return f"position {position} is not the one being measured"
        pieces = section.run(at)
        began_s = float(section.ends_s[pieces.start - 1]) if pieces.start else 0.0
        spent_s = section.elapsed_s - began_s
        if dwell_s <= spent_s:
            return f"position {position} has had {spent_s:.4g} s already"
        more_s = dwell_s - float(section.dwell_s[pieces].sum())
        error = self._too_much(decision.index, np.array([more_s]))
        if error is None:
            self.committed_s[position] += more_s
            section.last_piece(at, pieces.stop, dwell_s - float(section.dwell_s[pieces.start : at].sum()))
        return error

    def _pause(self, section: _Section) -> None:
        rest = section.split(self._boundary(section))
        section.wait_s = self.plan.pause_s
        self._sections.insert(1, rest)
