"""Senders that do what no sender should: restart in mid-series, or send two series at once."""

from __future__ import annotations

from simulator.instrument import Instrument, Outgoing
from simulator.schedule import Decision


class Restarted:
    """Vanishes without a word when half of a series is sent, and begins again under another name."""

    def __init__(self, first: Instrument, second: Instrument) -> None:
        self._first, self._second = first, second
        self._now = first

    @property
    def series(self) -> str:
        """Return the name of the series being sent."""
        return self._now.series

    @property
    def n_sent(self) -> int:
        """Return the spectra sent of that series."""
        return self._now.n_sent

    @property
    def n_messages(self) -> int:
        """Return the messages sent of that series."""
        return self._now.n_messages

    @property
    def finished(self) -> bool:
        """Whether the second series is over."""
        return self._second.finished

    @property
    def due_s(self) -> float:
        """Return the time until the next message is due."""
        return self._now.due_s

    def step(self, dt_s: float) -> list[Outgoing]:
        """Let time pass and return what became due."""
        out = self._now.step(dt_s)
        if self._now is self._first and self._first.n_sent >= self._first.expected // 2:
            self._now = self._second
            # What the dead sender had still to say is never said.
            out = [o for o in out if o.n_spectra or o.msg_number == 0]
        return out

    def abort(self, reason: str) -> list[Outgoing]:
        """End the series at once."""
        self._now = self._second
        return self._second.abort(reason)

    def obey(self, decision: Decision) -> tuple[bool, str | None]:
        """Act on a decision."""
        return self._now.obey(decision)


class Entangled:
    """Sends a second series between the messages of the first, once half of that is sent."""

    def __init__(self, first: Instrument, second: Instrument) -> None:
        self._first, self._second = first, second
        self.series = first.series

    @property
    def n_sent(self) -> int:
        """Return the spectra sent of the first series."""
        return self._first.n_sent

    @property
    def n_messages(self) -> int:
        """Return the messages sent of the first series."""
        return self._first.n_messages

    @property
    def finished(self) -> bool:
        """Whether both series are over."""
        return self._first.finished and self._second.finished

    @property
    def due_s(self) -> float:
        """Return the time until the next message is due."""
        return self._second.due_s if self._first.finished else self._first.due_s

    def step(self, dt_s: float) -> list[Outgoing]:
        """Let time pass and return what became due of both."""
        out = self._first.step(dt_s)
        if self._first.n_sent >= self._first.expected // 2:
            out += self._second.step(dt_s)
        return out

    def abort(self, reason: str) -> list[Outgoing]:
        """End both series at once."""
        return self._first.abort(reason) + self._second.abort(reason)

    def obey(self, decision: Decision) -> tuple[bool, str | None]:
        """Act on a decision about either series."""
        return (self._second if decision.series == self._second.series else self._first).obey(decision)
