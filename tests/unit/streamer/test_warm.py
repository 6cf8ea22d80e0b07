"""Nothing is compiled while an instrument is measuring."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

import models
from streamer.config import PipelineConfig
from streamer.pipeline import Pipeline
from streamer.warm import warm_up
from streamer.wire import Part, encode_events
from streamer.wire.items import Arrived, Idle, Tick
from tests.unit.streamer.scene import HOST, MS, Scene


def compiled() -> dict[str, set[str]]:
    """Every kernel, and the types it is compiled for."""
    found = {}
    for module in pkgutil.iter_modules(models.__path__):
        for name, value in vars(importlib.import_module(f"models.{module.name}")).items():
            if isinstance(value, Dispatcher):
                found[name] = {str(s) for s in value.signatures}
    return found


def as_events(scene: Scene) -> list[list[Part]]:
    flat = scene.counts.reshape(-1, 64)
    header, *_, end = scene.messages(block=24)
    blocks: list[list[Part]] = []
    for frame in range(0, len(flat), 24):
        block = flat[frame : frame + 24]
        offsets = np.concatenate([[0], np.cumsum(block.sum(axis=1))]).astype("u4")
        channels = np.concatenate([np.repeat(np.arange(64), row) for row in block]).astype("u2")
        blocks.append(encode_events(scene.series, 1 + len(blocks), frame, offsets, channels, 64))
    return [header, *blocks, end]


@pytest.mark.parametrize("mean_counts", [15.0, 1500.0])
@pytest.mark.parametrize("kind", ["blocks", "single", "events"])
def test_nothing_is_compiled_after_the_warm_up(kind: str, mean_counts: float) -> None:
    scene = Scene(mean_counts=mean_counts)
    messages = as_events(scene) if kind == "events" else scene.messages(block=1 if kind == "single" else 24)
    warm_up()
    before = compiled()
    assert any(before.values()), "the models are compiled"
    pipeline = Pipeline(PipelineConfig())
    for number, parts in enumerate(messages):
        pipeline.feed(Arrived(number * 100 * MS, parts, HOST))
        if number % 3:
            pipeline.feed(Tick(number * 100 * MS))
            pipeline.feed(Idle(number * 100 * MS))
    assert compiled() == before


def test_a_hurry_ends_the_warm_up_between_two_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.warm._WARM", set())
    asked: list[bool] = []
    warm_up(lambda: bool(asked.append(True) or len(asked) > 2))  # type: ignore[func-returns-value]
    assert len(asked) == 3
    warm_up()
    warm_up(lambda: pytest.fail("everything has been warmed up"))
