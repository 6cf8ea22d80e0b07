"""The daemon's sockets; nothing else of it knows ZeroMQ."""

from streamer.transport.control import ControlSocket
from streamer.transport.curve import Authenticated, Curve, make_keys
from streamer.transport.data_in import DataIn, Source
from streamer.transport.front import Front
from streamer.transport.sockets import Context, open_context

__all__ = [
    "Authenticated",
    "Context",
    "ControlSocket",
    "Curve",
    "DataIn",
    "Front",
    "Source",
    "make_keys",
    "open_context",
]
