"""From the worker to the thread that owns the outgoing sockets."""

from __future__ import annotations

import socket
import threading
from collections import deque
from dataclasses import dataclass

from streamer.events import AskReplay, Notify, Publish
from streamer.wire import Control


@dataclass(frozen=True)
class Client:
    """Where an answer goes: the routing id, and whether a REQ's empty delimiter came with the request."""

    identity: bytes
    delimited: bool


@dataclass(frozen=True)
class Request:
    """A request that the worker answers."""

    client: Client
    control: Control


@dataclass(frozen=True)
class Reply:
    """The worker's answer to a request."""

    client: Client
    control: Control


Outgoing = Publish | Notify | AskReplay | Reply


class Outbox:
    """What is to be sent, in order, with a file descriptor that is readable while something waits.

    Parameters
    ----------
    most : int
        `put` waits while this many wait already; the sockets behind it never wait, they drop.
    """

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._waiting: deque[Outgoing] = deque()
        self._room = threading.Condition()
        self._sending = False
        self._signalled = False
        self._closed = False
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)

    def fileno(self) -> int:
        """Return what to poll."""
        return self._reader.fileno()

    def put(self, item: Outgoing) -> None:
        """Add one; never waits after `close`."""
        with self._room:
            while len(self._waiting) >= self._most and not self._closed:
                self._room.wait()
            self._waiting.append(item)
            self._signal()

    def take(self) -> list[Outgoing]:
        """Take all that waits and reset the descriptor."""
        with self._room:
            if self._signalled:
                self._reader.recv(64)
                self._signalled = False
            taken = list(self._waiting)
            self._waiting.clear()
            self._sending = bool(taken)
            self._room.notify_all()
            return taken

    def sent(self) -> None:
        """Say that what was taken is sent."""
        with self._room:
            self._sending = False
            self._room.notify_all()

    def settle(self, timeout_s: float) -> None:
        """Wait until everything is sent, for a moment at most.

        Sending gives the interpreter away and has to get it back: a worker that goes on with what is not urgent holds
        up what it has just made.
        """
        with self._room:
            self._room.wait_for(lambda: self._closed or not (self._waiting or self._sending), timeout_s)

    def close(self) -> None:
        """Say that nothing more comes; wakes the reader."""
        with self._room:
            self._closed = True
            self._room.notify_all()
            self._signal()

    @property
    def finished(self) -> bool:
        """Whether it is closed and empty."""
        with self._room:
            return self._closed and not self._waiting

    def dispose(self) -> None:
        """Close the descriptors; only when no thread uses it any more."""
        self._reader.close()
        self._writer.close()

    def _signal(self) -> None:
        if not self._signalled:
            self._signalled = True
            self._writer.send(b"\0")
