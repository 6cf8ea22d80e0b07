"""A data socket that never blocks, with what was sent kept for replay."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, Self

import zmq

from streamer.client_socket import CurveKeys, endpoint, open_socket
from streamer.wire.codec import Part, unpack_map
from streamer.wire.control import encode_replay_answer, encode_replay_refusal
from streamer.wire.errors import WireError

_POLL_MS = 50
_BACKLOG_POLL_MS = 5
_LINGER_MS = 1000
_QUIET_S = 1.0


class SentMessages:
    """The last messages that were sent, bounded in bytes, the oldest forgotten first.

    Not thread-safe by itself.

    Parameters
    ----------
    limit_bytes : int
        Most bytes of all parts together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[str, int], list[bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, series: str, number: int, parts: list[bytes]) -> None:
        """Keep message `number` of `series`; its parts must never change."""
        key = (series, number)
        self._forget(key)
        self._kept[key] = parts
        self._bytes += sum(map(len, parts))
        while self._bytes > self._limit_bytes:
            # The header goes last: without it nothing else of the series is of use.
            oldest = next((k for k in self._kept if k != (series, 0)), (series, 0))
            self._forget(oldest)

    def _forget(self, key: tuple[str, int]) -> None:
        self._bytes -= sum(map(len, self._kept.pop(key, [])))

    def between(self, series: str, first: int, last: int) -> list[list[bytes]]:
        """Return what is kept of messages `first` to `last`, both inclusive, in order."""
        if last - first < len(self._kept):
            numbers = list(range(first, last + 1))
        else:
            numbers = sorted(n for s, n in self._kept if s == series and first <= n <= last)
        return [self._kept[series, n] for n in numbers if (series, n) in self._kept]


