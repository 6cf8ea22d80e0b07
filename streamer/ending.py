"""The end of a series: the last fit, the final map, the books. In pieces, for a large map takes seconds."""

from __future__ import annotations

from typing import Any

from models.base import Pieces
from streamer import views
from streamer.events import Event, Log, Publish, SeriesClosed
from streamer.fitting import known_maps, known_of, name_phases
from streamer.series import Series


def ending(series: Series) -> Pieces[list[Event]]:
    """Refit, re-project, and close a series; what is published of its end comes together, when all of it is known.

    Between two pieces everything can be asked for, but nothing can be changed.
    """
    final, books = yield from _concluded(series)
    for result in views.map_round(series, final=True):
        if result is None:
            yield
        else:
            final.append(Publish(result))
    series.closed = True
    return [*final, series.series_event("end", books), SeriesClosed(series.name, books)]


def _concluded(series: Series) -> Pieces[tuple[list[Event], dict[str, Any]]]:
    """What is final of the model, and the books."""
    engine, axis, config = series.engine, series.axis, series.config
    unanswered = series.deciding.ledger.ended()
    confirmed = series.confirmed()
    yield from engine.finishing()
    groups = [*confirmed, *series.discover(final=True)]
    for look in series.looks:
        yield from look.finishing()
    groups += series.discovery.conclude(engine, axis, series.phases, config.anomaly)
    told = _named(series)
    yield
    denoised = yield from series.denoising.finishing(engine)
    # The last basis also where its version was published: its mean and novelties are those of the final map.
    return [*unanswered, *told, *series.new_basis(final=True), *groups, *denoised], series.final_books()


def _named(series: Series) -> list[Event]:
    """Say by the library, if there is one, what each position is; the axis may have been corrected until now."""
    known, warnings = known_of(series.header, series.axis, series.config)
    if known is not None and series.engine.basis is not None:
        series.known_names, series.known_maps = known.names, known_maps(known, series.engine)
        if series.phases is not None:
            name_phases(known, series.engine, series.phases)
    return [Log("warning", "library", text) for text in warnings]
