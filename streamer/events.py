"""What comes out of the pipeline: things to publish, to ask for, to write down. Pure values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from streamer.wire import Control, Result
from streamer.wire.items import Arrived


@dataclass(frozen=True)
class Publish:
    """A result for the XPUB; `received_ns` of its oldest message where latency is of interest."""

    result: Result
    received_ns: int | None = None
    n_spectra: int = 0


@dataclass(frozen=True)
class Notify:
    """A decision for every controller."""

    control: Control


@dataclass(frozen=True)
class AskReplay:
    """Ask the instrument's replay service for messages `first` to `last`, inclusive."""

    id: int
    endpoint: str
    series: str
    first: int
    last: int


@dataclass(frozen=True)
class SeriesOpened:
    """A series is open: start its recording. `held` came before its header and is to be fed after it."""

    series: str
    record: dict[str, Any]
    held: Sequence[Arrived] = ()


@dataclass(frozen=True)
class SeriesClosed:
    """A series is closed for good; `books` as its `series` end has them."""

    series: str
    books: dict[str, Any]


@dataclass(frozen=True)
class Log:
    """A line for the operator; `kind` bounds the rate at which like lines are written."""

    level: Literal["info", "warning", "error"]
    kind: str
    text: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Count:
    """Something for the metrics: `name` with its label."""

    name: Literal[
        "rejected",
        "rejected_headers",
        "duplicates",
        "anomalies",
        "decisions",
        "model",
        "network",
        "network_version",
        "learnt",
    ]
    label: str = ""
    n: int = 1


@dataclass(frozen=True)
class Slack:
    """How long before its deadline a decision was answered, seconds; negative: after it."""

    action: str
    seconds: float


Event = Publish | Notify | AskReplay | SeriesOpened | SeriesClosed | Log | Count | Slack
