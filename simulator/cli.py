"""`scanwise simulate` and `scanwise replay`: the instrument's panel."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from simulator.files import Recorded, read
from simulator.instrument import Instrument
from simulator.playback import Playback, is_recording
from simulator.raster import scan_order
from simulator.replay import FileScene
from simulator.sample import Specimen, load_specimen, specimen_names
from simulator.scene import Scene, SimulatedScene
from simulator.schedule import Plan
from simulator.server import Apparatus, Link, Sent, Server, connected

EXIT_ERROR = 1
SHOW_PROGRESS_S = 2.0

SCAN, DETECTOR, NETWORK, RECORD = "Scan", "Detector", "Network", "Truth"

console = Console()


class Pattern(StrEnum):
    """Kind of data socket."""

    PUB = "pub"
    PUSH = "push"


class ScanOrder(StrEnum):
    """Order of the positions of a pass."""

    RASTER = "raster"
    SERPENTINE = "serpentine"
    RANDOM = "random"


class ObeysAt(StrEnum):
    """Where a stop, a visit or a pause takes effect."""

    POINT = "point"
    LINE = "line"
    SECTION = "section"


Passes = Annotated[int, typer.Option(min=1, help="Times that the whole map is scanned.", rich_help_panel=SCAN)]
Dwell = Annotated[float, typer.Option(min=1e-7, help="Seconds at each position and pass.", rich_help_panel=SCAN)]
Rate = Annotated[
    float | None,
    typer.Option(min=0.0, help="Spectra a second; 0: as fast as possible; absent: by dwell.", rich_help_panel=SCAN),
]
OrderOption = Annotated[ScanOrder, typer.Option("--order", help="Order of the positions.", rich_help_panel=SCAN)]
Actions = Annotated[str, typer.Option(help="Decisions that can be obeyed, comma-separated.", rich_help_panel=SCAN)]
ObeysAtOption = Annotated[
    ObeysAt, typer.Option("--obeys-at", help="Where a stop, visit or pause takes effect.", rich_help_panel=SCAN)
]
DoseLimit = Annotated[
    float | None, typer.Option(help="Most seconds that a position may get in all.", rich_help_panel=SCAN)
]
Deadline = Annotated[
    float | None, typer.Option(help="Milliseconds for which a decision is of use.", rich_help_panel=SCAN)
]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same bytes.", rich_help_panel=SCAN)]
Series = Annotated[str | None, typer.Option(help="Name of the series.", rich_help_panel=SCAN)]
Block = Annotated[int, typer.Option(min=1, help="Spectra in a message.", rich_help_panel=DETECTOR)]
ListMode = Annotated[bool, typer.Option("--list-mode", help="Send events.", rich_help_panel=DETECTOR)]
Crc = Annotated[bool, typer.Option("--crc", help="Add checksums.", rich_help_panel=DETECTOR)]
Data = Annotated[str, typer.Option(help="Data socket.", rich_help_panel=NETWORK)]
PatternOption = Annotated[Pattern, typer.Option("--pattern", help="Kind of socket.", rich_help_panel=NETWORK)]
Bind = Annotated[bool, typer.Option("--bind/--connect", help="Bind or connect it.", rich_help_panel=NETWORK)]
Replay = Annotated[str, typer.Option(help="Replay service; empty for none.", rich_help_panel=NETWORK)]
Control = Annotated[str, typer.Option(help="The daemon's control socket; empty for none.", rich_help_panel=NETWORK)]
ObeyAdvice = Annotated[bool, typer.Option("--obey-advice", help="Act on advice as on orders.", rich_help_panel=NETWORK)]
WaitSubscriber = Annotated[
    float, typer.Option(min=0.0, help="Seconds to wait for a listener before starting.", rich_help_panel=NETWORK)
]
Linger = Annotated[
    float, typer.Option(min=0.0, help="Seconds to serve replay after the end, at least.", rich_help_panel=NETWORK)
]

ALL_ACTIONS = "stop,dwell,visit,extend,pause"
DATA, REPLAY, CONTROL = "tcp://127.0.0.1:5555", "tcp://127.0.0.1:5558", "tcp://127.0.0.1:5557"


def simulate(
    specimen: Annotated[str, typer.Option(help="Name, or TOML file; 'list' shows the names.")] = "exercise",
    shape: Annotated[tuple[int, int] | None, typer.Option(help="NY NX of the map.", rich_help_panel=SCAN)] = None,
    passes: Passes = 4,
    dwell: Dwell = 0.001,
    rate: Rate = None,
    order: OrderOption = ScanOrder.RASTER,
    actions: Actions = ALL_ACTIONS,
    obeys_at: ObeysAtOption = ObeysAt.POINT,
    dose_limit: DoseLimit = None,
    deadline_ms: Deadline = None,
    seed: Seed = 0,
    series: Series = None,
    counts: Annotated[
        float | None, typer.Option(min=0.0, help="Mean counts of a visit.", rich_help_panel=DETECTOR)
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, help="Channels over the same range.", rich_help_panel=DETECTOR)
    ] = None,
    block: Block = 64,
    list_mode: ListMode = False,
    crc: Crc = False,
    truth: Annotated[Path | None, typer.Option(help="Write the truth to this .npz.", rich_help_panel=RECORD)] = None,
    data: Data = DATA,
    pattern: PatternOption = Pattern.PUB,
    bind: Bind = True,
    replay: Replay = REPLAY,
    control: Control = CONTROL,
    obey_advice: ObeyAdvice = False,
    wait_subscriber: WaitSubscriber = 2.0,
    linger: Linger = 0.0,
) -> None:
    """Simulate an instrument that scans a specimen and sends its spectra."""
    if specimen == "list":
        for name in specimen_names():
            console.print(name)
        return
    with _errors():
        sample = load_specimen(specimen, seed=seed, shape=shape, channels=channels)
        dose = sample.counts if counts is None else counts
        if truth is not None:
            sample.save(truth, dose)
        scene = SimulatedScene(sample, counts=dose, dwell_s=dwell, seed=seed + 1, list_mode=list_mode)
        plan = Plan(
            scan_order(sample.nav_shape, order.value, seed=seed),
            passes=passes,
            dwell_s=dwell,
            dose_limit_s=dose_limit,
            actions=_words(actions),
            obeys_at=obeys_at.value,
        )
        _describe(sample, dose, passes)
        link = Link(data, pattern.value, bind, replay, control, obey_advice, wait_subscriber, linger)
        job = _Job(scene, plan, series or _series_name(sample.name), block, crc, deadline_ms)
        _report(_run(job, link, _speed(rate, dwell)))


def replay(
    file: Annotated[Path, typer.Argument(help="Anything RosettaSciIO reads, .npz, or a recording.")],
    passes: Annotated[
        int | None, typer.Option(min=1, help="Absent: as many as the file has frames.", rich_help_panel=SCAN)
    ] = None,
    dwell: Annotated[
        float | None, typer.Option(min=1e-7, help="Absent: what the file says.", rich_help_panel=SCAN)
    ] = None,
    rate: Rate = None,
    order: OrderOption = ScanOrder.RASTER,
    actions: Actions = "stop,pause",
    obeys_at: ObeysAtOption = ObeysAt.POINT,
    deadline_ms: Deadline = None,
    seed: Seed = 0,
    series: Series = None,
    counts: Annotated[
        float | None, typer.Option(min=0.0, help="Thin to these mean counts.", rich_help_panel=DETECTOR)
    ] = None,
    block: Block = 64,
    list_mode: ListMode = False,
    crc: Crc = False,
    data: Data = DATA,
    pattern: PatternOption = Pattern.PUB,
    bind: Bind = True,
    replay: Replay = REPLAY,
    control: Control = CONTROL,
    obey_advice: ObeyAdvice = False,
    wait_subscriber: WaitSubscriber = 2.0,
    linger: Linger = 0.0,
) -> None:
    """Play a measured file, or a recording of the daemon, as if it were being measured now."""
    link = Link(data, pattern.value, bind, replay, control, obey_advice, wait_subscriber, linger)
    name = series or _series_name(file.stem)
    with _errors():
        if is_recording(file):
            speed = float("inf") if rate == 0 else 1.0
            _report(_run(_Recording(file, name), link, speed))
            return
        recorded = read(file)
        scene = FileScene(recorded, counts=counts, seed=seed, list_mode=list_mode)
        dwell_s = dwell or recorded.dwell_s or 0.001
        plan = Plan(
            scan_order(recorded.nav_shape, order.value, seed=seed),
            passes=passes or recorded.frames,
            dwell_s=dwell_s,
            actions=_words(actions),
            obeys_at=obeys_at.value,
        )
        _describe_file(recorded, plan)
        job = _Job(scene, plan, name, block, crc, deadline_ms)
        _report(_run(job, link, _speed(rate, dwell_s)))


@dataclass(frozen=True)
class _Job:
    """A scan, once it is known where replay is served."""

    scene: Scene
    plan: Plan
    series: str
    block: int
    crc: bool
    deadline_ms: float | None

    @property
    def expected(self) -> int:
        return len(self.plan.order) * self.plan.passes

    def start(self, replay: str | None) -> Apparatus:
        header = {"replay": replay, "deadline_ms": self.deadline_ms}
        return Instrument(
            self.scene,
            self.plan,
            series=self.series,
            start_ns=time.time_ns(),
            block=self.block,
            crc=self.crc,
            header={k: v for k, v in header.items() if v is not None},
        )


@dataclass(frozen=True)
class _Recording:
    """A recording, once it is known where replay is served."""

    file: Path
    series: str
    expected: int = 0

    def start(self, replay: str | None) -> Apparatus:
        return Playback(self.file, series=self.series, replay=replay)


def _run(job: _Job | _Recording, link: Link, speed: float) -> Sent:
    with ExitStack() as stack:
        outlet, controller = stack.enter_context(connected(link, job.series))
        console.print(f"series [bold]{job.series}[/]: {link.pattern} {outlet.url}, replay {outlet.replay or 'none'}")
        if not outlet.wait_for_subscriber(link.wait_subscriber_s):
            console.print(f"nobody listens after {link.wait_subscriber_s:g} s: starting all the same")
        shown = stack.enter_context(_progress(job.expected))
        server = Server(
            job.start(outlet.replay),
            outlet,
            controller,
            speed=speed,
            obey_advice=link.obey_advice,
            on_progress=shown.show,
        )
        stack.enter_context(_signals(server))
        server.run()
        return server.linger(link.linger_s)


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
def _errors() -> Iterator[None]:
    """Say what is wrong in a sentence instead of a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        console.print(f"[red]{error}[/]", highlight=False)
        raise typer.Exit(EXIT_ERROR) from error


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _series_name(stem: str) -> str:
    return f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _speed(rate: float | None, dwell_s: float) -> float:
    """Return the instrument's seconds in one of the clock."""
    if rate is None:
        return 1.0
    return rate * dwell_s if rate > 0 else float("inf")


