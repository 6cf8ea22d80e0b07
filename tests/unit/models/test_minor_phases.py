"""Phases that few positions are of: compounds that look like mixtures, and nothing where there are only mixtures."""

from dataclasses import replace

import numpy as np

from models.linear import LinearEngine
from models.minor_phases import minor_phases
from models.noise import POISSON
from models.phase_growth import between
from models.phases import Phases
from tests.unit.models.phase_scenes import WIDTH, D, PhaseScene, rest, scanned, stripes
from tests.unit.models.scenes import peak


def couple(width: int) -> PhaseScene:
    """Two phases side by side, and so many columns between them that have exactly three fifths of one."""
    scene = stripes(2)
    abundance = scene.abundance.copy()
    x = np.arange(len(abundance)) % scene.shape[1]
    abundance[(x >= 18 - width // 2) & (x < 18 + width - width // 2)] = [0.6, 0.4]
    return replace(scene, abundance=abundance)


def test_a_compound_that_looks_like_a_mixture_is_a_minor_phase() -> None:
    scene = couple(3)
    engine, phases = scanned(scene, 400.0)
    ((number, group),) = minor_phases(phases, engine, 0.1)
    compound = np.flatnonzero((scene.abundance > 0.5).any(axis=1) & (scene.abundance < 0.7).all(axis=1))
    assert np.isin(group.positions, compound).mean() > 0.95
    assert np.isin(compound, group.positions).mean() > 0.9
    assert group.kind == "phase"
    assert group.evidence > 100.0
    # Most beyond the phase that is most like it: a line of the other one.
    lo, hi = engine.window_of(group)
    assert any(lo <= line < hi for line in (20, 35))
    assert minor_phases(phases, engine, 0.02) == []
    phases.call(number, "compound")
    assert minor_phases(phases, engine, 0.1) == []


def test_mixtures_with_a_compound_are_none_of_its_neighbours() -> None:
    scene = couple(4)
    abundance, x = scene.abundance.copy(), np.arange(len(scene.abundance)) % scene.shape[1]
    sides = abundance[x == 0][0], abundance[x == scene.shape[1] - 1][0]
    for away, part in ((1, 0.75), (2, 0.5), (3, 0.25)):
        abundance[x == 15 + 1 - away] = part * np.array([0.6, 0.4]) + (1 - part) * sides[0]
        abundance[x == 20 - 1 + away] = part * np.array([0.6, 0.4]) + (1 - part) * sides[1]
    _, phases = scanned(replace(scene, abundance=abundance), 1000.0)
    assert phases.found is not None
    _, mixture, ids = phases.found
    (compound,) = (c for c in range(len(ids)) if between(mixture, c) is not None)
    assert between(mixture, compound) not in mixture.bridges
    for column in (15, 20):
        assert (phases.label[x == column] == ids[compound]).mean() > 0.9


def test_mixtures_along_an_interface_are_no_minor_phase() -> None:
    engine, phases = scanned(stripes(2, mixing=1.0), 400.0)
    assert minor_phases(phases, engine, 0.3) == []


def test_what_components_do_not_know_of_a_named_phase_does_not_draw_others_to_it() -> None:
    scene = stripes(3)
    rare = np.array([40, 205, 611, 818, 1100])
    line = peak(D, 50, 2.0)
    rows = scene.abundance @ scene.spectra
    rows[rare] = 0.4 * rows[rare] + 0.6 * line / line.sum()
    counts = np.random.default_rng(2).poisson(150.0 * rows).astype(np.uint16)
    engine = LinearEngine(len(rows), D, noise=POISSON)
    phases = Phases(engine, WIDTH, scene.shape)
    order = np.setdiff1d(np.arange(len(rows)), rare)
    for part in (*np.array_split(order, 10), rare):
        engine.process(part.astype(np.uint32), counts[part])
        engine.promote()
        rest(engine, phases, 40)
    assert engine.held[rare].all()
    number = phases.seed("spinel", rare)
    rest(engine, phases, 3000)
    engine.finish()
    phases.finish()
    assert np.flatnonzero(phases.label == number).tolist() == rare.tolist()
    assert len(phases.infos) == 4
    known = np.delete(np.arange(len(rows)), rare)
    for info in phases.infos:
        if info.id != number:
            mine = known[phases.label[known] == info.id]
            assert np.bincount(scene.truth[mine]).max() > 0.95 * mine.size
