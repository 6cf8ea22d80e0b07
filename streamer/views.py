"""What can be seen of a series: maps, status, and the answers to requests. Pure reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.distances import distances_of, t2_of
from models.linear import LinearEngine
from models.prepared import PreparedEngine
from streamer.announce import basis_event
from streamer.requests import RequestError
from streamer.series import Series
from streamer.unmixed import abundance_names, abundances, end_members
from streamer.wire import Result, f4

PIECE = 4096
"""Positions of a map that are made at a time, in a millisecond or so."""
COSTLY = ("q", "reconstruction_error")
"""Maps that are made at the end of a series, and for who asks for them by name."""
QUALITY_EXACT, QUALITY_ROTATED, QUALITY_LOST = 1.0, 0.5, 0.0


@dataclass(frozen=True)
class Found:
    """What an ack carries."""

    params: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def _each(series: Series, *, costly: bool) -> Iterator[tuple[str, NDArray[Any]] | None]:
    """Every map (P,) or (P, K) of a series by name; None wherever something else may be done first."""
    engine = series.engine
    yield "counts", _where_measured(series, engine.totals)
    yield from _in_pieces(series, ["scores"], lambda index: [engine.scores_at(index)])
    yield "anomaly", engine.anomaly
    yield "p_value", engine.p_value
    rate = engine.config.false_alarm
    yield from _in_pieces(series, ["t2"], lambda index: [t2_of(engine.score_map, index, rate)])
    if costly:
        yield from _in_pieces(series, COSTLY, lambda index: distances_of(engine.score_map, index, rate))
    yield "dwell", _where_measured(series, series.dwell_s)
    yield "quality", _quality(series)
    if series.phases is not None:
        yield "phase", series.phases.label
        yield "confidence", series.phases.confidence
        yield "mixed", series.phases.mixed
    if series.deciding.guess is not None:
        yield "guess", series.deciding.guess.label
        yield "distance", series.deciding.guess.filled.distance
    for label, (lo, hi) in list(series.config.windows.items()):
        channels = series.axis.channel_range(lo, hi)
        if channels[0] < channels[1]:
            names = [f"window/{label}", f"raw/{label}"]
            yield from _in_pieces(series, names, partial(engine.window, channels))
            yield from _in_pieces(series, [f"error/{label}"], partial(_error, engine, channels))
            if isinstance(engine, PreparedEngine) and engine.subtracts:
                yield from _in_pieces(series, [f"net/{label}"], partial(_net, engine, channels))
    if isinstance(engine, PreparedEngine):
        yield from engine.step_maps().items()
    yield from series.known_maps.items()
    yield from series.denoising.maps()
    if series.unmixing is not None and series.unmixing.labels:
        labels = list(series.unmixing.labels)
        yield from _in_pieces(series, abundance_names(labels), partial(abundances, series.unmixing, labels))
        if series.unmixing.corrected is not None:
            yield "thickness", series.unmixing.corrected.thickness


def _error(engine: LinearEngine, channels: tuple[int, int], index: NDArray[np.int64]) -> list[NDArray[Any]]:
    return [engine.window_error(channels, index)]


def _net(engine: PreparedEngine, channels: tuple[int, int], index: NDArray[np.int64]) -> list[NDArray[Any]]:
    return [engine.net_window(channels, index)]


def _in_pieces(
    series: Series, names: Sequence[str], made: Callable[[NDArray[np.int64]], Sequence[NDArray[Any]]]
) -> Iterator[tuple[str, NDArray[Any]] | None]:
    """Maps made of some positions at a time, all by one model: begun again where it changes in between."""
    parts: list[Sequence[NDArray[Any]]] = []
    revision, n = _revision(series), series.scan.n_positions
    while len(parts) * PIECE < n:
        first = len(parts) * PIECE
        parts.append(made(np.arange(first, min(first + PIECE, n))))
        if first + PIECE < n:
            yield None
        if _revision(series) != revision:
            revision, parts = _revision(series), []
    yield from zip(names, (np.concatenate(column) for column in zip(*parts, strict=True)), strict=True)


def _revision(series: Series) -> tuple[int, int]:
    return series.engine.revision, series.unmixing.revision if series.unmixing is not None else 0


def _shaped(series: Series, *, costly: bool) -> Iterator[tuple[str, NDArray[Any]] | None]:
    shape = tuple(series.header.nav_shape)
    for found in _each(series, costly=costly):
        if found is None:
            yield None
        else:
            name, values = found
            yield name, (values if values.dtype == np.int32 else f4(values)).reshape(shape + values.shape[1:])


def map_arrays(series: Series, *, costly: bool = False) -> dict[str, NDArray[Any]]:
    """Return every map of a series by its name without ``map/``, over nav_shape, NaN where nothing was measured.

    Those that are costly are among them only where that is asked for.
    """
    return dict(found for found in _shaped(series, costly=costly) if found is not None)


def _where_measured(series: Series, values: NDArray[Any]) -> NDArray[np.float64]:
    return np.where(series.engine.visits > 0, values, np.nan)


def _quality(series: Series) -> NDArray[np.float64]:
    quality = _where_measured(series, np.where(series.engine.exact, QUALITY_EXACT, QUALITY_ROTATED))
    quality[series.scan.lost_positions()] = QUALITY_LOST
    return quality


def _model(series: Series) -> int:
    return series.engine.basis.version if series.engine.basis is not None else 0


def map_round(series: Series, *, final: bool = False) -> Iterator[Result | None]:
    """Return every map as it is published, each made when it is asked for; None where other things may come first."""
    for found in _shaped(series, costly=final or series.closed):
        if found is None:
            yield None
        else:
            yield Result(f"map/{found[0]}", {"series": series.name, "model": _model(series)}, dict([found]))
    yield from end_members(series, _model(series))


def idle_status(rejected: Mapping[str, int]) -> dict[str, Any]:
    """Return the status before any series."""
    zero = {"received": 0, "processed": 0, "lost": {}, "duplicates": 0}
    return {"state": "idle", "series": None, "model": 0, "rank": 0, "network": None, "rejected": dict(rejected), **zero}


def status(series: Series) -> dict[str, Any]:
    """Return the status of a series: its books, its model, its last decision."""
    basis = series.engine.basis
    decisions = series.deciding.ledger.decisions
    return {
        "state": "idle" if series.closed else series.state,
        "series": series.name,
        **series.scan.report(),
        "expected": series.header.expected,
        "n_positions": series.scan.n_positions,
        "coverage": float((series.engine.visits > 0).mean()),
        "model": _model(series),
        "rank": basis.rank if basis is not None else 0,
        "noise_edge": float(basis.noise_edge) if basis is not None else None,
        "anomalies": series.anomalies.count,
        "groups": series.discovery.summary(),
        "known": list(series.known_names),
        "mode": series.config.decisions.mode,
        "last_decision": decisions[-1] if decisions else None,
        "phases": series.phases.summary() if series.phases is not None else [],
        "network": series.denoising.status(),
        "unmixing": series.unmixing.summary() if series.unmixing is not None else None,
        **series.deciding.summary(),
        **series.engine.state_summary(),
    }


def look_up(series: Series | None, val: str, params: Mapping[str, Any]) -> Found:
    """Answer `snapshot`, `basis`, `spectrum` or `window`.

    Raises
    ------
    RequestError
        With a sentence for whoever asked.
    """
    answers = {"snapshot": _snapshot, "basis": _basis, "spectrum": _spectrum, "window": _window}
    if val not in answers:
        raise RequestError(f"unknown request {val[:40]!r}")
    if series is None:
        raise RequestError("no series yet")
    if series.engine.basis is None:
        raise RequestError(f"no data of series {series.name!r} yet")
    found = answers[val](series, params)
    return Found({"series": series.name, "model": _model(series), **found.params}, found.arrays)


def _snapshot(series: Series, params: Mapping[str, Any]) -> Found:
    names = params.get("names")
    if names is None:
        return Found({}, map_arrays(series))
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise RequestError("snapshot: names must be a list of strings")
    present = map_arrays(series, costly=any(n in COSTLY for n in names))
    missing = [n for n in names if n not in present]
    if missing:
        raise RequestError(f"snapshot: there is no map {missing[0]!r}; there are {', '.join(present)}")
    return Found({}, {name: present[name] for name in names})


def _basis(series: Series, params: Mapping[str, Any]) -> Found:
    basis = series.engine.basis
    if basis is None:
        raise RequestError("basis: there is none yet")
    result = basis_event(series.name, basis).result
    return Found({"rank": result.head["rank"], "noise_edge": result.head["noise_edge"]}, result.arrays)


def _spectrum(series: Series, params: Mapping[str, Any]) -> Found:
    index = params.get("index")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < series.scan.n_positions:
        raise RequestError(f"spectrum: index must be a whole number below {series.scan.n_positions}")
    if not series.engine.visits[index]:
        raise RequestError(f"spectrum: position {index} has not been measured")
    raw, denoised, expected = series.engine.spectrum(index)
    arrays = {"raw": f4(raw), "denoised": f4(denoised), "expected": f4(expected)}
    background = series.engine.background_of(index) if isinstance(series.engine, PreparedEngine) else None
    if background is not None:
        arrays["background"] = f4(background)
    network = series.denoising.spectrum(series.engine, index)
    if network is not None:
        arrays["network"] = f4(network)
    return Found({"index": index}, arrays)


def _window(series: Series, params: Mapping[str, Any]) -> Found:
    lo, hi = params.get("lo"), params.get("hi")
    numbers = isinstance(lo, int | float) and isinstance(hi, int | float) and np.isfinite([lo, hi]).all()
    if not numbers or not lo < hi:  # type: ignore[operator]
        raise RequestError("window: give lo < hi in axis units")
    channels = series.axis.channel_range(float(lo), float(hi))  # type: ignore[arg-type]
    if channels[0] >= channels[1]:
        ends = series.axis.values[[0, -1]]
        raise RequestError(f"window: no channel lies in [{lo}, {hi}]; the axis goes from {ends[0]:g} to {ends[1]:g}")
    denoised, raw = series.engine.window(channels)
    shape = tuple(series.header.nav_shape)
    return Found({"channels": list(channels)}, {"denoised": f4(denoised).reshape(shape), "raw": f4(raw).reshape(shape)})
