"""Opening sockets: options in one place, and errors that say which endpoint and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import zmq

from streamer.exits import UNAVAILABLE, Exit
from streamer.transport.curve import Curve

Context = zmq.Context[zmq.Socket[bytes]]
RECONNECT_MS = 100
FLUSH_MS = 1000
KEEPALIVE_S = 10


@contextmanager
def open_context() -> Iterator[Context]:
    """Give a context whose sockets are all closed at the end."""
    context: Context = zmq.Context()
    try:
        yield context
    finally:
        context.destroy(linger=0)


def new_socket(context: Context, kind: int) -> zmq.Socket[bytes]:
    """Make a socket with what all of ours share."""
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.linger = 0
    socket.reconnect_ivl = RECONNECT_MS
    socket.reconnect_ivl_max = 0
    # A peer that vanished without a word (cable, power) is noticed, so that the connection is tried again.
    # By TCP's own means: not every instrument's ZeroMQ is new enough to answer heartbeats of the protocol.
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle = KEEPALIVE_S
    socket.tcp_keepalive_intvl = KEEPALIVE_S // 2
    socket.tcp_keepalive_cnt = 3
    return socket


def bind(socket: zmq.Socket[bytes], url: str, key: str, curve: Curve | None) -> str:
    """Bind and return the endpoint as it is (with the port that was chosen for port 0); close on failure.

    Raises
    ------
    Exit
        69, naming the setting `key`.
    """
    if curve is not None:
        curve.serve(socket)
    socket.ipv6 = "[" in url  # only where asked for: it would show IPv4 peers under mapped names
    try:
        socket.bind(url)
    except zmq.ZMQError as error:
        socket.close()
        raise Exit(UNAVAILABLE, _why(error, url, key)) from error
    return socket.get_string(zmq.LAST_ENDPOINT)


def connect(socket: zmq.Socket[bytes], url: str, key: str, curve: Curve | None) -> str:
    """Connect (in the background, again and again) and return the endpoint; close on failure.

    Raises
    ------
    Exit
        69, where the endpoint can never be connected to.
    """
    if curve is not None:
        curve.join(socket)
    socket.ipv6 = "[" in url
    try:
        socket.connect(url)
    except zmq.ZMQError as error:
        socket.close()
        raise Exit(UNAVAILABLE, _why(error, url, key)) from error
    return url


def _why(error: zmq.ZMQError, url: str, key: str) -> str:
    if error.errno == zmq.EADDRINUSE:
        return f"{key}: {url} is taken by another program; stop it or choose another port with {key}"
    return f"{key}: {url} cannot be used ({error.strerror}); change {key}"
