"""Learning during the scan, from the daemon's side: a real process, and what happens where there is none."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from models.card import ModelCard
from streamer.config import PipelineConfig
from streamer.denoising import build
from streamer.learning import Learning
from streamer.pipeline import Pipeline
from streamer.series import Series
from streamer.wire.items import NewNetwork
from tests.unit.streamer.scene import Scene, feed_all
from tests.unit.streamer.test_denoising import item_of, with_network

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def series(scene_network: Path) -> Series:
    """An open series with a network that has seen a good part of it."""
    pipeline = Pipeline(PipelineConfig())
    items = list(with_network(Scene((24, 64)), item_of(scene_network)))
    feed_all(pipeline, items[:200])
    found = pipeline.open_series
    assert found is not None
    assert found.denoising.network is not None
    return found


def until_learnt(learning: Learning, series: Series) -> NewNetwork | None:
    deadline = time.monotonic() + PATIENCE_S
    while learning.rounds == 0 or learning.state == "training":
        found = learning.turn(series, idle=True)
        if found is not None or learning.state == "unavailable":
            return found
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return None


def test_a_copy_is_trained_by_a_process_of_low_priority_and_comes_back_whole(series: Series) -> None:
    learning = Learning(enabled=True, every_s=1e-3, steps=20)
    assert learning.turn(series, idle=True) is None
    while learning.rounds == 0:
        learning.turn(series, idle=True)
    item = until_learnt(learning, series)
    assert item is not None
    assert item.learnt
    assert item.series == "scene"
    card = ModelCard.model_validate_json(item.card)
    assert card.name == "scene"
    assert card.training["learnt"]["spectra"] >= 256
    network = series.denoising.network
    assert network is not None
    made = build(item)
    counts = series.engine.score_map.counts(series.engine.score_map.measured[:5])
    assert made.denoise(counts).spectra.shape == (5, 64)
    assert (made.denoise(counts).spectra != network.denoise(counts).spectra).any()
    process = learning.process
    assert process is not None
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
    learning.close()
    assert process.poll() is not None


def test_nothing_is_gathered_while_there_is_no_time_or_for_another_series(series: Series) -> None:
    learning = Learning(enabled=True, every_s=1e-9)
    learning.turn(series, idle=True)
    learning.turn(series, idle=True)
    assert learning.status()["state"] == "gathering"
    for _ in range(50):
        learning.turn(series, idle=False)
    assert learning.status() == {"state": "gathering", "rounds": 0}
    learning.turn(None, idle=True)
    assert learning.status()["state"] == "waiting"
    learning.close()


@pytest.mark.parametrize("program", [("-c", "raise ModuleNotFoundError('torch')"), ("-c", "print('{}')")])
def test_without_what_it_needs_the_status_says_so(
    series: Series, program: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    learning = Learning(enabled=True, every_s=1e-9, program=program)
    assert until_learnt(learning, series) is None
    assert learning.status() == {"state": "unavailable", "rounds": 1}
    assert "no learning during the scan" in caplog.text
    assert learning.turn(series, idle=True) is None
    learning.close()


def test_it_is_off_unless_asked_for(series: Series) -> None:
    learning = Learning()
    assert learning.turn(series, idle=True) is None
    assert learning.status() == {"state": "off", "rounds": 0}