def _describe(sample: Specimen, counts: float, passes: int) -> None:
    ny, nx = sample.nav_shape
    console.print(f"[bold]{sample.name}[/]: {sample.title}")
    console.print(
        f"{sample.technique}, {ny} x {nx} positions, {sample.axis.size} channels, {passes} passes of "
        f"{counts:g} counts, phases {', '.join(sample.phases)}; {len(sample.rare_positions())} rare positions",
        highlight=False,
    )


def _describe_file(recorded: Recorded, plan: Plan) -> None:
    shape = " x ".join(map(str, recorded.nav_shape))
    console.print(f"[bold]{recorded.title}[/]", highlight=False)
    console.print(
        f"{recorded.technique}, {shape} positions, {recorded.axis.size} channels, {plan.passes} passes of "
        f"{recorded.frames} frames, {recorded.mean_counts():.4g} counts in a spectrum",
        highlight=False,
    )


def _report(sent: Sent) -> None:
    rate = sent.spectra / sent.duration_s if sent.duration_s > 0 else 0.0
    console.print(
        f"sent {sent.spectra:,} spectra in {sent.messages:,} messages, {sent.duration_s:.1f} s ({rate:,.0f}/s); "
        f"{sent.replayed:,} messages replayed, {sent.dropped:,} not taken",
        highlight=False,
    )
    console.print(
        f"decisions: {sent.obeyed} obeyed, {sent.refused} refused, {sent.noted} noted as advice", highlight=False
    )
