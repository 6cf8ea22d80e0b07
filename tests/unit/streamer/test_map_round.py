"""Maps that are made in pieces, while the scan goes on, are each of one model."""

import numpy as np
import pytest

from streamer import views
from streamer.config import PipelineConfig
from streamer.pipeline import Pipeline
from streamer.wire import Control
from streamer.wire.items import Arrived, Tick
from tests.unit.streamer.scene import HOST, MS, Scene


def test_a_map_begun_before_a_new_model_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "PIECE", 50)
    config = PipelineConfig(windows={"line": (0.4, 0.6)})
    pipeline = Pipeline(config)
    messages = Scene(passes=3).messages()
    versions, rounds, at = set(), 0, 0
    pieces = pipeline.map_round()
    for at, parts in enumerate(messages[:-1]):
        pipeline.feed(Arrived(at * 300 * MS, parts, HOST))
        pipeline.feed(Tick(at * 300 * MS))
        for _ in range(3):
            try:
                found = next(pieces)
            except StopIteration:
                rounds += 1
                pieces = pipeline.map_round()
                continue
            if found is None or found.topic not in {"map/scores", "map/window/line"}:
                continue
            whole = next(r for r in pipeline.maps() if r.topic == found.topic)
            assert found.head["model"] == whole.head["model"]
            name = found.topic.removeprefix("map/")
            assert found.arrays[name].shape == whole.arrays[name].shape
            versions.add(found.head["model"])
    assert rounds >= 2
    assert len(versions) >= 2


def test_pieces_make_the_same_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline(PipelineConfig(windows={"line": (0.4, 0.6)}))
    for at, parts in enumerate(Scene().messages()[:-1]):
        pipeline.feed(Arrived(at * 300 * MS, parts, HOST))
        pipeline.feed(Tick(at * 300 * MS))
    whole = pipeline.maps()
    monkeypatch.setattr(views, "PIECE", 50)
    pieces = list(pipeline.map_round())
    assert pieces.count(None) >= 2 * (-(-192 // 50) - 1)
    made = [piece for piece in pieces if piece is not None]
    assert [r.topic for r in made] == [r.topic for r in whole]
    for a, b in zip(made, whole, strict=True):
        np.testing.assert_array_equal(next(iter(a.arrays.values())), next(iter(b.arrays.values())))


def test_costly_maps_are_made_for_who_names_them_and_at_the_end() -> None:
    pipeline = Pipeline(PipelineConfig())
    *data, end = Scene().messages()
    for at, parts in enumerate(data):
        pipeline.feed(Arrived(at * 300 * MS, parts, HOST))
        pipeline.feed(Tick(at * 300 * MS))
    topics = {r.topic for r in pipeline.maps()}
    assert "map/t2" in topics
    assert not topics & {"map/q", "map/reconstruction_error"}
    named = pipeline.answer(Control("cmd", 1, "snapshot", {"names": ["q", "t2", "reconstruction_error"]}), "boot")
    for found in named.arrays.values():
        # Ordinary spectra: about as far from the model as chance has it, far below the limit or near it.
        assert 0.1 < np.nanmedian(found) < 1.0
    assert "q" not in pipeline.answer(Control("cmd", 2, "snapshot"), "boot").arrays
    pipeline.feed(Arrived(len(data) * 300 * MS, end, HOST))
    pipeline.feed(Tick((len(data) + 10) * 300 * MS))
    assert {"map/q", "map/reconstruction_error"} <= {r.topic for r in pipeline.maps()}
