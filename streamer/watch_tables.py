"""What `scanwise watch` shows below the map: what was refused, decisions, anomalies."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

_DECISIONS: Final = 3
_ANOMALIES: Final = 3
_WARNINGS: Final = 3
_OUTCOME_STYLE: Final = {"accepted": "green", "refused": "red", "late": "red", "expired": "yellow"}
_STATES: Final = ("proposed", "open", "accepted")


def clean(text: object) -> str:
    """Return text from elsewhere without what could steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def refused(status: Mapping[str, Any]) -> str | None:
    """Return what was refused last, and why."""
    said = status.get("last_rejected")
    if not isinstance(said, Mapping):
        return None
    what = clean(said.get("htype") or "message")
    what += f" of {clean(said['series'])!r}" if said.get("series") else ""
    return f"{what}: {clean(said.get('detail'))}"


def notices(status: Mapping[str, Any]) -> RenderableType | None:
    """Return what whoever runs the instrument should know: the last refusal, what to do about it, and warnings."""
    table = _table()
    table.add_column(ratio=1)
    what = refused(status)
    if what is not None:
        advice = clean(status["last_rejected"].get("advice"))
        table.add_row("refused", Text(what, "red").append(f"\n{advice}", "default"))
    for warning in list(status.get("warnings") or [])[-_WARNINGS:]:
        table.add_row("warning", Text(clean(warning.get("text")), "yellow"))
    return table if table.row_count else None


def _table() -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", width=10)
    return table


def outcome(decision: Mapping[str, Any], now_ns: int) -> str:
    outcome = decision.get("outcome")
    if outcome is None:
        left_s = (int(decision.get("valid_until_ns", 0)) - now_ns) / 1e9
        return f"open for {left_s:.0f} s" if left_s > 0 else "expired"
    answer = decision.get("answer") or {}
    text = f"{outcome}"
    if answer.get("controller"):
        text += f" by {answer['controller']}"
    return text + (f": {answer['error']}" if answer.get("error") else "")


def decisions(made: Sequence[Mapping[str, Any]]) -> RenderableType | None:
    """Return the last decision of each action, and how many there were of it: visits come by the dozen."""
    last = {str(decision.get("action")): decision for decision in made}
    newest = [decision for decision in made if last[str(decision.get("action"))] is decision][-_DECISIONS:]
    table = _table()
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for i, decision in enumerate(newest):
        found = outcome(decision, time.time_ns())
        style = _OUTCOME_STYLE.get(found.split(" ")[0].rstrip(":"), "yellow")
        words = Text(clean(decision.get("action")), "bold").append(f" ({clean(decision.get('mode'))})", "dim")
        n = sum(str(other.get("action")) == str(decision.get("action")) for other in made)
        words.append(f" x {n}" if n > 1 else "")
        said = Text(clean(found), style).append(f"\n{clean(decision.get('reason'))}", "default")
        table.add_row("decisions" if i == 0 else "", words, said)
    return table if newest else None


def anomalies(
    n: int, seen: Sequence[Mapping[str, Any]], series: Mapping[str, Any], groups: Any
) -> RenderableType | None:
    """Return groups of anomalies, those that wait for a decision first; without any, the last single spectra."""
    if not n:
        return None
    units = clean((series.get("axis") or {}).get("units", ""))
    table = _table()
    table.add_column(ratio=1)
    table.add_row("anomalies", Text(f"{n:,}", "bold magenta"))
    alive = [g for g in groups or [] if g.get("state") in _STATES and not g.get("explained")]
    alive.sort(key=lambda g: (_STATES.index(g["state"]), -float(g.get("evidence") or 0.0)))
    for group in alive[:_ANOMALIES]:
        table.add_row("", _group(group, units))
    if len(alive) > _ANOMALIES:
        table.add_row("", Text(f"and {len(alive) - _ANOMALIES} groups more", "dim"))
    for anomaly in [] if alive else reversed(seen):
        where = _where((anomaly.get("index") or [])[:3], series.get("nav_shape"))
        table.add_row("", f"score {anomaly.get('score', 0):.1f}{_window(anomaly, units)} at {where}")
    return table


def _window(told: Mapping[str, Any], units: str) -> str:
    lo, hi = (*(told.get("window") or ()), None, None)[:2]
    return f" in {lo:.4g} to {hi:.4g} {units}".rstrip() if lo is not None and hi is not None else ""


def _group(group: Mapping[str, Any], units: str) -> Text:
    maybe = group.get("candidates") or []
    name = clean(group.get("name") or "") or (f"perhaps {clean(maybe[0])}" if maybe else "")
    n = int(group.get("n") or 0)
    text = f"group {group.get('group')}: {clean(group.get('kind'))} at {n:,} position{'s' if n != 1 else ''}"
    style = {"proposed": "yellow", "accepted": "green"}.get(str(group.get("state")), "default")
    told = Text(text + _window(group, units) + (f", {name}" if name else ""))
    return told.append(f"  {clean(group.get('state'))}", style)


def _where(index: Sequence[int], nav_shape: Any) -> str:
    """Positions as lines and columns of the map."""
    if not nav_shape or len(nav_shape) < 2:
        return "position " + ", ".join(str(i) for i in index)
    places = (np.unravel_index(int(i), tuple(nav_shape)) for i in index if 0 <= int(i) < np.prod(nav_shape))
    names = ("slice", "line", "column")[-len(nav_shape) :]
    return "; ".join(", ".join(f"{n} {k}" for n, k in zip(names, place, strict=True)) for place in places)
