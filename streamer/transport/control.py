"""The ROUTER that controllers and viewers speak to."""

from __future__ import annotations

import zmq

from streamer.outbox import Client
from streamer.transport.curve import Curve
from streamer.transport.sockets import FLUSH_MS, Context, bind, new_socket
from streamer.wire import Control, decode_control, encode_control

MAX_REQUEST_BYTES = 1 << 20


class ControlSocket:
    """Messages in and out, each with the client it belongs to.

    Parameters
    ----------
    context, url, curve
        As for any bound socket.

    Raises
    ------
    Exit
        Where the endpoint cannot be used.
    """

    def __init__(self, context: Context, url: str, curve: Curve | None = None) -> None:
        self.socket = new_socket(context, zmq.ROUTER)
        self.socket.maxmsgsize = MAX_REQUEST_BYTES
        # A client that is gone is an error at once, not a silence; one that comes back under its name is let in.
        self.socket.router_mandatory = True
        self.socket.router_handover = True
        self.endpoint = bind(self.socket, url, "control.url", curve)

    def receive(self) -> tuple[Client, Control] | None:
        """Take the next message; None when none waits.

        Raises
        ------
        WireError
            For one that cannot be read; it is gone.
        """
        try:
            identity, *parts = self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None
        delimited = bool(parts) and not parts[0]
        return Client(identity, delimited), decode_control(parts[1:] if delimited else parts)

    def send(self, client: Client, message: Control) -> bool:
        """Send to one client; False where it is gone or does not read."""
        head = [client.identity, b""] if client.delimited else [client.identity]
        try:
            self.socket.send_multipart([*head, *encode_control(message)], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            if error.errno in {zmq.EHOSTUNREACH, zmq.EAGAIN}:
                return False
            raise
        return True

    def close(self) -> None:
        """Close, after what is queued has had a moment to leave."""
        self.socket.close(linger=FLUSH_MS)
