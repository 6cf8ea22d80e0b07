"""A daemon in this process, on ports of its own choice, for tests that speak to it through sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq

from streamer.service import Service
from streamer.settings import Settings, load
from streamer.wire import Control, Part, Result, decode_control, decode_result, encode_control

ANY_PORT = "tcp://127.0.0.1:0"
WAIT_MS = 120_000


def settings(state: Path, **sections: Mapping[str, Any]) -> Settings:
    """Settings with every port free, no report."""
    flags: dict[str, dict[str, Any]] = {
        "source": {"url": ANY_PORT, "bind": True},
        "results": {"url": ANY_PORT},
        "control": {"url": ANY_PORT},
        "metrics": {"listen": ""},
        "state": {"dir": state, "report": False},
    }
    for section, values in sections.items():
        flags[section] = {**flags.get(section, {}), **values}
    return load(flags=flags)


class Running:
    """A service in a thread; leaving it stops it and raises what it raised."""

    def __init__(self, settings: Settings) -> None:
        self.service = Service(settings)
        self.source = self.service.data_in.endpoint
        self.results = self.service.front.results_endpoint
        self.control = self.service.front.control_endpoint
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.service.run()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self.error is not None and error is None:
            raise self.error

    def wait(self) -> None:
        """Wait until it ends by itself."""
        self._thread.join(WAIT_MS / 1000)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        """Stop it and wait for its end."""
        self.service.stop()
        self._thread.join()


class Outside:
    """Sockets of everybody else."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._made: list[zmq.Socket[bytes]] = []

    def socket(self, kind: int, url: str, **options: Any) -> zmq.Socket[bytes]:
        """Return a socket that is connected to `url`."""
        socket = self._new(kind)
        for name, value in options.items():
            setattr(socket, name, value)
        socket.connect(url)
        return socket

    def bound(self, kind: int, **options: Any) -> tuple[zmq.Socket[bytes], str]:
        """Return a socket and the endpoint it is bound to."""
        socket = self._new(kind)
        for name, value in options.items():
            setattr(socket, name, value)
        return socket, f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"

    def _new(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        self._made.append(socket)
        socket.linger = 0
        socket.rcvtimeo = socket.sndtimeo = WAIT_MS
        return socket

    def close(self) -> None:
        """Close them all."""
        self._context.destroy(0)

    def instrument(self, daemon: Running, **options: Any) -> Instrument:
        """Return an instrument that publishes to the daemon, once the daemon listens."""
        return Instrument(self.socket(zmq.XPUB, daemon.source, **options))

    def pusher(self, daemon: Running) -> zmq.Socket[bytes]:
        """Return a socket that pushes to the daemon."""
        return self.socket(zmq.PUSH, daemon.source)

    def listener(self, daemon: Running, *topics: str, **options: Any) -> Listener:
        """Return a subscriber."""
        socket = self.socket(zmq.SUB, daemon.results, rcvhwm=0, **options)
        for topic in topics or ("",):
            socket.subscribe(topic)
        return Listener(socket)

    def asker(self, daemon: Running, kind: int = zmq.DEALER, **options: Any) -> Asker:
        """Return a client of the control socket."""
        return Asker(self.socket(kind, daemon.control, **options))


class Instrument:
    """A publisher that waits for its subscriber first."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        socket.sndhwm = 0
        assert socket.recv() == b"\x01"

    def send(self, *messages: list[Part]) -> None:
        """Send messages in order."""
        for parts in messages:
            self.socket.send_multipart(parts)


class Listener:
    """Reads results."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self.got: list[Result] = []

    def read(self) -> Result:
        """Return the next result."""
        result = decode_result(self.socket.recv_multipart())
        self.got.append(result)
        return result

    def until(self, topic: str, **head: Any) -> Result:
        """Return the first result with these keys in its header."""
        while True:
            result = self.read()
            if result.topic == topic and all(result.head.get(k) == v for k, v in head.items()):
                return result

    def last(self, topic: str) -> Result:
        """Return the last result of a topic that was read."""
        return [r for r in self.got if r.topic == topic][-1]


class Asker:
    """Asks, and waits for the answer."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self._n = 0

    def ask(self, val: str, **params: Any) -> Control:
        """Return the answer to a request; notifications in between are dropped."""
        self._n += 1
        self.socket.send_multipart(encode_control(Control("cmd", self._n, val, params)))
        while True:
            answer = decode_control(self.socket.recv_multipart())
            if answer.id == self._n:
                return answer

    def until_status(self, **wanted: Any) -> Mapping[str, Any]:
        """Ask for the status until it has these values."""
        deadline = time.monotonic() + WAIT_MS / 1000
        while True:
            params = self.ask("status").params
            if all(params.get(k) == v for k, v in wanted.items()):
                return params
            assert time.monotonic() < deadline, params
            time.sleep(0.02)


@contextmanager
def outside() -> Iterator[Outside]:
    """Give the sockets of everybody else."""
    made = Outside()
    try:
        yield made
    finally:
        made.close()
