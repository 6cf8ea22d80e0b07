"""Appends what the pipeline was fed to a journal; what is written survives a kill of the process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from streamer.exits import IO_ERROR, Exit
from streamer.state import JOURNAL, StateFolder, write_books
from streamer.wire import Part
from streamer.wire.items import Item
from streamer.wire.journal import Closed, Opened, pack_record

_MOST_PARTS = min(os.sysconf("SC_IOV_MAX"), 1024)


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
        self._waiting: list[Part] = []
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
        self._waiting += pack_record(Opened(record))

    def resume(self, folder: Path, nbytes: int) -> None:
        """Go on with a journal after its first `nbytes`; what follows them is torn and cut off."""
        self.folder = folder
        self._file = os.open(folder / JOURNAL, os.O_WRONLY | os.O_APPEND)
        os.ftruncate(self._file, nbytes)

    def append(self, item: Item) -> None:
        """Add an item; it is written at the next `flush`."""
        self._waiting += pack_record(item)

    def flush(self) -> None:
        """Write what waits.

        Raises
        ------
        Exit
            74, where it cannot be written.
        """
        waiting, self._waiting = self._waiting, []
        if self._file is None:
            return
        try:
            for first in range(0, len(waiting), _MOST_PARTS):
                _write(self._file, waiting[first : first + _MOST_PARTS])
        except OSError as error:
            raise self._failed(error) from error

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
        self._waiting += pack_record(Closed(books))
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

    def _failed(self, error: OSError) -> Exit:
        text = f"state.dir: the recording in {self._state.path} cannot be written: {error.strerror}"
        return Exit(IO_ERROR, f"{text}; free space there or choose another with state.dir")


def _write(file: int, parts: list[Part]) -> None:
    """Write all parts; after a short write the rest is tried again, and a full disk shows itself."""
    written = os.writev(file, parts)
    if written == sum(memoryview(p).nbytes for p in parts):
        return
    rest = memoryview(b"".join(parts))[written:]
    while rest:
        rest = rest[os.write(file, rest) :]
