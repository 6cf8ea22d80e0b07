"""The folder that outlives the process: one folder for each series, one daemon at a time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import mmap
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from streamer.exits import UNAVAILABLE, Exit
from streamer.wire.journal import Closed, Opened, read_records

log = logging.getLogger(__name__)
JOURNAL = "journal.swj"
BOOKS = "books.json"


@dataclass(frozen=True)
class OpenSeries:
    """A recording without an end: the daemon ended before the series did."""

    folder: Path
    opened: Opened
    nbytes: int


class StateFolder:
    """Owns the state folder until `close`.

    Parameters
    ----------
    path : Path

    Raises
    ------
    Exit
        69, where it cannot be written or another daemon uses it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / "lock").open("a+")
        except OSError as error:
            text = f"state.dir: {path} cannot be written ({error.strerror}); choose another with state.dir"
            raise Exit(UNAVAILABLE, text) from error
        self._take_lock()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            pid = self._lock.read().strip() or "unknown"
            self._lock.close()
            text = f"state.dir: {self.path} is in use by the scanwise with pid {pid}; stop it or choose another"
            raise Exit(UNAVAILABLE, text) from error
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def close(self) -> None:
        """Let another daemon have it."""
        self._lock.close()

    def new_folder(self, series: str) -> Path:
        """Make the folder for a new recording; a name used before gets a number."""
        digest = hashlib.sha256(series.encode(errors="surrogatepass")).hexdigest()[:8]
        base = f"{re.sub(r'[^A-Za-z0-9._-]+', '_', series).strip('._')[:64] or 'series'}-{digest}"
        folder, n = self.path / base, 1
        while folder.exists():
            n += 1
            folder = self.path / f"{base}-{n}"
        folder.mkdir()
        return folder

    def open_series(self) -> list[OpenSeries]:
        """Return the recordings that have no end, oldest first; ones found to have it are marked."""
        found: list[OpenSeries] = []
        for folder in self._folders():
            if not (folder / BOOKS).exists():
                series = look_at(folder)
                if series is not None:
                    found.append(series)
        return sorted(found, key=lambda s: int(s.opened.get("opened_ns", 0)))

    def retain(self, keep_series: int, max_bytes: int) -> list[Path]:
        """Delete the oldest closed recordings beyond either bound; open ones stay. Return what was deleted."""
        closed = [f for f in self._folders() if (f / BOOKS).exists()]
        closed.sort(key=lambda f: (f / BOOKS).stat().st_mtime_ns, reverse=True)
        deleted, total = [], 0
        for place, folder in enumerate(closed):
            total += sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            if place >= keep_series or (total > max_bytes and place > 0):
                log.info("%s is deleted: state.keep_series or state.keep_gib is reached", folder)
                shutil.rmtree(folder, ignore_errors=True)  # what resists is tried again next time
                deleted.append(folder)
        return deleted

    def _folders(self) -> list[Path]:
        return [p.parent for p in self.path.glob(f"*/{JOURNAL}")]


def look_at(folder: Path) -> OpenSeries | None:
    """Return a recording if it has a beginning and no end."""
    opened: Opened | None = None
    nbytes = 0
    for record, end in read_records(map_file(folder / JOURNAL)):
        nbytes = end
        if isinstance(record, Opened):
            opened = record
        elif isinstance(record, Closed):
            write_books(folder, record)
            return None
    if opened is None:
        log.warning("%s has no readable beginning and is left alone", folder / JOURNAL)
        return None
    return OpenSeries(folder, opened, nbytes)


def map_file(path: Path) -> memoryview:
    """Map a file read-only; the map lives as long as a view of it does."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def write_books(folder: Path, books: Mapping[str, Any]) -> None:
    """Mark a recording as closed, with its books, whole or not at all."""
    draft = folder / f"{BOOKS}.part"
    draft.write_text(json.dumps(dict(books), indent=2, default=str) + "\n")
    draft.replace(folder / BOOKS)
