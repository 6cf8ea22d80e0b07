"""What to ask an instrument's replay service for, and when (protocol.md, 1.3)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from streamer.intervals import IntervalSet

MS = 1_000_000
FIRST_WAIT_MS = 50
LONGEST_WAIT_MS = 1_000
CHUNK_BYTES = 16 << 20
MOST_MESSAGES = 256
_LOOPBACK = {"localhost", "127.0.0.1", "::1", "[::1]"}


def allowed_endpoint(endpoint: str, source_host: str, configured: list[str]) -> str | None:
    """Return the endpoint to connect to, or None where it is neither the source's own host nor configured.

    Parameters
    ----------
    endpoint : str
        As the instrument names it; a wildcard host stands for its own.
    source_host : str
        Where its data come from; empty for ipc.
    configured : list of str
        Further hosts that may be asked.
    """
    url = urlsplit(endpoint)
    if url.scheme == "ipc":
        return endpoint if source_host in _LOOPBACK or not source_host else None
    try:
        host, port = url.hostname or "", url.port
    except ValueError:
        return None
    if url.scheme != "tcp" or not port:
        return None
    if host in {"*", "0.0.0.0", "::"}:  # noqa: S104 - compared with, not bound to
        host = source_host or "127.0.0.1"
    same = host == source_host or (host in _LOOPBACK and (source_host in _LOOPBACK or not source_host))
    if not (same or host in configured):
        return None
    return f"tcp://{f'[{host}]' if ':' in host else host}:{port}"


@dataclass(frozen=True)
class Ask:
    """A request: messages `first` to `last`, inclusive."""

    id: int
    first: int
    last: int


class ReplayPlan:
    """Knows which messages of a series are missing and asks for them, one request at a time.

    Parameters
    ----------
    origin : int
        Number of the header message.
    """

    def __init__(self, origin: int = 0) -> None:
        self.origin = origin
        self.known = origin
        self.tail_open = False
        self._seen = IntervalSet()
        self._retried: set[int] = set()
        self._asked: Ask | None = None
        self._cursor = origin
        self._wait_ms = FIRST_WAIT_MS
        self._not_before_ns = 0
        self._next_id = 0
        self._damaged = False
        self._bytes = 0
        self._messages = 0

    def seen(self, number: int, nbytes: int = 0, *, live: bool = True) -> None:
        """Note a message that need not be asked for (again)."""
        self._bytes += nbytes
        self._messages += 1
        self._seen.add(number, number + 1)
        self.exists(number + 1)
        if live:
            self.tail_open = False

    def unreadable(self, number: int | None, *, replayed: bool) -> None:
        """Note a damaged message: it is asked for once, however often the damaged one itself is repeated."""
        if number is None:
            self._damaged |= replayed
        elif replayed and number in self._retried:
            self._seen.add(number, number + 1)
        else:
            self._retried.add(number)
            self.exists(number + 1)

    def exists(self, stop: int) -> None:
        """Note that all numbers below `stop` have been sent."""
        self.known = max(self.known, stop)

    @property
    def missing(self) -> bool:
        """Whether anything remains to be asked for."""
        return self.tail_open or next(self._seen.missing(self.origin, self.known), None) is not None

    def next_ask(self, t_ns: int) -> Ask | None:
        """Return the next request if one is due."""
        if self._asked is not None or t_ns < self._not_before_ns or not self.missing:
            return None
        gap = next(self._seen.missing(max(self._cursor, self.origin), self.known), None)
        if gap is None and self.tail_open and self._cursor <= self.known:
            gap = (self.known, self.known + MOST_MESSAGES)
        if gap is None:
            self._cursor = self.origin
            self._back_off(t_ns)
            return None
        first, stop = gap
        self._asked = Ask(self._next_id, first, min(stop, first + self._chunk()) - 1)
        self._cursor = self._asked.last + 1
        self._next_id += 1
        return self._asked

    def _chunk(self) -> int:
        mean = self._bytes / self._messages if self._messages else 1.0
        return int(min(max(CHUNK_BYTES / max(mean, 1.0), 1), MOST_MESSAGES))

    def _back_off(self, t_ns: int) -> None:
        self._not_before_ns = t_ns + self._wait_ms * MS
        self._wait_ms = min(2 * self._wait_ms, LONGEST_WAIT_MS)

    def done(self, request_id: int, t_ns: int, error: str | None) -> None:
        """Note that a request was answered; its messages have been noted before."""
        asked = self._asked
        if asked is None or asked.id != request_id:
            return
        self._asked = None
        got = self._seen.covered(asked.first, asked.last + 1)
        if self._damaged and error is None:
            # What comes damaged a second time stays lost.
            self._seen.add(asked.first, min(asked.last + 1, self.known))
        self._damaged = False
        if got:
            self._wait_ms = FIRST_WAIT_MS
            self._cursor = self.origin
        elif asked.last >= self.known:
            self._cursor = self.known + 1

    def forget_request(self) -> None:
        """Forget what is under way: after a restart nobody answers it."""
        self._asked = None
        self._not_before_ns = 0

    def give_up(self) -> None:
        """Ask for nothing any more."""
        self.tail_open = False
        self._seen.add(self.origin, self.known)
