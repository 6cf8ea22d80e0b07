"""After a restart: an open series is fed again from its journal, and goes on (protocol.md, 1.3)."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from streamer.config import PipelineConfig
from streamer.engine import Engine
from streamer.events import Event, SeriesClosed
from streamer.pipeline import Pipeline
from streamer.state import JOURNAL, OpenSeries, map_file, write_books
from streamer.wire.items import Item, Resumed
from streamer.wire.journal import Closed, Opened, read_records

log = logging.getLogger(__name__)
_SERVE_S: Final = 0.05


def recover(engine: Engine, found: list[OpenSeries]) -> None:
    """Bring the engine to where the last process was; the newest open series counts.

    Parameters
    ----------
    engine : Engine
        Its inbox may fill meanwhile; its clients are answered.
    found : list of OpenSeries
        Oldest first.
    """
    for series in found[:-1]:
        log.warning("%s was left open, and a newer series after it too; it stays as it is", series.folder)
    if found:
        _replay(engine, found[-1])


def _replay(engine: Engine, series: OpenSeries) -> None:
    name = str(series.opened.get("series"))
    log.info("series %r was open when the last daemon ended: reading its %d bytes again", name, series.nbytes)
    engine.begin_recovery(name, Pipeline(_settings(series, engine.config)))
    begun_s = time.monotonic()
    try:
        end, last, closing = _read(engine, series)
    except Exception:
        # The pipeline knows only what it was fed: nothing is harmed, and the next scan must not be held up.
        log.exception(
            "the recording in %s cannot be computed again: it is kept, and its series is given up", series.folder
        )
        write_books(series.folder, {"series": name, "exit_status": "unrecoverable"})
        engine.give_up()
        return
    engine.parts.recorder.resume(series.folder, end)
    engine.end_recovery()
    if closing is not None and last is not None:
        # The last process wrote what closed the series, and died before it could say so.
        engine.go_on(last, closing)
    elif engine.pipeline.series is None:
        _close_empty(engine, name, series.folder)
    else:
        log.info("series %r is open again after %.1f s", name, time.monotonic() - begun_s)
        engine.resume(Resumed(time.time_ns()))


def _read(engine: Engine, series: OpenSeries) -> tuple[int, Item | None, list[Event] | None]:
    """Feed the journal; return where it ends, and the item that closed the series with what followed, if one did."""
    served_s, end = time.monotonic(), 0
    for record, end in read_records(map_file(series.folder / JOURNAL)):
        if isinstance(record, Opened | Closed):
            continue
        events = engine.pipeline.feed(record)
        if any(isinstance(e, SeriesClosed) for e in events):
            return end, record, events
        engine.remember(events)
        if time.monotonic() - served_s > _SERVE_S:
            served_s = time.monotonic()
            engine.serve(end / series.nbytes)
    return end, None, None


def _close_empty(engine: Engine, name: str, folder: Path) -> None:
    log.warning("the recording in %s holds no header and is closed", folder)
    engine.parts.recorder.close({"series": name, "exit_status": "empty"})[1]()


def _settings(series: OpenSeries, present: PipelineConfig) -> PipelineConfig:
    """Return the settings that were in force, so that the same follows from the same items."""
    try:
        return PipelineConfig.model_validate(series.opened.get("settings"))
    except ValidationError as error:
        log.warning("the settings of %s cannot be read (%s); the present ones are used", series.folder, error)
        return present
