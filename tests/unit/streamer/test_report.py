"""The report of a finished series, for every shape a scan can have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest
import typer
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from models.candidates import Label
from simulator.sample import load_specimen
from streamer.closing import Portrait
from streamer.plot_labels import draw_labels
from streamer.plot_maps import UNMEASURED, Look, draw_map, limits_of, look_of
from streamer.plots import STYLE, draw_mean, eigenspectra_figure, maps_figure, scree_figure
from streamer.report import _finite, make_report, numbers, report_command
from streamer.run_data import Run
from streamer.wire import Result
from tests.unit.streamer.finished import write

NM = [
    {"name": "y", "units": "nm", "offset": 0.0, "scale": 5.0},
    {"name": "x", "units": "nm", "offset": 100.0, "scale": 2.0},
]
SCANS: dict[str, dict[str, Any]] = {
    "line": {"nav_shape": (60,), "unmeasured": 7},
    "volume": {"nav_shape": (3, 5, 8), "unmeasured": 30},
    "points in a plane": {"nav_shape": (50,), "positions": np.random.default_rng(0).random((50, 2))},
    "points on a line": {"nav_shape": (50,), "positions": np.random.default_rng(0).random((50, 1))},
}


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with mpl.rc_context(STYLE):
        yield


def test_a_report_has_pictures_and_numbers(tmp_path: Path) -> None:
    said = make_report(write(tmp_path, (12, 18), nav_axes=NM, unmeasured=20))
    assert said["pictures"] == ["maps.png", "scores.png", "scree.png", "eigenspectra.png", "overview.png"]
    for name in said["pictures"]:
        assert matplotlib.image.imread(tmp_path / name).std() > 0.01
    written = json.loads((tmp_path / "numbers.json").read_text())
    assert written == said
    assert (written["rank"], written["balanced"], written["nav_shape"]) == (2, True, [12, 18])
    assert written["timings"]["latency_p99_ms"] == 4.5
    assert written["maps"]["counts"]["measured"] == 12 * 18 - 20


def test_compression_is_told_with_its_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_command(write(tmp_path, (20, 30), unmeasured=100))
    said = json.loads((tmp_path / "numbers.json").read_text())
    found = said["compression"]
    assert (found["positions"], found["channels"]) == (500, 256)
    assert [s["scores"] for s in found["steps"]] == [0, 1, 2]
    assert [s["relative_error"] for s in found["steps"]] == [0.5, 0.3, 0.1]
    # Two scores a position, two eigenspectra and the mean, instead of all counts.
    assert found["steps"][2]["factor"] == pytest.approx(500 * 256 / (500 * 2 + 3 * 256))
    assert "2 scores instead of 256 channels save 98.6%" in capsys.readouterr().out


def test_without_an_error_nothing_is_said_of_compression(tmp_path: Path) -> None:
    run = Run.load(write(tmp_path))
    run.meta["status"]["live_error"] = None
    assert numbers(run)["compression"] is None


def test_every_criterion_stands_beside_the_edge(tmp_path: Path) -> None:
    assert make_report(write(tmp_path))["ranks"] == {"edge": 2, "elbow": 2, "variance_95": 90, "parallel": 2}


@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
def test_other_scans_than_grids_are_drawn(tmp_path: Path, scan: dict[str, Any]) -> None:
    figure = maps_figure(Run.load(write(tmp_path, **scan)))
    figure.draw_without_rendering()
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert any(t.startswith("Fe K denoised") for t in titles)


@pytest.mark.parametrize("shape", [(1, 60), (60, 1), (1, 60, 1)])
def test_one_line_of_a_grid_is_drawn_as_a_line(tmp_path: Path, shape: tuple[int, ...]) -> None:
    run = Run.load(write(tmp_path, shape, unmeasured=7)).as_drawn()
    assert run.nav_shape == (60,)
    assert {values.shape[0] for values in run.maps.values()} == {60}
    maps_figure(run).draw_without_rendering()
    assert make_report(tmp_path)["nav_shape"] == list(shape)


def test_a_scan_without_scores_has_a_report(tmp_path: Path) -> None:
    run = Run.load(write(tmp_path, (4, 5)))
    maps = {**run.maps, "phase": np.zeros((4, 5)), "scores": np.zeros((4, 5, 0), dtype=np.float32)}
    basis = {**run.basis, "eigenspectra": run.basis["eigenspectra"][:0]}
    assert numbers(replace(run, maps=maps, basis=basis))["k_means"] is None


def test_an_error_that_chance_brought_to_nothing_is_not_told_as_none(tmp_path: Path) -> None:
    run = Run.load(write(tmp_path))
    run.meta["status"]["live_error"]["by_scores"][-1] = 0.0
    assert "too small to be told from noise" in numbers(run)["compression"]["text"]


def test_a_decision_and_its_answer_are_one(tmp_path: Path) -> None:
    run = Run.load(write(tmp_path))
    assert [(d["action"], d["outcome"]) for d in run.decisions] == [("stop", "accepted")]


@pytest.mark.parametrize(
    ("books", "balanced"),
    [
        ({"n_sent": 600, "processed": 600, "lost": {}}, True),
        ({"n_sent": 600, "processed": 590, "lost": {"gap": 6, "overflow": 4}}, True),
        ({"n_sent": 600, "processed": 590, "lost": {"gap": 6}}, False),
    ],
)
def test_books_that_do_not_balance_are_told(tmp_path: Path, books: dict[str, Any], balanced: bool) -> None:
    assert numbers(Run.load(write(tmp_path, books=books)))["balanced"] is balanced


def test_maps_lie_where_their_axes_say(tmp_path: Path) -> None:
    run = Run.load(write(tmp_path, (12, 18), nav_axes=NM))
    ax = Figure().subplots()
    draw_map(ax, run, run.maps["counts"], Look())
    assert ax.get_xlabel() == "x (nm)"
    assert tuple(ax.images[0].get_extent()) == (99.0, 135.0, 57.5, -2.5)


def test_what_was_not_measured_is_grey(tmp_path: Path) -> None:
    run = Run.load(write(tmp_path, (12, 18), unmeasured=18))
    ax = Figure().subplots()
    draw_map(ax, run, run.maps["counts"], Look())
    shown = ax.images[0].to_rgba(np.ma.asarray(ax.images[0].get_array()))
    assert np.allclose(shown[-1, :, :3], to_rgb(UNMEASURED))
    assert not np.any(np.all(np.isclose(shown[:-1, :, :3], to_rgb(UNMEASURED)), axis=-1))


def test_raw_and_denoised_windows_share_their_colours(tmp_path: Path) -> None:
    run = Run.load(write(tmp_path))
    figure = maps_figure(run)
    pair = [ax.images[0] for ax in figure.axes if ax.get_title(loc="left").startswith("Fe K")]
    assert len(pair) == 2
    assert pair[0].get_clim() == pair[1].get_clim() == limits_of(run.maps["window/Fe K"])


def test_scree_marks_the_rank(tmp_path: Path) -> None:
    (ax,) = scree_figure(Run.load(write(tmp_path))).axes
    kept, left_out, edge = ax.get_lines()
    assert np.asarray(kept.get_xdata()).tolist() == [1, 2]
    assert np.all(np.asarray(kept.get_ydata()) > np.asarray(left_out.get_ydata()).max())
    assert np.asarray(edge.get_ydata())[0] < np.asarray(kept.get_ydata()).min()


def test_what_few_positions_have_is_not_cut_off() -> None:
    values = np.random.default_rng(0).normal(10.0, 1.0, 10_000)
    assert look_of(values, "counts") == Look(unit="counts", limits=limits_of(values))
    values[:20] = 200.0
    look = look_of(values, "counts")
    assert look.limits == (limits_of(values)[0], 200.0)
    assert look.root, "or all others would be one colour"


def test_names_of_lines_never_lie_over_each_other(tmp_path: Path) -> None:
    run = Run.load(write(tmp_path))
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    ax = figure.subplots()
    draw_mean(ax, run)
    span = float(np.ptp(run.axis))
    labels = [Label(run.axis[0] + span * k / 40, f"Name {k}", 1.0 + k) for k in range(1, 40)]
    draw_labels(ax, run, labels)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert 5 < len(boxes) < 39
    assert ax.texts[0].get_text() == "Name 39", "that of the most counts stays"
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


@pytest.mark.parametrize("values", [[np.nan, np.nan], [0.0, 0.0], [-3.0, -3.0], [2.0, 2.0]])
def test_limits_of_flat_or_empty_maps_are_a_range(values: list[float]) -> None:
    lo, hi = limits_of(np.array(values))
    assert lo < hi
    assert np.isnan(values[0]) or lo <= values[0] <= hi


def test_a_folder_without_a_result_is_an_error_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        report_command(tmp_path)
    assert ended.value.exit_code == 1
    assert "final.npz" in capsys.readouterr().err


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "final.npz", meta=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        Run.load(tmp_path)


def test_what_the_daemon_leaves_is_what_is_read(tmp_path: Path) -> None:
    portrait = Portrait()
    axis = {"name": "angle", "units": "deg", "size": 4, "offset": 10.0, "scale": 0.5}
    places = np.array([[0.1, 0.9], [0.5, 0.5], [0.9, 0.1]])
    head = {"series": "points", "nav_shape": [3], "axis": axis}
    portrait.see(Result("series", head, {"positions": places}))
    portrait.see(Result("basis", {"rank": 1, "model": 2, "noise_edge": 1.5}, {"mean": np.ones(4, "f4")}))
    portrait.see(Result("map/counts", {}, {"counts": np.arange(3, dtype="f4")}))
    portrait.see(Result("decision", {"decision": "points/0", "evidence": {"relative_error": np.inf}}))
    portrait.write(tmp_path, {"n_sent": 3, "processed": 3, "lost": {}}, {})
    run = Run.load(tmp_path)
    assert run.positions is not None
    assert np.array_equal(run.positions, places)
    assert (run.series, run.axis.tolist(), run.meta["rank"]) == ("points", [10.0, 10.5, 11.0, 11.5], 1)
    assert run.balanced


def test_numbers_are_json_whatever_they_are(tmp_path: Path) -> None:
    write(tmp_path, (6, 6))
    run = Run.load(tmp_path)
    run.meta["decisions"][-1]["evidence"]["relative_error"] = float("inf")
    assert "inf" in json.dumps(numbers(run)).lower()
    assert json.dumps(_finite(numbers(run)), allow_nan=False)


def test_peaks_of_the_mean_are_named_and_eigenspectra_say_which_of_them_they_carry(tmp_path: Path) -> None:
    specimen = load_specimen("exercise", shape=(8, 8), channels=512)
    mean = 20 * specimen.endmembers[:2].mean(axis=0)
    difference = specimen.endmembers[0] - specimen.endmembers[1]
    run = Run.load(write(tmp_path, (20, 30)))
    header = dict(run.header) | {"axis": specimen.axis.to_map()}
    basis = {"mean": mean, "eigenspectra": difference[None], "eigenvalues": np.array([3.0])}
    figure = eigenspectra_figure(Run(header, {"counts": run.maps["counts"]}, specimen.axis.values, basis))
    figure.draw_without_rendering()
    said = [{text.get_text() for text in ax.texts} for ax in figure.axes]
    assert {"Fe Ka", "Ni Ka", "Cr Ka"} <= said[0]
    assert {"Fe Ka", "Ni Ka"} <= said[1]


def test_a_cropped_series_is_drawn(tmp_path: Path) -> None:
    folder = write(tmp_path, (6, 8))
    with np.load(folder / "final.npz") as file:
        arrays = dict(file)
    arrays["basis/mean"][:20] = np.nan
    arrays["basis/eigenspectra"][:, :20] = 0.0
    np.savez(folder / "final.npz", **arrays)
    said = make_report(folder)
    assert said["pictures"] == ["maps.png", "scores.png", "scree.png", "eigenspectra.png", "overview.png"]


def test_maps_are_named_in_words_and_a_network_map_has_classes(tmp_path: Path) -> None:
    folder = write(tmp_path, (12, 18), nav_axes=NM)
    with np.load(folder / "final.npz", allow_pickle=False) as final:
        arrays = dict(final)
    network = np.ones((12, 18), dtype=np.float32)
    network[0, 0] = 0.0
    np.savez(folder / "final.npz", allow_pickle=False, **arrays, **{"map/network": network, "map/t2": network})
    figure = maps_figure(Run.load(folder))
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert "Hotelling's T2 over its limit" in titles
    shown = figure.axes[titles.index("what is shown")]
    assert [t.get_text() for t in shown.child_axes[0].get_yticklabels()] == ["linear model", "network"]
