"""Damage is looked for while the scan goes on, however little idle time there is."""

from __future__ import annotations

import numpy as np
import pytest

from models.damage import Damage
from simulator.effects import Effects
from simulator.raster import scan_order
from simulator.sample import load_specimen
from simulator.schedule import Plan
from streamer.config import PipelineConfig
from tests import loop
from tests.loop import Loop, loop_of

SHAPE, DWELL_S = (32, 32), 0.01


def scan(effects: Effects, passes: int, counts: float) -> Loop:
    specimen = load_specimen("exercise", seed=1, shape=SHAPE, channels=256)
    plan = Plan(scan_order(SHAPE), passes=passes, dwell_s=DWELL_S, actions=())
    return loop_of(specimen, 0, plan, PipelineConfig(), counts, block=128, effects=effects)


def test_it_is_found_before_a_tenth_is_lost() -> None:
    """Although phases and unmixing want all the idle time there is in the first passes."""
    lost: list[float] = []

    def watch(now: Loop) -> None:
        if not lost and now.series.deciding._watch.losing:
            lost.append(-np.expm1(-now.series.dwell_s.mean() / (20 * DWELL_S)))

    scanned = scan(Effects(damage_s=20 * DWELL_S, damaged="ferrite"), 3, 200.0)
    scanned.watch = watch
    scanned.run()
    assert lost
    assert lost[0] < 0.1


def test_a_phase_is_told_by_its_number() -> None:
    """Its place among the phases, of which some may have gone, changes when they are looked for anew."""
    scanned = scan(Effects(damage_s=20 * DWELL_S, damaged="ferrite"), 3, 200.0)

    def numbers(now: Loop) -> None:
        assert now.series.phases is not None
        now.series.phases._next_id = max(now.series.phases._next_id, 5)

    scanned.watch = numbers
    scanned.run()
    phases, watch = scanned.series.phases, scanned.series.deciding._watch
    assert phases is not None
    specimen = load_specimen("exercise", seed=1, shape=SHAPE, channels=256)
    truth = specimen.phase_map().ravel()
    found = [np.bincount(truth[phases.label == damage.phase]).argmax() for damage in watch.losing]
    assert found == [specimen.phases.index("ferrite")]


def test_visits_during_a_look_are_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look is made piece by piece between blocks: what it reads later has had more dose."""
    monkeypatch.setattr(loop, "_IDLE_PIECES", 1)
    scanned = scan(Effects(), 6, 400.0)
    found: set[int] = set()
    scanned.watch = lambda now: found.update(d.phase for d in now.series.deciding._watch.damage)
    scanned.run()
    assert not found


def test_what_one_phase_loses_is_not_ascribed_to_those_beside_it() -> None:
    """Rates in a scan of an oxide that loses a fortieth a pass: end-members beside it are not quite pure."""
    scanned = scan(Effects(), 1, 50.0)
    scanned.run()
    watch = scanned.series.deciding._watch
    assert watch._damage is not None

    def damage(phase: int, rate: float, error: float) -> Damage:
        return Damage(phase, 50.0, 34.0, rate, error, 9.0, 0.0, "damage")

    watch._damage.found = [damage(0, 0.0260, 0.0009), damage(1, 0.0020, 0.0003), damage(2, 0.0010, 0.0002)]
    assert [found.phase for found in watch.losing] == [0]
    # Another that is damaged itself is told, however much slower, and so is the only one.
    watch._damage.found = [damage(0, 0.0260, 0.0009), damage(1, 0.0060, 0.0003)]
    assert [found.phase for found in watch.losing] == [0, 1]
    watch._damage.found = [damage(1, 0.0020, 0.0003), damage(2, -0.01, 0.001)]
    assert [found.phase for found in watch.losing] == [1]
