"""Preprocessing from the configuration to what is published."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from models.linear import LinearEngine
from models.prepared import PreparedEngine
from streamer.config import PipelineConfig
from streamer.events import Log
from streamer.pipeline import Pipeline
from streamer.wire import Control, encode_header, encode_image
from streamer.wire.items import Arrived, Tick
from tests.unit.streamer.scene import HOST, MS, Scene, feed_all, results, run

SNIP = {"background": "snip", "half_window": 6, "crop": [0.2, 3.0], "align": 0.5, "align_within": 0.4}


def config(**steps: Any) -> PipelineConfig:
    return PipelineConfig.model_validate({"steps": {"eds": steps}, "windows": {"line": [0.9, 1.1]}})


def ask(pipeline: Pipeline, val: str, **params: Any) -> Control:
    return pipeline.answer(Control("cmd", "1", val, params), "boot")


def test_steps_are_those_of_the_technique() -> None:
    pipeline, _ = run(Scene(), config(rebin=2), technique="eels")
    assert pipeline._current is not None
    assert type(pipeline._current.engine) is LinearEngine
    pipeline, _ = run(Scene(), config(rebin=2))
    assert pipeline._current is not None
    assert isinstance(pipeline._current.engine, PreparedEngine)
    assert pipeline.status()["steps"] == {"rebin": "spread over the channels of a sum by the mean spectrum"}


def test_net_maps_background_and_shift_are_published() -> None:
    scene = Scene(mean_counts=3000.0)
    pipeline, events = run(scene, config(**SNIP, normalise="total"))
    maps = {r.topic: next(iter(r.arrays.values())) for r in results(events, "map/net/line")}
    assert maps
    snapshot = ask(pipeline, "snapshot").arrays
    assert {"net/line", "window/line", "raw/line", "shift", "scale"} <= snapshot.keys()
    spectrum = ask(pipeline, "spectrum", index=5).arrays
    assert np.array_equal(spectrum["raw"], scene.counts.sum(axis=0)[5])
    assert spectrum["background"].shape == spectrum["denoised"].shape == (64,)
    assert np.isnan(spectrum["denoised"][0])
    below = [ask(pipeline, "spectrum", index=i).arrays["background"][18:23].sum() for i in range(192)]
    difference = snapshot["window/line"] - snapshot["net/line"]
    np.testing.assert_allclose(difference.ravel(), below, rtol=1e-3)
    books = results(events, "series")[-1].head
    assert books["n_sent"] == books["processed"] == scene.n_sent


def test_a_replay_gives_the_same_bits() -> None:
    first, second = (run(Scene(), config(**SNIP))[1] for _ in range(2))
    for topic in ("result", "basis"):
        for a, b in zip(results(first, topic), results(second, topic), strict=True):
            assert a.head == b.head
            assert all(np.array_equal(a.arrays[k], b.arrays[k], equal_nan=True) for k in a.arrays)


def test_a_step_without_room_is_told_and_left_out() -> None:
    scene = Scene()
    pipeline, events = run(scene, config(align=700.0))
    told = [e.text for e in events if isinstance(e, Log) and e.level == "warning"]
    assert any("no preprocessing: the axis from 0 to 3.15 has no room for a peak at 700" in t for t in told)
    assert results(events, "series")[-1].head["processed"] == scene.n_sent
    assert "steps" not in pipeline.status()


def test_steps_are_for_the_axis_that_comes_with_the_first_data() -> None:
    scene = Scene()
    channels = {"name": "channel", "units": "", "size": 64, "offset": 0.0, "scale": 1.0}
    pipeline = Pipeline(config(crop=[0.5, 2.0]))
    known: dict[str, Any] = {"technique": "eds", "noise": {"model": "poisson"}}
    items: list[Any] = [Arrived(0, encode_header("late", scene.nav_shape, channels, **known), HOST), Tick(0)]
    axis = {"name": "Energy", "units": "keV", "size": 64, "offset": 0.0, "scale": 0.05}
    items += [Arrived(MS, encode_image("late", 1, 0, scene.counts[0], axis=axis), HOST), Tick(MS)]
    feed_all(pipeline, items)
    denoised = ask(pipeline, "spectrum", index=0).arrays["denoised"]
    assert np.flatnonzero(np.isfinite(denoised)).tolist() == list(range(10, 41))


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({"crop": [3.0, 1.0]}, "crop: 3.0 to 1.0 is empty"),
        ({"background": "power_law"}, "power_law needs background_window"),
        ({"rebin": 0}, "greater than or equal to 1"),
        ({"dead_channels": [-1]}, "greater than or equal to 0"),
    ],
)
def test_wrong_steps_are_refused(steps: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config(**steps)
