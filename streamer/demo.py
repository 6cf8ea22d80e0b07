"""`scanwise demo`: instrument, daemon and view together, and how good the result is."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from streamer.children import Child, ChildFailed, child, free_urls
from streamer.client import Controller, NoAnswer, RequestRefused, Viewer
from streamer.demo_truth import Truth, compare, raw_counts
from streamer.report import NUMBERS
from streamer.run_data import FINAL, Run
from streamer.watch import TOPICS, Screen
from streamer.watch_view import Watched

SPECIMEN: Final = "exercise"
COUNTS, PASSES, RATE_HZ = 20, 12, 4000
TARGETS: Final = (
    "stop_map_error = 0.25\nstop_unseen_area = 0.02\nstop_error_slope = 0.03\nstop_misclassified_area = 0.015\n"
    "stop_relative_error = 0.3\nlead_s = 0.5\n"
)
"""A map of an element that only a handful of positions have is not soon known to a tenth; a short pass is over soon,
and of twelve each lowers the error by more than one of many would."""
WINDOWS: Final = {"Cr K": (5.3, 5.5), "Fe K": (6.25, 6.55), "Ni K": (7.35, 7.6), "Cu K": (7.9, 8.2)}
"""In keV: a weak line, a strong one, and copper, which only the rare phase has."""
START_S, SCAN_S, END_S, DRAW_S = 20.0, 90.0, 20.0, 60.0
MEASURED: Final = "demo.json"
EXIT_FAILED: Final = 1


@dataclass(frozen=True)
class Places:
    """Where everything of one run is."""

    out: Path
    state: Path
    data: str
    replay: str
    results: str
    control: str

    @property
    def truth(self) -> Path:
        """The simulator's truth."""
        return self.out / "truth.npz"


