"""The thread that publishes, answers and asks: the only user of the outgoing sockets."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import zmq

from streamer.desk import Desk
from streamer.events import AskReplay, Notify, Publish
from streamer.exits import Exit
from streamer.hub import Hub
from streamer.inbox import Inbox
from streamer.logs import Bounded
from streamer.metrics import Metrics
from streamer.outbox import Outbox, Outgoing, Reply
from streamer.timings import Timings
from streamer.transport.control import ControlSocket
from streamer.transport.curve import Curve
from streamer.transport.replay import ReplaySocket
from streamer.transport.sockets import FLUSH_MS, Context, bind, new_socket
from streamer.wire import Result, WireError

log = logging.getLogger(__name__)
_POLL_MS = 100
_REPLAY_POLL_MS = 10
_AT_ONCE = 64
SILENT_S = 1.1
"""The worker tells its status once a second; after more, it is busy with something long."""


class Front:
    """Everything that leaves the daemon.

    Parameters
    ----------
    context : Context
    results_url, control_url : str
    hub : Hub
    inbox : Inbox
        Requests, answers to decisions and replayed messages go there.
    outbox : Outbox
        What the worker wants sent.
    metrics : Metrics
    timings : Timings
    curve : Curve, optional
    max_queue : int
        Messages queued for a slow subscriber before it loses some.
    max_message_bytes : int
        Largest part of a replayed message.
    silent_s : float
        Time without a status after which the last one is told again.

    Raises
    ------
    Exit
        Where an endpoint cannot be used.
    """

    def __init__(
        self,
        context: Context,
        results_url: str,
        control_url: str,
        *,
        hub: Hub,
        inbox: Inbox,
        outbox: Outbox,
        metrics: Metrics,
        timings: Timings,
        curve: Curve | None = None,
        max_queue: int = 1000,
        max_message_bytes: int = 256 << 20,
        silent_s: float = SILENT_S,
    ) -> None:
        self._hub, self._outbox, self._metrics, self._timings = hub, outbox, metrics, timings
        self._desk, self._inbox = Desk(hub.boot, inbox), inbox
        self._status: Result | None = None
        self._silent_s = silent_s
        self._status_s = 0.0
        self._bounded = Bounded(log)
        self._results = new_socket(context, zmq.XPUB)
        self._results.xpub_verboser = True
        self._results.sndhwm = max_queue
        self._results.maxmsgsize = 4096  # a subscription
        self.results_endpoint = bind(self._results, results_url, "results.url", curve)
        try:
            self._control = ControlSocket(context, control_url, curve)
        except Exit:
            self._results.close()
            raise
        self.control_endpoint = self._control.endpoint
        self._replay = ReplaySocket(context, inbox, curve, max_message_bytes)
        self._watched: zmq.Socket[bytes] | None = None
        self._poller = zmq.Poller()
        for readable in (outbox.fileno(), self._results, self._control.socket):
            self._poller.register(readable, zmq.POLLIN)

    def run(self) -> None:
        """Work until the outbox is closed and empty, then let what is queued leave."""
        try:
            while not self._outbox.finished:
                self._turn()
        finally:
            self._replay.close()
            self._control.close()
            self._results.close(linger=FLUSH_MS)

    def _turn(self) -> None:
        asking = self._replay.socket
        self._watch(asking)
        ready = dict(self._poller.poll(_POLL_MS if asking is None else _REPLAY_POLL_MS))
        if self._outbox.fileno() in ready:
            for item in self._outbox.take():
                self._send(item)
            self._outbox.sent()
        if self._results in ready:
            self._subscriptions()
        if self._control.socket in ready:
            self._requests()
        if asking is not None and asking in ready:
            self._replay.receive()
        self._repeat_status(time.monotonic())
        self._replay.work(time.monotonic())
        self._bounded.summarise(time.monotonic())

    def _watch(self, asking: zmq.Socket[bytes] | None) -> None:
        """Poll the replay socket of the moment; each endpoint has its own."""
        if asking is self._watched:
            return
        if self._watched is not None:
            self._poller.unregister(self._watched)
        if asking is not None:
            self._poller.register(asking, zmq.POLLIN)
        self._watched = asking

    def _send(self, item: Outgoing) -> None:
        match item:
            case Publish():
                self._publish(item)
            case Reply():
                self._control.send(item.client, item.control)
            case Notify():
                self._notify(item)
            case AskReplay():
                self._replay.ask(item)

    def _publish(self, item: Publish) -> None:
        now, result = time.time_ns(), item.result
        if item.received_ns is not None:
            latency_s = (now - item.received_ns) / 1e9
            result = replace(result, head={**result.head, "latency_ms": latency_s * 1e3})
            self._timings.latency(latency_s)
        if result.topic == "status":
            self._desk.status, self._status, self._status_s = result.head, result, time.monotonic()
        self._results.send_multipart(self._hub.publish(result, now), zmq.NOBLOCK, copy=False)

    def _repeat_status(self, now_s: float) -> None:
        """Tell the last status again, with the lag of the moment, while the worker is busy with something long."""
        if self._status is None or now_s - self._status_s < self._silent_s:
            return
        lag_ms = 1e3 * self._inbox.depth().age_s
        self._publish(Publish(replace(self._status, head={**self._status.head, "rate_hz": 0.0, "lag_ms": lag_ms})))

    def _notify(self, item: Notify) -> None:
        for client in list(self._desk.controllers):
            if not self._control.send(client, item.control):
                log.warning("controller %r cannot be reached any more", self._desk.controllers[client])
                self._desk.gone(client)

    def _subscriptions(self) -> None:
        """Take what subscribers say; what new ones would have had goes out once for all of them."""
        new: list[bytes] = []
        try:
            for _ in range(_AT_ONCE):
                prefix = self._hub.subscription(self._results.recv(zmq.NOBLOCK))
                if prefix is not None:
                    new.append(prefix)
        except zmq.Again:
            pass
        for parts in self._hub.last(new):
            self._results.send_multipart(parts, zmq.NOBLOCK, copy=False)

    def _requests(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                received = self._control.receive()
            except WireError as error:
                self._metrics.rejected("control")
                self._bounded.write(logging.WARNING, "control", f"control: {error.text}", time.monotonic())
                continue
            if received is None:
                return
            answer = self._desk.take(*received)
            if answer is not None:
                self._control.send(received[0], answer)
