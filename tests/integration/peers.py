"""The other side of the daemon's sockets."""

from __future__ import annotations

from collections.abc import Callable

import zmq

ANY_PORT = "tcp://127.0.0.1:0"
WAIT_MS = 10_000
Peer = Callable[..., zmq.Socket[bytes]]


def bound(socket: zmq.Socket[bytes]) -> str:
    """Bind a socket to a free port; where that is."""
    return f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"
