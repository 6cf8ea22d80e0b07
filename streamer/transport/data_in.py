"""The thread that receives spectra: nothing but receiving, so that it is never late."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Literal

import zmq

from streamer.inbox import Inbox
from streamer.metrics import Metrics
from streamer.transport.curve import Curve
from streamer.transport.sockets import Context, bind, connect, new_socket
from streamer.wire.items import Arrived

_POLL_MS = 100
_AT_ONCE = 256


@dataclass(frozen=True)
class Source:
    """Where spectra come from.

    Parameters
    ----------
    url : str
    pattern : {"sub", "pull"}
    bind : bool
        The instrument connects to us instead of we to it.
    max_message_bytes : int
        A part that is larger makes ZeroMQ drop the connection, before anything is allocated.
    queued_messages : int
        Messages that ZeroMQ itself holds for us.
    """

    url: str
    pattern: Literal["sub", "pull"] = "sub"
    bind: bool = False
    max_message_bytes: int = 256 << 20
    queued_messages: int = 1000


class DataIn:
    """Receives into an inbox until told to stop.

    Parameters
    ----------
    context : Context
    source : Source
    inbox : Inbox
    metrics : Metrics
    curve : Curve, optional

    Raises
    ------
    Exit
        Where the endpoint cannot be used.
    """

    def __init__(
        self, context: Context, source: Source, inbox: Inbox, metrics: Metrics, curve: Curve | None = None
    ) -> None:
        self._inbox, self._metrics = inbox, metrics
        self._stop = threading.Event()
        self._socket = new_socket(context, zmq.SUB if source.pattern == "sub" else zmq.PULL)
        self._socket.rcvhwm = source.queued_messages
        self._socket.maxmsgsize = source.max_message_bytes
        if source.pattern == "sub":
            self._socket.subscribe(b"")
        attach = bind if source.bind else connect
        self.endpoint = attach(self._socket, source.url, "source.url", curve)

    def run(self) -> None:
        """Receive until `stop`; then close the socket and the inbox."""
        try:
            while not self._stop.is_set():
                if self._socket.poll(_POLL_MS):
                    with self._inbox.expecting():
                        self._receive()
        finally:
            self._socket.close()
            self._inbox.close()

    def stop(self) -> None:
        """Stop reading; callable from any thread."""
        self._stop.set()
        self._inbox.release()

    def _receive(self) -> None:
        """Take what is there; the clock is read for each message, when it is in our hands."""
        got: list[Arrived] = []
        try:
            while len(got) < _AT_ONCE:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
                got.append(Arrived(time.time_ns(), [f.buffer for f in frames], peer(frames[0])))
        except zmq.Again:
            pass
        if got:
            self._metrics.arrived(len(got), self._inbox.put(got), got[-1].t_ns)


def peer(frame: zmq.Frame) -> str:
    """Return the host a message came from; empty where the transport has none (ipc, inproc)."""
    try:
        return str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        return ""
