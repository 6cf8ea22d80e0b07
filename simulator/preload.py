"""An instrument whose messages are all made beforehand, so that only the socket limits the rate."""

from __future__ import annotations

from typing import Any

from simulator.instrument import Instrument, Outgoing
from simulator.schedule import Decision
from streamer.wire import encode_series_end


class Preloaded:
    """Sends what an instrument would send; of the decisions it can obey only a stop.

    Parameters
    ----------
    instrument : Instrument
        Run to its end here and now; its messages are kept in memory.
    """

    def __init__(self, instrument: Instrument) -> None:
        self._messages = instrument.step(float("inf"))
        for message in self._messages:
            message.parts[:] = [bytes(part) for part in message.parts]
        self.series = instrument.series
        self.expected = instrument.n_sent
        self._per_s = 1 / instrument.plan.dwell_s
        self._elapsed_s = 0.0
        self.n_sent = 0
        self.n_messages = 0
        self.finished = False

    @property
    def due_s(self) -> float:
        """Time until the next message is due."""
        ready_s = (self.n_sent + self._messages[self.n_messages].n_spectra) / self._per_s
        return max(ready_s - self._elapsed_s, 0.0)

    def step(self, dt_s: float) -> list[Outgoing]:
        """Let time pass and return what became due."""
        self._elapsed_s += dt_s
        reached = self._elapsed_s * self._per_s * (1 + 1e-12) + 1e-6
        out: list[Outgoing] = []
        while not self.finished and self.n_sent + self._messages[self.n_messages].n_spectra <= reached:
            message = self._messages[self.n_messages]
            out.append(message)
            self.n_messages += 1
            self.n_sent += message.n_spectra
            self.finished = self.n_messages == len(self._messages)
        return out

    def abort(self, reason: str) -> list[Outgoing]:
        """End the series at once."""
        return self._end({"exit_status": "abort", "reason": reason})

    def obey(self, decision: Decision) -> tuple[bool, str | None]:
        """Stop, or say that nothing else can be done any more."""
        if decision.series not in (None, self.series) or decision.action != "stop":
            return False, f"a preloaded scan cannot {decision.action}"
        if self.finished:
            return False, "the scan has ended"
        del self._messages[self.n_messages :]
        self._messages += self._end({"exit_status": "stopped", "reason": "stopped by a decision"})
        self.finished = False
        return True, None

    def _end(self, how: dict[str, Any]) -> list[Outgoing]:
        if self.finished:
            return []
        self.finished = True
        end = encode_series_end(self.series, self.n_messages, self.n_sent, **how)
        return [Outgoing(self.series, self.n_messages, end)]
