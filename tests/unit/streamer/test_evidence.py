"""What a stop rests on, gathered while phases are still being looked for."""

from __future__ import annotations

import numpy as np
import pytest

from models.axis import Axis
from models.certainty import finished_map, phase_errors, swayed
from models.linear import LinearEngine
from models.noise import POISSON
from models.phases import Phases
from streamer.config import PipelineConfig
from streamer.evidence import Dose, StopEvidence
from tests.loop import phase_error
from tests.unit.models.phase_scenes import WIDTH, D, PhaseScene, rest, stripes


def wrong_area(evidence: StopEvidence, dose: Dose) -> float:
    """What a check finds of the area that is called by a wrong phase."""
    evidence.check(PipelineConfig(), dose, None)
    (found,) = [c.value for c in evidence.latest if c.name == "misclassified_area"]
    return found


def looked_at(scene: PhaseScene) -> tuple[LinearEngine, Phases, StopEvidence]:
    """What a scan of a scene begins with."""
    engine = LinearEngine(len(scene.truth), D, noise=POISSON)
    phases = Phases(engine, WIDTH, scene.shape)
    return engine, phases, StopEvidence(engine, phases, Axis("Energy", "keV", D, 0.0, 0.01))


def mapped() -> tuple[PhaseScene, LinearEngine, Phases]:
    """A scan of stripes, with few counts, whose phases were looked for."""
    scene = stripes(4, side=32)
    n = len(scene.truth)
    engine = LinearEngine(n, D, noise=POISSON)
    phases = Phases(engine, WIDTH, scene.shape)
    engine.process(np.arange(n, dtype=np.uint32), scene.counts(20.0))
    engine.promote()
    rest(engine, phases, 3000)
    return scene, engine, phases


def test_no_map_is_trusted_before_phases_were_looked_for_in_the_data_at_hand() -> None:
    scene = stripes(3)
    n, counts = len(scene.truth), scene.counts(150.0)
    engine, phases, evidence = looked_at(scene)
    everything = np.arange(n, dtype=np.uint32)

    def wrong(passes: int) -> float:
        dwell_s = np.full(n, float(passes))
        return wrong_area(evidence, Dose(dwell_s, dwell_s, 1.0, 10, n))

    engine.process(everything, counts)
    engine.promote()
    while phases.found is None:
        assert wrong(1) == np.inf
        assert evidence.numbers()["phases_looked_for"] is False
        phases.work()
    # All labels are still from before, when everything was one phase without doubt.
    assert not phases.doubt.any()
    assert wrong(1) >= 1.0
    rest(engine, phases, 3000)
    assert wrong(1) < 0.02
    assert evidence.numbers()["phases_looked_for"] is True
    for seed in (1, 2):
        engine.process(everything, scene.counts(150.0, seed))
    assert wrong(3) == np.inf
    rest(engine, phases, 3000)
    assert wrong(3) < 0.02


def test_what_was_measured_a_moment_ago_is_called_wrongly_as_often_as_the_rest() -> None:
    scene = stripes(3)
    n, counts = len(scene.truth), scene.counts(150.0)
    engine, phases, evidence = looked_at(scene)

    def wrong(measured: int) -> float:
        dwell_s = (np.arange(n) < measured).astype(float)
        return wrong_area(evidence, Dose(dwell_s, np.ones(n), 1.0, 1, n))

    def measure(first: int, last: int) -> None:
        some = np.arange(first, last, dtype=np.uint32)
        engine.process(some, counts[some])

    nearly = n - n // 30
    measure(0, nearly - n // 10)
    engine.promote()
    rest(engine, phases, 3000)
    measure(nearly - n // 10, nearly)
    many = wrong(nearly)
    assert many > 0.1, "so much of the map is not known by what is known of the rest"
    rest(engine, phases, 3000)
    known = wrong(nearly)
    measure(nearly, n)
    assert np.count_nonzero(phases.waiting(np.arange(n))) == n // 30
    assert 0 < wrong(n) < 1.1 * known


@pytest.mark.parametrize(("extra", "open_anomalies"), [(11, 0.0), (15, 1.0)])
def test_a_flag_that_chance_brings_about_in_many_a_map_holds_no_stop_up(extra: int, open_anomalies: float) -> None:
    scene = stripes(3)
    n, counts = len(scene.truth), scene.counts(150.0)
    engine = LinearEngine(n, D, noise=POISSON)
    evidence = StopEvidence(engine, None, Axis("Energy", "keV", D, 0.0, 0.01))
    odd = n // 2 + 5
    counts[odd, D - 8] += extra
    for first in range(0, n, 50):
        some = np.arange(first, min(first + 50, n), dtype=np.uint32)
        engine.process(some, counts[some])
    for _ in range(2):
        engine.promote()
        while engine.wants_background:
            engine.background()
    evidence.check(PipelineConfig(), Dose(np.ones(n), np.ones(n), 1.0, 2, n), None)
    assert engine.held[odd]
    assert [c.value for c in evidence.latest if c.name == "open_anomalies"] == [open_anomalies]


def test_what_a_stop_counts_on_is_the_finished_map_in_which_neighbours_have_their_say() -> None:
    scene, engine, phases = mapped()
    n, side = len(scene.truth), 32
    axis, dwell_s = Axis("Energy", "keV", D, 0.0, 0.01), np.ones(n)

    def wrong(grid: tuple[int, int] | None) -> float:
        evidence = StopEvidence(engine, phases, axis, grid)
        evidence.note()
        return wrong_area(evidence, Dose(dwell_s, dwell_s, 1.0, 1, n))

    alone, among = wrong(None), wrong((side, side))
    phases.finish()
    assert among < 0.5 * alone
    assert phase_error(phases.label, scene.truth.astype(np.int32)) < among


def test_a_map_that_was_just_foreseen_need_not_be_foreseen_again() -> None:
    scene, engine, phases = mapped()
    n = len(scene.truth)
    evidence = StopEvidence(engine, phases, Axis("Energy", "keV", D, 0.0, 0.01), (32, 32))
    finished, dose = evidence.note(), Dose(np.ones(n), np.ones(n), 1.0, 1, n)
    assert finished is not None
    assert evidence.note() is None, "there is no more dose"
    config = PipelineConfig()
    once, again = (evidence.conditions(config, dose, None, known) for known in (finished, None))
    assert once == again
    other = evidence.conditions(config, dose, None, (finished[0], 2.0 * finished[1]))
    assert other != again


def test_what_neighbours_relieve_mixtures_of_is_half_believed() -> None:
    _, engine, phases = mapped()
    label, doubt = finished_map(phases, engine, (32, 32))
    index, among = phase_errors(phases, engine, doubt)
    alone = phase_errors(phases, engine)[1]
    phases.mixed[:] = 0.0
    assert swayed(phases, index, among) == 0.0
    phases.mixed[:] = 1.0
    relieved = float(np.maximum(alone - among, 0.0).sum())
    assert relieved > 1.0
    assert swayed(phases, index, among) == pytest.approx(0.5 * relieved, rel=1e-5)
    np.testing.assert_array_equal(finished_map(phases, engine, None)[0], phases.label)
    assert np.any(label != phases.label)
