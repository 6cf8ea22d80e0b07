"""The worker: takes what has arrived, feeds the pipeline, records it, and sends what follows from it."""

from __future__ import annotations

import gc
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np

from streamer.books import in_words
from streamer.closing import Portrait
from streamer.config import PipelineConfig
from streamer.events import AskReplay, Count, Event, Log, Notify, Publish, SeriesClosed, SeriesOpened, Slack
from streamer.learning import Learning
from streamer.live import Live, own
from streamer.logs import Bounded
from streamer.networks import Networks
from streamer.outbox import Reply, Request
from streamer.pipeline import Pipeline
from streamer.requests import RequestError
from streamer.warm import warm_up
from streamer.wire import Control
from streamer.wire.items import Arrived, Change, Denoise, Idle, Item, Tick
from streamer.workbench import Batch, Parts

log = logging.getLogger(__name__)
TICK_S: Final = 0.05
QUIET_S: Final = 0.25
_AHEAD_S: Final = 0.01
_SETTLE_S: Final = 0.002
_OTHERS: Final = 1.0
"""Time for everything else, above all the phases that decisions wait for, over that for a network."""
_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_CHANGES: Final = frozenset({"accept", "dismiss"})


class Engine:
    """Owns the pipeline; everything here runs in the worker's thread.

    Parameters
    ----------
    config : PipelineConfig
    parts : Parts
    boot : str
    batch : Batch
    denoised_wanted : callable
        Whether somebody is subscribed to ``denoised``.
    report : bool
        Whether a report is drawn of each closed series.
    networks : Networks, optional
        None are used without.
    learning : Learning, optional
        Nothing is learnt during a scan without.
    """

    def __init__(
        self,
        config: PipelineConfig,
        parts: Parts,
        *,
        boot: str,
        batch: Batch | None = None,
        denoised_wanted: Callable[[], bool] = lambda: False,
        report: bool = True,
        networks: Networks | None = None,
        learning: Learning | None = None,
    ) -> None:
        self._networks = networks or Networks(enabled=False)
        self._learning = learning or Learning()
        self.pipeline = Pipeline(config, self._networks.build)
        self.config, self.parts, self._boot, self._report = config, parts, boot, report
        self._batch = batch or Batch()
        self._bounded = Bounded(log)
        self._live = Live(parts, denoised_wanted, self._learning.status)
        self._portrait = Portrait()
        self._events: list[Publish | Log | Notify | AskReplay] = []
        self._recovering = self._recovered = self._remains = self._abandoned = False
        self._next_tick_s = self._network_ahead_s = 0.0
        self.is_warm = False
        """Whether everything is compiled; before that nothing is begun, nor taken up again."""
        self._dropped = 0

    def run(self, recover: Callable[[Engine], None]) -> None:
        """Work until the inbox is closed and empty; `recover` comes first."""
        try:
            self._live.publish_status(self.pipeline.status() | {"state": "starting"}, self._portrait)
            begun_s = time.monotonic()
            warm_up(lambda: self.parts.inbox.waiting)
            self.is_warm = True
            recover(self)
            # What is loaded by now stays: the collector need not look through it again while spectra wait.
            gc.collect()
            gc.freeze()
            log.info("ready after %.1f s", time.monotonic() - begun_s)
            while not (self._abandoned or self.parts.inbox.drained):
                self.turn()
            if not self._abandoned:
                self._finish()
        finally:
            self._networks.close()
            self._learning.close()
            self.parts.outbox.close()

    def abandon(self) -> None:
        """End as soon as possible: another thread has died. Callable from any thread."""
        self._abandoned = True

    def turn(self) -> None:
        """Take what waits, at most a batch; do what a clock makes due."""
        if self.pipeline.ending:
            self._end_on()
            return
        requests, items = self.parts.inbox.take(self._batch.messages, self._batch.nbytes, self._wait_s())
        for request in requests:
            self._answer(request)
        if items:
            self._process(items)
        elif self._remains:
            self._clear_up()
        elif self.pipeline.wants_idle or self.pipeline.waiting_positions:
            self.parts.outbox.settle(_SETTLE_S)
            if not self.parts.inbox.waiting:
                self._idle()
        self._seek_networks(idle=not items)
        due = time.monotonic() >= self._next_tick_s
        if self.pipeline.wants_tick or (due and self.pipeline.series is not None):
            self._process(())
        self._live.work(self.pipeline, self._portrait)
        self._say_dropped()
        self._bounded.summarise(time.monotonic())
        self.parts.closing.check()

    def _end_on(self) -> None:
        """Do a piece of the end of a series; messages wait for it, clients do not."""
        self._answer_waiting()
        self._process(())
        self._live.work(self.pipeline, self._portrait)

    def _clear_up(self) -> None:
        """Give back what is left of the series before: its parts refer to one another, and take hundreds of MiB."""
        gc.collect()
        self._remains = False

    def _wait_s(self) -> float:
        pipeline = self.pipeline
        if self._remains or pipeline.wants_tick or pipeline.wants_idle or pipeline.waiting_positions or self._live.busy:
            return 0.0
        return TICK_S if self.pipeline.series is not None else QUIET_S

    def _say_dropped(self) -> None:
        dropped = self.parts.inbox.dropped
        new, self._dropped = dropped - self._dropped, dropped
        if new:
            self.parts.metrics.dropped(new)
            text = f"the inbox was full: {new} messages dropped, {dropped} since the start"
            self._bounded.write(logging.WARNING, "overflow", text, time.monotonic())

    def _process(self, items: Sequence[Item]) -> None:
        self._live.fed(len(items))
        with self.parts.timings.stage("feed"):
            for item in items:
                self._feed(item)
        if any(isinstance(event, Notify) for event in self._events):
            # What was decided by the counts alone does not wait for the model.
            self._send()
        with self.parts.timings.stage("process"):
            self._tick()
        self._next_tick_s = time.monotonic() + TICK_S
        self._send()

    def _tick(self) -> None:
        """Feed a tick; what it computes from is written meanwhile, the tick included."""
        recorder, tick = self.parts.recorder, Tick(time.time_ns())
        recorded = recorder.recording
        if recorded:
            recorder.append(tick)
            recorder.start()
        for held in self._take(tick, self.pipeline.feed(tick), recorded=recorded):
            self._feed(held)

    def _idle(self) -> None:
        """Do a piece of what is not urgent; a network gets half of the time while something else wants it, too."""
        begun_s = time.perf_counter()
        waiting = self.pipeline.waiting_positions
        if waiting and not (self.pipeline.wants_idle and self._network_ahead_s > 0):
            rows = min(waiting, self._networks.rows)
            with self.parts.timings.stage("network"):
                self._feed(Denoise(time.time_ns(), rows))
            seconds = time.perf_counter() - begun_s
            self._networks.took(rows, seconds)
            seconds *= _OTHERS
        else:
            with self.parts.timings.stage("background"):
                self._feed(Idle(time.time_ns()))
            seconds = begun_s - time.perf_counter()
        self._network_ahead_s = float(np.clip(self._network_ahead_s + seconds, -_AHEAD_S, _AHEAD_S))
        self._send()

    def _seek_networks(self, *, idle: bool) -> None:
        """Look for a network where the series could use one; give it, or one that has learnt, to the pipeline."""
        self._networks.seek(self.pipeline.without_network)
        for found in (self._networks.found(), self._learning.turn(self.pipeline.open_series, idle=idle)):
            if found is not None:
                self._feed(found)
                self._send()

    # Items in, events out

    def _feed(self, item: Item) -> None:
        """Feed an item, and the held ones that a header lets in; record each at its place."""
        todo: deque[Item] = deque([item])
        while todo:
            item = todo.popleft()
            todo.extend(self._take(item, self.pipeline.feed(item)))

    def _take(self, item: Item, events: Sequence[Event], *, recorded: bool = False) -> Sequence[Arrived]:
        """Record `item` (if it is not yet), keep what followed for sending; return held messages to be fed next."""
        recorder = self.parts.recorder
        held: Sequence[Arrived] = ()
        for event in events:
            if isinstance(event, SeriesClosed):
                if not recorded:
                    recorder.append(item)
                recorded = True
                self._close(event)
            elif isinstance(event, SeriesOpened):
                recorded = True
                held = event.held[1:]
                self._open(event)
            else:
                self._keep(event)
        if not recorded and recorder.recording:
            recorder.append(item)
        return held

    def _keep(self, event: Publish | Log | Notify | AskReplay | Count | Slack) -> None:
        if isinstance(event, Count):
            self.parts.metrics.count(event)
            return
        if isinstance(event, Slack):
            self.parts.metrics.slack(event.action, event.seconds)
            return
        if isinstance(event, Publish):
            self._portrait.see(event.result)
        self._events.append(event)

    def _open(self, event: SeriesOpened) -> None:
        self._begin(event.series)
        self._remains = True
        self.parts.recorder.open(event.series, event.record)
        self.parts.recorder.append(event.held[0])
        self._networks.seek(self.pipeline.without_network)

    def _begin(self, series: str) -> None:
        self.parts.timings.reset()
        self._portrait = Portrait()
        self._live.begin(series)

    def _close(self, event: SeriesClosed) -> None:
        """End the journal; what takes long is left to another thread, and the end is published at once."""
        recorder, closing = self.parts.recorder, self.parts.closing
        self._live.count(event.books, event.series)
        self.parts.metrics.series_closed(event.books["exit_status"], event.books["lost"])
        folder, journal = recorder.close(event.books)
        portrait, timings = self._portrait, self.parts.timings.summary()
        status = self.pipeline.status()
        if status["series"] == event.series:
            # Whoever asks after the end of the series is not told how it stood a second ago.
            self._live.publish_status(status, portrait)
        self._send()
        if self._remains:
            self._clear_up()
        log.info("series %r closed: %s", event.series, in_words(event.books))
        closing.submit(journal)
        closing.submit(partial(portrait.write, folder, event.books, timings))
        if self._report:
            closing.submit(partial(closing.report, folder))
        if self._recovered and self.pipeline.series is None:
            # Its series had the settings it began with; the next one has today's.
            self._recovered, self.pipeline.config = False, self.config

    # Sending

    def _send(self) -> None:
        """Write the journal, then let everybody know: what was published can always be computed again."""
        with self.parts.timings.stage("record"):
            self.parts.recorder.flush()
        events, self._events = self._events, []
        with self.parts.timings.stage("send"):
            for event in events:
                self._send_one(event)

    def _send_one(self, event: Publish | Log | Notify | AskReplay) -> None:
        match event:
            case Publish():
                for result in self._live.published(event):
                    self.parts.outbox.put(result)
            case Log():
                self._bounded.write(_LEVELS[event.level], event.kind, event.text, time.monotonic())
            case Notify() | AskReplay():
                self.parts.outbox.put(event)

    # Requests

    def _answer_waiting(self) -> None:
        for request in self.parts.inbox.take_requests():
            self._answer(request)

    def _answer(self, request: Request) -> None:
        control = request.control
        params = {k: v for k, v in control.params.items() if k != "arrays"}
        try:
            if control.val in _CHANGES or (control.val == "settings" and params):
                if self._recovering:
                    raise RequestError("the series is being read again after a restart; ask in a moment")
                self.pipeline.check_change(control.val, params)
                self._feed(Change(time.time_ns(), control.val, params))
                self._send()
            reply = own(self.pipeline.answer(control, self._boot))
        except RequestError as error:
            reply = Control("nack", control.id, control.val, {"error": str(error), "boot": self._boot})
        self.parts.outbox.put(Reply(request.client, reply))

    # Recovery

    def begin_recovery(self, series: str, pipeline: Pipeline) -> None:
        """Take a fresh pipeline that is to be fed from a journal."""
        self.pipeline = pipeline
        self._recovering = self._recovered = True
        self._begin(series)
        self._live.recovering(
            {**pipeline.status(), "state": "recovering", "series": series, "recovered": 0.0}, at_once=True
        )

    def remember(self, events: Sequence[Event]) -> None:
        """Take what was published by an earlier process: known, not sent again."""
        for event in events:
            if isinstance(event, Publish):
                self._portrait.see(event.result)
                self._live.see(event.result)
            elif isinstance(event, Log):
                log.debug("as before: %s", event.text)

    def serve(self, part: float) -> None:
        """Answer clients while the journal is being read, of which `part` is done."""
        self._answer_waiting()
        status = {**self.pipeline.status(), "state": "recovering", "recovered": part}
        self._live.recovering(status)

    def end_recovery(self) -> None:
        """Count from here on."""
        self._recovering = False
        self._live.count(self.pipeline.status(), self.pipeline.series, before=True)

    def give_up(self) -> None:
        """Begin as if there had been no series."""
        self.pipeline = Pipeline(self.config, self._networks.build)
        self._recovering = self._recovered = False
        self._begin("")

    def resume(self, item: Item) -> None:
        """Go on with the series; late subscribers get what there is of it."""
        self._feed(item)
        basis = self._live.last_basis()
        if basis is not None:
            self._events.append(basis)
        self._live.touch()
        self._send()

    def go_on(self, item: Item, events: Sequence[Event]) -> None:
        """Take what followed from the last item of a journal as if it had just come."""
        for held in self._take(item, events, recorded=True):
            self._feed(held)
        self._send()

    def _finish(self) -> None:
        """Say how things stand at the end; an open series is left for the next start."""
        self._answer_waiting()
        if self.pipeline.series is not None:
            self._process(())
        while self.pipeline.ending:
            self._end_on()
        self._live.final(self.pipeline, self._portrait)
        self.parts.recorder.leave()
