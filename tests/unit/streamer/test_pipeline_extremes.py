"""Spectra at the edge of what a header allows: few channels, no noise at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streamer.config import PipelineConfig
from streamer.pipeline import Pipeline
from streamer.wire import encode_header, encode_image, encode_series_end
from streamer.wire.items import Arrived, Idle, Tick
from tests.unit.streamer.scene import HOST, MS, end_of, feed_all, results

SHAPE = (12, 12)


def _scan(counts: NDArray[Any], noise: dict[str, Any] | None) -> list[Any]:
    """Events of two passes of the spectra (n, D)."""
    axis = {"name": "Energy", "units": "keV", "size": counts.shape[1], "offset": 0.0, "scale": 0.01}
    keys: dict[str, Any] = {} if noise is None else {"noise": noise}
    messages = [encode_header("edge", SHAPE, axis, technique="eds", dwell_s=0.01, **keys)]
    twice = np.concatenate([counts, counts])
    for frame in range(0, len(twice), 32):
        messages.append(encode_image("edge", len(messages), frame, twice[frame : frame + 32]))
    messages.append(encode_series_end("edge", len(messages), len(twice)))
    items = [i for n, m in enumerate(messages) for i in (Arrived(n * 100 * MS, m, HOST), Tick(n * 100 * MS), Idle(0))]
    return feed_all(Pipeline(PipelineConfig()), items)


def _is_whole(events: list[Any], counts: NDArray[Any]) -> None:
    assert end_of(events)["exit_status"] == "success"
    measured = results(events, "map/counts")[-1].arrays["counts"]
    np.testing.assert_allclose(measured.ravel(), 2 * counts.sum(axis=1), rtol=1e-5)
    basis = results(events, "basis")[-1]
    assert all(np.isfinite(array).all() for array in basis.arrays.values())


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4, 5, 8, 9])
def test_few_channels(n_channels: int) -> None:
    counts = np.random.default_rng(0).poisson(20.0, (144, n_channels)).astype(np.uint16)
    _is_whole(_scan(counts, {"model": "poisson"}), counts)


@pytest.mark.parametrize("level", [1e-3, 20.0, 1e8])
@pytest.mark.parametrize("kind", ["one channel", "all alike"])
def test_without_any_noise(level: float, kind: str) -> None:
    counts = np.full((144, 8), level)
    if kind == "one channel":
        counts[:, 1:] = 0.0
    _is_whole(_scan(counts, None), counts)
