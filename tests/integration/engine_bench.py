"""The worker with real queues and a real state folder, without sockets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamer.closing import Closing
from streamer.config import PipelineConfig
from streamer.engine import Engine
from streamer.events import Event, Publish
from streamer.inbox import Inbox
from streamer.metrics import Metrics
from streamer.outbox import Client, Outbox, Outgoing, Reply, Request
from streamer.recorder import Recorder
from streamer.recovery import recover
from streamer.state import JOURNAL, StateFolder, map_file
from streamer.timings import Timings
from streamer.wire import Control, Part, Result
from streamer.wire.items import Arrived
from streamer.wire.journal import read_records
from streamer.workbench import Batch, Parts
from tests.unit.streamer.scene import HOST

ASKER = Client(b"asker", False)
OFTEN = PipelineConfig(promote_s=1e-6)
NEVER_SAME = {"latency_ms", "t_ns"}


@dataclass
class Ran:
    """What a run of the engine left behind."""

    sent: list[Outgoing]
    metrics: Metrics

    def results(self, topic: str) -> list[Result]:
        return [s.result for s in self.sent if isinstance(s, Publish) and s.result.topic == topic]

    def end(self, series: str) -> dict[str, Any]:
        ends = [r.head for r in self.results("series") if r.head["event"] == "end" and r.head["series"] == series]
        assert len(ends) == 1
        return dict(ends[0])

    def replies(self) -> list[Control]:
        return [s.control for s in self.sent if isinstance(s, Reply)]

    def last_map(self, name: str) -> Any:
        return self.results(f"map/{name}")[-1].arrays[name]

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"scanwise_{name}", labels) or 0.0


class Bench:
    """Runs engine after engine over one state folder, as daemons that are started again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(
        self,
        fill: Callable[[Inbox], None],
        config: PipelineConfig | None = None,
        *,
        requests: Sequence[Control] = (),
        denoised: bool = False,
        batch: int = 7,
        outbox: Outbox | None = None,
        keep: int = 8,
    ) -> Ran:
        """Run until all that `fill` puts in has been worked off."""
        inbox, metrics = Inbox(100_000, 1 << 30, "block"), Metrics()
        outbox = outbox or Outbox(most=1_000_000)
        fill(inbox)
        for control in requests:
            inbox.request(Request(ASKER, control))
        inbox.close()
        state, closing = StateFolder(self.path), Closing()
        recorder = Recorder(state, keep, 1 << 30)
        engine = Engine(
            config or PipelineConfig(),
            Parts(inbox, outbox, recorder, closing, metrics, Timings(metrics)),
            boot="boot",
            batch=Batch(batch, 1 << 20),
            denoised_wanted=lambda: denoised,
            report=False,
        )
        try:
            engine.run(lambda e: recover(e, state.open_series()))
        finally:
            recorder.leave()
            closing.finish(10)
            state.close()
            sent = outbox.take()
            outbox.dispose()
        return Ran(sent, metrics)

    def folders(self) -> list[Path]:
        return sorted(p.parent for p in self.path.glob(f"*/{JOURNAL}"))

    def records(self, folder: Path) -> list[Any]:
        return [record for record, _ in read_records(map_file(folder / JOURNAL))]


def putting(messages: Sequence[list[Part]]) -> Callable[[Inbox], None]:
    def fill(inbox: Inbox) -> None:
        now = time.time_ns()
        inbox.put([Arrived(now + k, parts, HOST) for k, parts in enumerate(messages)])

    return fill


def published(events: Sequence[Event]) -> Iterator[tuple[str, dict[str, Any], dict[str, bytes]]]:
    for event in events:
        if isinstance(event, Publish):
            head = {k: v for k, v in event.result.head.items() if k not in NEVER_SAME}
            yield event.result.topic, head, {k: a.tobytes() for k, a in event.result.arrays.items()}
