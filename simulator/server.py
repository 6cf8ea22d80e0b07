"""The instrument on the network: paces it by the clock, sends, answers decisions, and waits for nobody."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import zmq

from simulator.faults import Delivery, FaultyLine
from simulator.instrument import Outgoing
from simulator.schedule import Decision
from streamer import client
from streamer.wire import encode_heartbeat

HEARTBEAT_S = 1.0
LOOK_UP_S = 0.05
"""The longest nap: a signal or a decision is seen after this."""
PATIENCE_S = 2.0
"""How long a sender without pace waits for room with a PUSH whose peer takes nothing."""


@dataclass(frozen=True)
class Link:
    """Where the instrument is reached.

    Parameters
    ----------
    data, pattern, bind
        The data socket.
    replay : str
        Where replay is served; empty for none.
    control : str
        The daemon's control socket; empty for none.
    obey_advice : bool
        Act on decisions that are only advice, too.
    wait_subscriber_s : float
        Wait for a listener at most this long before starting.
    linger_s : float
        Serve replay at least this long after the end.
    """

    data: str
    pattern: Literal["pub", "push"]
    bind: bool
    replay: str
    control: str
    obey_advice: bool
    wait_subscriber_s: float
    linger_s: float


@contextmanager
def connected(link: Link, name: str) -> Iterator[tuple[client.Outlet, client.Controller | None]]:
    """Open the data socket with its replay service, and the controller's connection if one is wanted.

    Raises
    ------
    ValueError
        Where an address is none.
    OSError
        Where one is taken, or cannot be used.
    """
    for what, url in (("data", link.data), ("replay", link.replay), ("control", link.control)):
        if (url or what == "data") and not _is_address(url):
            raise ValueError(f"--{what} {url}: an address looks like tcp://127.0.0.1:5555")
    with ExitStack() as stack:
        try:
            outlet = stack.enter_context(client.Outlet(link.data, link.pattern, link.bind, replay=link.replay or None))
            controller = None
            if link.control:
                controller = stack.enter_context(client.Controller(link.control, name))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            addresses = f"--data ({link.data}) or --replay ({link.replay or 'none'})"
            raise OSError(f"another program has the address of {addresses}: choose another") from error
        yield outlet, controller


def _is_address(url: str) -> bool:
    scheme, found, rest = url.partition("://")
    if not found or scheme not in ("tcp", "ipc", "inproc") or not rest:
        return False
    host, _, port = rest.rpartition(":")
    return scheme != "tcp" or (bool(host) and (port == "*" or (port.isdecimal() and 0 < int(port) < 65536)))


def drain() -> None:
    """Wait until closed sockets have sent what they hold, a second at most: a process that just exits drops it."""
    zmq.Context.instance().term()


class Apparatus(Protocol):
    """An instrument without clock and socket: simulated, or a recording."""

    @property
    def series(self) -> str:
        """Return the name of the series being sent."""
        ...

    @property
    def n_sent(self) -> int:
        """Return the spectra sent of it."""
        ...

    @property
    def n_messages(self) -> int:
        """Return the messages sent of it."""
        ...

    @property
    def finished(self) -> bool:
        """Whether everything was sent."""
        ...

    @property
    def due_s(self) -> float:
        """Return the time until the next message is due."""
        ...

    def step(self, dt_s: float) -> list[Outgoing]:
        """Let time pass and return what became due."""
        ...

    def abort(self, reason: str) -> list[Outgoing]:
        """End the series at once."""
        ...

    def obey(self, decision: Decision) -> tuple[bool, str | None]:
        """Act on a decision, or say why not."""
        ...


@dataclass
class Sent:
    """What a run did.

    Parameters
    ----------
    spectra, messages : int
        Of the series, header and end included.
    dropped, replayed : int
        Messages that found every queue full, and that were sent again because somebody asked.
    obeyed, refused, noted : int
        Decisions; noted are those of advise mode, which are acknowledged and not acted on.
    duration_s : float
        From the first message to the last.
    """

    spectra: int = 0
    messages: int = 0
    dropped: int = 0
    replayed: int = 0
    obeyed: int = 0
    refused: int = 0
    noted: int = 0
    duration_s: float = 0.0


class Server:
    """Runs an apparatus against an outlet and, if there is one, a controller connection.

    Parameters
    ----------
    apparatus : Apparatus
    outlet : streamer.client.Outlet
        Data socket and replay service.
    controller : streamer.client.Controller, optional
        Brings decisions; the scan goes on as planned without it.
    speed : float
        Seconds of the instrument in one of the clock; infinity is as fast as possible.
    obey_advice : bool
        Act on decisions that are only advice, too.
    line : FaultyLine, optional
        Spoils messages on their way.
    on_progress : callable, optional
        Called with the spectra sent so far, after each batch of messages.
    """

    def __init__(
        self,
        apparatus: Apparatus,
        outlet: client.Outlet,
        controller: client.Controller | None = None,
        *,
        speed: float = float("inf"),
        obey_advice: bool = False,
        line: FaultyLine | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> None:
        if not speed > 0:
            raise ValueError("speed must be above 0")
        self._apparatus, self._outlet, self._controller = apparatus, outlet, controller
        self._speed, self._obey_advice = speed, obey_advice
        self._line, self._on_progress = line, on_progress
        self._stop_reason: str | None = None
        self._stop = threading.Event()
        self._beat_s = 0.0
        self._patient = True
        self.sent = Sent()

    def stop(self, reason: str) -> None:
        """End the scan soon, with exit status abort; may be called from a signal handler or another thread."""
        self._stop_reason = reason
        self._stop.set()

    def run(self) -> Sent:
        """Run to the end of the series and return the books."""
        started_s = time.monotonic()
        self._beat_s = started_s + HEARTBEAT_S
        elapsed_s = 0.0
        while not self._apparatus.finished:
            if self._stop.is_set():
                self._send(self._apparatus.abort(self._stop_reason or "stopped"))
                break
            if np.isinf(self._speed):
                # A nanosecond more, or rounding could leave it due for ever.
                self._send(self._apparatus.step(self._apparatus.due_s + 1e-9))
                self._wait_for_room()
                self._answer(0.0)
                continue
            target_s = (time.monotonic() - started_s) * self._speed
            self._send(self._apparatus.step(target_s - elapsed_s))
            elapsed_s = target_s
            self._answer(min(self._apparatus.due_s / self._speed, LOOK_UP_S))
        self.sent.duration_s = time.monotonic() - started_s
        return self._books()

    def linger(self, least_s: float, most_s: float = 10.0) -> Sent:
        """Answer replay for `least_s` seconds, and on until nobody has asked for a second (or `most_s` more)."""
        self._beat(force=True)
        until_s = time.monotonic() + least_s
        while time.monotonic() < until_s and not self._stop.is_set():
            self._answer(LOOK_UP_S)
        self._outlet.wait_for_replay(0.0 if self._stop.is_set() else most_s)
        return self._books()

    def _books(self) -> Sent:
        self.sent.dropped, self.sent.replayed = self._outlet.dropped, self._outlet.replayed
        return self.sent

    def _send(self, messages: Iterable[Outgoing]) -> None:
        for message in messages:
            delivery = Delivery(message, True, [message.parts])
            if self._line is not None:
                self._stop.wait(self._line.pause_s(message))
                delivery = self._line.pass_on(message)
            self._deliver(delivery)
            self.sent.messages += 1
            self.sent.spectra += message.n_spectra
        self._beat()
        if self._on_progress is not None:
            self._on_progress(self.sent.spectra)

    def _deliver(self, delivery: Delivery) -> None:
        message, kept = delivery.message, delivery.message.parts
        if delivery.kept:
            kept = [*self._outlet.keep(message.series, message.msg_number, message.parts)]
        for parts in delivery.sent:
            self._outlet.put(kept if parts is message.parts else parts)

    def _beat(self, force: bool = False) -> None:
        if time.monotonic() < self._beat_s and not force:
            return
        self._beat_s = time.monotonic() + HEARTBEAT_S
        keys: dict[str, Any] = {"n_sent": self._apparatus.n_sent}
        if self._outlet.replay is not None:
            keys["replay"] = self._outlet.replay
        beat = encode_heartbeat(self._apparatus.series, max(self._apparatus.n_messages - 1, 0), **keys)
        self._outlet.put_if_idle(beat)

    def _wait_for_room(self) -> None:
        """Without a pace of its own a PUSH goes as fast as its peer takes messages, if it takes any."""
        least, moved_s = self._outlet.waiting, time.monotonic()
        if least == 0:
            self._patient = True
        while self._patient and self._outlet.waiting and not self._stop.is_set():
            time.sleep(0.001)
            if self._outlet.waiting < least:
                least, moved_s = self._outlet.waiting, time.monotonic()
            # Nobody there: go on as planned, and wait again only for a peer that takes messages.
            self._patient = time.monotonic() < moved_s + PATIENCE_S

    def _answer(self, wait_s: float) -> None:
        """Answer the decisions that have come; wait up to `wait_s` for the first."""
        if self._controller is None:
            if wait_s > 0:
                self._stop.wait(wait_s)
            self._beat()
            return
        while (asked := self._controller.poll(wait_s)) is not None:
            wait_s = 0.0
            self._answer_one(self._controller, asked)
        self._beat()

    def _answer_one(self, controller: client.Controller, asked: client.Decision) -> None:
        if asked.expired:
            self.sent.refused += 1
            controller.refuse(asked, "too late: the decision had expired when it came")
            return
        if asked.mode != "enforce" and not self._obey_advice:
            self.sent.noted += 1
            controller.accept(asked)
            return
        ok, error = self._apparatus.obey(_as_decision(asked))
        if ok:
            self.sent.obeyed += 1
            controller.accept(asked)
        else:
            self.sent.refused += 1
            controller.refuse(asked, error or "cannot do that")


def _as_decision(asked: client.Decision) -> Decision:
    nothing = Decision(asked.action)
    index = nothing.index if asked.index is None else asked.index
    dwell_s = nothing.dwell_s if asked.dwell_s is None else asked.dwell_s
    return Decision(asked.action, asked.series, index, dwell_s)
