"""A network in the whole daemon, over sockets: it speaks, it is counted, and it survives a restart."""

from __future__ import annotations

import logging
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models.card import read_card
from streamer.pipeline import Pipeline
from streamer.state import JOURNAL, map_file
from streamer.wire import Result, encode_header
from streamer.wire.items import NewNetwork
from streamer.wire.journal import read_records
from tests.integration.running import Asker, Listener, Outside, Running, outside, settings
from tests.unit.streamer.scene import Scene, feed_all, results

SHAPE = (24, 32)


@pytest.fixture
def others() -> Iterator[Outside]:
    with outside() as made:
        yield made


def until_looked(asker: Asker, n: int) -> dict[str, object]:
    """Ask until the network has looked this often."""
    for _ in range(600):
        status = asker.ask("status").params["network"]
        if status is not None and status["looked"] >= n:
            return dict(status)
        time.sleep(0.1)
    raise AssertionError(f"the network has not looked {n} times: {status}")


def test_a_network_speaks_over_the_wire_and_is_counted(
    scene_network: Path, tmp_path: Path, others: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene = Scene(SHAPE)
    networks = {"folders": [scene_network.parent]}
    with Running(settings(tmp_path, networks=networks, metrics={"listen": "127.0.0.1:0"})) as daemon:
        instrument, listener, asker = others.instrument(daemon), others.listener(daemon), others.asker(daemon)
        listener.until("status", state="idle")
        first, *rest = scene.messages()
        instrument.send(first, *rest[:20])
        until_looked(asker, 1)
        instrument.send(*rest[20:-1])
        # At each position, and again only where it had looked before the second visit.
        status = until_looked(asker, 24 * 32)
        assert daemon.service.metrics_server is not None
        with urllib.request.urlopen(f"http://{daemon.service.metrics_server.endpoint}/metrics") as answer:
            metrics = answer.read().decode()
        instrument.send(rest[-1])
        end = listener.until("series", event="end")
    assert (end.head["processed"], end.head["lost"]) == (scene.n_sent, {})
    assert (status["name"], status["device"], status["version"]) == ("scene", "cpu", 1)
    assert "network 'scene' (hourglass" in caplog.text
    kinds = [r.head["kind"] for r in listener.got if r.topic == "denoised"]
    assert set(kinds) == {"pca", "hourglass"}
    assert 'scanwise_network_positions_total{outcome="spoke"}' in metrics
    assert "scanwise_network_version 1.0" in metrics
    said = [r for r in listener.got if r.topic == "denoised" and r.head["kind"] == "hourglass"][-1]
    truth = scene.expected[said.arrays["index"]]
    assert np.corrcoef(said.arrays["denoised"].ravel(), truth.ravel())[0, 1] > 0.97


def test_the_recording_holds_the_network_and_gives_the_same_again(
    scene_network: Path, tmp_path: Path, others: Outside
) -> None:
    scene = Scene(SHAPE)
    with Running(settings(tmp_path, networks={"folders": [scene_network.parent]})) as daemon:
        instrument, listener = others.instrument(daemon), others.listener(daemon, "denoised")
        asker = others.asker(daemon)
        *messages, end = scene.messages()
        instrument.send(*messages)
        until_looked(asker, 24 * 32)
    (journal,) = tmp_path.rglob(JOURNAL)
    items = [record for record, _ in read_records(map_file(journal)) if not isinstance(record, dict)]
    (network,) = [i for i in items if isinstance(i, NewNetwork)]
    assert bytes(network.parts[0]) == scene_network.read_bytes()
    config = settings(tmp_path / "other").pipeline
    again = results(feed_all(Pipeline(config), items), "denoised")
    live = [r for r in received(listener) if r.head["kind"] == "hourglass"]
    assert live
    spoken = {r.arrays["denoised"].tobytes() for r in again}
    assert all(r.arrays["denoised"].tobytes() in spoken for r in live)
    # The next daemon goes on with the network of the recording, whatever has become of the file.
    with Running(settings(tmp_path)) as daemon:
        instrument, listener, asker = others.instrument(daemon), others.listener(daemon), others.asker(daemon)
        status = until_looked(asker, 1)
        assert (status["name"], status["version"]) == ("scene", 1)
        instrument.send(end)
        assert listener.until("series", event="end").head["processed"] == scene.n_sent


def received(listener: Listener) -> list[Result]:
    """What has been published and not been read."""
    found = []
    while listener.socket.poll(500):
        found.append(listener.read())
    return found


def test_a_network_of_another_axis_is_told_and_ignored(
    scene_network: Path, tmp_path: Path, others: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert read_card(scene_network).axis.scale == 0.05
    axis = {"name": "Energy", "units": "keV", "size": 64, "offset": 0.0, "scale": 0.06}
    scene = Scene()
    with Running(settings(tmp_path, networks={"folders": [scene_network.parent]})) as daemon:
        instrument, listener = others.instrument(daemon), others.listener(daemon)
        listener.until("status", state="idle")
        messages = scene.messages()
        messages[0] = encode_header("scene", scene.nav_shape, axis, technique="eds", noise={"model": "poisson"})
        instrument.send(*messages)
        end = listener.until("series", event="end")
    assert end.head["processed"] == scene.n_sent
    told = [r.getMessage() for r in caplog.records if "PCA alone" in r.getMessage()]
    assert len(told) == 1
    assert "series 'scene' is denoised by PCA alone" in told[0]
    assert "its axis is off by" in told[0]
    assert all(r.head["kind"] == "pca" for r in listener.got if r.topic == "denoised")
    assert listener.last("status").head["learning"] == {"state": "off", "rounds": 0}
    assert listener.last("status").head["network"] is None