def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures and numbers.")] = Path("demo-report"),
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same specimen and counts.")] = 0,
    no_watch: Annotated[bool, typer.Option("--no-watch", help="Show no live view.")] = False,
) -> None:
    """Show the whole loop at work: a simulated scan, analysed live, stopped when it has enough, and compared."""
    console = Console()
    try:
        with _interruptible(), _places(out) as places:
            measured = run(places, seed, console, live=not no_watch)
    except (ChildFailed, OSError, ValueError, KeyError) as error:
        console.print(f"scanwise demo: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(EXIT_FAILED) from error
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started has ended")
        raise typer.Exit(130) from None
    console.print(_table(measured))
    console.print(f"pictures and numbers: {out.resolve()}", markup=False, highlight=False, soft_wrap=True)
    if not measured["balanced"]:
        console.print("the books do not balance", style="bold red")
        raise typer.Exit(EXIT_FAILED)


def run(places: Places, seed: int, console: Console, *, live: bool = True) -> dict[str, Any]:
    """Run instrument and daemon once and return what was measured.

    Parameters
    ----------
    places : Places
    seed : int
    console : Console
    live : bool
        Show the view of `scanwise watch` meanwhile.

    Raises
    ------
    ChildFailed
        Where instrument or daemon failed.
    """
    daemon_log, instrument_log = places.out / "daemon.log", places.out / "instrument.log"
    with (
        child("the daemon", _daemon_arguments(places), daemon_log) as daemon,
        Viewer(places.results, TOPICS) as viewer,
    ):
        with console.status("starting the daemon"):
            _wait_until_it_answers(places.control, daemon)
        with child("the instrument", _instrument_arguments(places, seed), instrument_log) as instrument:
            watched = _show(viewer, places, console, [daemon, instrument], live=live)
            with console.status("waiting for the instrument to end"):
                instrument.wait(END_S)
        with console.status("waiting for the daemon to end"):
            folder = _finished(places, daemon)
    with (
        console.status("drawing the report"),
        child("the report", ["report", str(folder)], places.out / "report.log") as report,
    ):
        report.wait(DRAW_S)
    _copy(folder, places.out)
    with console.status("comparing with the truth"):
        return _measure(folder, places, watched)


# -- before ---------------------------------------------------------------------------------------------------


@contextmanager
def _places(out: Path) -> Iterator[Places]:
    """Give addresses and folders; what only the run needs is removed at its end."""
    out.mkdir(parents=True, exist_ok=True)
    state = Path(tempfile.mkdtemp(prefix="state-", dir=out))
    try:
        yield Places(out, state, *free_urls(4))
    finally:
        shutil.rmtree(state, ignore_errors=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end us as Ctrl-C does: with everything that was started."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _daemon_arguments(places: Places) -> list[str]:
    config = places.out / "demo.toml"
    windows = "".join(f'"{label}" = [{lo}, {hi}]\n' for label, (lo, hi) in WINDOWS.items())
    # The report is drawn by a child of our own: one that the daemon started could outlive us.
    decisions = f'[pipeline.decisions]\nmode = "enforce"\n{TARGETS}'
    sections = f"[state]\nreport = false\n\n{decisions}\n[pipeline.windows]\n{windows}"
    config.write_text(sections, "utf-8")
    arguments = ["run", "--config", str(config), "--source", places.data, "--results", places.results]
    return [*arguments, "--control", places.control, "--metrics", "", "--state", str(places.state)]


def _instrument_arguments(places: Places, seed: int) -> list[str]:
    scan = {"specimen": SPECIMEN, "counts": COUNTS, "passes": PASSES, "rate": RATE_HZ, "seed": seed}
    network = {"data": places.data, "replay": places.replay, "control": places.control, "truth": places.truth}
    options = [word for name, value in (scan | network).items() for word in (f"--{name}", str(value))]
    return ["simulate", *options]


def _wait_until_it_answers(control: str, daemon: Child) -> None:
    until_s = time.monotonic() + START_S
    with Controller(control, "demo", role="viewer", timeout_s=0.5) as client:
        while time.monotonic() < until_s:
            daemon.check()
            try:
                client.status()
            except (NoAnswer, RequestRefused):
                continue
            return
    raise ChildFailed(f"the daemon does not answer after {START_S:g} s; its last lines:\n{daemon.tail()}")


# -- meanwhile ------------------------------------------------------------------------------------------------


def _show(viewer: Viewer, places: Places, console: Console, children: list[Child], *, live: bool) -> Watched:
    """Show until the series has ended."""
    screen = Screen(viewer, places.results, console)
    until_s = time.monotonic() + SCAN_S

    def done(watched: Watched) -> bool:
        for one in children:
            one.check()
        if time.monotonic() > until_s:
            raise ChildFailed(
                f"the scan has not ended after {SCAN_S:g} s; the daemon's last lines:\n{children[0].tail()}"
            )
        return watched.ended is not None

    if live:
        screen.run(done)
    else:
        _follow(screen, console, done)
    return screen.watched


def _follow(screen: Screen, console: Console, done: Callable[[Watched], bool]) -> None:
    with console.status("scanning") as status:
        while not done(screen.watched):
            screen.take(0.25)
            status.update(screen.line())


# -- afterwards -----------------------------------------------------------------------------------------------


def _finished(places: Places, daemon: Child) -> Path:
    """End the daemon and return the folder of the series that it finished."""
    daemon.ask_to_end()
    daemon.wait(END_S)
    finished = [path.parent for path in places.state.glob(f"*/{FINAL}")]
    if len(finished) != 1:
        raise ChildFailed(f"{len(finished)} series were finished instead of one; last lines:\n{daemon.tail()}")
    return finished[0]


def _copy(folder: Path, out: Path) -> None:
    for path in [*folder.glob("*.png"), folder / NUMBERS, folder / FINAL]:
        shutil.copy(path, out)


def _measure(folder: Path, places: Places, watched: Watched) -> dict[str, Any]:
    """Return, and write down, what the run came to."""
    final, truth = Run.load(folder), Truth.load(places.truth)
    errors = compare(final, truth, raw_counts(folder / "journal.swj"), WINDOWS)
    timings = final.meta.get("timings") or {}
    measured = {
        "series": final.series,
        "books": dict(final.books),
        "balanced": final.balanced,
        "planned": watched.expected,
        "dose": float(np.nanmean(final.maps["dwell"]) / (final.header["dwell_s"] * PASSES)),
        "rate_hz": _rate_hz(watched),
        "latency_p50_ms": timings.get("latency_p50_ms"),
        "latency_p99_ms": timings.get("latency_p99_ms"),
        "rank": final.meta.get("rank"),
        "phases": len(truth.endmembers),
        "rare": len(truth.rare),
        "rare_found": _found(final, truth),
        "decisions": final.decisions,
        "network": (final.meta.get("status") or {}).get("network"),
        "errors": [asdict(e) | {"dose_factor": e.dose_factor} for e in errors],
    }
    (places.out / MEASURED).write_text(json.dumps(measured, indent=2) + "\n", "utf-8")
    return measured


def _found(final: Run, truth: Truth) -> int:
    """Return how many of the r rare positions are among the r with the highest anomaly scores."""
    scores = np.nan_to_num(final.maps["anomaly"].ravel())
    highest = np.argsort(-scores, kind="stable")[: len(truth.rare)]
    return int(np.isin(highest, truth.rare).sum())


def _rate_hz(watched: Watched) -> float | None:
    """Return spectra a second from the first header to the published end."""
    opened_ns, ended_ns = watched.series.get("opened_ns"), watched.series.get("t_ns")
    if not opened_ns or not ended_ns or ended_ns <= opened_ns:
        return None
    return float(watched.series.get("processed", 0) / (ended_ns - opened_ns) * 1e9)


def _table(measured: Mapping[str, Any]) -> Group:
    """Return what was measured as an operator wants to read it."""
    books, lost = measured["books"], sum(measured["books"]["lost"].values())
    facts = Table(title="What happened", title_justify="left", show_header=False)
    planned = f", {books['n_sent'] / measured['planned']:.0%} of those planned" if measured["planned"] else ""
    facts.add_row("spectra", f"{books['processed']:,}{planned}")
    facts.add_row("dose", f"{measured['dose']:.0%} of what was planned")
    facts.add_row("lost", f"{lost:,}; the books {'balance' if measured['balanced'] else 'do not balance'}")
    if measured["rate_hz"] is not None:
        facts.add_row(
            "rate", f"{measured['rate_hz']:,.0f} spectra a second (the instrument sets the pace: {RATE_HZ:,})"
        )
    if measured["latency_p50_ms"] is not None:
        latency = f"p50 {measured['latency_p50_ms']:.1f} ms, p99 {measured['latency_p99_ms']:.1f} ms"
        facts.add_row("latency", f"{latency}, receipt to result")
    facts.add_row("model", f"rank {measured['rank']}; the specimen has {measured['phases']} phases")
    found = f"{measured['rare_found']} of {measured['rare']} positions of the unknown phase score highest"
    facts.add_row("anomalies", found)
    facts.add_row("network", _network(measured["network"]))
    for decision in measured["decisions"]:
        facts.add_row("decision", Text(f"{decision['action']}, {decision.get('outcome')}: {decision['reason']}"))
    return Group(facts, _error_table(measured["errors"]))


def _network(told: Mapping[str, Any] | None) -> str:
    """Say which network looked beside the linear model, and what came of it."""
    if told is None:
        return "none was used"
    begun = f"{told['name']!r} ({told['kind']}), beside the linear model: "
    if not told["shown"]:
        return begun + "looked, and had nothing to add"
    within, beyond = told["weights"]
    return begun + f"shown at {told['shown']:.0%} of looks, with weights of {within:.2f} and {beyond:.2f} at the end"


def _error_table(errors: list[Mapping[str, Any]]) -> Table:
    title = "Mean squared error against the truth"
    columns = ("raw", "denoised", "dose factor", "with network")
    table = Table("in units of counting noise", *columns, title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for error in errors:
        network = "" if error["network"] is None else f"{error['network']:.4f}"
        figures = (f"{error['raw']:.3f}", f"{error['denoised']:.4f}", f"{error['dose_factor']:.1f}", network)
        table.add_row(error["what"], *figures)
    return table
