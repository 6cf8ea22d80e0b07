"""The instrument without socket and clock: bytes, order, decisions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.axis import Axis
from simulator.detector import Integrating
from simulator.effects import Effects
from simulator.faults import Faults, FaultyLine
from simulator.instrument import Instrument, Outgoing
from simulator.points import PointScene, random_points
from simulator.raster import scan_order
from simulator.sample import load_specimen
from simulator.scene import SimulatedScene, Spectra
from simulator.schedule import Decision, Plan
from streamer.wire import Block, Events, Header, Message, SeriesEnd, decode

SHAPE = (4, 5)
N = 20
FOREVER = float("inf")


class Ruler:
    """A scene whose spectra say where, in which pass and how long they were measured."""

    nav_shape: tuple[int, ...] = SHAPE
    axis = Axis.linear("channel", "", 0.0, 3.0, 3)

    def header(self) -> dict[str, Any]:
        return {}

    def positions(self) -> None:
        return None

    def measure(
        self, positions: np.ndarray[Any, Any], passes: np.ndarray[Any, Any], dwell_s: np.ndarray[Any, Any]
    ) -> Spectra:
        return np.stack([positions, passes, np.rint(dwell_s * 1e6)], axis=1).astype(np.uint32)


def instrument(block: int = 4, **plan: Any) -> Instrument:
    plan = {"order": scan_order(SHAPE), "dwell_s": 0.01, **plan}
    return Instrument(Ruler(), Plan(**plan), series="s", block=block)


def messages(sent: list[Outgoing]) -> list[Message]:
    return [decode(o.parts) for o in sent]


def blocks(sent: list[Outgoing]) -> list[Block]:
    return [m for m in messages(sent) if isinstance(m, Block)]


def visits(sent: list[Outgoing]) -> np.ndarray[Any, Any]:
    """What the spectra say: rows of position, pass, dwell in microseconds."""
    return np.concatenate([np.asarray(b.counts) for b in blocks(sent)])


def placed(sent: list[Outgoing]) -> np.ndarray[Any, Any]:
    """What the headers say, by the rules of the protocol: rows of position, pass, dwell in microseconds."""
    rows = []
    for b in blocks(sent):
        frames = b.map.frame + np.arange(b.n)
        position: Any = frames % N
        if b.index is not None:
            position = b.index
        elif isinstance(b.map.index, int):
            position = b.map.index + np.arange(b.n)
        number = frames // N if b.map.passes is None else b.map.passes
        dwell = 0.01 if b.map.dwell_s is None else b.map.dwell_s
        rows.append(np.stack(np.broadcast_arrays(position, number, np.rint(np.asarray(dwell) * 1e6)), axis=1))
    return np.concatenate(rows)


def end(sent: list[Outgoing]) -> SeriesEnd:
    last = messages(sent)[-1]
    assert isinstance(last, SeriesEnd)
    return last


def test_a_scan_from_header_to_end() -> None:
    machine = instrument(passes=2)
    sent = machine.step(FOREVER)
    first = messages(sent)[0]
    assert isinstance(first, Header)
    assert (first.map.nav_shape, first.map.passes, first.map.expected) == ([4, 5], 2, 40)
    assert [o.msg_number for o in sent] == list(range(len(sent)))
    assert end(sent).map.n_sent == 40
    assert sum(b.n for b in blocks(sent)) == 40
    np.testing.assert_array_equal(visits(sent), placed(sent))
    np.testing.assert_array_equal(visits(sent)[:, 0], np.tile(np.arange(N), 2))
    assert machine.finished
    assert machine.step(1.0) == []


@pytest.mark.parametrize("order", ["serpentine", "random"])
@pytest.mark.parametrize("block", [1, 3, 7, 64])
def test_headers_say_where_the_spectra_were_measured(order: Any, block: int) -> None:
    sent = instrument(block, order=scan_order(SHAPE, order, seed=2), passes=3).step(FOREVER)
    np.testing.assert_array_equal(visits(sent), placed(sent))
    assert sorted(visits(sent)[:N, 0]) == list(range(N))


def test_sub_scan_visits_its_region_only() -> None:
    sent = instrument(order=scan_order(SHAPE, region=(1, 2, 2, 3)), passes=2).step(FOREVER)
    np.testing.assert_array_equal(visits(sent), placed(sent))
    assert list(visits(sent)[:6, 0]) == [7, 8, 9, 12, 13, 14]


def test_nothing_comes_before_its_time() -> None:
    machine = instrument(block=4)
    assert len(machine.step(0.039)) == 1
    assert machine.due_s == pytest.approx(0.001)
    (block,) = blocks(machine.step(0.0011))
    assert block.map.t_ns == 40_000_000


def simulated(list_mode: bool, seed: int = 9) -> Instrument:
    specimen = load_specimen("exercise", seed=1, shape=(12, 12), channels=256)
    scene = SimulatedScene(specimen, counts=40.0, dwell_s=0.01, seed=seed, list_mode=list_mode)
    plan = Plan(scan_order(specimen.nav_shape), passes=2, dwell_s=0.01)
    return Instrument(scene, plan, series="s", start_ns=10**18, block=10, crc=True)


def raw(sent: list[Outgoing]) -> list[bytes]:
    return [bytes(part) for o in sent for part in o.parts]


WEATHER = Effects(
    shift_per_s=1e-3, gain_per_s=1e-4, stage_x_per_s=0.5, damage_s=1.0, damaged="oxide", contamination_per_s=0.1,
    contaminant="unknown", charging_per_s=2.0, charging_positions=1.0, segment_fails_s=2.0, dead=(3,), hot=(7,),
)  # fmt: skip
RAYS = Effects(cosmic_per_s=20.0, cosmic_counts=50.0)
FAULTS = Faults(drop=0.1, double=0.1, reorder=0.1, cut=0.1, corrupt=0.1, negative=0.1, huge=0.1, clock_jump_s=9.0)


@pytest.mark.parametrize(
    ("order", "options"),
    [
        ("random", {"list_mode": True, "effects": WEATHER}),
        ("serpentine", {"detector": Integrating(gain=3.0, offset=9.0, read_sigma=2.0, excess=0.5), "effects": RAYS}),
        ("points", {"effects": WEATHER}),
    ],
)
def test_same_seed_same_bytes_with_everything_switched_on(order: Any, options: dict[str, Any]) -> None:
    """The clock and the name of the series are given: then even what a bad line makes of the bytes is the same."""

    def bytes_on_the_line(seed: int) -> list[bytes]:
        specimen = load_specimen("exercise", seed=seed, shape=(12, 12), channels=256)
        scene: Any = SimulatedScene(specimen, counts=40.0, dwell_s=0.01, seed=seed, **options)
        if order == "points":
            scene = PointScene(scene, random_points(specimen, 50, seed))
        positions = scan_order(scene.nav_shape, "raster" if order == "points" else order, seed=seed)
        plan = Plan(positions, passes=3, dwell_s=0.01)
        machine = Instrument(scene, plan, series="s", start_ns=10**18, block=10, crc=True, calibrated_at=4)
        line = FaultyLine(FAULTS, seed, expected=40)
        sent = [parts for o in machine.step(FOREVER) for parts in line.pass_on(o).sent]
        return [bytes(part) for parts in sent for part in parts]

    assert bytes_on_the_line(5) == bytes_on_the_line(5)
    assert bytes_on_the_line(5) != bytes_on_the_line(6)


@pytest.mark.parametrize("list_mode", [False, True])
def test_same_seed_same_bytes_however_time_is_cut(list_mode: bool) -> None:
    whole = raw(simulated(list_mode).step(FOREVER))
    machine, cut = simulated(list_mode), []
    steps = np.random.default_rng(0).random(10_000) * 0.2
    for dt_s in steps:
        cut += raw(machine.step(float(dt_s)))
    assert machine.finished
    assert whole == cut
    assert whole != raw(simulated(list_mode, seed=10).step(FOREVER))


def test_list_mode_blocks_are_events_with_sound_checksums() -> None:
    sent = simulated(True).step(FOREVER)
    assert all(isinstance(b.counts, Events) for b in blocks(sent))
    total = sum(len(b.counts.channels) for b in blocks(sent) if isinstance(b.counts, Events))
    assert total == pytest.approx(2 * 144 * 40, rel=5 / np.sqrt(2 * 144 * 40))


# -- decisions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("obeys_at", "measured"), [("point", 8), ("line", 10), ("section", 20)])
def test_stop_takes_effect_where_the_controller_can(obeys_at: Any, measured: int) -> None:
    machine = instrument(block=3, passes=4, obeys_at=obeys_at)
    sent = machine.step(0.075)
    assert machine.obey(Decision("stop", "s")) == (True, None)
    sent += machine.step(FOREVER)
    assert len(visits(sent)) == measured
    assert end(sent).map.exit_status == "stopped"
    assert end(sent).map.n_sent == measured
    np.testing.assert_array_equal(visits(sent), placed(sent))


@pytest.mark.parametrize(("obeys_at", "before"), [("point", 8), ("line", 10), ("section", 20)])
def test_visit_and_pause_take_effect_where_the_controller_can(obeys_at: Any, before: int) -> None:
    machine = instrument(block=1, passes=2, obeys_at=obeys_at, pause_s=7.0)
    sent = machine.step(0.075)
    assert machine.obey(Decision("visit", "s", np.array([2], "u4"), np.array([0.02], "f4"))) == (True, None)
    sent += machine.step(FOREVER)
    order = list(np.tile(np.arange(N), 2))
    assert visits(sent)[:, 0].tolist() == [*order[:before], 2, *order[before:]]
    np.testing.assert_array_equal(visits(sent), placed(sent))
    machine = instrument(block=1, passes=2, obeys_at=obeys_at, pause_s=7.0)
    sent = machine.step(0.075)
    assert machine.obey(Decision("pause", "s")) == (True, None)
    times = np.array([b.map.t_ns for b in blocks(sent + machine.step(FOREVER))]) / 1e9
    waits = np.flatnonzero(np.diff(times) > 1) + 1
    assert waits.tolist() == [before]
    assert times[before] - times[before - 1] == pytest.approx(7.01)


def test_data_go_on_arriving_after_a_stop_until_the_section_is_over() -> None:
    machine = instrument(block=3, passes=4, obeys_at="section")
    machine.step(0.075)
    machine.obey(Decision("stop", "s"))
    later = machine.step(0.05)
    assert sum(b.n for b in blocks(later)) == 6
    assert not machine.finished


def test_dwell_counts_from_the_next_pass_on() -> None:
    machine = instrument(passes=3)
    sent = machine.step(0.05)
    ok, error = machine.obey(Decision("dwell", "s", np.array([3, 4], "u4"), np.array([0.03, 0.0], "f4")))
    assert (ok, error) == (True, None)
    sent += machine.step(FOREVER)
    got = visits(sent)
    np.testing.assert_array_equal(got, placed(sent))
    assert list(got[got[:, 0] == 3][:, 2]) == [10000, 30000, 30000]
    assert list(got[got[:, 0] == 4][:, 1]) == [0], "a dwell of 0 leaves the position out"
    assert len(got) == 60 - 2


def test_the_dose_limit_is_kept_and_a_dwell_over_it_refused() -> None:
    machine = instrument(passes=6, dose_limit_s=0.045)
    sent = machine.step(0.05)
    ok, error = machine.obey(Decision("dwell", "s", np.array([3], "u4"), np.array([0.04], "f4")))
    assert not ok
    assert error is not None
    assert "dose limit" in error
    assert machine.obey(Decision("dwell", "s", np.array([3], "u4"), np.array([0.035], "f4"))) == (True, None)
    sent += machine.step(FOREVER)
    got = placed(sent)
    spent = np.bincount(got[:, 0].astype(int), weights=got[:, 2])
    np.testing.assert_allclose(spent, 45000, rtol=1e-6)


def test_visit_comes_next_and_the_scan_goes_on_after_it() -> None:
    machine = instrument(block=1)
    sent = machine.step(0.035)
    where = np.array([19, 2], "u4")
    assert machine.obey(Decision("visit", "s", where, np.array([0.02, 0.01], "f4"))) == (True, None)
    sent += machine.step(FOREVER)
    assert list(visits(sent)[:8, 0]) == [0, 1, 2, 3, 19, 2, 4, 5]
    assert end(sent).map.n_sent == 22
    np.testing.assert_array_equal(visits(sent), placed(sent))


def test_extend_goes_on_at_the_position_being_measured() -> None:
    machine = instrument(block=1)
    sent = machine.step(0.035)
    assert machine.obey(Decision("extend", "s", np.array([3], "u4"), np.array([0.05], "f4"))) == (True, None)
    sent += machine.step(0.044)
    assert len(visits(sent)) == 3
    sent += machine.step(FOREVER)
    assert visits(sent)[3].tolist() == [3, 0, 50000]
    assert len(visits(sent)) == N


def test_pause_waits_and_goes_on() -> None:
    machine = instrument(block=1, pause_s=7.0)
    sent = machine.step(0.035)
    assert machine.obey(Decision("pause", "s")) == (True, None)
    sent += machine.step(7.0)
    assert len(visits(sent)) == 4
    sent += machine.step(0.02)
    assert len(visits(sent)) == 5
    times = [b.map.t_ns for b in blocks(sent + machine.step(FOREVER))]
    assert times[4] == 7_050_000_000
    assert len(times) == N


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (Decision("stop", "another"), "not the one being measured"),
        (Decision("recalibrate", "s"), "cannot recalibrate"),
        (Decision("dwell", "s"), "needs an index"),
        (Decision("dwell", "s", np.array([20], "u4"), np.array([0.1], "f4")), "outside"),
        (Decision("dwell", "s", np.array([1], "u4"), np.array([np.nan], "f4")), "number of seconds"),
        (Decision("visit", "s", np.array([1], "u4"), np.array([-1.0], "f4")), "number of seconds"),
        (Decision("extend", "s", np.array([9], "u4"), np.array([0.1], "f4")), "not the one being measured"),
        (Decision("extend", "s", np.array([3], "u4"), np.array([0.001], "f4")), "already"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence_and_changes_nothing(decision: Decision, said: str) -> None:
    machine, other = instrument(passes=2), instrument(passes=2)
    machine.step(0.035), other.step(0.035)
    ok, error = machine.obey(decision)
    assert not ok
    assert error is not None
    assert said in error
    assert raw(machine.step(FOREVER)) == raw(other.step(FOREVER))


def test_after_the_end_and_in_the_last_pass_it_is_too_late() -> None:
    machine = instrument()
    machine.step(0.05)
    assert machine.obey(Decision("dwell", "s", np.array([1], "u4"), np.array([0.1], "f4")))[1] == "no pass is left"
    machine.step(FOREVER)
    assert machine.obey(Decision("stop", "s")) == (False, "the scan has ended")


def test_abort_sends_what_was_measured_and_says_so() -> None:
    machine = instrument(block=4)
    sent = machine.step(0.065)
    sent += machine.abort("SIGTERM")
    assert len(visits(sent)) == 6
    assert (end(sent).map.exit_status, end(sent).map.n_sent) == ("abort", 6)
    assert end(sent).map.n_messages == len(sent)
    assert machine.abort("again") == []


def test_unknown_actions_and_empty_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="dance"):
        Plan(scan_order(SHAPE), actions=("dance",))
    with pytest.raises(ValueError, match="dwell above 0"):
        Plan(scan_order(SHAPE), dwell_s=0.0)
    with pytest.raises(ValueError, match="inside"):
        scan_order(SHAPE, region=(3, 3, 2, 2))
