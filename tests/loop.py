"""A simulated instrument and the pipeline in one process: decisions are obeyed at once, time is the instrument's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from simulator.instrument import Instrument
from simulator.sample import Specimen
from simulator.scene import SimulatedScene
from simulator.schedule import Decision, Plan
from streamer.config import PipelineConfig
from streamer.events import Event, Notify, Publish
from streamer.pipeline import Pipeline
from streamer.series import Series
from streamer.wire.items import Answer, Arrived, Idle, Tick

HOST = "127.0.0.1"
_IDLE_PIECES = 400


@dataclass
class Loop:
    """One scan.

    Attributes
    ----------
    pipeline : Pipeline
    instrument : Instrument
    decisions : list of dict
        As they were sent.
    watch : callable, optional
        Called after each message of the instrument.
    end : dict
        The ``series`` message of the end.
    speed : float
        Seconds of the instrument in one of the daemon's.
    """

    pipeline: Pipeline
    instrument: Instrument
    obeys: bool = True
    decisions: list[dict[str, Any]] = field(default_factory=list)
    watch: Callable[[Loop], None] | None = None
    end: dict[str, Any] = field(default_factory=dict)
    speed: float = 1.0

    @property
    def series(self) -> Series:
        """The series in the pipeline."""
        current = self.pipeline._current
        assert current is not None
        return current

    def run(self) -> Loop:
        """Scan to the end."""
        t_ns = 0
        while not self.instrument.finished:
            dt_s = self.instrument.due_s + 1e-9
            t_ns += round(1e9 * dt_s / self.speed)
            for message in self.instrument.step(dt_s):
                self._take(self.pipeline.feed(Arrived(t_ns, message.parts, HOST)), t_ns)
            self._take(self.pipeline.feed(Tick(t_ns)), t_ns)
            while self.pipeline.wants_tick:
                self._take(self.pipeline.feed(Tick(t_ns)), t_ns)
            for _ in range(_IDLE_PIECES):
                if not self.pipeline.wants_idle:
                    break
                self._take(self.pipeline.feed(Idle(t_ns)), t_ns)
            if self.watch is not None and self.pipeline.series is not None:
                self.watch(self)
        while self.pipeline.series is not None:
            t_ns += 10**9
            self._take(self.pipeline.feed(Tick(t_ns)), t_ns)
        return self

    def _take(self, events: list[Event], t_ns: int) -> None:
        for event in events:
            if isinstance(event, Publish) and event.result.topic == "series" and event.result.head["event"] == "end":
                self.end = dict(event.result.head)
            if isinstance(event, Notify):
                params, arrays = event.control.params, event.control.arrays
                self.decisions.append(dict(params))
                ok, error = True, None
                if self.obeys:
                    ok, error = self.instrument.obey(Decision(params["action"], params["series"], **arrays))
                self.decisions[-1]["obeyed"], self.decisions[-1]["error"] = ok, error
                answer = Answer(t_ns, params["decision"], ok=ok, error=error or "", controller="loop")
                self._take(self.pipeline.feed(answer), t_ns)


def loop_of(
    specimen: Specimen, seed: int, plan: Plan, config: PipelineConfig, counts: float, *, block: int = 64, **keys: Any
) -> Loop:
    """Return a scan of a specimen in list mode, with `counts` in the planned dwell of a position."""
    scene = SimulatedScene(specimen, counts=counts, dwell_s=plan.dwell_s, seed=seed, list_mode=True, **keys)
    return Loop(Pipeline(config), Instrument(scene, plan, series="loop", block=block))


def phase_error(label: NDArray[np.int32], truth: NDArray[np.int32]) -> float:
    """Part of the area (P,) called by a wrong phase, names of phases matched as well as can be; -1 is wrong."""
    found, true = np.unique(label[label >= 0]), np.unique(truth)
    if not found.size:
        return 1.0
    shared = np.array([[np.count_nonzero((label == f) & (truth == t)) for t in true] for f in found])
    rows, columns = linear_sum_assignment(-shared)
    return (label.size - int(shared[rows, columns].sum())) / label.size
