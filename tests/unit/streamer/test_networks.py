"""Which network is taken for a series, outside the pure part, and how much time it gets."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from models.card import read_card, write_card
from streamer.config import PipelineConfig
from streamer.networks import Networks
from streamer.pipeline import Pipeline
from streamer.series import Series
from streamer.wire.items import Arrived, NewNetwork
from tests.unit.streamer.scene import HOST, Scene


def series_of(scene: Scene, **keys: object) -> Series:
    pipeline = Pipeline(PipelineConfig())
    pipeline.feed(Arrived(0, scene.header(**keys), HOST))
    series = pipeline.without_network
    assert series is not None
    return series


def sought(networks: Networks, series: Series) -> NewNetwork | None:
    networks.seek(series)
    deadline, found = time.monotonic() + 60, None
    while networks.searching:
        found = networks.found()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_what_fits_is_found_whole_and_made_beforehand(scene_network: Path) -> None:
    networks = Networks((scene_network.parent,), "cpu")
    item = sought(networks, series_of(Scene()))
    assert item is not None
    assert (item.series, item.device) == ("scene", "cpu")
    assert bytes(item.parts[0]) == scene_network.read_bytes()
    assert networks.build(item) is networks.build(item)
    assert sought(networks, series_of(Scene())) is None, "the same series is not searched for twice"
    networks.close()


def test_no_network_is_looked_for_where_they_are_off_or_the_noise_is_not_known(scene_network: Path) -> None:
    assert sought(Networks((scene_network.parent,), enabled=False), series_of(Scene())) is None
    pipeline = Pipeline(PipelineConfig())
    pipeline.feed(Arrived(0, Scene().header(noise=None), HOST))
    assert pipeline.without_network is None


def test_what_does_not_fit_or_cannot_be_read_is_told(
    scene_network: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    card = read_card(scene_network)
    shutil.copy(scene_network, tmp_path / "moved.onnx")
    shifted = card.axis.model_copy(update={"offset": 1.0})
    write_card(card.model_copy(update={"name": "moved", "axis": shifted}), tmp_path / "moved.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    networks = Networks((tmp_path,), "cpu")
    assert sought(networks, series_of(Scene())) is None
    assert "its axis is off by 20 channels" in caplog.text
    assert "broken.onnx cannot be used" in caplog.text
    # As where the axis was corrected during the scan: it is looked for again, and told once.
    series = series_of(Scene())
    series.axis = replace(series.axis, offset=0.5)
    assert sought(networks, series) is None
    assert caplog.text.count("is denoised by PCA alone") == 1
    networks.close()


def test_a_file_that_is_no_network_costs_nothing_but_itself(
    scene_network: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = read_card(scene_network)
    (tmp_path / "junk.onnx").write_bytes(b"not a network at all")
    write_card(card, tmp_path / "junk.onnx")
    networks = Networks((tmp_path,), "cpu")
    assert sought(networks, series_of(Scene())) is None
    assert "no network is used" in caplog.text
    networks.close()


def test_one_that_is_too_slow_is_left_out(scene_network: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    networks = Networks((scene_network.parent,), "cpu", piece_s=1e-9)
    assert sought(networks, series_of(Scene())) is None
    assert "too slow" in caplog.text
    networks.close()


def test_pieces_are_as_large_as_the_time_allows() -> None:
    networks = Networks(piece_s=2e-3)
    assert networks.rows == 1
    networks.took(1, 1e-3)
    assert networks.rows == 2
    for _ in range(100):
        networks.took(100, 2e-3)
    assert 95 <= networks.rows <= 100
    networks.took(1, 1.0)
    assert networks.rows == 1
