"""Unmixing as the daemon shows it: maps, message, status, files; the same on replay."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rsciio.msa import file_reader

from streamer.config import PhaseSection, PipelineConfig, UnmixingSection
from streamer.events import Log
from streamer.hub import Hub
from streamer.pipeline import Pipeline
from streamer.report import make_report
from streamer.wire import Control
from tests.unit.streamer.scene import Scene, feed_all, results, run
from tests.unit.streamer.test_phase_maps import SCENE, finished, idle_items, played


def test_abundances_and_end_members_are_published_and_asked_for() -> None:
    pipeline, events = played()
    message = results(events, "endmembers")[-1]
    members = message.head["end_members"]
    assert {m["label"] for m in members} == {"0", "1", "2"}
    assert {m["name"] for m in members} == {"phase 0", "phase 1", "phase 2"}
    spectra = message.arrays["spectra"]
    np.testing.assert_allclose(spectra.sum(axis=1), 1.0, atol=1e-4)
    assert pipeline.status()["unmixing"]["end_members"] == members
    label = results(events, "map/phase")[-1].arrays["phase"]
    total = np.zeros(SCENE.nav_shape)
    for k, member in enumerate(members):
        share = results(events, f"map/abundance/{member['label']}")[-1].arrays[f"abundance/{member['label']}"]
        error = results(events, f"map/abundance_error/{member['label']}")[-1].arrays[
            f"abundance_error/{member['label']}"
        ]
        assert share.shape == error.shape == (24, 24)
        assert float(share[label == int(member["label"])].min()) > 1.0 - 5.0 * float(error.max())
        expected = SCENE.expected[(label == int(member["label"])).ravel()].mean(axis=0)
        np.testing.assert_allclose(spectra[k], expected / expected.sum(), atol=5e-3)
        total += share
    np.testing.assert_allclose(total, 1.0, atol=1e-4)
    answer = pipeline.answer(Control("cmd", 1, "snapshot", {"names": ["abundance/0"]}), "boot")
    np.testing.assert_array_equal(
        answer.arrays["abundance/0"], results(events, "map/abundance/0")[-1].arrays["abundance/0"]
    )


def test_the_same_items_give_the_same_abundances_bit_for_bit() -> None:
    (_, first), (_, second) = played(), played()
    for topic in ("map/abundance/0", "map/abundance_error/0", "endmembers"):
        a, b = (next(iter(results(e, topic)[-1].arrays.values())) for e in (first, second))
        np.testing.assert_array_equal(a, b)


def test_abundances_are_there_before_the_end() -> None:
    pipeline = Pipeline(PipelineConfig())
    feed_all(pipeline, idle_items()[:-8])
    while pipeline.wants_idle:
        feed_all(pipeline, [idle_items()[-3]])
    live = pipeline.status()["unmixing"]
    assert {m["label"] for m in live["end_members"]} == {"0", "1", "2"}
    share = pipeline.answer(Control("cmd", 1, "snapshot", {"names": ["abundance/0"]}), "boot").arrays["abundance/0"]
    assert np.isfinite(share).sum() > 300


@pytest.mark.parametrize(
    "config",
    [PipelineConfig(unmixing=UnmixingSection(enabled=False)), PipelineConfig(phases=PhaseSection(enabled=False))],
    ids=["unmixing off", "phases off"],
)
def test_unmixing_can_be_switched_off(config: PipelineConfig) -> None:
    pipeline, events = run(SCENE, config)
    assert results(events, "endmembers") == []
    assert results(events, "map/abundance/0") == []
    assert pipeline.status()["unmixing"] is None


def test_a_late_subscriber_gets_the_end_members() -> None:
    _, events = played()
    hub = Hub("boot")
    hub.publish(results(events, "endmembers")[-1], 1)
    (parts,) = hub.last([b"endmembers"])
    assert bytes(parts[0]) == b"endmembers"


def test_the_report_exports_end_members_that_other_programs_read(tmp_path: Path) -> None:
    pipeline, events = played()
    finished(events, pipeline, tmp_path)
    said = make_report(tmp_path)
    assert "abundances.png" in said["pictures"]
    assert said["files"] == ["endmember_0.msa", "endmember_1.msa", "endmember_2.msa", "endmembers.csv"]
    message = results(events, "endmembers")[-1]
    labels = [m["label"] for m in message.head["end_members"]]
    axis = results(events, "series")[0].head["axis"]
    for name in said["files"][:3]:
        (read,) = file_reader(str(tmp_path / name))
        wanted = message.arrays["spectra"][labels.index(name.removesuffix(".msa").removeprefix("endmember_"))]
        np.testing.assert_allclose(read["data"], wanted, rtol=1e-6)
        assert read["axes"][0]["scale"] == pytest.approx(axis["scale"])
        assert read["axes"][0]["offset"] == pytest.approx(axis["offset"])
        assert read["axes"][0]["units"] == axis["units"]
    with (tmp_path / "endmembers.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == [m["name"] for m in message.head["end_members"]]
    np.testing.assert_allclose(np.array(rows[1:], dtype=float)[:, 1:].T, message.arrays["spectra"], rtol=1e-6)


def absorbed() -> Scene:
    """Stripes on a film that is thick at the last row, and absorbs what it sends out at low energies."""
    scene = Scene(nav_shape=(24, 24), passes=1)
    energy, row = 0.05 * np.arange(64), np.arange(576) // 24
    depth = np.outer(row + 1.0, 0.2 * (1.0 / np.maximum(energy, 0.2)) ** 3)
    expected = 1500.0 * scene.expected / 120.0 * (row[:, None] + 1.0) / 12.0 * -np.expm1(-depth) / depth
    scene.counts = np.random.default_rng(0).poisson(expected[None]).astype(np.uint16)
    return scene


THICKNESS = {"model": "absorption", "absorber": {"Fe": 0.7, "O": 0.3}, "take_off_deg": 20.0}


@pytest.mark.parametrize("told", ["header", "configuration"])
def test_thickness_is_corrected_for_where_a_model_is_given(told: str) -> None:
    config = {"unmixing": {"thickness": THICKNESS}} if told == "configuration" else {}
    keys: dict[str, Any] = {"thickness": THICKNESS} if told == "header" else {}
    pipeline = Pipeline(PipelineConfig.model_validate(config))
    events = feed_all(pipeline, absorbed().items(**keys))
    corrected = pipeline.status()["unmixing"]["corrected"]
    assert corrected["model"] == "absorption"
    assert results(events, "endmembers")[-1].head["corrected"] == corrected
    thickness = results(events, "map/thickness")[-1].arrays["thickness"]
    rows = thickness.mean(axis=1)
    assert np.corrcoef(rows, np.arange(24))[0, 1] > 0.95


def test_thickness_that_makes_no_sense_is_told_and_the_scan_goes_on() -> None:
    wrong = {"model": "plural_scattering", "plasmon_ev": 20.0, "plasmon_width_ev": 5.0}
    for given in (wrong, {"model": "absorption", "absorber": {}, "take_off_deg": 20.0}):
        pipeline = Pipeline(PipelineConfig())
        events = feed_all(pipeline, SCENE.items(thickness=given))
        told = [e.text for e in events if isinstance(e, Log)]
        assert any("thickness" in text for text in told)
        assert pipeline.status()["unmixing"]["corrected"] is None
