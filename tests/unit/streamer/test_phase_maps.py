"""Phases as the daemon shows them: maps, status, report, terminal; and the same on replay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from sklearn.metrics import adjusted_rand_score

from streamer.closing import Portrait
from streamer.config import PhaseSection, PipelineConfig
from streamer.events import Event, Publish, SeriesClosed
from streamer.glyphs import fit
from streamer.pipeline import Pipeline
from streamer.plot_phases import UNLIKE, held_back, phase_names, phase_spectra, phases_figure
from streamer.report import make_report
from streamer.run_data import Run
from streamer.wire import Control
from streamer.wire.items import Idle, Item
from tests.unit.streamer.scene import Scene, feed_all, results, run

SCENE = Scene(nav_shape=(24, 24), passes=1)


def idle_items() -> list[Item]:
    """The scan with plenty of idle time."""
    items: list[Item] = []
    for item in SCENE.items():
        items += [item] * (20 if isinstance(item, Idle) else 1)
    return items


def played() -> tuple[Pipeline, list[Event]]:
    pipeline = Pipeline(PipelineConfig())
    return pipeline, feed_all(pipeline, idle_items())


def test_phase_maps_are_published_and_asked_for_and_in_the_status() -> None:
    pipeline, events = played()
    label = results(events, "map/phase")[-1].arrays["phase"]
    confidence = results(events, "map/confidence")[-1].arrays["confidence"]
    assert label.dtype == np.int32
    assert label.shape == confidence.shape == (24, 24)
    assert [p["n"] for p in pipeline.status()["phases"]] == np.bincount(label.ravel()).tolist() == [192, 192, 192]
    assert {p["name"] for p in pipeline.status()["phases"]} == {"phase 0", "phase 1", "phase 2"}
    answer = pipeline.answer(Control("cmd", 1, "snapshot", {"names": ["phase", "mixed"]}), "boot")
    np.testing.assert_array_equal(answer.arrays["phase"], label)
    assert float(answer.arrays["mixed"].max()) <= 1.0


def test_the_same_items_give_the_same_phases_bit_for_bit() -> None:
    (one, first), (other, second) = played(), played()
    for name in ("phase", "confidence", "mixed"):
        a, b = (results(e, f"map/{name}")[-1].arrays[name] for e in (first, second))
        np.testing.assert_array_equal(a, b)
    assert one.status()["phases"] == other.status()["phases"]


def test_phases_wait_for_idle_time_and_are_there_at_the_end_without_any() -> None:
    pipeline = Pipeline(PipelineConfig())
    *busy, end = [item for item in SCENE.items() if not isinstance(item, Idle)]
    feed_all(pipeline, busy[:-4])
    assert pipeline.wants_idle
    unseen = pipeline.answer(Control("cmd", 1, "snapshot", {"names": ["phase"]}), "boot").arrays["phase"]
    assert (unseen == -1).all()
    feed_all(pipeline, [*busy[-4:], end])
    assert len(pipeline.status()["phases"]) == 3


def test_phases_are_found_without_any_idle_time_while_the_scan_runs() -> None:
    scene = Scene(nav_shape=(8, 12), passes=3400)
    pipeline = Pipeline(PipelineConfig())
    busy = [item for item in scene.items(block=192) if not isinstance(item, Idle)]
    feed_all(pipeline, busy[:-2])
    label = pipeline.answer(Control("cmd", 1, "snapshot", {"names": ["phase"]}), "boot").arrays["phase"]
    truth = np.broadcast_to(np.arange(12) * 3 // 12, (8, 12))
    assert adjusted_rand_score(truth.ravel(), label.ravel()) > 0.99


def test_phases_can_be_switched_off() -> None:
    pipeline, events = run(SCENE, PipelineConfig(phases=PhaseSection(enabled=False)))
    assert results(events, "map/phase") == []
    assert pipeline.status()["phases"] == []


def finished(events: list[Event], pipeline: Pipeline, folder: Path) -> None:
    """Write what was published of a series that has ended, as the daemon does."""
    portrait = Portrait()
    for event in events:
        if isinstance(event, Publish):
            portrait.see(event.result)
    portrait.status = pipeline.status()
    books = next(e.books for e in events if isinstance(e, SeriesClosed))
    portrait.write(folder, books, {})


def test_the_report_draws_phases_with_their_spectra(tmp_path: Path) -> None:
    pipeline, events = played()
    finished(events, pipeline, tmp_path)
    assert "phases.png" in make_report(tmp_path)["pictures"]
    loaded = Run.load(tmp_path)
    for number, spectrum in phase_spectra(loaded).items():
        mine = loaded.maps["phase"].ravel() == number
        np.testing.assert_allclose(spectrum, SCENE.expected[mine].mean(axis=0), atol=0.8)
        assert spectrum.sum() == pytest.approx(SCENE.mean_counts, rel=0.03)


def test_what_is_held_back_as_an_anomaly_has_the_look_of_no_phase(tmp_path: Path) -> None:
    pipeline, events = played()
    finished(events, pipeline, tmp_path)
    run = Run.load(tmp_path)
    label, confidence = run.maps["phase"], run.maps["confidence"].copy()
    assert not held_back(run).any()
    odd = np.argwhere(label == 1)[:3]
    confidence[tuple(odd.T)] = 0.0
    run = replace(run, maps={**run.maps, "confidence": confidence})
    figure = phases_figure(run)
    figure.draw_without_rendering()
    ax = figure.axes[0]
    (bar,) = ax.child_axes
    named = [text.get_text() for text in bar.get_yticklabels()]
    assert named == [*phase_names(run).values(), "anomaly"]
    shown = ax.images[0].to_rgba(np.ma.asarray(ax.images[0].get_array()))[..., :3]
    dark = np.all(np.isclose(shown, to_rgb(UNLIKE)), axis=-1)
    assert sorted(map(tuple, np.argwhere(dark))) == sorted(map(tuple, odd))
    legends = [legend for ax in figure.axes if (legend := ax.get_legend()) is not None]
    assert f"phase 1: {np.count_nonzero(label == 1) - 3:,} positions" in [
        text.get_text() for legend in legends for text in legend.get_texts()
    ]


def test_probabilities_are_none_above_one() -> None:
    _, events = played()
    for name in ("confidence", "mixed"):
        assert np.nanmax(results(events, f"map/{name}")[-1].arrays[name]) <= 1.0


def test_a_map_of_names_is_thinned_out_and_not_averaged() -> None:
    names = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [-1, -1, 5, 5], [-1, -1, 5, 5]], dtype=np.int32)
    np.testing.assert_array_equal(fit(names, 2, 2), [[0.0, 2.0], [np.nan, 5.0]])
