"""A small Poisson scan as items for the pipeline, for tests without sockets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.config import PipelineConfig
from streamer.events import Event, Publish
from streamer.pipeline import Pipeline
from streamer.wire import Control, Part, encode_header, encode_image, encode_series_end
from streamer.wire.items import Arrived, Idle, Item, Tick

MS = 1_000_000
HOST = "127.0.0.1"


@dataclass
class Scene:
    """Three phases in stripes, 64 channels; `counts` (passes, P, D) as measured."""

    nav_shape: tuple[int, int] = (12, 16)
    passes: int = 2
    mean_counts: float = 120.0
    seed: int = 0
    series: str = "scene"
    counts: NDArray[np.uint16] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        channels = np.arange(64)
        peaks = [(10, 30), (20, 45), (12, 52)]
        shapes = np.array([0.2 + sum(8 * np.exp(-0.5 * ((channels - c) / 2.0) ** 2) for c in pair) for pair in peaks])
        shapes /= shapes.sum(axis=1, keepdims=True)
        phase = np.arange(np.prod(self.nav_shape)) % self.nav_shape[1] * 3 // self.nav_shape[1]
        self.expected = self.mean_counts * shapes[phase]
        self.counts = rng.poisson(self.expected, (self.passes, *self.expected.shape)).astype(np.uint16)

    @property
    def n_sent(self) -> int:
        return int(self.counts.shape[0] * self.counts.shape[1])

    def header(self, **keys: Any) -> list[Part]:
        axis = {"name": "Energy", "units": "keV", "size": 64, "offset": 0.0, "scale": 0.05}
        known: dict[str, Any] = {"technique": "eds", "noise": {"model": "poisson"}, "dwell_s": 0.01}
        return encode_header(self.series, self.nav_shape, axis, **{**known, "passes": self.passes, **keys})

    def messages(self, block: int = 24, **keys: Any) -> list[list[Part]]:
        flat = self.counts.reshape(-1, 64)
        out = [self.header(**keys)]
        for frame in range(0, len(flat), block):
            out.append(encode_image(self.series, len(out), frame, flat[frame : frame + block]))
        return [*out, encode_series_end(self.series, len(out), len(flat))]

    def items(self, block: int = 24, idle: int = 1, ticks: int = 1, **keys: Any) -> Iterator[Item]:
        """Every message, then so many ticks and pieces of idle time."""
        for number, parts in enumerate(self.messages(block, **keys)):
            yield Arrived(number * 100 * MS, parts, HOST)
            for _ in range(ticks):
                yield Tick(number * 100 * MS)
            for _ in range(idle):
                yield Idle(number * 100 * MS)


def feed_all(pipeline: Pipeline, items: Any) -> list[Event]:
    return [event for item in items for event in pipeline.feed(item)]


def results(events: list[Event], topic: str) -> list[Any]:
    return [e.result for e in events if isinstance(e, Publish) and e.result.topic == topic]


def run(scene: Scene, config: PipelineConfig | None = None, **keys: Any) -> tuple[Pipeline, list[Event]]:
    pipeline = Pipeline(config or PipelineConfig())
    return pipeline, feed_all(pipeline, scene.items(**keys))


def end_of(events: Any) -> dict[str, Any]:
    """Books of the only end of a series."""
    ends = [r.head for r in results(events, "series") if r.head["event"] == "end"]
    assert len(ends) == 1
    return dict(ends[0])


def ask(pipeline: Pipeline, val: str, **params: Any) -> Control:
    """Answer to a request that changes nothing."""
    return pipeline.answer(Control("cmd", 1, val, params), "boot")
