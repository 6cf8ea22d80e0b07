"""Decisions through the whole pipeline, with an instrument that obeys: stop, dwell, visit, extend, pause and so on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.effects import Effects
from simulator.raster import scan_order, sparse_order
from simulator.schedule import Plan
from streamer.config import PipelineConfig
from streamer.config_decisions import DecisionConfig
from streamer.events import Count, Event, Notify, Publish
from streamer.evidence import Dose
from streamer.planning import Progress
from streamer.wire.items import Change
from tests.loop import Loop, loop_of, phase_error
from tests.specimens import grains

PHASE_MAP_ONLY: dict[str, Any] = {
    "stop_relative_error": 10.0, "stop_angle_deg": 90.0, "stop_error_slope": 1.0, "stop_unseen_area": 1.0,
}  # fmt: skip


def config(mode: str = "enforce", **keys: Any) -> PipelineConfig:
    return PipelineConfig(decisions=DecisionConfig(mode=mode, **keys))


def scanned(
    asked: PipelineConfig, *actions: str, passes: int = 6, counts: float = 25.0, effects: Effects | None = None,
    obeys: bool = True, seed: int = 0, overlap: float = 0.3, block: int = 128, side: int = 32, **plan: Any,
) -> tuple[Loop, NDArray[np.int32]]:  # fmt: skip
    sample = grains(side, seed=seed, overlap=overlap)
    order = plan.pop("order", scan_order(sample.nav_shape))
    made = Plan(order, passes=passes, dwell_s=0.01, actions=actions, **plan)
    loop = loop_of(sample, seed + 10, made, asked, counts, block=block, effects=effects)
    loop.obeys = obeys
    return loop.run(), sample.phase_map().ravel()


def taken(loop: Loop, action: str) -> list[dict[str, Any]]:
    return [d for d in loop.decisions if d["action"] == action]


def test_a_stop_names_every_condition_and_the_finished_map_has_what_was_asked_for() -> None:
    loop, truth = scanned(config(stop_misclassified_area=0.02, stop_relative_error=0.25), "stop", passes=20)
    (stop,) = taken(loop, "stop")
    evidence = stop["evidence"]
    for name in ("misclassified_area", "error_slope_per_pass", "half_dose_angle_deg", "unseen_area", "open_anomalies"):
        assert evidence[name] <= evidence[f"{name}_target"]
        assert evidence[f"{name}_margin"] >= 0
    assert evidence["coverage"] == 1.0
    assert "called by a wrong phase (asked: 2.0%)" in stop["reason"]
    assert stop["obeyed"]
    assert loop.instrument.schedule.stopped
    series = loop.series
    assert series.dwell_s.sum() < 0.7 * 20 * 0.01 * truth.size
    assert phase_error(series.phases.label, truth) <= 0.02  # type: ignore[union-attr]


def test_a_stop_does_not_wait_for_the_model_to_move_once_more() -> None:
    asked = config(**{**PHASE_MAP_ONLY, "stop_misclassified_area": 0.02})
    loop, truth = scanned(asked, "stop", passes=20, counts=100.0, block=32, seed=1)
    (stop,) = taken(loop, "stop")
    spent = loop.series.dwell_s.sum() / (0.01 * truth.size)
    assert 1.0 <= spent < 1.1
    assert stop["evidence"]["coverage"] == 1.0


def test_once_a_stop_is_decided_nothing_is_decided_of_where_to_go_on() -> None:
    """Also where both come due with the same message."""
    asked = config(**{**PHASE_MAP_ONLY, "stop_misclassified_area": 0.02, "lead_s": 1e-9})
    sample = grains(overlap=0.3)
    plan = Plan(scan_order(sample.nav_shape), passes=20, dwell_s=0.01, actions=("stop", "dwell"))
    loop = loop_of(sample, 10, plan, asked, 25.0, block=96)

    def watch(now: Loop) -> None:
        if now.series.deciding._evidence._in_a_row.wants_another:
            now.pipeline.feed(Change(0, "settings", {"decisions": {"lead_s": 1e3}}))

    loop.watch = watch
    loop.run()
    assert [d["action"] for d in loop.decisions][-1] == "stop"
    assert len(taken(loop, "stop")) == 1


def test_what_nobody_answered_has_expired_when_the_series_ends() -> None:
    sample = grains(overlap=0.3)
    plan = Plan(scan_order(sample.nav_shape), passes=2, dwell_s=0.01, actions=("stop",))
    asked = config("advise", stop_time_s=0.012 * sample.n_positions)
    mirrors: list[dict[str, Any]] = []
    counted: list[str | None] = []

    class Deaf(Loop):
        def _take(self, events: list[Event], t_ns: int) -> None:
            told = [e.result for e in events if isinstance(e, Publish)]
            mirrors.extend(dict(result.head) for result in told if result.topic == "decision")
            counted.extend(e.label for e in events if isinstance(e, Count) and e.name == "decisions")
            super()._take([e for e in events if not isinstance(e, Notify)], t_ns)

    loop = loop_of(sample, 10, plan, asked, 25.0)
    Deaf(loop.pipeline, loop.instrument).run()
    assert [m.get("outcome") for m in mirrors] == [None, "expired"]
    assert counted == ["stop/issued", "stop/expired"]


def test_a_stop_waits_for_the_map_of_a_named_element() -> None:
    asked = PipelineConfig(
        windows={"A": (0.8, 1.2)},
        decisions=DecisionConfig(
            mode="enforce", stop_map_error=0.1, **{**PHASE_MAP_ONLY, "stop_misclassified_area": 0.2}
        ),
    )
    loop, _ = scanned(asked, "stop", passes=20)
    (stop,) = taken(loop, "stop")
    assert stop["evidence"]["relative_error/A"] <= 0.1
    engine, passes = loop.series.engine, loop.series.dwell_s / 0.01
    channels = loop.series.axis.channel_range(0.8, 1.2)
    sample = grains(overlap=0.3)
    expected = passes * 25.0 * sample.expected()[:, channels[0] : channels[1]].sum(axis=1)
    error = engine.window(channels)[0] - expected
    assert np.sqrt((error**2).sum() / (expected**2).sum()) <= 0.11


def test_compositions_that_differ_in_one_phase_are_no_finished_map() -> None:
    sample = grains(overlap=0.68)
    made = Plan(scan_order(sample.nav_shape), passes=4, dwell_s=0.01, actions=("stop",))
    asked = config(**{**PHASE_MAP_ONLY, "stop_misclassified_area": 0.02})
    loop, stopped_with = loop_of(sample, 10, made, asked, 12.0, block=64), []
    one_phase: list[dict[str, float]] = []

    def watch(now: Loop) -> None:
        series = now.series
        assert series.phases is not None
        told = {k: v["value"] for k, v in series.deciding.summary()["stop_conditions"].items()}
        basis = series.engine.basis
        if basis is not None and basis.n_components > 1 and len(series.phases.spectra()[0]) == 1:
            one_phase.append(told)
            stopped_with.extend(taken(now, "stop"))

    loop.watch = watch
    loop.run()
    wrong = [told["misclassified_area"] for told in one_phase if "misclassified_area" in told]
    assert len(wrong) >= 2
    assert min(wrong[1:]) > 0.03
    assert not stopped_with


def test_limits_of_time_and_dose_stop_a_scan() -> None:
    limits: list[dict[str, Any]] = [{"stop_time_s": 20.0}, {"stop_dose_s": 20.0 / 1024}]
    for limit in limits:
        loop, _ = scanned(config(**limit, stop_misclassified_area=0.0), "stop", passes=8)
        (stop,) = taken(loop, "stop")
        assert 20.0 <= loop.series.dwell_s.sum() < 30.0
        assert "were allowed" in stop["reason"]


def test_adaptive_dwell_is_bounded_and_saves_most_of_the_dose_at_the_same_error() -> None:
    uniform, truth = scanned(config(), passes=8)
    asked = config(dwell_longest=3.0, **PHASE_MAP_ONLY)
    loop, _ = scanned(asked, "dwell", passes=8, dose_limit_s=0.06)
    dwells = taken(loop, "dwell")
    assert 3 <= len(dwells) <= 7
    assert all(d["obeyed"] for d in dwells)
    series = loop.series
    assert series.dwell_s.max() <= 0.06 * (1 + 1e-6)
    assert series.dwell_s.sum() < 0.45 * uniform.series.dwell_s.sum()
    errors = [phase_error(r.series.phases.label, truth) for r in (uniform, loop)]  # type: ignore[union-attr]
    assert errors[1] <= errors[0] + 0.004
    # A pass that would go on as the one before is not decided on.
    passes = [d["evidence"]["pass"] for d in dwells]
    assert passes == sorted(set(passes))
    assert passes[:2] == [1, 2]


def test_dwell_goes_where_a_stop_wants_it() -> None:
    asked = config(**{**PHASE_MAP_ONLY, "stop_misclassified_area": 0.02})
    uniform, _ = scanned(asked, "stop", passes=30, counts=20.0, overlap=0.6, block=32)
    adaptive, truth = scanned(asked, "stop", "dwell", passes=30, counts=20.0, overlap=0.6, block=32)
    assert [len(taken(loop, "stop")) for loop in (uniform, adaptive)] == [1, 1]
    assert adaptive.series.dwell_s.sum() < 0.8 * uniform.series.dwell_s.sum()
    assert phase_error(adaptive.series.phases.label, truth) <= 0.02  # type: ignore[union-attr]


@pytest.mark.parametrize("unit", ["line", "tile"])
def test_dwell_is_the_same_within_what_a_controller_can_steer(unit: str) -> None:
    loop, _ = scanned(config(dwell_by=unit, tile_px=8, **PHASE_MAP_ONLY), "dwell", passes=2)
    assert taken(loop, "dwell")[0]["obeyed"]
    second = (loop.series.dwell_s - 0.01).reshape(32, 32)
    for y in range(0, 32, 8):
        blocks = [second[y : y + 8, x : x + 8] for x in range(0, 32, 8)] if unit == "tile" else list(second[y : y + 8])
        assert all(np.ptp(block) < 1e-8 for block in blocks)
    assert np.ptp(second) > 0.001


def test_targets_of_the_spectra_keep_all_positions_in_the_plan() -> None:
    loop, _ = scanned(config(stop_relative_error=0.15), "dwell", passes=3)
    assert loop.series.dwell_s.min() >= 0.0124


def test_a_sparse_scan_visits_what_it_needs_and_says_what_is_guessed() -> None:
    order = sparse_order((32, 32), 0.12, seed=3)
    asked = config(stop_misclassified_area=0.03, stop_unseen_area=0.05,
                   **{k: v for k, v in PHASE_MAP_ONLY.items() if k != "stop_unseen_area"})  # fmt: skip
    loop, truth = scanned(asked, "stop", "visit", passes=1, order=order, overlap=0.0, counts=60.0, block=16)
    visits = taken(loop, "visit")
    assert len(visits) >= 3
    assert all(v["obeyed"] for v in visits)
    assert not [v["reason"] for v in visits if " 0 " in v["reason"]], "nothing is said of no positions"
    assert len(taken(loop, "stop")) == 1
    series = loop.series
    measured = series.engine.visits > 0
    assert order.size < measured.sum() < 0.8 * truth.size
    maps = {r.topic: next(iter(r.arrays.values())) for r in loop.pipeline.maps()}
    np.testing.assert_array_equal(maps["map/distance"].ravel() == 0, measured & (series.phases.label >= 0))  # type: ignore[union-attr]
    assert phase_error(maps["map/guess"].ravel(), truth) <= 0.05


def test_a_slow_position_is_counted_as_long_as_it_needs() -> None:
    asked = config(dwell_longest=4.0, **PHASE_MAP_ONLY)
    plan: dict[str, Any] = {"passes": 1, "pieces": 4, "block": 1, "counts": 16.0, "side": 20}
    plain, truth = scanned(asked, **plan)
    loop, _ = scanned(asked, "extend", **plan)
    extended = taken(loop, "extend")
    assert {d["evidence"]["dwell_s"] > 0.01 for d in extended} == {True, False}
    assert all(d["obeyed"] for d in extended)
    assert all(d["valid_until_ns"] - d["issued_ns"] <= 10_000_000 for d in extended)
    assert len({int(d["decision"].split("/")[1]) for d in extended}) == len(extended)
    errors = [phase_error(r.series.phases.label, truth) for r in (plain, loop)]  # type: ignore[union-attr]
    dose = [r.series.dwell_s.sum() for r in (plain, loop)]
    assert dose[1] < 1.5 * dose[0]
    assert errors[1] < errors[0]


def test_drift_is_told_with_errors_and_taken_out_of_what_the_model_sees() -> None:
    errors, sample = {}, grains(overlap=0.3)
    for correct in (False, True):
        asked = config()
        asked.drift.correct = correct
        drifts = Effects(shift_per_s=0.0005)
        loop, _ = scanned(asked, "recalibrate", passes=6, counts=200.0, effects=drifts)
        truth = 6 * 200.0 * sample.expected()
        denoised = loop.series.engine.denoise(np.arange(len(truth)))
        errors[correct] = float(((denoised - truth) ** 2 / truth).mean())
    first = taken(loop, "recalibrate")[0]
    shift_now = 0.0005 * first["issued_ns"] / 1e9
    assert 3 * first["evidence"]["shift_error"] < 2 * first["evidence"]["shift"] < 2 * shift_now
    assert "shift" in first["reason"]
    assert loop.pipeline.status()["drift"]["corrected"]
    assert errors[True] < 0.6 * errors[False]


def test_no_drift_is_no_decision() -> None:
    loop, _ = scanned(config(), "recalibrate", "pause", passes=6, counts=200.0)
    assert not loop.decisions


def test_the_end_says_what_held_a_stop_up() -> None:
    loop, _ = scanned(config(stop_misclassified_area=1e-6, stop_relative_error=1.0), "stop", passes=2)
    assert not loop.decisions
    value, target = loop.end["unmet"]["misclassified_area"]
    assert target == 1e-6 < value < 1.0
    assert "relative_error" not in loop.end["unmet"]


def test_damage_stops_a_scan_before_more_is_lost_than_was_allowed() -> None:
    effects = Effects(damage_s=0.2, damaged="phase a")
    loop, _ = scanned(
        config(stop_loss=0.15, stop_misclassified_area=0.0), "stop", passes=12, counts=200.0, effects=effects
    )
    (stop,) = taken(loop, "stop")
    found = stop["evidence"]
    assert abs(found["dose_constant_s"] - 0.2) < 3 * found["dose_constant_error_s"]
    assert 0 < found["lost"] <= 0.15
    assert "damaged by the beam" in stop["reason"]
    assert loop.series.dwell_s.mean() < 0.05


def test_a_detector_that_loses_a_part_pauses_the_scan_and_is_no_damage() -> None:
    effects = Effects(segment_fails_s=15.0, segment_share=0.25)
    loop, _ = scanned(config(stop_misclassified_area=0.0), "stop", "pause", passes=5, counts=200.0, effects=effects)
    assert not taken(loop, "stop")
    (pause,) = taken(loop, "pause")
    assert pause["evidence"]["intensity_ratio"] == pytest.approx(0.75, abs=0.07)
    assert 15e9 < pause["issued_ns"] < 17e9


def test_a_signal_that_is_gone_pauses_the_scan_once() -> None:
    effects = Effects(dwell_changes_s=15.0, dwell_factor=0.001)
    loop, _ = scanned(config(), "pause", passes=3, counts=100.0, effects=effects)
    pauses = [p for p in taken(loop, "pause") if "silent_spectra" in p["evidence"]]
    assert len(pauses) == 1
    first = taken(loop, "pause")[0]
    assert "intensity_ratio" in first["evidence"]
    assert first["issued_ns"] < 17e9


def test_advice_that_nobody_takes_is_judged_in_hindsight() -> None:
    asked = config("advise", **{**PHASE_MAP_ONLY, "stop_misclassified_area": 0.05})
    loop, truth = scanned(asked, "stop", "dwell", passes=6, obeys=False)
    ends = loop.end
    assert loop.series.dwell_s.sum() == pytest.approx(6 * 0.01 * truth.size)
    (stop,) = [h for h in ends["hindsight"] if h["action"] == "stop"]
    assert 0.2 < stop["saved_part"] < 0.9
    assert 0 < stop["missed_area"] < 0.1
    assert stop["missed_phases"] == []
    dwell = [h for h in ends["hindsight"] if h["action"] == "dwell"]
    assert len(dwell) == 5
    # What a pass leaves out, the next may take.
    missed = [h["missed_area"] for h in dwell]
    assert 0 <= missed[-1] <= missed[0] < 0.1
    assert sum(h["saved_s"] for h in dwell) > 0


def test_nothing_is_decided_that_nobody_can_obey() -> None:
    loop, _ = scanned(config(**PHASE_MAP_ONLY), passes=6)
    assert not loop.decisions


def test_the_end_of_a_pass_is_seen_coming_also_where_its_last_block_lasts_longer_than_any_before() -> None:
    progress = Progress(planned_s=64 * 0.01 + 16 * 0.2, planned_visits=80)
    for _ in range(3):
        progress.add(16 * 0.01, 16)
        assert not progress.ends_within(0.0)
    progress.add(16 * 0.01, 16)
    # Another block of sixteen visits, and it is over, however long they last.
    assert progress.ends_within(0.0)
    progress.extend(32 * 0.01, 32)
    assert not progress.ends_within(0.0)
    progress.next_pass(1.0, 100)
    assert (progress.number, progress.visits) == (1, 64)
    assert not progress.ends_within(0.0)


def test_positions_that_gave_no_count_are_measured_again_where_that_may_be_chance() -> None:
    asked = config(**PHASE_MAP_ONLY)
    loop, _ = scanned(asked, passes=1)
    series, planner = loop.series, loop.series.deciding._planner
    assert planner is not None
    series.engine.totals[[5, 6]] = 0.0
    dwell_s = series.dwell_s.copy()
    dwell_s[6] = 1.0
    dose = Dose(dwell_s, dwell_s, 0.01, 8, dwell_s.size)
    found = planner.next_pass(asked.decisions, dose, 1, np.full(dwell_s.size, 0.01), [])
    assert found is not None
    assert found.arrays["dwell_s"][5] == pytest.approx(0.01)
    assert found.arrays["dwell_s"][6] == 0.0
