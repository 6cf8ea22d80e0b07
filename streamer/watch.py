"""`scanwise watch`: a running daemon in the terminal."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console, RenderableType
from rich.live import Live

from streamer.client import Controller, CurveKeys, NoAnswer, RequestRefused, Viewer
from streamer.watch_view import SILENT_S, Watched, line, view

RESULTS, CONTROL = "tcp://127.0.0.1:5556", "tcp://127.0.0.1:5557"
TOPICS: Final = ("series", "status", "basis", "decision", "anomaly", "map/")
FRAME_S: Final = 0.25
LINE_S: Final = 1.0
_RANGE: Final = re.compile(r"\s*(-?[\d.]+)\s*(?:-|to|:)\s*(-?[\d.]+)\s*")
EXIT_NOBODY: Final = 1


class Screen:
    """Shows what is watched: in place on a terminal, a line a second elsewhere.

    Parameters
    ----------
    viewer : Viewer
        Subscribed to `TOPICS`.
    url : str
        Its address, for words.
    console : Console
    wanted : str, optional
        Name of a map without ``map/``.
    """

    def __init__(self, viewer: Viewer, url: str, console: Console, wanted: str | None = None) -> None:
        self.watched = Watched()
        self._viewer, self._url, self._console, self._wanted = viewer, url, console, wanted

    def take(self, duration_s: float) -> None:
        """Take what comes for `duration_s` seconds."""
        until_s = time.monotonic() + duration_s
        while (left_s := until_s - time.monotonic()) > 0:
            result = self._viewer.poll(left_s)
            if result is not None:
                self.watched.see(result, time.monotonic())

    def run(self, done: Callable[[Watched], bool], each_frame: Callable[[Watched], None] = lambda _: None) -> None:
        """Show until `done`; `each_frame` is called before each picture and may add to what is watched."""
        live = self._console.is_terminal
        with self._live() if live else nullcontext() as shown:
            while not done(self.watched):
                self.take(FRAME_S if live else LINE_S)
                each_frame(self.watched)
                if shown is None:
                    self._console.print(self.line(), markup=False, highlight=False, soft_wrap=True)
                else:
                    shown.update(self.picture(), refresh=True)

    def _live(self) -> Live:
        return Live(self.picture(), console=self._console, auto_refresh=False, vertical_overflow="crop")

    def picture(self) -> RenderableType:
        """Return the whole view."""
        return view(self.watched, self._url, self._wanted, self._console, time.monotonic())

    def line(self) -> str:
        """Return it in one line."""
        return line(self.watched, self._url, time.monotonic())

    def once(self, timeout_s: float, asked: Callable[[Watched], None]) -> bool:
        """Print one view as soon as there is one; False where nobody said anything."""
        until_s = time.monotonic() + timeout_s
        while not self.watched.status and time.monotonic() < until_s:
            self.take(0.1)
        self.take(0.2)  # maps come just behind
        asked(self.watched)
        if self.watched.heard_s is None:
            self._console.print(self.line(), markup=False, highlight=False)
            return False
        self._console.print(self.picture() if self._console.is_terminal else self.line(), soft_wrap=True)
        return True


class AskedWindow:
    """A map of an energy window that nobody configured: asked for, once a second.

    Parameters
    ----------
    controller : Controller
    lo, hi : float
        In axis units.
    """

    def __init__(self, controller: Controller, lo: float, hi: float) -> None:
        self.name = f"{lo:g} to {hi:g}"
        self._controller, self._lo, self._hi = controller, lo, hi
        self._due_s = 0.0

    def __call__(self, watched: Watched) -> None:
        """Ask where it is time, and put the map beside the published ones."""
        if time.monotonic() < self._due_s:
            return
        try:
            watched.maps[self.name] = self._controller.window(self._lo, self._hi).arrays["denoised"]
            watched.map_error = None
        except RequestRefused as error:
            watched.map_error = str(error)
        except NoAnswer:
            pass  # the view says itself that nobody is heard
        self._due_s = time.monotonic() + LINE_S


def watch(
    results: Annotated[str, typer.Option(help="The daemon's results.")] = RESULTS,
    control: Annotated[str, typer.Option(help="Its control socket; asked for --map LO-HI.")] = CONTROL,
    map_name: Annotated[
        str | None, typer.Option("--map", help="Map: counts, anomaly, raw/Fe K, ..., or LO-HI in axis units.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one view and end.")] = False,
    until_end: Annotated[bool, typer.Option("--until-end", help="End with the series.")] = False,
    secret_key: Annotated[Path | None, typer.Option(help="Our .key_secret file, for a daemon with keys.")] = None,
    server_key: Annotated[Path | None, typer.Option(help="The daemon's .key file.")] = None,
) -> None:
    """Watch a running daemon in the terminal: rate, lag, losses, model, decisions, anomalies, a small map."""
    with ExitStack() as stack:
        try:
            curve = None if secret_key is None else CurveKeys.from_files(secret_key, server_key)
            viewer = stack.enter_context(Viewer(results, TOPICS, curve=curve))
            asked = None
            if (bounds := _RANGE.fullmatch(map_name or "")) is not None:
                controller = stack.enter_context(
                    Controller(control, "watch", role="viewer", timeout_s=1.0, curve=curve)
                )
                asked = AskedWindow(controller, float(bounds[1]), float(bounds[2]))
        except (ValueError, OSError) as error:
            typer.echo(f"scanwise watch: {error}", err=True)
            raise typer.Exit(2) from error
        screen = Screen(viewer, results, Console(), map_name if asked is None else asked.name)
        try:
            _watch(screen, asked or (lambda _: None), once=once, until_end=until_end)
        except KeyboardInterrupt:
            return


def _watch(screen: Screen, asked: Callable[[Watched], None], *, once: bool, until_end: bool) -> None:
    if once:
        if not screen.once(SILENT_S, asked):
            raise typer.Exit(EXIT_NOBODY)
        return
    screen.run(lambda watched: until_end and watched.ended is not None, asked)
