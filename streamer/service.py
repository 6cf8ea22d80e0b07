"""The daemon: makes the parts, wires them up, and ends them in order. Nothing else knows everything."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Final

from threadpoolctl import threadpool_limits

from streamer.build import program_version
from streamer.closing import Closing
from streamer.engine import Engine
from streamer.exits import INTERNAL, OK, SIGNALLED, Exit
from streamer.heap import keep_freed_memory
from streamer.hub import Hub
from streamer.inbox import Inbox
from streamer.learning import Learning
from streamer.metrics import Metrics, MetricsServer
from streamer.networks import Networks
from streamer.outbox import Outbox
from streamer.recorder import Recorder
from streamer.recovery import recover
from streamer.settings import Settings
from streamer.state import StateFolder
from streamer.timings import Timings
from streamer.transport import Authenticated, Curve, DataIn, Front, Source, open_context
from streamer.workbench import Batch, Parts

log = logging.getLogger(__name__)
REPORTS_S: Final = 60.0
ABORT_S: Final = 2.0
LOOK_UP_S: Final = 0.05
_MIB: Final = 1 << 20


class Service:
    """One daemon, from its sockets to its end.

    Parameters
    ----------
    settings : Settings

    Raises
    ------
    Exit
        Where a port, a key or the state folder cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.boot = uuid.uuid4().hex[:12]
        self._stopping = False
        self._failure: BaseException | None = None
        self.hangs = False
        """A thread did not end in time: its sockets stay open, and only the end of the process ends it."""
        with ExitStack() as opened:
            self._open(opened)
            self._opened = opened.pop_all()

    def _open(self, opened: ExitStack) -> None:
        settings = self.settings
        self.state = StateFolder(settings.state.dir)
        opened.callback(self.state.close)
        curve = _curve(settings)
        self.metrics = Metrics(program_version())
        self.inbox = self._make_inbox()
        self.outbox = Outbox()
        opened.callback(self.outbox.dispose)
        context = opened.enter_context(open_context())
        opened.enter_context(Authenticated(context, curve))
        hub, timings = Hub(self.boot), Timings(self.metrics)
        largest = settings.pipeline.limits.message_mib * _MIB
        self.front = Front(
            context,
            settings.results.url,
            settings.control.url,
            hub=hub,
            inbox=self.inbox,
            outbox=self.outbox,
            metrics=self.metrics,
            timings=timings,
            curve=curve,
            max_queue=settings.results.queue_messages,
            max_message_bytes=largest,
        )
        source = settings.source
        wanted = Source(source.url, source.pattern, source.bind, largest, settings.source_queue)
        self.data_in = DataIn(context, wanted, self.inbox, self.metrics, curve)
        self.closing = Closing(settings.state.umap)
        self.engine = self._make_engine(timings, lambda: hub.denoised_wanted)
        self.metrics_server = self._serve_metrics(opened)

    def _make_inbox(self) -> Inbox:
        settings = self.settings
        return Inbox(
            settings.inbox.messages,
            settings.inbox.mib * _MIB,
            settings.policy,
            stins=settings.pipeline.stins.stins(),
            limits=settings.pipeline.limits.limits(),
        )

    def _make_engine(self, timings: Timings, denoised_wanted: Callable[[], bool]) -> Engine:
        settings = self.settings
        n = settings.networks
        keep_bytes = int(settings.state.keep_gib * (1 << 30))
        recorder = Recorder(self.state, settings.state.keep_series, keep_bytes)
        return Engine(
            settings.pipeline,
            Parts(self.inbox, self.outbox, recorder, self.closing, self.metrics, timings),
            boot=self.boot,
            batch=Batch(settings.batch.messages, settings.batch.mib * _MIB),
            denoised_wanted=denoised_wanted,
            report=settings.state.report,
            networks=Networks(tuple(n.folders), n.device, n.piece_ms / 1e3, enabled=n.enabled),
            learning=Learning(enabled=n.enabled and n.learn, every_s=n.learn_every_s),
        )

    def _serve_metrics(self, opened: ExitStack) -> MetricsServer | None:
        self.metrics.watch_inbox(self.inbox.depth)
        if not self.settings.metrics.listen:
            return None
        server = MetricsServer(self.metrics, self.settings.metrics.listen)
        opened.callback(server.close)
        return server

    def run(self) -> None:
        """Work until `stop`, finish what is held, and close everything.

        Raises
        ------
        Exit
            Where the recording cannot be written.
        Exception
            Whatever ended a thread.
        """
        sys.setswitchinterval(self.settings.threads.switch_interval_s)
        keep_freed_memory()
        with threadpool_limits(self.settings.threads.blas):
            self._say_where()
            threads = [self._start(self.data_in.run), self._start(self._work), self._start(self.front.run)]
            while not (self._stopping or self._failure):
                # No lock: a signal that another thread receives wakes no wait, and its handler must not take one.
                time.sleep(LOOK_UP_S)
            ended = self._finish(threads)
        self.hangs = not ended
        if ended:
            self._opened.close()
        if self._failure is not None:
            raise self._failure
        log.info("stopped; %s", self._left_open())

    def stop(self) -> None:
        """Stop reading, and end when all that is held has been worked off; callable from any thread."""
        self._stopping = True

    def _work(self) -> None:
        self.engine.run(lambda engine: recover(engine, self.state.open_series()))

    def _start(self, run: Callable[[], None]) -> threading.Thread:
        """Start a thread whose error ends the daemon."""

        def guarded() -> None:
            try:
                run()
            except BaseException as error:
                self._failure = self._failure or error
                self.engine.abandon()

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def _finish(self, threads: list[threading.Thread]) -> bool:
        """End the threads in the order of the data; return whether all have ended (some are not waited for)."""
        if self._failure is None:
            log.info("stopping: %d messages wait to be worked off", self.inbox.depth().messages)
        self.data_in.stop()
        for thread in threads:
            while thread.is_alive() and self._failure is None:
                if self.inbox.drained and not self.engine.is_warm:
                    # The first start on a machine compiles for a minute: nothing has come, and nothing is lost.
                    return False
                thread.join(0.1)
        if self._failure is None:
            self.closing.finish(REPORTS_S)
            return True
        self.outbox.close()
        for thread in threads:
            thread.join(ABORT_S)
        return not any(thread.is_alive() for thread in threads)

    def _say_where(self) -> None:
        source, settings = self.data_in.endpoint, self.settings
        verb = "waiting for the instrument at" if settings.source.bind else "connecting to the instrument at"
        log.info("%s %s (%s, inbox: %s)", verb, source, settings.source.pattern, settings.policy)
        log.info("results at %s, control at %s", self.front.results_endpoint, self.front.control_endpoint)
        if self.metrics_server is not None:
            log.info("metrics at http://%s/metrics", self.metrics_server.endpoint)
        log.info("state in %s, boot %s", self.state.path, self.boot)

    def _left_open(self) -> str:
        series = self.engine.pipeline.series
        if not self.engine.is_warm:
            return "nothing was begun yet"
        if series is None:
            return "no series is open"
        processed = self.engine.pipeline.status()["processed"]
        return f"series {series!r} is open at {processed} spectra and will be resumed"


def _curve(settings: Settings) -> Curve | None:
    keys = settings.security
    if keys.secret_key is None:
        return None
    return Curve(keys.secret_key, keys.clients, keys.source_key)


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first SIGTERM or SIGINT; end at once at the second."""
    seen: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if seen:
            os._exit(SIGNALLED + number)
        seen.append(number)
        stop()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(settings: Settings) -> int:
    """Run a daemon to its end; return the exit code."""
    service: Service | None = None
    code = OK
    try:
        service = Service(settings)
        with stopped_by_signals(service.stop):
            service.run()
    except Exit as error:
        log.error("%s", error.text)  # noqa: TRY400 - a sentence for the operator, no traceback
        code = error.code
    except Exception:
        log.critical("internal error; please report it with these lines", exc_info=True)
        code = INTERNAL
    if service is not None and service.hangs:
        logging.shutdown()
        os._exit(code)
    return code
