"""The decisions of a recording, computed again: the same, or with other settings what would have been decided."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from streamer.config import PipelineConfig
from streamer.events import Publish
from streamer.pipeline import Pipeline
from streamer.run_data import FINAL, Run
from streamer.state import JOURNAL, map_file
from streamer.wire.items import Answer, Change, Item
from streamer.wire.journal import Closed, Opened, read_records


def decisions_of(
    journal: Path, config: PipelineConfig | None = None, ended: Callable[[dict[str, Any]], object] = lambda _head: None
) -> Iterator[dict[str, Any]]:
    """Yield each decision and each of its outcomes, as they were mirrored, from a recording fed again.

    Parameters
    ----------
    journal : Path
    config : PipelineConfig, optional
        Other settings than those in force, whatever the operator changed. Then nobody answers: the answers were to
        other decisions.
    ended : callable, optional
        Given the ``series`` message of the end.

    Raises
    ------
    OSError
        Where the file cannot be read.
    ValueError
        Where it has no readable beginning, or its settings cannot be used any more.
    """
    pipeline: Pipeline | None = None
    for record, _ in read_records(map_file(journal)):
        if isinstance(record, Opened):
            settings = PipelineConfig.model_validate(record.get("settings")) if config is None else config
            pipeline = Pipeline(settings)
        elif pipeline is None:
            break
        elif not isinstance(record, Closed) and (config is None or not isinstance(record, Answer | Change)):
            for head in _published(pipeline, record):
                if "event" not in head:
                    yield head
                elif head["event"] == "end":
                    ended(head)
    if pipeline is None:
        raise ValueError(f"{journal} has no readable beginning")


def _published(pipeline: Pipeline, item: Item) -> Iterator[dict[str, Any]]:
    """Heads of what is published of decisions and of the series."""
    for event in pipeline.feed(item):
        if isinstance(event, Publish) and event.result.topic in {"decision", "series"}:
            yield dict(event.result.head)


def differences(folder: Path, found: list[dict[str, Any]]) -> str | None:
    """Return how decisions differ from those that were published when the scan ran, as a sentence; None: not at all.

    Raises
    ------
    OSError
        Where ``final.npz`` is not there: the series has not ended.
    """
    then = [_plain(d) for d in Run.load(folder).meta.get("decisions") or []]
    now = [_plain(d) for d in found]
    if then == now:
        return None
    for number, (a, b) in enumerate(zip(then, now, strict=False)):
        if a != b:
            wrong = sorted(k for k in {*a, *b} if a.get(k) != b.get(k))
            return f"message {number} ({b.get('decision')}) differs in {', '.join(wrong)}"
    return f"{len(then)} messages were published when the scan ran, and {len(now)} now"


def _plain(head: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON keeps of it."""
    plain: dict[str, Any] = json.loads(json.dumps(head, default=str))
    return plain


def replay_decisions(
    recording: Annotated[Path, typer.Argument(help="Folder of a recording, or its journal.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file: what would have been decided with these settings.")
    ] = None,
) -> None:
    """Show the decisions of a recording: the same bit for bit, or what other settings would have decided."""
    from streamer.exits import Exit
    from streamer.settings import load

    folder = recording if recording.is_dir() else recording.parent
    ends: list[dict[str, Any]] = []
    try:
        settings = None if config is None else load(config).pipeline
        found = list(decisions_of(folder / JOURNAL if recording.is_dir() else recording, settings, ends.append))
    except (OSError, ValueError, Exit) as error:
        typer.echo(f"scanwise replay-decisions: {error}", err=True)
        raise typer.Exit(1) from error
    for head in found:
        typer.echo(_line(head))
    if not found:
        typer.echo("no decisions")
    if not any(head.get("action") == "stop" for head in found):
        for line in held_up(ends):
            typer.echo(line)
    if settings is None and (folder / FINAL).exists():
        differs = differences(folder, found)
        typer.echo("the same as when the scan ran" if differs is None else f"not as when the scan ran: {differs}")
        raise typer.Exit(0 if differs is None else 1)


def held_up(ends: list[dict[str, Any]]) -> Iterator[str]:
    """Say what held a stop up to the end of a scan, from the ``series`` messages of its end."""
    for end in ends:
        for name, (value, target) in end.get("unmet", {}).items():
            known = "not known" if value is None else f"{value:.4g}"
            yield f"no stop: {name} was {known} at the last check ({target:.4g} asked)"


def _line(head: Mapping[str, Any]) -> str:
    if "outcome" in head:
        answer = head.get("answer") or {}
        return f"{head['decision']}  {head['outcome']} {answer.get('error') or ''}".rstrip()
    return f"{head['decision']}  {head['action']} ({head['mode']}, model {head['model']}): {head['reason']}"
