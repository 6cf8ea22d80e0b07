"""Results as they are published, for whoever wants to look."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import zmq

from streamer.client_socket import CurveKeys, open_socket
from streamer.wire.errors import WireError
from streamer.wire.results import Result, decode_result


class Viewer:
    """Subscribes to results; a slow viewer loses messages and sees how many, and slows nobody.

    Use it from one thread at a time.

    Parameters
    ----------
    url : str
        Results endpoint, ``tcp://127.0.0.1:5556`` by default of the streamer.
    topics : sequence of str
        Beginnings of topics; all by default. ``map/`` is every map.
    queue_messages : int
        Most messages waiting at either end; what comes beyond is lost.
    curve : CurveKeys, optional

    Raises
    ------
    OSError
        Where the address is wrong.
    """

    def __init__(
        self,
        url: str,
        topics: Sequence[str] = ("",),
        *,
        queue_messages: int = 1000,
        curve: CurveKeys | None = None,
    ) -> None:
        self._socket = open_socket(zmq.SUB, url, bind=False, curve=curve, hwm=queue_messages)
        for topic in topics:
            self._socket.subscribe(topic)
        self._last_seq: dict[str, int] = {}
        self.boot: str | None = None
        """The streamer process last heard; numbers start again with each."""
        self.maps: dict[str, Result] = {}
        """The last of each map, by its name without ``map/``."""
        self.missed: dict[str, int] = {}
        """Messages of each topic that were published and did not get here."""
        self.unreadable = 0
        """Messages that could not be decoded."""

    def poll(self, timeout_s: float) -> Result | None:
        """Return the next result, or None after `timeout_s` seconds without one."""
        until = time.monotonic() + timeout_s
        while self._socket.poll(int(max(0.0, until - time.monotonic()) * 1e3)):
            frames = self._socket.recv_multipart(copy=False)
            try:
                result = decode_result([frame.buffer for frame in frames])
            except WireError:
                self.unreadable += 1
                continue
            if self._is_new(result):
                return result
        return None

    def _is_new(self, result: Result) -> bool:
        """Count what is missing before `result`; False for one repeated for another subscriber's sake."""
        boot, seq, topic = result.head.get("boot"), result.head.get("seq"), result.topic
        if boot != self.boot:
            self.boot = boot
            self._last_seq.clear()
        if isinstance(seq, int):
            last = self._last_seq.get(topic)
            if last is not None and seq <= last:
                return False
            self._last_seq[topic] = seq
            if last is not None and seq > last + 1:
                self.missed[topic] = self.missed.get(topic, 0) + seq - last - 1
        if topic.startswith("map/"):
            self.maps[topic.removeprefix("map/")] = result
        return True

    def __iter__(self) -> Iterator[Result]:
        """Yield results for ever."""
        while True:
            result = self.poll(3600.0)
            if result is not None:
                yield result

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
