"""The command line. Every import that takes time is inside the command that needs it."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from streamer.build import program_version
from streamer.command_group import CommandGroup
from streamer.exits import OK, USAGE, Exit

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Real-time analysis of spectroscopic scans: live denoised maps, anomaly flags, decisions.",
)


class Pattern(StrEnum):
    """How the instrument sends."""

    SUB = "sub"
    PULL = "pull"


class Level(StrEnum):
    """Importance of a log line."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; `scanwise config` prints one.")]
Source = Annotated[str | None, typer.Option(help="Endpoint of the instrument's data. (source.url)")]
PatternOption = Annotated[
    Pattern | None, typer.Option(help="sub for a publishing instrument, pull for a pushing one. (source.pattern)")
]
BindSource = Annotated[
    bool | None,
    typer.Option("--bind-source/--connect-source", help="Let the instrument connect to us. (source.bind)"),
]
Results = Annotated[str | None, typer.Option(help="Endpoint where results are published. (results.url)")]
ControlUrl = Annotated[str | None, typer.Option("--control", help="Endpoint of the control socket. (control.url)")]
MetricsAt = Annotated[
    str | None, typer.Option("--metrics", help='HOST:PORT of /metrics; "" for none. (metrics.listen)')
]
State = Annotated[Path | None, typer.Option(help="Folder for recordings and restarts. (state.dir)")]
LogLevel = Annotated[Level | None, typer.Option("--log-level", help="Least important line written. (log.level)")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"scanwise {program_version()}")
        raise typer.Exit(OK)


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Real-time analysis of spectroscopic scans: live denoised maps, anomaly flags, decisions."""


def _end(error: Exit) -> typer.Exit:
    typer.echo(f"scanwise: {error.text}", err=True)
    return typer.Exit(error.code)


def _flags(
    source: str | None,
    pattern: Pattern | None,
    bind_source: bool | None,
    results: str | None,
    control: str | None,
    metrics: str | None,
    state: Path | None,
    log_level: Level | None,
) -> dict[str, dict[str, Any]]:
    return {
        "source": {"url": source, "pattern": pattern and pattern.value, "bind": bind_source},
        "results": {"url": results},
        "control": {"url": control},
        "metrics": {"listen": metrics},
        "state": {"dir": state},
        "log": {"level": log_level and log_level.value},
    }


@app.command()
def run(
    config: ConfigFile = None,
    source: Source = None,
    pattern: PatternOption = None,
    bind_source: BindSource = None,
    results: Results = None,
    control: ControlUrl = None,
    metrics: MetricsAt = None,
    state: State = None,
    log_level: LogLevel = None,
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C.

    Flags override SCANWISE_SECTION__KEY environment variables, which override the file.

    Exit codes: 0 clean, 2 wrong command line, 69 a port, key or folder cannot be used, 70 internal error,
    74 the recording cannot be written, 78 wrong configuration, 130 or 143 a second signal.
    """
    try:
        from streamer.logs import start_logging
        from streamer.service import run as run_service
        from streamer.settings import load

        flags = _flags(source, pattern, bind_source, results, control, metrics, state, log_level)
        settings = load(config, flags)
    except Exit as error:
        raise _end(error) from error
    except KeyboardInterrupt:  # from here on the service listens to signals itself
        raise typer.Exit(OK) from None
    start_logging(settings.log.level)
    sys.exit(run_service(settings))


@app.command()
def config(
    file: ConfigFile = None,
    effective: Annotated[
        bool, typer.Option("--effective", help="Print what file and environment come to, not the example.")
    ] = False,
) -> None:
    """Print an annotated example of the configuration file, or with --effective the settings in force."""
    from streamer.example import as_toml
    from streamer.settings import Settings, load

    try:
        settings = load(file) if effective or file else Settings.model_construct()
    except Exit as error:
        raise _end(error) from error
    typer.echo(as_toml(settings), nl=False)


@app.command()
def keys(
    folder: Annotated[Path, typer.Argument(help="Folder for the two files.")],
    name: Annotated[str, typer.Option(help="Their name: NAME.key (public) and NAME.key_secret.")] = "scanwise",
) -> None:
    """Make a CURVE key pair for the daemon, a client or an instrument."""
    from streamer.transport.curve import make_keys

    try:
        public, secret = make_keys(folder, name)
    except OSError as error:
        typer.echo(f"scanwise: {error}", err=True)
        raise typer.Exit(USAGE) from error
    typer.echo(f"public key, to be given to the other side:  {public}\nsecret key, to be kept here:  {secret}")


@app.command()
def doctor(file: ConfigFile = None) -> None:
    """Say what is installed, what works, which ports are free, and what to do about each problem."""
    from streamer.doctor import examine

    raise typer.Exit(examine(file))
