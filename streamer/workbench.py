"""What the worker works with, and how much at once."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.closing import Closing
from streamer.inbox import Inbox
from streamer.metrics import Metrics
from streamer.outbox import Outbox
from streamer.recorder import Recorder
from streamer.timings import Timings


@dataclass(frozen=True)
class Batch:
    """How much is processed at once, at most: what has arrived, never more than has."""

    messages: int = 256
    nbytes: int = 8 << 20


@dataclass(frozen=True)
class Parts:
    """What the worker works with; the service makes them."""

    inbox: Inbox
    outbox: Outbox
    recorder: Recorder
    closing: Closing
    metrics: Metrics
    timings: Timings
