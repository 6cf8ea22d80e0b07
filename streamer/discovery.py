"""Groups of like anomalies as an operator sees them: numbered, proposed as phases, accepted or dismissed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.axis import Axis
from models.base import BatchResult
from models.candidates import candidates
from models.false_discovery import discoveries
from models.grouping import Group
from models.linear import FLAG_ANOMALOUS, LinearEngine
from models.minor_components import MinorComponents
from models.minor_phases import minor_phases
from models.phases import Phases
from models.protection import ENOUGH
from streamer.config import AnomalySection
from streamer.events import Event, Log, Publish
from streamer.requests import RequestError
from streamer.wire import Result, f4

State = Literal["open", "proposed", "accepted", "dismissed"]
FLAG_OUTSIDE: Final = 2
"""Flag: linear model and network disagree by more than noise allows."""
_KINDS: Final = frozenset({"feature", "phase"})
"""Of the specimen, not of the detector."""
_MOSTLY: Final = 0.5
_LEAST_POSITIONS: Final = 2
_GROWTH: Final = 1.5
_LONGEST_NAME: Final = 200
_MOST_SUMMED: Final = 64


@dataclass
class Found:
    """A group with its number, and what was told of it."""

    number: int
    group: Group
    window: tuple[float, float]
    candidates: list[str]
    state: State = "open"
    name: str = ""
    told: tuple[State, int] = ("open", 0)
    feature: int = -1
    phase: int = -1
    explained: bool = False
    """The model has come to know it by itself: nobody is asked, unless it stands out once more."""

    def summary(self) -> dict[str, Any]:
        """What the status and the answers to requests show."""
        group = self.group
        return {
            "group": self.number,
            "state": self.state,
            "name": self.name,
            "kind": group.kind,
            "n": int(group.positions.size),
            "evidence": group.evidence,
            "window": list(self.window),
            "candidates": self.candidates,
            "explained": self.explained,
        }

    def text(self, units: str) -> str:
        """A sentence for the operator."""
        n = self.group.positions.size
        where = f"{self.window[0]:.5g} to {self.window[1]:.5g} {units}".rstrip()
        places = f"{n} position" + ("s" if n > 1 else "")
        maybe = f", perhaps {self.candidates[0]}" if self.candidates and self.group.kind in _KINDS else ""
        ends = {
            "open": "; by now the model explains it: nothing to decide" if self.explained else "",
            "proposed": "; proposed as a phase",
            "accepted": f"; accepted as {self.name!r}",
            "dismissed": f"; dismissed: {self.name}",
        }
        return f"{self.group.kind} at {places}, {where}{maybe}{ends[self.state]}"


@dataclass
class Discovery:
    """Follows the groups of anomalies of one series, and the flags of its positions.

    Parameters
    ----------
    series, technique : str
    n_positions : int
    """

    series: str
    technique: str
    n_positions: int
    found: list[Found] = field(default_factory=list)
    _version: int = -1
    _processed: int = 0
    _phases_due: bool = False
    _components: MinorComponents = field(default_factory=MinorComponents)
    _carriers: list[Group] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._flag: NDArray[np.uint8] = np.zeros(self.n_positions, dtype=np.uint8)
        self._settled: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        """Positions of phases that were accepted or dismissed, which are not to be flagged for it any more."""
        self._confirmed = self._settled
        self.outside: NDArray[np.bool_] = np.zeros(self.n_positions, dtype=np.bool_)
        """Positions where a network and the linear model disagree, (P,)."""

    def told(self, index: NDArray[Any]) -> NDArray[np.uint8]:
        """Flags of positions (n,) as they stand: what was told of anomalies, and what is known of disagreement."""
        return np.asarray(self._flag[index] | np.where(self.outside[index], np.uint8(FLAG_OUTSIDE), np.uint8(0)))

    # Flags

    def batch(self, result: BatchResult) -> None:
        """Note what was told of positions."""
        self._flag[result.index] = result.flag
        self._processed += result.index.size

    def confirm(self, positions: NDArray[Any]) -> None:
        """Take positions whose flags waited, and do no more: the next `update` tells them."""
        self._confirmed = np.union1d(self._confirmed, positions.astype(np.int64))

    def _flags(self, engine: LinearEngine, rate: float, *, ended: bool) -> list[Event]:
        """Return results for positions whose flag is another than was told: by re-tests, and at the end of a pass.

        At the end of a pass (and of the series) the flags of all positions are decided together, so that about `rate`
        of the flagged are false alarms.
        """
        new = self._flag.copy()
        new[engine.take_cleared()] = 0
        new[self._confirmed] = FLAG_ANOMALOUS
        new[self._settled] = 0
        self._settled = self._confirmed = self._settled[:0]
        if ended:
            new[:] = (discoveries(engine.p_value, rate) | engine.held) & (engine.visits > 0)
            for group in self._carriers:
                known = self._same(group)
                new[group.positions] |= known is not None and known.state in {"open", "proposed"}
        for found in self.found:
            if found.feature >= 0:
                new[engine.accepted(found.feature)] = 0
            elif found.group.kind == "phase" and found.state == "proposed":
                new[found.group.positions] = 1
        changed = np.flatnonzero(new != self._flag)
        self._flag = new
        if not changed.size or engine.basis is None:
            return []
        arrays: dict[str, NDArray[Any]] = {
            "index": changed.astype(np.uint32),
            "scores": engine.scores_at(changed),
            "anomaly": engine.anomaly[changed],
            "flag": self.told(changed),
        }
        return [Publish(Result("result", {"series": self.series, "model": engine.basis.version}, arrays))]

    # Groups

    def update(
        self, engine: LinearEngine, axis: Axis, phases: Phases | None, config: AnomalySection, *, final: bool = False
    ) -> list[Event]:
        """Follow the groups of a new version; return what is new of them, and of flags."""
        basis, ended = engine.basis, final or self._processed >= self.n_positions
        self._phases_due |= ended
        mapped = self._phases_due and not final and phases is not None and phases.is_mapped
        if basis is None or (basis.version == self._version and not ended and not mapped):
            return []
        self._version = basis.version
        found = self._components.look(engine, ended=ended)
        self._carriers = [g for g in found if engine.join(g) < 0 and not self._is_told(g, as_phase=True)]
        for group in (*engine.groups, *self._carriers):
            self._follow(group, engine, axis)
        if ended:
            self._processed = 0
        if mapped:
            self._phases_due = False
            self._follow_phases(engine, axis, phases, config)
        told = self._decided(engine, axis, phases, config)
        flags = self._flags(engine, config.false_discovery, ended=ended)
        return [*flags, *told, *self._explained(engine, axis)]

    def conclude(self, engine: LinearEngine, axis: Axis, phases: Phases | None, config: AnomalySection) -> list[Event]:
        """Propose what phases came out at the end of the series, when they are settled."""
        self._follow_phases(engine, axis, phases, config)
        told = self._decided(engine, axis, phases, config)
        return [*self._flags(engine, config.false_discovery, ended=True), *told]

    def _explained(self, engine: LinearEngine, axis: Axis) -> list[Event]:
        """Ask no more about what the model explains altogether: a few positions, perhaps, of what became a phase."""
        events: list[Event] = []
        for found in self.found:
            if found.state == "proposed" and not (self._flag[found.group.positions] & 1).any():
                found.state, found.explained = "open", True
                events += self._tell(found, engine, axis)
        return events

    def _decided(self, engine: LinearEngine, axis: Axis, phases: Phases | None, config: AnomalySection) -> list[Event]:
        """Propose and accept, as evidence and settings have it; return what is new of groups."""
        events: list[Event] = []
        for found in self.found:
            if found.state == "open" and not found.explained and is_proposed(found.group, config.false_alarm):
                found.state = "proposed"
            if found.state == "proposed" and config.accept:
                self._accept(found, free_name(found, self.found), engine, phases)
            elif found.feature >= 0 and found.phase >= 0 and phases is not None:
                phases.join(found.phase, engine.accepted(found.feature, _MOSTLY))
            if found.told[0] != found.state or found.group.positions.size >= _GROWTH * found.told[1]:
                events += self._tell(found, engine, axis)
        return events

    def _follow_phases(self, engine: LinearEngine, axis: Axis, phases: Phases | None, config: AnomalySection) -> None:
        """Take phases that few positions are of for groups, until somebody names them or they are no longer few."""
        if phases is None:
            return
        most = config.minor_phase * np.count_nonzero(engine.visits)
        for found in self.found:
            minor = found.group.kind == "phase" and found.state == "proposed"
            if minor and np.count_nonzero(phases.label == found.phase) > most:
                found.state, found.explained = "open", True
                self._settled = np.union1d(self._settled, found.group.positions)
        for number, group in minor_phases(phases, engine, config.minor_phase):
            known = next((f for f in self.found if f.group.kind == "phase" and f.phase == number), None)
            if known is None and not self._is_told(group, as_phase=False):
                window = self._window(group, engine, axis)
                candidates = self._words(window, axis)
                self.found.append(Found(len(self.found), group, window, candidates, phase=number))
            elif known is not None and known.state != "dismissed":
                known.group = group

    def _is_told(self, group: Group, *, as_phase: bool) -> bool:
        """Whether a group of the one kind or the other, for which there is evidence, has half of these positions."""
        some = [f.group.positions for f in self.found if (f.group.kind == "phase") is as_phase and f.state != "open"]
        return any(_overlap(positions, group.positions) for positions in some)

    def _follow(self, group: Group, engine: LinearEngine, axis: Axis) -> None:
        """Take a group for the one that it was before, or for a new one."""
        window = self._window(group, engine, axis)
        known = self._same(group)
        if known is None:
            self.found.append(Found(len(self.found), group, window, self._words(window, axis)))
            return
        if known.state == "dismissed":
            engine.dismiss(group.positions)
            return
        # The evidence of what was accepted, and is known by now, is what there was for it.
        least = known.group.evidence if known.state == "accepted" else 0.0
        known.group = replace(group, evidence=max(group.evidence, least))
        known.explained = False
        if known.window != window and known.state != "accepted":
            known.window, known.candidates = window, self._words(window, axis)

    def _window(self, group: Group, engine: LinearEngine, axis: Axis) -> tuple[float, float]:
        lo, hi = engine.window_of(group)
        return float(axis.values[lo]), float(axis.values[min(hi, axis.values.size) - 1])

    def _words(self, window: tuple[float, float], axis: Axis) -> list[str]:
        return candidates(self.technique, *window, axis.units)

    def _same(self, group: Group) -> Found | None:
        """The group that it was before: the same accepted feature, half of the positions, or a defect's channel."""
        for found in self.found:
            if found.group.kind == "phase":
                continue
            if group.feature >= 0 or found.feature >= 0:
                if group.feature == found.feature:
                    return found
                continue
            if _overlap(group.positions, found.group.positions):
                return found
            if found.state == "dismissed" and found.group.kind == group.kind and found.group.window == group.window:
                return found
        return None

    def _tell(self, found: Found, engine: LinearEngine, axis: Axis) -> list[Event]:
        """Return the message of a group: its pooled spectrum, what was expected, and where."""
        found.told = found.state, int(found.group.positions.size)
        positions = found.group.positions
        spectra = [engine.spectrum(int(p)) for p in positions[:_MOST_SUMMED]]
        best = int(np.argmax(np.nan_to_num(engine.anomaly[positions])))
        head = {
            "series": self.series,
            "model": engine.basis.version if engine.basis is not None else 0,
            "id": f"{self.series}/group/{found.number}",
            "index": positions.tolist(),
            "score": float(np.nan_to_num(engine.anomaly[positions[best]])),
            "p_value": float(np.nan_to_num(engine.p_value[positions[best]], nan=1.0)),
            "window": list(found.window),
            "group": found.number,
            **{key: value for key, value in found.summary().items() if key not in {"group", "window"}},
            "text": found.text(axis.units),
        }
        arrays = {
            "spectrum": f4(np.sum([s[0] for s in spectra], axis=0)),
            "expected": f4(np.sum([s[2] for s in spectra], axis=0)),
        }
        told: list[Event] = [Publish(Result("anomaly", head, arrays))]
        if found.state != "open":
            told.append(Log("info", "group", f"group {found.number}: {found.text(axis.units)}"))
        return told

    # What people decide

    def check(self, val: str, params: Mapping[str, Any]) -> Found:
        """Return the group that an `accept` or `dismiss` request speaks of.

        Raises
        ------
        RequestError
            A sentence for whoever asked.
        """
        number = params.get("group")
        key, longest = {"accept": "name", "dismiss": "reason"}[val], _LONGEST_NAME
        known = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(self.found)
        if not known:
            raise RequestError(f"{val}: there is no group {number!r}")
        found, word = self.found[int(number)], params.get(key)  # type: ignore[arg-type]
        if not isinstance(word, str) or not 0 < len(word.strip()) <= longest:
            raise RequestError(f"{val}: give a {key} of up to {longest} characters")
        if found.state in {"accepted", "dismissed"}:
            raise RequestError(f"{val}: group {number} is {found.state} already")
        return found

    def decide(
        self, val: str, params: Mapping[str, Any], engine: LinearEngine, axis: Axis, phases: Phases | None
    ) -> list[Event]:
        """Do what was asked for, which `check` has passed."""
        found, word = self.check(val, params), str(params["name" if val == "accept" else "reason"]).strip()
        if val == "accept":
            self._accept(found, word, engine, phases)
        else:
            found.state, found.name = "dismissed", word
            if found.group.kind == "phase":
                self._settled = np.union1d(self._settled, found.group.positions)
            else:
                engine.dismiss(found.group.positions)
        return self._tell(found, engine, axis)

    def _accept(self, found: Found, name: str, engine: LinearEngine, phases: Phases | None) -> None:
        found.state, found.name = "accepted", name
        if found.group.kind == "phase":
            self._settled = np.union1d(self._settled, found.group.positions)
            if phases is not None:
                phases.call(found.phase, name)
            return
        found.feature = engine.accept(found.group)
        if phases is not None and (engine.visits[found.group.positions] > 0).any():
            found.phase = phases.seed(name, found.group.positions)

    def summary(self) -> list[dict[str, Any]]:
        """What the status shows of the groups."""
        return [found.summary() for found in self.found]


def _overlap(a: NDArray[np.int64], b: NDArray[np.int64]) -> bool:
    """Whether they share half of the smaller one."""
    return 2 * np.intersect1d(a, b, assume_unique=True).size > min(a.size, b.size)


def free_name(found: Found, others: list[Found]) -> str:
    """Name for a group that nobody names: what it may be, and its number where another has that name."""
    if not found.candidates:
        return f"unknown {found.number}"
    name = found.candidates[0]
    return f"{name} ({found.number})" if any(other.name == name for other in others) else name


def is_proposed(group: Group, false_alarm: float) -> bool:
    """Whether there is enough evidence for a phase.

    Positions that chance has lifted over the threshold add up to evidence as well: a feature needs as much beyond what
    every position but the first brings for having been chosen by it.
    """
    chosen = (group.positions.size - 1) * math.log(1.0 / false_alarm) if group.kind == "feature" else 0.0
    return group.kind in _KINDS and group.evidence - chosen > ENOUGH and group.positions.size >= _LEAST_POSITIONS
