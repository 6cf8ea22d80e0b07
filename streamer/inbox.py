"""Between the thread that receives and the one that works: a queue with bounds, and a policy at the bounds."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from streamer.outbox import Request
from streamer.wire import Limits, Stins, WireError, decode
from streamer.wire.codec import unpack_map
from streamer.wire.data import Block
from streamer.wire.items import Arrived, Item, Overflow

Policy = Literal["block", "drop_newest"]
_MARKS = ("header", "heartbeat", "series_end")  # a tuple: what is sent as htype need not be hashable
_SMALL_BYTES = 64 << 10
_ITEM_BYTES = 256
_PATIENCE_S = 0.005


@dataclass(frozen=True)
class Depth:
    """How much waits: messages from the instrument, their bytes, and when the oldest came (0: none waits)."""

    messages: int
    nbytes: int
    oldest_ns: int

    @property
    def age_s(self) -> float:
        """How long the oldest has been waiting; 0 where none waits."""
        return max(0.0, (time.time_ns() - self.oldest_ns) / 1e9) if self.oldest_ns else 0.0


def size_of(item: Item) -> int:
    """Return the bytes an item holds."""
    return sum(memoryview(p).nbytes for p in item.parts) if isinstance(item, Arrived) else _ITEM_BYTES


class Inbox:
    """Items for the worker, in order; requests beside them.

    Parameters
    ----------
    max_messages, max_bytes : int
        Bounds for what the instrument sends. Messages that say where a series begins and ends are small and
        pass the bound: losing one costs more than keeping it.
    policy : {"block", "drop_newest"}
        At the bound `put` waits, so that the sender feels it, or drops the message and says so by an
        `Overflow` in its place.
    stins, limits
        To count the spectra of a message that is dropped.
    """

    def __init__(
        self,
        max_messages: int,
        max_bytes: int,
        policy: Policy,
        *,
        stins: Stins | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._max_messages, self._max_bytes, self._policy = max_messages, max_bytes, policy
        self._stins, self._limits = stins, limits
        self._items: deque[tuple[Item, int]] = deque()
        self._requests: deque[Request] = deque()
        self._messages = 0
        self._bytes = 0
        self._released = self._closed = self._expecting = False
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._emptied = threading.Condition(self._lock)
        self.dropped = 0

    def put(self, messages: Sequence[Arrived]) -> int:
        """Add messages of the instrument under the policy; return their bytes. One thread calls it."""
        total = 0
        for message in messages:
            nbytes = size_of(message)
            total += nbytes
            with self._lock:
                while self._policy == "block" and self._full(nbytes) and not self._released:
                    self._emptied.wait()
                accepted = self._policy == "block" or not self._full(nbytes) or self._passes(message, nbytes)
                if accepted:
                    self._append(message, nbytes)
            if not accepted:
                self._drop(message)
        return total

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Say that messages are being received: `take` waits for them, for a moment at most.

        Each part that is received gives the interpreter away and has to get it back; a worker that goes on with
        what is not urgent meanwhile holds up what it would rather do.
        """
        self._expecting = True
        try:
            yield
        finally:
            self._expecting = False

    def push(self, items: Sequence[Item]) -> None:
        """Add items whose number is bounded elsewhere (answers to what was asked for), together."""
        with self._lock:
            for item in items:
                self._append(item, size_of(item))

    def request(self, request: Request, most: int = 256) -> bool:
        """Add a request; False where `most` wait already."""
        with self._lock:
            if len(self._requests) >= most:
                return False
            self._requests.append(request)
            self._filled.notify()
            return True

    def take(self, max_messages: int, max_bytes: int, timeout_s: float) -> tuple[list[Request], list[Item]]:
        """Take all requests, and items up to the bounds (one at least); wait up to `timeout_s` for the first."""
        with self._lock:
            if not (self._items or self._requests or self._closed):
                self._filled.wait(max(timeout_s, _PATIENCE_S) if self._expecting else timeout_s)
            requests = list(self._requests)
            self._requests.clear()
            return requests, self._take_items(max_messages, max_bytes)

    def take_requests(self) -> list[Request]:
        """Take the requests alone, without waiting."""
        with self._lock:
            requests = list(self._requests)
            self._requests.clear()
            return requests

    def release(self) -> None:
        """Let a `put` that waits finish: what has been received is kept, a little over the bound."""
        with self._lock:
            self._released = True
            self._emptied.notify_all()

    def close(self) -> None:
        """Say that no more messages come; what is held can still be taken."""
        with self._lock:
            self._closed = True
            self._filled.notify_all()

    @property
    def roomy(self) -> bool:
        """Whether less than half of the bounds is used: the time to ask for more."""
        with self._lock:
            return 2 * self._messages <= self._max_messages and 2 * self._bytes <= self._max_bytes

    @property
    def drained(self) -> bool:
        """Whether it is closed and empty."""
        with self._lock:
            return self._closed and not self._items

    @property
    def waiting(self) -> bool:
        """Whether the worker has something to do, or is to stop."""
        with self._lock:
            return bool(self._items or self._requests or self._closed)

    def depth(self) -> Depth:
        """Return how much waits."""
        with self._lock:
            oldest = next((i.t_ns for i, _ in self._items), 0)
            return Depth(self._messages, self._bytes, oldest)

    def _take_items(self, max_messages: int, max_bytes: int) -> list[Item]:
        taken: list[Item] = []
        total = 0
        while self._items and len(taken) < max_messages and (not taken or total + self._items[0][1] <= max_bytes):
            item, nbytes = self._items.popleft()
            taken.append(item)
            total += nbytes
            if isinstance(item, Arrived):
                self._messages -= 1
                self._bytes -= nbytes
        if taken:
            self._emptied.notify_all()
        return taken

    def _full(self, nbytes: int) -> bool:
        if not self._messages:
            return False
        return self._messages >= self._max_messages or self._bytes + nbytes > self._max_bytes

    def _passes(self, message: Arrived, nbytes: int) -> bool:
        if nbytes > _SMALL_BYTES or self._messages >= 2 * self._max_messages:
            return False
        try:
            return unpack_map(message.parts[0], json_allowed=True).get("htype") in _MARKS
        except (WireError, IndexError):
            return False

    def _append(self, item: Item, nbytes: int) -> None:
        self._items.append((item, nbytes))
        if isinstance(item, Arrived):
            self._messages += 1
            self._bytes += nbytes
        self._filled.notify()

    def _drop(self, message: Arrived) -> None:
        self.dropped += 1
        lost = self._overflow(message)
        with self._lock:
            last = self._items[-1][0] if self._items else None
            if isinstance(last, Overflow) and last.series == lost.series and last.frame + last.n == lost.frame:
                self._items[-1] = (replace(last, n=last.n + lost.n), _ITEM_BYTES)
            elif len(self._items) < 4 * self._max_messages:
                self._append(lost, _ITEM_BYTES)

    def _overflow(self, message: Arrived) -> Overflow:
        try:
            decoded = decode(message.parts, self._stins, self._limits)
        except WireError:
            return Overflow(message.t_ns, None, 0, 0)
        if not isinstance(decoded, Block):
            return Overflow(message.t_ns, None, 0, 0)
        return Overflow(message.t_ns, decoded.map.series, decoded.map.frame, decoded.n)
