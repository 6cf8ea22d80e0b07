"""A recording of the daemon as the instrument: the same messages again, at the same distances in time."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from simulator.instrument import Outgoing
from simulator.schedule import Decision
from streamer.wire import Block, Header, Part, SeriesEnd, WireError, decode, encode_series_end, pack_map
from streamer.wire.codec import unpack_map
from streamer.wire.items import Arrived
from streamer.wire.journal import MAGIC, read_records


def is_recording(path: Path) -> bool:
    """Whether a file begins like a recording."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class Playback:
    """Sends what a recording holds, under another series name; obeys nothing.

    What could not be read then is sent as it is; heartbeats are left to the server.

    Parameters
    ----------
    path : Path
        A recording.
    series : str
        Name of the series; the daemon knows the old one.
    replay : str, optional
        Replay endpoint to name in place of the recorded one.

    Raises
    ------
    ValueError
        Where it has no header.
    """

    def __init__(self, path: Path, *, series: str, replay: str | None = None) -> None:
        with path.open("rb") as file:
            self._buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.series, self._replay = series, replay
        self.n_sent = 0
        self.n_messages = 0
        self.finished = False
        self._arrived = recorded_messages(memoryview(self._buffer))
        self._next = next(self._arrived, None)
        if self._next is None:
            raise ValueError(f"{path.name} holds no message")
        self._start_ns = self._next.t_ns
        self._elapsed_s = 0.0
        self.expected = self._count()

    @property
    def due_s(self) -> float:
        """Time until the next message is due."""
        return 0.0 if self._next is None else max(self._due_s(self._next) - self._elapsed_s, 0.0)

    def step(self, dt_s: float) -> list[Outgoing]:
        """Let time pass and return what became due."""
        self._elapsed_s += dt_s
        out: list[Outgoing] = []
        while self._next is not None and self._due_s(self._next) <= self._elapsed_s:
            message = self._renamed(list(self._next.parts))
            if message is not None:
                out.append(message)
            self._next = next(self._arrived, None)
        self.finished = self._next is None
        return out

    def abort(self, reason: str) -> list[Outgoing]:
        """End the series at once."""
        if self.finished:
            return []
        self.finished = True
        end = encode_series_end(self.series, self.n_messages, self.n_sent, exit_status="abort", reason=reason)
        return [Outgoing(self.series, self.n_messages, end)]

    def obey(self, decision: Decision) -> tuple[bool, str | None]:
        """Refuse: what was recorded has happened."""
        return False, f"a recording cannot {decision.action}"

    def _count(self) -> int:
        total = 0
        for record in recorded_messages(memoryview(self._buffer)):
            try:
                message = decode(record.parts)
            except WireError:
                continue
            total += message.n if isinstance(message, Block) else 0
        return total

    def _due_s(self, record: Arrived) -> float:
        return (record.t_ns - self._start_ns) * 1e-9

    def _renamed(self, parts: list[Part]) -> Outgoing | None:
        try:
            message = decode(parts)
        except WireError:
            return Outgoing(self.series, self.n_messages, parts)
        if not isinstance(message, Header | Block | SeriesEnd):
            return None
        head = unpack_map(parts[0], json_allowed=True) | {"series": self.series}
        if isinstance(message, Header):
            head.pop("replay", None)
            head |= {} if self._replay is None else {"replay": self._replay}
        number = message.map.msg_number
        self.n_messages = max(self.n_messages, number + 1)
        n_spectra = message.n if isinstance(message, Block) else 0
        self.n_sent += n_spectra
        return Outgoing(self.series, number, [pack_map(head), *parts[1:]], n_spectra)


def recorded_messages(buffer: memoryview) -> Iterator[Arrived]:
    """Yield messages in the order of their numbers: what came late, by replay, at its place, and each once.

    What could not be read has no number and stays behind the message that it followed.
    """
    numbered: list[tuple[int, Arrived]] = []
    seen: set[int] = set()
    last = -1
    for record, _end in read_records(buffer):
        if not isinstance(record, Arrived):
            continue
        number = _number(record)
        if number is not None and number in seen:
            continue
        last = last if number is None else number
        if number is not None:
            seen.add(number)
        numbered.append((last, record))
    numbered.sort(key=lambda pair: pair[0])
    yield from (record for _, record in numbered)


def _number(record: Arrived) -> int | None:
    """Number of a message; None where it cannot be read, and for heartbeats, which bear another's."""
    try:
        message = decode(record.parts)
    except WireError:
        return None
    return message.map.msg_number if isinstance(message, Header | Block | SeriesEnd) else None
