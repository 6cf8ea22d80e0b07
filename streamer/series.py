"""One series while it is open: its scan, its model, its decisions, its replays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.base import add_at
from models.phases import Phases
from models.unmixing import Unmixing
from streamer.announce import Anomalies, basis_event, series_event
from streamer.config import PipelineConfig
from streamer.deciding import Deciding, enough_visits
from streamer.decisions import NS_PER_S
from streamer.denoising import Denoising
from streamer.discovery import Discovery
from streamer.events import AskReplay, Count, Event, Log, Publish
from streamer.fitting import constituents_of, engine_of, model_axis
from streamer.notices import header_again, less_claimed
from streamer.placed import Placed, groups, join
from streamer.replays import ReplayPlan, allowed_endpoint
from streamer.scan import Scan
from streamer.schedule import LeastShare, PromotionSchedule
from streamer.wire import (
    Block,
    EndMap,
    Header,
    Heartbeat,
    Result,
    SeriesEnd,
    WireError,
)

REPLAY_PATIENCE_NS = 10 * NS_PER_S
STRAGGLER_NS = NS_PER_S // 2


class Series:
    """State of one series; `tick` does the work, everything else only takes notes.

    Parameters
    ----------
    header : Header
    name : str
    opened_ns : int
    source_host : str
        Host the header came from.
    config : PipelineConfig
    origin : int
        Number of the header message.
    """

    def __init__(
        self, header: Header, name: str, opened_ns: int, source_host: str, config: PipelineConfig, origin: int
    ) -> None:
        self.name, self.opened_ns, self.config = name, opened_ns, config
        self.header = header.map
        self.source_host = source_host
        self.scan = Scan(header)
        self.axis = model_axis(header.map.axis)
        self._grid = None if self.scan.positions is not None else tuple(header.map.nav_shape)
        self.plan = ReplayPlan(origin)
        self.plan.seen(origin)
        self.anomalies = Anomalies(name, header.map.technique)
        self.discovery = Discovery(name, header.map.technique, self.scan.n_positions)
        self.denoising = Denoising(name, self.scan.n_positions, header.map.technique, self.discovery)
        self.dwell_s: NDArray[np.float64] = np.zeros(self.scan.n_positions)
        self.deciding = Deciding(name, header.map, self.dwell_s)
        self._begin_model()
        self.resumed = False
        self.closed = False
        self._endpoint: str | None = None
        self._turn = 0
        self._pending: list[Placed] = []
        self._last_arrival_ns = opened_ns
        self._schedule = PromotionSchedule(opened_ns)
        self._least_share = LeastShare()
        self._since_promotion = 0
        self._promotes = self._follows = False
        self._basis_version = 0
        self._end: EndMap | None = None
        self._ending_ns: int | None = None
        self._exit_status = ""
        self.known_names: tuple[str, ...] = ()
        self.known_maps: dict[str, NDArray[np.float64]] = {}

    def _begin_model(self) -> None:
        """Make the model for the axis as it is known now."""
        self.engine, self._untold = engine_of(self.scan.n_positions, self.header, self.axis, self.config)
        self.phases, self.unmixing, told = constituents_of(self.engine, self._grid, self.header, self.axis, self.config)
        self._untold += told
        self.deciding.begin(self.engine, self.phases, self.axis, self.config)

    # What arrives

    def note_endpoint(self, endpoint: str | None) -> list[Event]:
        """Take the instrument's replay endpoint if it may be connected to."""
        if endpoint is None or self._endpoint is not None:
            return []
        self._endpoint = allowed_endpoint(endpoint, self.source_host, self.config.replay_hosts)
        if self._endpoint is not None:
            return []
        host = self.source_host
        text = f"replay endpoint {endpoint} is not on the source's host {host!r}; add it to pipeline.replay_hosts"
        return [Log("warning", "replay-endpoint", text)]

    def block(self, block: Block, t_ns: int, *, live: bool) -> list[Event]:
        """Take spectra; they are processed at the next tick.

        Raises
        ------
        WireError
            Where they contradict the header; the message number is not asked for again.
        """
        self._last_arrival_ns = t_ns
        self.plan.seen(block.map.msg_number, block.nbytes, live=live)
        placed = self.scan.place(block, t_ns)
        if placed is None:
            return self.duplicate()
        events: list[Event] = []
        if block.map.axis is not None:
            self.axis = model_axis(self.scan.axis)
            if not self.scan.books.processed:
                # Steps that speak of energies are for the calibrated axis, if it comes with the first data.
                self._begin_model()
                events = self.told()
            events += self.denoising.recheck(self.axis, self.engine)
        self._pending.append(placed)
        return events + self.deciding.arrived(placed, t_ns, self.config, running=self._ending_ns is None)

    def told(self) -> list[Event]:
        """Return what the operator should know of the series, once."""
        told, self._untold = self._untold, []
        return [Log("warning", "steps", text) for text in told]

    def duplicate(self) -> list[Event]:
        """Count a message that was received before."""
        self.scan.books.duplicates += 1
        return [Count("duplicates")]

    def repeated(self, header: Header) -> list[Event]:
        """Count a repeated header; what it says otherwise than the first is told, and has no effect."""
        return [*self.duplicate(), *header_again(self.name, self.header, header.map)]

    def rejected(self, error: WireError, *, replayed: bool) -> list[Event]:
        """Count a message that cannot be used; a damaged one is asked for once."""
        self.scan.books.rejected[error.reason] += 1
        if error.reason in {"junk", "unreadable"}:
            self.plan.unreadable(error.msg_number, replayed=replayed)
        elif error.msg_number is not None:
            self.plan.seen(error.msg_number, live=not replayed)
        return [Count("rejected", error.reason), Log("warning", f"rejected-{error.reason}", error.text)]

    def heartbeat(self, beat: Heartbeat, t_ns: int) -> list[Event]:
        """Take a sign of life; it shows what is missing at the tail."""
        self._last_arrival_ns = t_ns
        last = beat.map.last_msg_number if beat.map.last_msg_number is not None else beat.map.msg_number
        if last is not None:
            self.plan.exists(last + 1)
            self.plan.tail_open = False
        self.scan.heard(beat.map.n_sent)
        return self.note_endpoint(beat.map.replay)

    def end(self, message: SeriesEnd, t_ns: int, *, live: bool) -> list[Event]:
        """Take the series_end; the series is closed when nothing more can come."""
        if self._end is not None:
            return self.duplicate()
        self._last_arrival_ns = t_ns
        self.plan.seen(message.map.msg_number, live=live)
        self.plan.tail_open = False
        self._end = message.map
        self.scan.ended(message.map.n_sent)
        self.finish_as(message.map.exit_status, t_ns)
        return less_claimed(message.map.n_sent, self.scan.books.received)

    def finish_as(self, exit_status: str, t_ns: int) -> None:
        """Begin to close the series; replays may still come for a while."""
        if self._ending_ns is None:
            self._ending_ns, self._exit_status = t_ns, exit_status

    def replay_done(self, request_id: int, t_ns: int, error: str | None) -> None:
        """Note that a replay request has its answer."""
        self.plan.done(request_id, t_ns, error)

    def resume(self, t_ns: int) -> None:
        """Go on after a restart: everything later than what is known is asked for."""
        self.resumed = True
        self._last_arrival_ns = t_ns
        self.plan.forget_request()
        self.plan.tail_open = self._end is None
        if self._ending_ns is not None:
            self._ending_ns = t_ns

    # What is done

    def tick(self, t_ns: int) -> list[Event]:
        """Process what is pending, promote the model, decide, ask for what is missing.

        A promotion takes longer than results and decisions may wait: after results it is left to the next tick, which
        `wants_tick`, and what follows from it to one more.
        """
        events = self._process()
        events += self._promote(t_ns, waits=bool(events))
        self._keep_up()
        if not self._follows:
            events += self.deciding.tick(t_ns, self.config, running=self._ending_ns is None)
        if self._ending_ns is None and t_ns - self._last_arrival_ns > self.config.series_timeout_s * NS_PER_S:
            self.finish_as("timeout", t_ns)
            self.plan.give_up()
        return events + self._ask(t_ns)

    def _keep_up(self) -> None:
        """Look for phases a little, however busy: decisions wait for them."""
        for _ in range(self._least_share.due()):
            if self.phases is not None and self.phases.wants_work:
                self.phases.work()

    def _process(self) -> list[Event]:
        events: list[Event] = []
        pending, self._pending = self._pending, []
        for group in groups(pending):
            events += self._process_group(group)
        return events

    def _process_group(self, group: list[Placed]) -> list[Event]:
        index, counts, dwell_s = join(group, self.scan.n_channels)
        if group[0].replace:
            self.dwell_s[index] = 0
        add_at(self.dwell_s, index, dwell_s)
        changes = self.engine.changes
        result = self.engine.process(index, self.deciding.corrected(counts), replace=group[0].replace)
        self.deciding.seen(index, dwell_s, group[-1].last_pass)
        self.scan.books.processed += sum(p.counted for p in group)
        self._since_promotion += index.size
        self._least_share.processed(*counts.shape)
        self.denoising.visited(index)
        received_ns = min(p.received_ns for p in group)
        arrays: dict[str, NDArray[Any]] = {
            "index": result.index,
            "scores": result.scores,
            "anomaly": result.anomaly,
            "flag": result.flag,
        }
        head = {"series": self.name, "model": result.version}
        publish = Publish(Result("result", head, arrays), received_ns, index.size)
        told: list[Event] = []
        if self.engine.changes > changes:
            text = "the specimen has changed: the model starts anew, and positions when they are next visited"
            told.append(Log("warning", "change", text))
        self.discovery.batch(result)
        return [*told, *self.new_basis(), publish, *self.anomalies.told(result, self.engine, self.axis)]

    def new_basis(self, *, final: bool = False) -> list[Event]:
        """Return the basis if it has not been published yet: no result speaks of one that nobody has seen."""
        basis = self.engine.basis
        if basis is None or (basis.version == self._basis_version and not final):
            return []
        self._basis_version = basis.version
        return [basis_event(self.name, basis), Count("model", n=basis.version)]

    @property
    def wants_tick(self) -> bool:
        """Whether the next tick has something to do that did not wait for a clock."""
        return self._promotes or self._follows

    def _promote(self, t_ns: int, *, waits: bool) -> list[Event]:
        if self._follows:
            return self._follow(t_ns)
        if not self._promotes:
            if not self._since_promotion or not self._schedule.is_due(self.engine, t_ns, self.config.promote_s):
                return []
            self._promotes = waits
            if waits:
                self.engine.catch_up()
                return []
        self._promotes, self._follows = False, True
        self.engine.promote()
        return self.new_basis()

    def _follow(self, t_ns: int) -> list[Event]:
        """What a promotion makes possible: groups are followed, and a stop decided."""
        events = self.confirmed()
        if self._since_promotion >= enough_visits(self.scan.n_positions):
            self._since_promotion = 0
            if self._ending_ns is None:
                events += self.deciding.promoted(t_ns, self.config)
        return events

    def confirmed(self) -> list[Event]:
        """Follow groups of anomalies, and tell of flags that waited and stay."""
        self._follows = False
        confirmed = self.engine.take_confirmed()
        self.discovery.confirm(confirmed.index)
        return self.discover() + self.anomalies.told(confirmed, self.engine, self.axis)

    def discover(self, *, final: bool = False) -> list[Event]:
        """Follow groups of anomalies; return what is new of them."""
        return self.discovery.update(self.engine, self.axis, self.phases, self.config.anomaly, final=final)

    def change_group(self, val: str, params: Mapping[str, Any]) -> list[Event]:
        """Accept or dismiss a group of anomalies, which `discovery.check` has passed."""
        return self.discovery.decide(val, params, self.engine, self.axis, self.phases)

    @property
    def wants_background(self) -> bool:
        """Whether idle time could be used."""
        looks = any(look.wants_work for look in self.looks)
        return self.engine.wants_background or looks or self.deciding.wants_work

    @property
    def looks(self) -> list[Phases | Unmixing]:
        """What is looked for in the model, where it is: phases, and what they mix."""
        return [look for look in (self.phases, self.unmixing) if look is not None]

    def background(self, t_ns: int) -> list[Event]:
        """Use idle time: in turn a piece of what decisions wait for and of what the model has to do, else of the looks.

        What decisions wait for is little and rare, but what is not looked at for damage in time is lost: counts of a
        position that were added up before cannot be told apart later. Phases and unmixing take turns.
        """
        self._turn += 1
        if self.deciding.wants_work and (self._turn % 3 == 0 or not self.engine.wants_background):
            return self.deciding.work(t_ns, self.config, running=self._ending_ns is None)
        waiting = [look for look in self.looks if look.wants_work]
        if self.engine.wants_background:
            self.engine.background()
        elif waiting:
            self._least_share.rested()
            self._turn += 1
            waiting[self._turn % len(waiting)].work()
        return []

    @property
    def phase_labels(self) -> NDArray[np.int32] | None:
        """Phase of each position (P,), -1 where it is not known."""
        return None if self.phases is None else self.phases.label

    @property
    def wants_network(self) -> bool:
        """Whether a network may be looked for: there is none, and the noise is known."""
        known = self.header.noise is not None or self.engine.basis is not None
        return known and self.denoising.is_idle

    def denoise(self, rows: int) -> list[Event]:
        """Let the network look at so many positions."""
        windows = {label: self.axis.channel_range(lo, hi) for label, (lo, hi) in self.config.windows.items()}
        self.denoising.watch(windows)
        return self.denoising.work(self.engine, rows)

    def configure(self, config: PipelineConfig) -> None:
        """Take changed settings."""
        self.config = config
        self.engine.configure(config.engine())

    def _ask(self, t_ns: int) -> list[Event]:
        if self._endpoint is None:
            return []
        ask = self.plan.next_ask(t_ns)
        return [AskReplay(ask.id, self._endpoint, self.name, ask.first, ask.last)] if ask is not None else []

    @property
    def state(self) -> Literal["running", "closing"]:
        """Whether data are expected, or only what was missing."""
        return "running" if self._ending_ns is None else "closing"

    def may_close(self, t_ns: int) -> bool:
        """Whether nothing more is to come: books balanced, or waited long enough."""
        if self._ending_ns is None or self._pending:
            return False
        waited = t_ns - self._ending_ns
        # The answer to a stop comes by another way than the end that followed from it.
        if waited <= STRAGGLER_NS and self.deciding.ledger.waits_for():
            return False
        if self._endpoint is not None:
            return not self.plan.missing or waited > REPLAY_PATIENCE_NS
        complete = self._end is None or self._end.n_sent is None or self.scan.books.received >= self._end.n_sent
        return complete or waited > STRAGGLER_NS

    def final_books(self) -> dict[str, Any]:
        """The books of a series that is at its end."""
        books = {**self.scan.report(), "exit_status": self._exit_status}
        if self._end is not None and self._end.reason:
            books["reason"] = self._end.reason
        return books | self.deciding.finish()

    def series_event(self, event: Literal["start", "end"], books: dict[str, Any] | None = None) -> Publish:
        """Return the `series` message of its start or end."""
        head = {"series": self.name, "event": event, "resumed": self.resumed, "opened_ns": self.opened_ns}
        basis = self.engine.basis
        head["model"] = basis.version if basis is not None else 0
        return series_event(self.header, self.scan, {**head, **(books or {})})
