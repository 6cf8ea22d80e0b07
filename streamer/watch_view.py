"""What `scanwise watch` knows, and how it looks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streamer.glyphs import half_blocks, sparkline
from streamer.run_data import at_equal_dwell
from streamer.watch_tables import anomalies, clean, decisions, notices, outcome, refused
from streamer.wire.results import Result

SILENT_S: Final = 3.0
"""Without a word for this long, the daemon is taken for gone (a status comes every second)."""
_RATES: Final = 60
_ANOMALIES: Final = 3
_PHASES, _UNMET = 6, 3
_STATE_STYLE: Final = {
    "running": "bold green",
    "closing": "yellow",
    "starting": "cyan",
    "idle": "cyan",
    "stopped": "red",
}


@dataclass
class Watched:
    """The newest of everything that was published."""

    status: Mapping[str, Any] = field(default_factory=dict)
    series: Mapping[str, Any] = field(default_factory=dict)
    basis: Mapping[str, Any] = field(default_factory=dict)
    decisions: dict[Any, dict[str, Any]] = field(default_factory=dict)
    anomalies: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=_ANOMALIES))
    n_anomalies: int = 0
    maps: dict[str, NDArray[Any]] = field(default_factory=dict)
    rates_hz: deque[float] = field(default_factory=lambda: deque(maxlen=_RATES))
    map_error: str | None = None
    """Why a map that was asked for is not there."""
    heard_s: float | None = None
    ended: str | None = None
    """Name of the series that was last seen to begin and end."""

    def see(self, result: Result, now_s: float) -> None:
        """Take a published result."""
        self.heard_s = now_s
        head = result.head
        match result.topic:
            case "status":
                self.status = head
                self.rates_hz.append(float(head.get("rate_hz") or 0.0))
            case "series":
                self._see_series(head)
            case "basis":
                self.basis = head
            case "decision":
                self.decisions.setdefault(head.get("decision"), {}).update(head)
            case "anomaly":
                self.anomalies.append(head)
                self.n_anomalies += 1
            case topic if topic.startswith("map/") and result.arrays:
                self.maps[topic.removeprefix("map/")] = next(iter(result.arrays.values()))

    def _see_series(self, head: Mapping[str, Any]) -> None:
        began = self.series.get("event") == "start"
        if head.get("series") != self.series.get("series"):
            began = False
            self.decisions.clear()
            self.anomalies.clear()
            self.maps.clear()
            self.n_anomalies = 0
        self.series = head
        if head.get("event") == "end":
            self.ended = str(head.get("series")) if began else self.ended
            self.status = {**self.status, **{k: head[k] for k in _BOOKS if k in head}, "series": head.get("series")}

    def silent_s(self, now_s: float) -> float | None:
        """Return seconds since anything was heard, None if never."""
        return None if self.heard_s is None else now_s - self.heard_s

    @property
    def expected(self) -> int | None:
        """Spectra planned, as far as the header says."""
        if self.series.get("expected"):
            return int(self.series["expected"])
        shape = self.series.get("nav_shape")
        return int(np.prod(shape)) * int(self.series.get("passes") or 1) if shape else None

    def choose_map(self, wanted: str | None) -> tuple[str, NDArray[Any]] | None:
        """Return the wanted map, or else the first denoised window, or counts; these scaled to equal dwell."""
        names = [wanted] if wanted is not None else [n for n in self.maps if n.startswith("window/")] + ["counts"]
        name = next((n for n in names if n in self.maps), None)
        if name is None:
            return None
        if not name.startswith(("window/", "raw/", "counts")):
            return name, self.maps[name]
        values, dwell_s = at_equal_dwell(self.maps[name], self.maps.get("dwell"))
        return (name, values) if dwell_s is None else (f"{name}, at equal dwell", values)


_BOOKS: Final = ("n_sent", "received", "processed", "lost", "rejected", "duplicates")


# -- one line, where there is no terminal ----------------------------------------------------------------------------


def line(watched: Watched, url: str, now_s: float) -> str:
    """Return everything that matters in one line."""
    silent_s = watched.silent_s(now_s)
    if silent_s is None:
        return f"waiting for the daemon at {url}"
    status = watched.status
    words = [
        clean(status.get("state", "?")) if silent_s < SILENT_S else f"silent for {silent_s:.0f} s",
        _series(watched),
        f"{status.get('processed', 0):,} of {_of(watched.expected)} spectra",
        f"{status.get('rate_hz', 0):,.0f}/s",
        f"lag {status.get('lag_ms', 0):.1f} ms",
        f"in flight {status.get('in_flight', 0):,}",
        f"lost {_sum(status.get('lost')):,}",
        f"rejected {_sum(status.get('rejected')):,}",
        f"rank {_rank(watched)} model {_model(watched)}",
        f"anomalies {watched.n_anomalies:,}",
    ]
    wrong = refused(watched.status)
    if wrong is not None:
        words.append(f"refused {wrong}")
    last = next(reversed(watched.decisions.values()), None)
    if last is not None:
        words.append(f"{clean(last.get('action'))} ({clean(last.get('mode'))}): {clean(outcome(last, time.time_ns()))}")
    return "; ".join(words)


def _of(n: int | None) -> str:
    return "?" if n is None else f"{n:,}"


def _sum(books: object) -> int:
    return sum(books.values()) if isinstance(books, Mapping) else int(books or 0)  # type: ignore[call-overload]


def _series(watched: Watched) -> str:
    """The series that is open, or was last; a status comes only once a second."""
    return clean(watched.status.get("series") or watched.series.get("series") or "no series yet")


def _rank(watched: Watched) -> object:
    return watched.basis.get("rank", watched.status.get("rank", 0))


def _model(watched: Watched) -> object:
    return watched.basis.get("model", watched.status.get("model", 0))


# -- the whole picture -----------------------------------------------------------------------------------------------


def view(watched: Watched, url: str, wanted: str | None, console: Console, now_s: float) -> RenderableType:
    """Return what the terminal shows, fitted to its size.

    Parameters
    ----------
    watched : Watched
    url : str
        Where results come from, for the time before any came.
    wanted : str, optional
        Name of the map, without ``map/``.
    console : Console
        Gives the room.
    now_s : float
        Of the monotonic clock.
    """
    silent_s = watched.silent_s(now_s)
    if silent_s is None:
        return Panel(Text(f"waiting for the daemon at {url}\nstart one with: scanwise run"), title="scanwise")
    below = [
        notices(watched.status),
        decisions(list(watched.decisions.values())),
        anomalies(watched.n_anomalies, watched.anomalies, watched.series, watched.status.get("groups")),
    ]
    numbers = _numbers(watched, console)
    width, height = console.size
    room = (min(30, max(4, height - 14)), max(10, width - _NUMBERS_WIDTH - 8))
    shown = Table.grid(padding=(0, 2), expand=False)
    shown.add_row(numbers, _map(watched, wanted, *room))
    gone = silent_s >= SILENT_S
    title = (
        Text(f"silent for {silent_s:.0f} s: waiting for the daemon at {url}", "bold red") if gone else _title(watched)
    )
    return Panel(Group(shown, *(b for b in below if b is not None)), title=title, title_align="left", width=width)


_NUMBERS_WIDTH: Final = 38


def _title(watched: Watched) -> Text:
    state = str(watched.status.get("state", "?"))
    text = Text.assemble((clean(state), _STATE_STYLE.get(state, "")), "  ")
    text.append(_series(watched), "bold")
    status = watched.series.get("exit_status")
    return text.append(f"  {clean(status)}") if status and watched.series.get("event") == "end" else text


def _numbers(watched: Watched, console: Console) -> RenderableType:
    status = watched.status
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", no_wrap=True, width=10)
    table.add_column(no_wrap=True, width=_NUMBERS_WIDTH - 11)
    if "nav_shape" in watched.series:
        shape = " x ".join(str(n) for n in watched.series["nav_shape"])
        table.add_row("scan", f"{clean(watched.series.get('technique', ''))}, {shape} positions")
    done, expected = int(status.get("processed", 0)), watched.expected
    table.add_row("spectra", f"{done:,} of {_of(expected)}")
    if expected:
        table.add_row("", ProgressBar(total=expected, completed=min(done, expected), width=_NUMBERS_WIDTH - 12))
    table.add_row("rate", f"{status.get('rate_hz', 0):,.0f}/s{_left(status, done, expected)}")
    table.add_row("", Text(sparkline(watched.rates_hz, _NUMBERS_WIDTH - 12), "cyan"))
    table.add_row("lag", f"{status.get('lag_ms', 0):.1f} ms, {status.get('in_flight', 0):,} in flight")
    table.add_row("lost", _books_text(status.get("lost")))
    table.add_row("rejected", _books_text(status.get("rejected")))
    table.add_row("model", f"rank {_rank(watched)}, version {_model(watched)}")
    _add_findings(table, status)
    return table


def _left(status: Mapping[str, Any], done: int, expected: int | None) -> str:
    """How long the rest of the plan takes at this rate."""
    rate_hz = float(status.get("rate_hz") or 0.0)
    if not expected or rate_hz <= 0 or done >= expected or status.get("state") != "running":
        return ""
    left_s = (expected - done) / rate_hz
    return f", {left_s:,.0f} s left" if left_s < 600 else f", {left_s / 60:,.0f} min left"


def _add_findings(table: Table, status: Mapping[str, Any]) -> None:
    """Add rows of what is known of the specimen, and of what a stop waits for."""
    coverage = status.get("coverage")
    if coverage is not None:
        table.add_row("measured", f"{coverage:.1%} of positions")
    phases = sorted(status.get("phases") or [], key=lambda phase: -int(phase.get("n") or 0))
    for k, phase in enumerate(phases[:_PHASES]):
        table.add_row("phases" if k == 0 else "", f"{int(phase.get('n') or 0):>7,}  {clean(phase.get('name'))}")
    if len(phases) > _PHASES:
        table.add_row("", f"and {len(phases) - _PHASES} more")
    unmet = {n: c for n, c in (status.get("stop_conditions") or {}).items() if not c.get("met")}
    for k, (name, condition) in enumerate(list(unmet.items())[:_UNMET]):
        table.add_row("stop waits" if k == 0 else "", clean(name).replace("_", " "))
        table.add_row("", Text(f"{_short(condition.get('value'))}, target {_short(condition.get('target'))}", "dim"))


def _short(value: Any) -> str:
    return "not known" if value is None or not np.isfinite(value) else f"{value:.2g}"


def _books_text(books: object) -> Text:
    total = _sum(books)
    if not total:
        return Text("0")
    parts = ", ".join(f"{clean(k)} {v:,}" for k, v in books.items()) if isinstance(books, Mapping) else ""
    return Text(f"{total:,} ({parts})" if parts else f"{total:,}", "bold red")


def _plain(value: float) -> str:
    """A number as people write it."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _map(watched: Watched, wanted: str | None, rows: int, columns: int) -> RenderableType:
    chosen = watched.choose_map(wanted)
    if chosen is None:
        known = ", ".join(clean(n) for n in watched.maps) or "none yet"
        if watched.map_error is not None:
            return Text(clean(watched.map_error), "yellow")
        return Text(f"no map {wanted!r}; there are: {known}" if wanted else "no map yet", "dim")
    name, values = chosen
    if values.ndim > len(watched.series.get("nav_shape", values.shape)):
        values = values[..., 0]
    finite = values[np.isfinite(values)]
    range_ = f" {_plain(finite.min())} to {_plain(finite.max())}" if finite.size else ""
    return Group(Text(clean(name), "bold").append(range_, "dim"), half_blocks(values, rows, columns))
