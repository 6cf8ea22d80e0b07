"""Appends what the pipeline was fed to a journal; what is written survives a kill of the process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from streamer.exits import IO_ERROR, Exit
from streamer.state import JOURNAL, StateFolder, write_books
from streamer.wire import Part
from streamer.wire.items import Arrived, Item, NewNetwork
from streamer.wire.journal import Closed, Opened, Record, pack_record

_MOST_PARTS: Final = min(os.sysconf("SC_IOV_MAX"), 1024)
_WORTH_A_THREAD: Final = 1 << 18
"""Bytes that take longer to write than a thread takes to wake."""


class Recorder:
    """The journal of the open series, if there is one.

    Parameters
    ----------
    state : StateFolder
    keep_series : int
        Closed recordings kept.
    max_bytes : int
        Bytes of closed recordings kept, all together.
    """

    def __init__(self, state: StateFolder, keep_series: int, max_bytes: int) -> None:
        self._state, self._keep, self._max_bytes = state, keep_series, max_bytes
        self._file: int | None = None
        self._waiting: list[Record] = []
        self._nbytes = 0
        self._beside: ThreadPoolExecutor | None = None
        self._written: Future[None] | None = None
        self.folder: Path | None = None

    @property
    def recording(self) -> bool:
        """Whether a journal is open."""
        return self._file is not None

    def open(self, series: str, record: Mapping[str, Any]) -> None:
        """Begin the journal of a series; written with its first items."""
        try:
            self.folder = self._state.new_folder(series)
            self._file = os.open(self.folder / JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._failed(error) from error
        self._add(Opened(record))

    def resume(self, folder: Path, nbytes: int) -> None:
        """Go on with a journal after its first `nbytes`; what follows them is torn and cut off."""
        self.folder = folder
        self._file = os.open(folder / JOURNAL, os.O_WRONLY | os.O_APPEND)
        os.ftruncate(self._file, nbytes)

    def append(self, item: Item) -> None:
        """Add an item; it is written at the next `flush`."""
        self._add(item)

    def _add(self, record: Record) -> None:
        self._waiting.append(record)
        self._nbytes += (
            sum(memoryview(p).nbytes for p in record.parts) if isinstance(record, Arrived | NewNetwork) else 0
        )

    def start(self) -> None:
        """Begin to write what waits, beside the work that follows; little is left for `flush`."""
        if self._nbytes < _WORTH_A_THREAD or self._file is None or self._written is not None:
            return
        if self._beside is None:
            self._beside = ThreadPoolExecutor(1, "recorder")
        self._written = self._beside.submit(_write, self._file, self._taken())

    def flush(self) -> None:
        """Have everything written.

        Raises
        ------
        Exit
            74, where it cannot be written.
        """
        written, self._written = self._written, None
        try:
            if written is not None:
                written.result()
            records = self._taken()
            if self._file is not None and records:
                _write(self._file, records)
        except OSError as error:
            raise self._failed(error) from error

    def _taken(self) -> list[Record]:
        records, self._waiting, self._nbytes = self._waiting, [], 0
        return records

    def close(self, books: Mapping[str, Any]) -> tuple[Path, Callable[[], None]]:
        """Write the end of the series.

        Returns
        -------
        folder : Path
        make_durable : callable
            Syncs the journal and deletes recordings that are too old; it can take long, any thread may call it.
        """
        if self._file is None or self.folder is None:
            raise ValueError("no journal is open")
        self._add(Closed(books))
        self.flush()
        file, folder = self._file, self.folder
        self._file = None

        def make_durable() -> None:
            try:
                os.fsync(file)
                os.close(file)
                write_books(folder, books)
                self._state.retain(self._keep, self._max_bytes)
            except OSError as error:
                raise self._failed(error) from error

        return folder, make_durable

    def leave(self) -> None:
        """Close the file; the series stays open and is resumed by the next daemon."""
        if self._file is not None:
            self.flush()
            os.close(self._file)
        self._file = None
        if self._beside is not None:
            self._beside.shutdown()
            self._beside = None

    def _failed(self, error: OSError) -> Exit:
        text = f"state.dir: the recording in {self._state.path} cannot be written: {error.strerror}"
        return Exit(IO_ERROR, f"{text}; free space there or choose another with state.dir")


def _write(file: int, records: list[Record]) -> None:
    """Compress and write, in whichever thread."""
    parts = [part for record in records for part in pack_record(record)]
    for first in range(0, len(parts), _MOST_PARTS):
        _write_some(file, parts[first : first + _MOST_PARTS])


def _write_some(file: int, parts: list[Part]) -> None:
    """Write parts in one call; after a short write the rest is tried again, and a full disk shows itself."""
    written = os.writev(file, parts)
    if written == sum(memoryview(p).nbytes for p in parts):
        return
    rest = memoryview(b"".join(parts))[written:]
    while rest:
        rest = rest[os.write(file, rest) :]
