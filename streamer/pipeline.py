"""The pure heart of the daemon: items in, events out; no socket, clock, thread or file.

The same items give the same events, bit for bit (same machine, libraries and threads), so a recording of the
items is debugger, test and audit trail in one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from models.base import Pieces
from streamer import views
from streamer.config import PipelineConfig
from streamer.decisions import NS_PER_S
from streamer.denoising import Build, build
from streamer.ending import ending
from streamer.events import AskReplay, Count, Event, Log, SeriesOpened
from streamer.held import Held, Waiting
from streamer.notices import Notices
from streamer.replays import allowed_endpoint
from streamer.requests import RequestError, changeable, changed_config
from streamer.series import Series
from streamer.wire import (
    Block,
    Control,
    Events,
    Header,
    Heartbeat,
    Result,
    SeriesEnd,
    WireError,
    decode,
)
from streamer.wire.items import (
    Answer,
    Arrived,
    Change,
    Denoise,
    Idle,
    Item,
    NewNetwork,
    Overflow,
    ReplayDone,
    Resumed,
    Tick,
)

REMEMBERED = 64
_AT_ONCE = 1 << 23
"""Channels of all positions of a map that is brought to its end at once: it takes less than a second."""
HEADER_ASK = 1 << 62
"""Requests for the header of an unknown series are numbered from here, apart from a series' own."""


