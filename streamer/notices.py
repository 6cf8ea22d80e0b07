"""What whoever runs the instrument should know: messages that were refused, and warnings, in the status too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from streamer.events import Count, Event, Log, SeriesOpened
from streamer.wire import HeaderMap, WireError

_MOST_WARNINGS: Final = 8
_REMEMBERED: Final = 64
_SAYS_NOTHING: Final = frozenset({"msg_number", "series", "replay"})
"""Keys of a header that describe no scan."""
_ADVICE: Final = {
    "header": "no scan begins from it: correct the sender and send the header again; "
    "messages of its series are held meanwhile, the oldest give way",
    "series_end": "the series stays open: send a series_end that is right; else it closes with the next header, "
    "or after pipeline.series_timeout_s of silence",
    "junk": "something else than this protocol is sent to the data endpoint, or a message was damaged on the way",
    "unreadable": "damaged on the way or sent incomplete: asked for once where a replay service is known, else lost",
    "invalid": "the sender contradicts itself or its header: not asked for again, as the answer would be the same",
    "foreign": "send the header of its series first, under a name that is new, from the host of the open series",
}


class Notices:
    """Remembers what was refused last, and the last warning of each kind, since the newest series was opened."""

    def __init__(self) -> None:
        self._last_rejected: dict[str, Any] | None = None
        self._warnings: list[dict[str, Any]] = []
        self._refused_headers: dict[str, str] = {}

    def refused(self, error: WireError, t_ns: int) -> list[Event]:
        """Note a message that was refused; return what is to be counted beside its reason."""
        is_header = error.htype == "header"
        self._last_rejected = {
            "reason": error.reason,
            "htype": error.htype,
            "series": error.series,
            "msg_number": error.msg_number,
            "detail": error.text,
            "advice": _ADVICE.get(error.htype or "", _ADVICE[error.reason]),
            "t_ns": t_ns,
        }
        if is_header and error.series is not None:
            if len(self._refused_headers) >= _REMEMBERED:
                del self._refused_headers[next(iter(self._refused_headers))]
            self._refused_headers[error.series] = error.text
        return [Count("rejected_headers", error.reason)] if is_header else []

    def why_no_header(self, series: str) -> str:
        """What became of the header of a series that none is known of."""
        text = self._refused_headers.get(series)
        return "its header is missing" if text is None else f"its header was refused ({text})"

    def see(self, events: Sequence[Event], t_ns: int) -> None:
        """Note the warnings among events; what was noted before a series was opened is no longer of interest."""
        new: set[str] = set()
        for event in events:
            if isinstance(event, SeriesOpened):
                self._last_rejected = None
                self._warnings = []
                self._refused_headers.pop(event.series, None)
            elif isinstance(event, Log) and event.level == "warning" and not event.kind.startswith("rejected-"):
                # Several may come at once, as of one header; else the last of each kind is of interest.
                kept = [w for w in self._warnings if w["kind"] != event.kind or event.kind in new]
                new.add(event.kind)
                warning = {"kind": event.kind, "text": event.text, "t_ns": t_ns}
                self._warnings = [*kept, warning][-_MOST_WARNINGS:]

    def summary(self) -> dict[str, Any]:
        """What the status shows."""
        return {"last_rejected": self._last_rejected, "warnings": self._warnings}


def header_again(series: str, first: HeaderMap, again: HeaderMap) -> list[Event]:
    """Warn of a repeated header that describes another scan than the first one of its series did."""
    keys = [key for key in HeaderMap.model_fields if key not in _SAYS_NOTHING]
    differs = [key for key in keys if getattr(first, key) != getattr(again, key)]
    if not differs:
        return []
    what = f"the header of series {series!r} came again and contradicts the first in {', '.join(differs)}"
    return [Log("warning", "header-again", f"{what}: the first holds; another scan needs a name of its own")]


def less_claimed(n_sent: int | None, received: int) -> list[Event]:
    """Warn of a series_end that claims fewer spectra than were received."""
    if n_sent is None or n_sent >= received:
        return []
    text = f"series_end says n_sent {n_sent}, but {received} spectra were received: that is taken for what was sent"
    return [Log("warning", "series_end", text)]
