"""Sparse scans come to an end: by a stop where the target can be had, and with what they have where it cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.raster import sparse_order
from simulator.sample import Specimen, load_specimen
from simulator.schedule import Plan
from streamer.config import PipelineConfig
from streamer.config_decisions import DecisionConfig
from tests.loop import Loop, loop_of, phase_error
from tests.specimens import grains

COUNTS = 60.0
ASKED: dict[str, Any] = {
    "stop_relative_error": 0.5, "stop_angle_deg": 20.0, "stop_error_slope": 0.1, "stop_unseen_area": 0.1,
}  # fmt: skip


def exercise(seed: int) -> Specimen:
    return load_specimen("exercise", seed=seed, shape=(36, 36), channels=256)


def scanned(specimen: Specimen, seed: int, target: float, *, share: float, block: int = 32) -> Loop:
    order = sparse_order(specimen.nav_shape, share, seed=seed)
    plan = Plan(order, passes=1, dwell_s=0.001, actions=("stop", "visit"))
    asked = DecisionConfig(mode="enforce", stop_misclassified_area=target, **ASKED)
    return loop_of(specimen, seed + 1000, plan, PipelineConfig(decisions=asked), COUNTS, block=block).run()


def visited(loop: Loop) -> NDArray[np.int64]:
    return loop.series.engine.visits.astype(np.int64)


@pytest.mark.parametrize(("seed", "share"), [(0, 0.15), (2, 0.05)])
def test_interfaces_that_no_dwell_decides_do_not_hold_a_stop_up(seed: int, share: float) -> None:
    specimen = exercise(seed)
    loop = scanned(specimen, seed, 0.03, share=share)
    assert loop.end["exit_status"] == "stopped"
    # Measured on and on, a few mixtures had hundreds of visits each, and the scan did not end.
    assert visited(loop).max() < 40
    assert visited(loop).sum() < 2 * specimen.n_positions
    phases = loop.series.phases
    assert phases is not None
    assert loop.series.deciding.guess is not None
    assert phase_error(loop.series.deciding.guess.label, specimen.phase_map().ravel()) < 0.04


def test_a_target_that_is_out_of_reach_ends_a_scan_that_says_why() -> None:
    specimen = grains(24, seed=1, overlap=0.3)
    loop = scanned(specimen, 1, 0.001, share=0.15)
    assert loop.end["exit_status"] == "success"
    assert visited(loop).sum() < 6 * specimen.n_positions
    assert loop.end["unmet"]["misclassified_area"][0] > 0.001
    assert "measured positions are not told" in loop.end["undecided"]


def test_a_scan_whose_messages_are_longer_than_a_decision_goes_on() -> None:
    specimen = exercise(3)
    loop = scanned(specimen, 3, 0.03, share=0.15, block=96)
    assert loop.end["exit_status"] == "stopped"
    assert np.count_nonzero(visited(loop)) > 2 * 0.15 * specimen.n_positions