class Pipeline:
    """Takes items in their order and says what follows from them.

    Parameters
    ----------
    config : PipelineConfig
    build_network : callable
        Makes the network of a `NewNetwork` item.
    """

    def __init__(self, config: PipelineConfig, build_network: Build = build) -> None:
        self._build_network = build_network
        self.config = config.model_copy(deep=True)
        self.rejected: Counter[str] = Counter()
        self._notices = Notices()
        self._stins = config.stins.stins()
        self._limits = config.limits.limits()
        self._current: Series | None = None
        self._ending: tuple[Series, Pieces[list[Event]]] | None = None
        self._held = Held()
        # One more than the last message number of each closed series.
        self._closed: dict[str, int] = {}
        self._header_asks: dict[str, int] = {}
        self._unnamed: bytes | None = None

    @property
    def series(self) -> str | None:
        """Name of the series that is open or closing."""
        return self._open.name if self._open is not None else None

    @property
    def wants_idle(self) -> bool:
        """Whether an `Idle` item would find something to do."""
        current = self._open
        return current is not None and not self.ending and current.wants_background

    @property
    def wants_tick(self) -> bool:
        """Whether a `Tick` item has something to do at once."""
        current = self._open
        return self.ending or (current is not None and current.wants_tick)

    @property
    def ending(self) -> bool:
        """Whether a series is being brought to its end, a piece with each tick; what else is fed does all of it."""
        return self._ending is not None

    @property
    def waiting_positions(self) -> int:
        """How many positions a `Denoise` item could look at."""
        current = self._open
        return current.denoising.waiting if current is not None and not self.ending else 0

    @property
    def open_series(self) -> Series | None:
        """The series that is open or closing."""
        return self._open

    @property
    def without_network(self) -> Series | None:
        """The open series, where it could use a network and has none."""
        current = self._open
        return current if current is not None and current.wants_network else None

    @property
    def _open(self) -> Series | None:
        return self._current if self._current is not None and not self._current.closed else None

    def feed(self, item: Item) -> list[Event]:
        """Take one item; return what follows."""
        events = self._fed(item)
        self._notices.see(events, item.t_ns)
        return events

    def _fed(self, item: Item) -> list[Event]:
        if self._ending is None or isinstance(item, Resumed):
            return self._take(item)
        if isinstance(item, Tick):
            return self._end(at_once=False)
        return [*self._end(at_once=True), *self._take(item)]

    def _take(self, item: Item) -> list[Event]:
        current = self._open
        if isinstance(item, Arrived):
            return self._arrived(item)
        if isinstance(item, Change):
            return self._change(item)
        if current is None:
            return []
        match item:
            case Tick():
                return self._tick(current, item.t_ns)
            case Idle():
                return current.background(item.t_ns)
            case Denoise() | NewNetwork():
                return self._network(current, item)
            case Overflow():
                if item.series in {None, current.name}:
                    current.scan.overflowed(item.frame, item.n)
            case ReplayDone():
                current.replay_done(item.id, item.t_ns, item.error)
            case Resumed():
                current.resume(item.t_ns)
                return [current.series_event("start")]
            case Answer():
                return current.deciding.answered(
                    item.decision, item.t_ns, ok=item.ok, error=item.error, controller=item.controller
                )
        return []

    def _network(self, current: Series, item: Denoise | NewNetwork) -> list[Event]:
        if isinstance(item, Denoise):
            return current.denoise(item.rows)
        if item.series != current.name:
            return []
        network = self._build_network(item)
        if item.learnt:
            return current.denoising.challenge(network, current.engine, current.phase_labels)
        return current.denoising.take(network, current.axis, current.engine)

    # Messages of instruments

    def _arrived(self, item: Arrived) -> list[Event]:
        try:
            message = decode(item.parts, self._stins, self._limits)
        except WireError as error:
            return self._reject(error, item)
        if isinstance(message, Header):
            return self._header(message, item)
        return self._route(message, item)

    def _reject(self, error: WireError, item: Arrived) -> list[Event]:
        current, counts = self._open, self._notices.refused(error, item.t_ns)
        if current is None:
            self.rejected[error.reason] += 1
            return [*counts, Count("rejected", error.reason), Log("warning", f"rejected-{error.reason}", error.text)]
        if error.series not in {None, current.name}:
            error.msg_number = None
        return counts + current.rejected(error, replayed=item.replayed)

    def _route(self, message: Block | Heartbeat | SeriesEnd, item: Arrived) -> list[Event]:
        name, current = message.map.series, self._open
        if name is None and self._held.last_announced is not None:
            return self._hold(self._held.last_announced, item)
        if current is not None and name in {None, current.name}:
            return self._deliver(current, message, item)
        if name is None:
            return self._reject(WireError("foreign", "a message without series, and none is open"), item)
        if isinstance(message, Heartbeat) and self._is_echo(name, message):
            return []
        if name in self._closed and not isinstance(message, Heartbeat):
            return self._reject(WireError("foreign", f"a message of series {name!r}, which is closed"), item)
        if isinstance(message, Heartbeat):
            return self._ask_header(name, message, item)
        return self._hold(name, item)

    def _is_echo(self, name: str, beat: Heartbeat) -> bool:
        """Whether a heartbeat is the last sign of a closed series, not the first of another run by its name."""
        last = beat.map.last_msg_number if beat.map.last_msg_number is not None else beat.map.msg_number
        return name in self._closed and (last is None or last + 1 >= self._closed[name])

    def _deliver(self, current: Series, message: Block | Heartbeat | SeriesEnd, item: Arrived) -> list[Event]:
        live = not item.replayed
        try:
            if isinstance(message, Block):
                return current.block(message, item.t_ns, live=live)
            if isinstance(message, Heartbeat):
                return current.heartbeat(message, item.t_ns)
            return current.end(message, item.t_ns, live=live)
        except WireError as error:
            error.series = current.name
            if isinstance(message, Block):
                error.msg_number = message.map.msg_number
                error.htype = "events" if isinstance(message.counts, Events) else "image"
            return self._reject(error, item)

    def _ask_header(self, name: str, beat: Heartbeat, item: Arrived) -> list[Event]:
        """Ask for the header of a series whose beginning was missed, at most once a second."""
        if beat.map.replay is None or item.t_ns - self._header_asks.get(name, 0) < NS_PER_S:
            return []
        endpoint = allowed_endpoint(beat.map.replay, item.peer, self.config.replay_hosts)
        if endpoint is None:
            return []
        if len(self._header_asks) >= REMEMBERED:
            self._header_asks.clear()
        self._header_asks[name] = item.t_ns
        return [AskReplay(HEADER_ASK, endpoint, name, 0, 0)]

    def _hold(self, name: str, item: Arrived, *, is_header: bool = False) -> list[Event]:
        """Keep a message of a series whose turn has not come; the oldest give way."""
        events: list[Event] = []
        if not is_header and not self._held.knows(name):
            text = f"messages of series {name!r} are held: {self._notices.why_no_header(name)}"
            events.append(Log("warning", "held", text))
        for oldest in self._held.add(Waiting(name, item, is_header), self.config.limits.held_mib << 20):
            why = self._notices.why_no_header(oldest.series)
            text = f"held messages of series {oldest.series!r} exceed the limit; {why}"
            error = WireError("foreign", text, series=oldest.series)
            events += self._reject(error, item)
        return events

    # Series come and go

    def _header(self, message: Header, item: Arrived) -> list[Event]:
        current, first = self._open, bytes(item.parts[0])
        name = message.map.series or f"stins-{item.t_ns}"
        if current is None:
            return self._begin(name, message, item)
        if name == current.name or (message.map.series is None and first == self._unnamed):
            return [*current.repeated(message), *current.note_endpoint(message.map.replay)]
        if self._held.has_header(name):
            return current.duplicate()
        if item.peer and current.source_host and item.peer != current.source_host:
            text = f"series {name!r} of {item.peer} while one of {current.source_host} is open"
            error = WireError("foreign", text, series=name)
            error.htype = "header"
            return self._reject(error, item)
        current.finish_as("superseded", item.t_ns)
        return self._hold(name, item, is_header=True)

    def _begin(self, name: str, message: Header, item: Arrived) -> list[Event]:
        current = Series(message, name, item.t_ns, item.peer, self.config, message.map.msg_number)
        self._current = current
        self._unnamed = bytes(item.parts[0]) if message.map.series is None else None
        self._closed.pop(name, None)
        record = {"series": name, "opened_ns": item.t_ns, "settings": self.config.model_dump(mode="json")}
        shape = "x".join(str(n) for n in message.map.nav_shape)
        text = f"series {name!r}: {shape} positions, {current.scan.n_channels} channels, {message.map.technique}"
        return [
            SeriesOpened(name, record, [item, *self._held.take(name)]),
            Log("info", "series", text),
            *(Log("warning", "header", w) for w in message.warnings),
            *current.note_endpoint(message.map.replay),
            *current.told(),
            current.series_event("start"),
        ]

    def _tick(self, current: Series, t_ns: int) -> list[Event]:
        events = current.tick(t_ns)
        if not current.may_close(t_ns):
            return events
        self._ending = current, ending(current)
        return events + self._end(at_once=current.scan.n_positions * current.scan.n_channels <= _AT_ONCE)

    def _end(self, *, at_once: bool) -> list[Event]:
        """Go on with the end of a series, a piece or to the last; what follows from it once it is done."""
        if self._ending is None:
            return []
        current, pieces = self._ending
        try:
            next(pieces)
            while at_once:
                next(pieces)
        except StopIteration as end:
            return [*end.value, *self._next_series(current)]
        return []

    def _next_series(self, last: Series) -> list[Event]:
        """Open the series whose header came while the last one was closing."""
        self._ending = None
        self._closed[last.name] = last.plan.known
        if len(self._closed) > REMEMBERED:
            del self._closed[next(iter(self._closed))]
        held = self._held.next_header()
        if held is None:
            return []
        message = decode(held.item.parts, self._stins, self._limits)
        return self._begin(held.series, message, held.item) if isinstance(message, Header) else []

    # What people ask for and change

    def check_change(self, val: str, params: Mapping[str, Any]) -> None:
        """Check a request that would change state before it is fed.

        Raises
        ------
        RequestError
            A sentence for whoever asked.
        """
        if val == "settings":
            changed_config(self.config, params)
            return
        current = self._open
        if current is None:
            raise RequestError("no series yet" if self._current is None else f"series {self._current.name!r} is closed")
        if self.ending:
            raise RequestError(f"series {current.name!r} is at its end, and is being fitted once more")
        current.discovery.check(val, params)

    def _change(self, item: Change) -> list[Event]:
        current = self._open
        if item.val != "settings":
            return [] if current is None else current.change_group(item.val, item.params)
        self.config = changed_config(self.config, item.params)
        if self._current is not None:
            self._current.configure(self.config)
        return [Log("info", "settings", f"settings changed: {dict(item.params)}")]

    def answer(self, request: Control, boot: str) -> Control:
        """Answer a request that changes nothing (or whose change has been fed)."""
        params: Mapping[str, Any] = request.params
        try:
            if request.val == "status":
                found = views.Found(self.status())
            elif request.val == "settings":
                found = views.Found(changeable(self.config))
            elif request.val in {"accept", "dismiss"} and self._current is not None:
                found = views.Found(self._current.discovery.found[params["group"]].summary())
            else:
                found = views.look_up(self._current, request.val, params)
        except RequestError as error:
            return Control("nack", request.id, request.val, {"boot": boot, "error": str(error)})
        return Control("ack", request.id, request.val, {**found.params, "boot": boot}, found.arrays)

    def map_round(self) -> Iterator[Result | None]:
        """Return all maps of the newest series one by one; None wherever items may be fed before the next."""
        return views.map_round(self._current) if self._current is not None else iter(())

    def maps(self) -> list[Result]:
        """Return all maps of the newest series."""
        return [result for result in self.map_round() if result is not None]

    def status(self) -> dict[str, Any]:
        """Return what the status says of the newest series, and of messages that belong to none."""
        if self._current is None:
            return views.idle_status(self.rejected) | self._notices.summary()
        return views.status(self._current) | self._notices.summary()