class Outlet:
    """A data socket that never blocks, and the replay service beside it.

    For senders that encode their own messages; `Sender` does that too. All methods are thread-safe.

    Parameters
    ----------
    url : str
        Where the data socket binds or connects to.
    pattern : {"pub", "push"}
        A PUB drops what a slow or absent streamer does not take (which then asks for it again); a PUSH hands
        over every message, and queues here, bounded, while nobody takes them.
    bind : bool
        Bind (the instrument is the fixed point) or connect.
    replay : str, optional
        Where the replay service binds; its own address must be in it, because it is told to the streamer.
        None offers no replay.
    keep_bytes : int
        Memory for replay.
    queue_messages : int
        Most messages waiting for each peer, and, with PUSH, once more as many waiting here.
    curve : CurveKeys, optional
        For both sockets.

    Raises
    ------
    ValueError
        Where `replay` names no address that the streamer could connect to.
    OSError
        Where an address is wrong or taken.
    """

    def __init__(
        self,
        url: str,
        pattern: Literal["pub", "push"] = "pub",
        bind: bool = True,
        *,
        replay: str | None = "tcp://127.0.0.1:*",
        keep_bytes: int = 256 << 20,
        queue_messages: int = 1000,
        curve: CurveKeys | None = None,
    ) -> None:
        if replay is not None and ("//*" in replay or "//0.0.0.0" in replay or "//[::]" in replay):
            raise ValueError(f"replay {replay!r}: name the address that the streamer can connect to")
        # An XPUB is a PUB that tells who subscribes, see `wait_for_subscriber`.
        kind = {"pub": zmq.XPUB, "push": zmq.PUSH}[pattern]
        self._lock = threading.Lock()
        self._sent = SentMessages(keep_bytes)
        self._backlog: deque[list[bytes]] = deque()
        self._queue_messages = queue_messages
        self._data = open_socket(kind, url, bind=bind, curve=curve, hwm=queue_messages)
        self._router: zmq.Socket[Any] | None = None
        self.url = endpoint(self._data) if bind else url
        self.replay: str | None = None
        self.dropped = 0
        """Messages that found every queue full (PUSH); a PUB cannot tell."""
        self.replayed = 0
        """Messages sent again because the streamer asked."""
        self._stop = threading.Event()
        self._asked_s = time.monotonic()
        if replay is not None:
            self._bind_replay(replay, curve)
        self._thread = threading.Thread(target=self._serve, name="scanwise-outlet", daemon=True)
        self._thread.start()

    def _bind_replay(self, replay: str, curve: CurveKeys | None) -> None:
        try:
            # A replay may have more messages than any queue: they are the kept ones, so memory is bounded.
            self._router = open_socket(zmq.ROUTER, replay, bind=True, curve=curve, hwm=0)
        except OSError:
            self._data.close()
            raise
        self.replay = endpoint(self._router)

    @property
    def waiting(self) -> int:
        """Messages waiting here because nobody takes them (PUSH)."""
        return len(self._backlog)

    def keep(self, series: str, number: int, parts: Sequence[Part]) -> list[bytes]:
        """Keep a copy of a message for replay, and return it; `put` sends that copy without another one."""
        copy = [bytes(part) for part in parts]
        if self._router is not None:
            with self._lock:
                self._sent.add(series, number, copy)
        return copy

    def put(self, parts: Sequence[Part]) -> bool:
        """Send a message, at once.

        Returns
        -------
        bool
            False where it was dropped because every queue is full; nobody waits for room.
        """
        message = [bytes(part) for part in parts]  # no copy of what is bytes already
        with self._lock:
            self._flush()
            if not self._backlog and self._try(message):
                return True
            if len(self._backlog) < self._queue_messages:
                self._backlog.append(message)
                return True
            self.dropped += 1
            return False

    def put_if_idle(self, parts: Sequence[Part]) -> None:
        """Send a message that is worth nothing later, such as a heartbeat, or forget it."""
        with self._lock:
            if not self._backlog:
                self._try([bytes(part) for part in parts])

    def _try(self, message: list[bytes]) -> bool:
        try:
            self._data.send_multipart(message, flags=zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        return True

    def _flush(self) -> None:
        while self._backlog and self._try(self._backlog[0]):
            self._backlog.popleft()

    def _serve(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                self._flush()
                pause_ms = _BACKLOG_POLL_MS if self._backlog else _POLL_MS
            if self._router is None:
                self._stop.wait(pause_ms / 1e3)
            elif self._router.poll(pause_ms):
                self._answer(self._router)
        if self._router is not None:
            self._router.close(_LINGER_MS)

    def _answer(self, router: zmq.Socket[Any]) -> None:
        *envelope, request = router.recv_multipart()
        self._asked_s = time.monotonic()
        try:
            head = unpack_map(request)
            params = head["params"]
            series, first, last = str(params["series"]), int(params["first"]), int(params["last"])
        except (WireError, KeyError, TypeError, ValueError):
            return  # what cannot be read cannot be answered
        with self._lock:
            messages = self._sent.between(series, first, last)
        self.replayed += len(messages)
        request_id = head.get("id")
        if messages:
            answer = encode_replay_answer(request_id, messages)
        else:
            answer = encode_replay_refusal(request_id, f"no message {first} to {last} of {series} is kept")
        router.send_multipart([*envelope, *answer], copy=False)

    def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Wait until somebody subscribes (PUB) or could take a message (PUSH).

        Returns
        -------
        bool
            False where nobody came within `timeout_s` seconds; the scan starts all the same.
        """
        event = zmq.POLLIN if self._data.type == zmq.XPUB else zmq.POLLOUT
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            with self._lock:
                if self._data.poll(0, event):
                    return True
            time.sleep(0.01)
        return False

    def wait_for_replay(self, timeout_s: float) -> None:
        """Wait while messages wait to be taken or the streamer asks for replay; one quiet second is enough."""
        until = time.monotonic() + timeout_s
        self._asked_s = time.monotonic()
        quiet_s = 0.0 if self._router is None else _QUIET_S
        while time.monotonic() < until and (self.waiting or time.monotonic() < self._asked_s + quiet_s):
            time.sleep(0.02)

    def close(self) -> None:
        """Stop; what ZeroMQ has queued is still sent within a second, what waits here is not."""
        self._stop.set()
        self._thread.join()
        with self._lock:
            if not self._data.closed:
                self._data.close(_LINGER_MS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
