"""The instrument without a socket and without a clock: time goes in, messages come out.

``step(dt)`` lets time pass and returns the messages that became due; ``obey(decision)`` does what a controller
does with a decision. The same seed, plan, series name and start time give the same bytes however time is cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.scene import Scene
from simulator.schedule import Decision, Plan, Schedule, Visits
from streamer.wire import Events, Part, encode_events, encode_header, encode_image, encode_series_end


@dataclass(frozen=True)
class Outgoing:
    """A message of a series, its number and how many spectra it has."""

    series: str
    msg_number: int
    parts: list[Part]
    n_spectra: int = 0


class Instrument:
    """Measures a scene according to a plan, and lets decisions change the plan.

    Parameters
    ----------
    scene : Scene
    plan : Plan
    series : str
        Unique name of the series.
    start_ns : int
        Unix time at which the scan starts.
    block : int
        Spectra in a message.
    crc : bool
        Add checksums.
    header : map, optional
        Further keys of the header, such as ``replay`` and ``deadline_ms``.
    calibrated_at : int, optional
        The header has plain channel numbers for an axis; the calibration comes with this message.
    """

    def __init__(
        self,
        scene: Scene,
        plan: Plan,
        *,
        series: str,
        start_ns: int = 0,
        block: int = 64,
        crc: bool = False,
        header: Mapping[str, Any] | None = None,
        calibrated_at: int | None = None,
    ) -> None:
        if block < 1:
            raise ValueError("a message needs at least one spectrum")
        self.scene, self.plan, self.series, self.start_ns = scene, plan, series, start_ns
        self.block, self.crc = block, crc
        self.n_sent = 0
        self.n_messages = 0
        self.finished = False
        self._header = dict(header or {})
        self._calibrated_at = calibrated_at
        self._n_positions = int(np.prod(scene.nav_shape))
        self.schedule = Schedule(plan, self._n_positions, int(scene.nav_shape[-1]))
        self._held: list[Visits] = []

    @property
    def expected(self) -> int:
        """Spectra planned at the start."""
        return self.plan.expected

    @property
    def due_s(self) -> float:
        """Time until the next message is due, if no decision changes that."""
        return self.schedule.due_s(self.block - sum(map(len, self._held)))

    def step(self, dt_s: float) -> list[Outgoing]:
        """Let time pass and return what became due: header first, series_end last."""
        if self.finished:
            return []
        out = [self._open()] if self.n_messages == 0 else []
        self._held += self.schedule.advance(dt_s)
        out += self._blocks(at_least=self.block)
        if self.schedule.finished:
            out += self._blocks(at_least=1)
            stopped = {"exit_status": "stopped", "reason": "stopped by a decision"}
            out.append(self._close(stopped if self.schedule.stopped else {}))
        return out

    def abort(self, reason: str) -> list[Outgoing]:
        """End the scan at once: what was measured is still sent, then the end with exit status abort."""
        if self.finished:
            return []
        out = [self._open()] if self.n_messages == 0 else []
        out += self._blocks(at_least=1)
        return [*out, self._close({"exit_status": "abort", "reason": reason})]

    def obey(self, decision: Decision) -> tuple[bool, str | None]:
        """Act on a decision.

        Returns
        -------
        ok : bool
        error : str or None
            Why not, as a sentence.
        """
        if decision.series is not None and decision.series != self.series:
            return False, f"series {decision.series} is not the one being measured"
        error = self.schedule.obey(decision)
        return error is None, error

    def _open(self) -> Outgoing:
        plan = self.plan
        keys: dict[str, Any] = {
            "dwell_s": plan.dwell_s,
            "passes": plan.passes,
            "expected": self.expected,
            "actions": list(plan.actions),
            "t_ns": self.start_ns,
        }
        if plan.dose_limit_s is not None:
            keys["dose_limit_s"] = plan.dose_limit_s
        keys |= self.scene.header() | self._header
        axis, places = self.scene.axis.to_map(), self.scene.positions()
        if self._calibrated_at is not None:
            axis = {"name": "channel", "units": "", "size": self.scene.axis.size, "offset": 0.0, "scale": 1.0}
        return self._outgoing(encode_header(self.series, self.scene.nav_shape, axis, positions=places, **keys), 0)

    def _blocks(self, at_least: int) -> list[Outgoing]:
        """Send what is held in blocks; a block smaller than `at_least` is kept."""
        if sum(map(len, self._held)) < max(at_least, 1):
            return []
        visits = Visits.joined(self._held)
        starts = range(0, len(visits), self.block)
        pieces = [visits[i : i + self.block] for i in starts]
        self._held = [pieces.pop()] if len(pieces[-1]) < at_least else []
        return [self._block(piece) for piece in pieces]

    def _block(self, visits: Visits) -> Outgoing:
        # Counts are drawn message by message, so that bytes do not depend on how time was cut.
        spectra = self.scene.measure(visits.positions, visits.passes, visits.dwell_s)
        keys = self._placed(visits) | {"t_ns": self.start_ns + round(float(visits.ends_s[-1]) * 1e9)}
        if self.n_messages == self._calibrated_at:
            keys["axis"] = self.scene.axis.to_map()
        head = (self.series, self.n_messages, self.n_sent)
        if isinstance(spectra, Events):
            size = self.scene.axis.size
            parts = encode_events(*head, spectra.offsets, spectra.channels, size, crc=self.crc, **keys)
        else:
            parts = encode_image(*head, spectra, crc=self.crc, **keys)
        self.n_sent += len(visits)
        return self._outgoing(parts, len(visits))

    def _placed(self, visits: Visits) -> dict[str, Any]:
        """Return index, pass and dwell, each only where it is not what the header lets expect."""
        keys: dict[str, Any] = {}
        frames = self.n_sent + np.arange(len(visits))
        if np.any(visits.positions != frames % self._n_positions):
            in_a_row = np.array_equal(visits.positions, visits.positions[0] + np.arange(len(visits)))
            keys["index"] = int(visits.positions[0]) if in_a_row else visits.positions
        if np.any(visits.passes != frames // self._n_positions):
            keys["pass_"] = _one_or_list(visits.passes)
        if np.any(visits.dwell_s != self.plan.dwell_s):
            keys["dwell_s"] = _one_or_list(visits.dwell_s)
        return keys

    def _close(self, how: Mapping[str, Any]) -> Outgoing:
        self.finished = True
        return self._outgoing(encode_series_end(self.series, self.n_messages, self.n_sent, **how), 0)

    def _outgoing(self, parts: list[Part], n_spectra: int) -> Outgoing:
        self.n_messages += 1
        return Outgoing(self.series, self.n_messages - 1, parts, n_spectra)


def _one_or_list(values: NDArray[Any]) -> Any:
    return values[0].item() if np.all(values == values[0]) else values.tolist()
