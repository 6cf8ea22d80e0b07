"""Sockets of the client: reconnect soon, close without waiting, encrypted where keys are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import zmq
import zmq.auth

RECONNECT_MS = 100
_HEARTBEAT_MS = 2000


@dataclass(frozen=True)
class CurveKeys:
    """Keys for an encrypted connection, Z85 text as ``zmq.curve_keypair()`` gives them.

    Parameters
    ----------
    public, secret : bytes
        This end's own pair.
    server : bytes, optional
        Public key of the other end where that is the CURVE server; without it this end is the server.
    """

    public: bytes
    secret: bytes
    server: bytes | None = None

    @classmethod
    def from_files(cls, secret: Path, server: Path | None = None) -> Self:
        """Read a ``.key_secret`` file, and the ``.key`` file of the other end, as `scanwise keys` makes them.

        Raises
        ------
        OSError, ValueError
            Where a file cannot be read or holds no such key.
        """
        public, own = zmq.auth.load_certificate(secret)
        if own is None:
            raise ValueError(f"{secret} holds no secret key")
        return cls(public, own, None if server is None else zmq.auth.load_certificate(server)[0])

    def apply(self, socket: zmq.Socket[Any]) -> None:
        """Set the keys on a socket before it binds or connects."""
        socket.curve_publickey, socket.curve_secretkey = self.public, self.secret
        if self.server is None:
            socket.curve_server = True
        else:
            socket.curve_serverkey = self.server


def open_socket(
    kind: int, url: str, *, bind: bool, curve: CurveKeys | None, hwm: int, immediate: bool = False
) -> zmq.Socket[Any]:
    """Open a socket that reconnects within 100 ms and notices a peer that died without a word.

    Parameters
    ----------
    kind : int
        ``zmq.PUB`` and so on.
    url : str
        Endpoint; ``tcp://127.0.0.1:*`` binds to a free port.
    hwm : int
        Messages queued for each peer in each direction; 0 is no limit.
    immediate : bool
        Queue only for peers that are there.

    Raises
    ------
    OSError
        Where the address is wrong or taken, saying which.
    """
    socket: zmq.Socket[Any] = zmq.Context.instance().socket(kind)
    socket.set_hwm(hwm)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.IMMEDIATE, int(immediate))
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * _HEARTBEAT_MS)
    if curve is not None:
        curve.apply(socket)
    try:
        socket.bind(url) if bind else socket.connect(url)
    except zmq.ZMQError as error:
        socket.close()
        raise OSError(error.errno, f"{url}: {error.strerror}") from error
    return socket


def endpoint(socket: zmq.Socket[Any]) -> str:
    """Return the address a socket was last bound to, with its real port."""
    last = socket.getsockopt(zmq.LAST_ENDPOINT)
    return bytes(last).rstrip(b"\0").decode() if isinstance(last, bytes) else str(last)
