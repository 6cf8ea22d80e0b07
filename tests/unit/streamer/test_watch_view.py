"""What the terminal shows."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

from streamer.glyphs import as_plane, colours, fit, half_blocks, sparkline
from streamer.watch_view import Watched, line, view
from streamer.wire import Result

URL = "tcp://127.0.0.1:5556"
STATUS = {"state": "running", "series": "s1", "received": 5000, "processed": 4990, "lost": {"gap": 7, "overflow": 3},
          "rejected": {"junk": 2}, "in_flight": 10, "rate_hz": 1234.0, "lag_ms": 2.5, "level": 0}  # fmt: skip
STOP = {"decision": "s1/0", "series": "s1", "action": "stop", "mode": "enforce", "reason": "it is enough",
        "issued_ns": 0, "valid_until_ns": time.time_ns() + 10**13}  # fmt: skip


def _series(event: str = "start", name: str = "s1", **books: Any) -> Result:
    axis = {"name": "energy", "units": "keV", "size": 8, "offset": 0.0, "scale": 1.0}
    head = {"event": event, "series": name, "nav_shape": [20, 30], "passes": 10, "technique": "eds", "axis": axis}
    return Result("series", head | books)


def _watched(*results: Result) -> Watched:
    watched = Watched()
    for result in (_series(), Result("status", STATUS), *results):
        watched.see(result, 100.0)
    return watched


def _shown(
    watched: Watched, wanted: str | None = None, *, width: int = 110, height: int = 40, now_s: float = 101.0
) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system="truecolor", force_terminal=True)
    console.print(view(watched, URL, wanted, console, now_s))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def _unstyled(text: str) -> str:
    return Text.from_ansi(text).plain


def test_before_anything_is_heard_it_says_what_it_waits_for() -> None:
    assert URL in _unstyled(_shown(Watched()))
    assert line(Watched(), URL, 0.0) == f"waiting for the daemon at {URL}"


def test_all_that_an_operator_asks_for_is_there() -> None:
    basis = Result("basis", {"rank": 4, "model": 9})
    anomaly = Result("anomaly", {"score": 33.3, "window": [7.96, 8.1], "index": [17], "group": None})
    counts = Result("map/counts", {}, {"counts": np.arange(600, dtype="f4").reshape(20, 30)})
    shown = _unstyled(_shown(_watched(basis, anomaly, counts, Result("decision", STOP))))
    for words in (
        "running", "s1", "4,990 of 6,000", "1,234/s", "2.5 ms, 10 in flight", "10 (gap 7, overflow 3)", "2 (junk 2)",
        "rank 4, version 9", "stop", "enforce", "it is enough", "open for", "33.3", "7.96 to 8.1 keV",
        "line 0, column 17", "0 to 599", "▀",
    ):  # fmt: skip
        assert words in shown, words


def test_the_line_has_the_same() -> None:
    said = line(_watched(Result("basis", {"rank": 4, "model": 9}), Result("decision", STOP)), URL, 101.0)
    for words in (
        "running",
        "s1",
        "4,990 of 6,000",
        "1,234/s",
        "lost 10",
        "rejected 2",
        "rank 4 model 9",
        "stop (enforce)",
    ):
        assert words in said, words
    assert "\n" not in said


def test_a_series_has_its_name_before_the_next_status() -> None:
    watched = Watched()
    for result in (Result("status", STATUS | {"series": None}), _series(), Result("basis", {"rank": 4, "model": 9})):
        watched.see(result, 100.0)
    assert "; s1; " in line(watched, URL, 101.0)
    assert "no series yet" not in _shown(watched)


def test_a_decision_and_its_answer_are_one_line() -> None:
    answer = {"ok": False, "error": "stage is locked", "controller": "scope"}
    watched = _watched(Result("decision", STOP), Result("decision", STOP | {"outcome": "refused", "answer": answer}))
    assert len(watched.decisions) == 1
    assert "refused by scope: stage is locked" in _unstyled(_shown(watched))


def test_a_refusal_and_warnings_are_shown_with_what_to_do() -> None:
    refused = {"reason": "invalid", "htype": "header", "series": "s2", "detail": "axis.scale: no number",
               "advice": "send it again", "t_ns": 1}  # fmt: skip
    warnings = [{"kind": "steps", "text": "no room for a step", "t_ns": 1}]
    watched = _watched(Result("status", STATUS | {"last_rejected": refused, "warnings": warnings}))
    shown = _unstyled(_shown(watched))
    for words in ("header of 's2': axis.scale: no number", "send it again", "no room for a step"):
        assert words in shown, words
    assert "refused header of 's2': axis.scale: no number" in line(watched, URL, 101.0)
    assert "refused" not in line(_watched(), URL, 101.0)


def test_groups_phases_and_what_a_stop_waits_for_are_shown() -> None:
    groups = [
        {"group": 0, "state": "open", "kind": "feature", "n": 3, "evidence": 30.0, "explained": True},
        {"group": 1, "state": "accepted", "name": "spinel", "kind": "feature", "n": 9, "evidence": 99.0},
        {"group": 2, "state": "proposed", "kind": "feature", "n": 4, "evidence": 50.0, "window": [2.08, 2.22],
         "candidates": ["Au Ma 2.123 keV"]},
    ]  # fmt: skip
    status = STATUS | {
        "groups": groups,
        "coverage": 0.25,
        "phases": [{"id": 0, "name": "quartz", "n": 70}, {"id": 3, "name": "phase 3", "n": 700}],
        "stop_conditions": {"misclassified_area": {"value": 0.105, "target": 0.01, "met": False},
                            "relative_error": {"value": 0.1, "target": 0.2, "met": True}},
    }  # fmt: skip
    anomaly = Result("anomaly", {"score": 33.3, "window": [7.96, 8.1], "index": [17], "group": None})
    shown = _unstyled(_shown(_watched(Result("status", status), anomaly)))
    wanted = ("group 2: feature at 4 positions in 2.08 to 2.22 keV, perhaps Au Ma 2.123 keV  proposed", "spinel",
              "25.0% of positions", "quartz", "misclassified area", "0.1, target 0.01", "1 s left")  # fmt: skip
    for words in wanted:
        assert words in shown, words
    assert shown.index("group 2") < shown.index("group 1"), "what waits for a decision comes first"
    assert shown.index("phase 3") < shown.index("quartz"), "the largest first"
    assert "group 0" not in shown, "known by now"
    assert "relative error" not in shown, "met"


def test_decisions_of_one_action_are_one_line() -> None:
    visits = [STOP | {"decision": f"s1/{k}", "action": "visit", "reason": f"the {k}th"} for k in range(5)]
    made = [Result("decision", head) for head in (STOP | {"decision": "s1/9"}, *visits)]
    shown = _unstyled(_shown(_watched(*made)))
    assert shown.count("visit") == 1
    assert "x 5" in shown
    assert "the 4th" in shown
    assert "it is enough" in shown, "not pushed out by them"


def test_a_daemon_that_falls_silent_is_told() -> None:
    assert "silent for 20 s" in _unstyled(_shown(_watched(), now_s=120.0))
    assert line(_watched(), URL, 120.0).startswith("silent for 20 s")


def test_the_end_of_a_series_is_seen_only_where_its_begin_was() -> None:
    watched = _watched(_series("end", processed=6000, lost={}, exit_status="success"))
    assert watched.ended == "s1"
    assert "6,000 of 6,000" in line(watched, URL, 101.0)
    late = Watched()
    late.see(_series("end", "before"), 1.0)
    assert late.ended is None


def test_a_new_series_clears_what_was_of_the_old_one() -> None:
    watched = _watched(Result("decision", STOP), Result("map/counts", {}, {"counts": np.ones((2, 2))}))
    watched.see(_series("start", "s2"), 102.0)
    assert (watched.decisions, watched.maps, watched.ended) == ({}, {}, None)


def test_the_map_is_a_window_unless_another_is_wanted() -> None:
    plane = np.ones((20, 30), "f4")
    maps = [Result(f"map/{n}", {}, {n: plane}) for n in ("counts", "anomaly", "window/Fe K")]
    watched = _watched(*maps)
    assert "window/Fe K" in _unstyled(_shown(watched))
    assert "anomaly" in _unstyled(_shown(watched, "anomaly"))
    missing = _unstyled(_shown(watched, "nonsense"))
    assert "no map 'nonsense'" in missing
    assert "counts, anomaly" in missing


def test_windows_are_shown_as_if_dwell_were_equal() -> None:
    dwell_s = np.where(np.arange(600) < 250, 2.0, 1.0).reshape(20, 30)
    watched = _watched(
        Result("map/window/Fe K", {}, {"x": 5 * dwell_s}),
        Result("map/dwell", {}, {"x": dwell_s}),
    )
    chosen = watched.choose_map(None)
    assert chosen is not None
    assert chosen[0] == "window/Fe K, at equal dwell"
    assert np.allclose(chosen[1], 5.0)


@pytest.mark.parametrize(("width", "height"), [(60, 20), (80, 24), (200, 60)])
@pytest.mark.parametrize("shape", [(20, 30), (512, 512), (100,), (4, 10, 10)])
def test_it_fits_the_terminal(width: int, height: int, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).random(shape)
    shown = _unstyled(_shown(_watched(Result("map/counts", {}, {"counts": values})), width=width, height=height))
    assert max(len(row) for row in shown.splitlines()) <= width
    assert len(shown.splitlines()) <= max(height, 18)


def test_names_from_elsewhere_cannot_steer_the_terminal() -> None:
    evil = STATUS | {"series": "a\x1b[2Jb\x07[bold]c"}
    watched = Watched()
    watched.see(Result("status", evil), 100.0)
    shown = _shown(watched)
    assert "\x1b[2J" not in shown
    assert "\x07" not in shown
    assert "[bold]c" in _unstyled(shown)


def test_half_blocks_have_two_positions_in_a_character() -> None:
    values = np.array([[0.0, 1.0], [1.0, np.nan]])
    text = half_blocks(values, 1, 2)
    assert text.plain == "▀▀"
    assert text.spans[0].style.bgcolor.triplet == text.spans[1].style.color.triplet  # type: ignore[union-attr]
    rgb = colours(values)
    assert rgb[0, 0].tolist() == [68, 1, 84]
    assert rgb[0, 1].tolist() == [253, 231, 37]
    assert len(set(rgb[1, 1].tolist())) == 1


def test_fit_averages_large_planes_and_repeats_small_ones() -> None:
    plane = np.arange(16.0).reshape(4, 4)
    plane[0, 0] = np.nan
    assert fit(plane, 2, 2).tolist() == [[10 / 3, 4.5], [10.5, 12.5]]
    assert fit(np.array([[1.0, 2.0]]), 4, 5).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
    assert fit(np.zeros((300, 10)), 30, 40).shape[0] <= 30


def test_planes_of_other_scans() -> None:
    volume = np.full((3, 2, 2), np.nan)
    volume[1] = 5.0
    assert as_plane(volume).tolist() == [[5, 5], [5, 5]]
    assert as_plane(np.arange(4.0)).shape == (4, 4)
    strip = half_blocks(np.arange(300.0), 10, 40).plain.splitlines()
    assert [len(row) for row in strip] == [40, 40]


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 4], 10) == "▁▃▅█"
    assert sparkline([5, 0, 0], 2) == "▁▁"
    assert sparkline([], 5) == ""
