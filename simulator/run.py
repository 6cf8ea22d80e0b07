"""Runs a scan or a recording against the network, and says what happens."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from simulator.faults import Faults, FaultyLine
from simulator.instrument import Instrument
from simulator.mishaps import Entangled, Restarted
from simulator.playback import Playback
from simulator.preload import Preloaded
from simulator.scene import Scene
from simulator.schedule import Plan
from simulator.server import Apparatus, Link, Sent, Server, connected, drain

EXIT_ERROR = 1
SHOW_PROGRESS_S = 2.0

console = Console()


@dataclass(frozen=True)
class Job:
    """A scan, once it is known where replay is served.

    Parameters
    ----------
    make_scene : callable
        Makes the scene anew: a sender that restarts measures it again.
    plan, series, block, crc
        As for `Instrument`.
    deadline_ms : float, optional
    calibrated_at : int, optional
    preload : bool
        Make all messages before the first is sent.
    faults : Faults
    seed : int
        Of the faults.

    Raises
    ------
    ValueError
        Where these cannot all be had together.
    """

    make_scene: Callable[[], Scene]
    plan: Plan
    series: str
    block: int
    crc: bool = False
    deadline_ms: float | None = None
    calibrated_at: int | None = None
    preload: bool = False
    faults: Faults = field(default_factory=Faults)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preload and (self.faults.restart or self.faults.two_series):
            raise ValueError("a preloaded scan is one series: it can neither restart nor be sent beside another")
        # The header comes first.
        blocks = -(-self.expected // self.block)
        if self.calibrated_at is not None and self.calibrated_at > blocks:
            raise ValueError(f"--calibrated-at {self.calibrated_at}: the scan has {blocks} messages with spectra")

    @property
    def expected(self) -> int:
        """Spectra planned."""
        return self.plan.expected

    def start(self, replay: str | None) -> Apparatus:
        """Return the instrument, ready to go."""
        first = self._instrument(self.series, replay)
        if self.faults.restart:
            return Restarted(first, self._instrument(f"{self.series}-again", replay))
        if self.faults.two_series:
            return Entangled(first, self._instrument(f"{self.series}-again", replay))
        return Preloaded(first) if self.preload else first

    def line(self) -> FaultyLine:
        """Return the line on which messages are spoiled."""
        return FaultyLine(self.faults, self.seed, self.expected // self.block)

    def _instrument(self, series: str, replay: str | None) -> Instrument:
        header = {"replay": replay, "deadline_ms": self.deadline_ms}
        return Instrument(
            self.make_scene(),
            self.plan,
            series=series,
            start_ns=time.time_ns(),
            block=self.block,
            crc=self.crc,
            header={k: v for k, v in header.items() if v is not None},
            calibrated_at=self.calibrated_at,
        )


@dataclass(frozen=True)
class Recording:
    """A recording, once it is known where replay is served."""

    file: Path
    series: str
    expected: int = 0
    faults: Faults = field(default_factory=Faults)
    seed: int = 0

    def start(self, replay: str | None) -> Apparatus:
        """Return the recording as an instrument."""
        return Playback(self.file, series=self.series, replay=replay)

    def line(self) -> FaultyLine:
        """Return the line on which messages are spoiled."""
        return FaultyLine(self.faults, self.seed)


def run(job: Job | Recording, link: Link, speed: float) -> Sent:
    """Run a job to its end and return its books."""
    with ExitStack() as stack:
        outlet, controller = stack.enter_context(connected(link, job.series))
        apparatus = job.start(outlet.replay)
        console.print(f"series [bold]{job.series}[/]: {link.pattern} {outlet.url}, replay {outlet.replay or 'none'}")
        if not outlet.wait_for_subscriber(link.wait_subscriber_s):
            console.print(f"nobody listens after {link.wait_subscriber_s:g} s: starting all the same")
        shown = stack.enter_context(_progress(job.expected))
        line = job.line() if job.faults != Faults() else None
        server = Server(
            apparatus, outlet, controller,
            speed=speed, obey_advice=link.obey_advice, line=line, on_progress=shown.show,
        )  # fmt: skip
        stack.enter_context(_signals(server))
        server.run()
        sent = server.linger(link.linger_s)
    drain()
    if line is not None:
        console.print(f"faults: {line.spoiled}", highlight=False)
    return sent


class _Shown:
    """A progress bar that appears when a scan turns out to be longer than two seconds."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._since_s = time.monotonic()
        self.bar: Progress | None = None

    def show(self, n: int) -> None:
        """Show `n` spectra sent."""
        if self.bar is None:
            if time.monotonic() < self._since_s + SHOW_PROGRESS_S:
                return
            columns = (TextColumn("sent"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=console, transient=True)
            self.bar.add_task("sent", total=self._total or None)
            self.bar.start()
        self.bar.update(self.bar.task_ids[0], completed=n)


@contextmanager
def _progress(total: int) -> Iterator[_Shown]:
    shown = _Shown(total)
    try:
        yield shown
    finally:
        if shown.bar is not None:
            shown.bar.stop()


@contextmanager
def _signals(server: Server) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the scan in good order."""

    def stop(number: int, _frame: FrameType | None) -> None:
        server.stop(f"interrupted by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def errors() -> Iterator[None]:
    """Say what is wrong in a sentence instead of a traceback."""
    try:
        yield
    except MemoryError as error:
        console.print(f"[red]not enough memory: {error}[/]", highlight=False)
        raise typer.Exit(EXIT_ERROR) from error
    except (ValueError, OSError) as error:
        console.print(f"[red]{error}[/]", highlight=False)
        raise typer.Exit(EXIT_ERROR) from error


def words(text: str) -> tuple[str, ...]:
    """Return the words of a comma-separated list."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def series_name(stem: str) -> str:
    """Return a name that no other series has."""
    return f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def speed_of(rate: float | None, dwell_s: float) -> float:
    """Return the instrument's seconds in one of the clock."""
    if rate is None:
        return 1.0
    return rate * dwell_s if rate > 0 else float("inf")


def report(sent: Sent) -> None:
    """Say what was sent and decided."""
    rate = sent.spectra / sent.duration_s if sent.duration_s > 0 else 0.0
    console.print(
        f"sent {sent.spectra:,} spectra in {sent.messages:,} messages, {sent.duration_s:.1f} s ({rate:,.0f}/s); "
        f"{sent.replayed:,} messages replayed, {sent.dropped:,} not taken",
        highlight=False,
    )
    console.print(
        f"decisions: {sent.obeyed} obeyed, {sent.refused} refused, {sent.noted} noted as advice", highlight=False
    )
