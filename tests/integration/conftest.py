"""What daemons in this process need before a test counts seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from streamer.inbox import Inbox
from streamer.transport import Context
from streamer.transport.sockets import open_context
from tests.integration.engine_bench import Bench
from tests.integration.peers import WAIT_MS, Peer


@pytest.fixture(scope="session", autouse=True)
def _compiled(compiled_kernels: None) -> None:
    """No daemon of a test compiles while the test waits for it."""


@pytest.fixture
def context() -> Iterator[Context]:
    with open_context() as context:
        yield context


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Sockets of the other side, in a context of their own."""
    other: Context = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def make(kind: int, **options: Any) -> zmq.Socket[bytes]:
        socket = other.socket(kind)
        made.append(socket)
        socket.linger = 0
        socket.rcvtimeo = socket.sndtimeo = WAIT_MS
        for name, value in options.items():
            setattr(socket, name, value)
        return socket

    yield make
    other.destroy(0)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox(10_000, 1 << 30, "block")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "state")
