"""Rare phases in the engine: flagged, grouped, accepted, found elsewhere; and flags that do not stay when wrong."""

import numpy as np

from models.false_discovery import discoveries
from models.linear import FLAG_ANOMALOUS, FLAG_WAITS, LinearEngine
from models.noise import POISSON
from tests.unit.models.scenes import Scene, eds_scene

SIDE, D = 48, 512


def scanned(scene: Scene, passes: int = 1) -> tuple[LinearEngine, list[int]]:
    """An engine that has seen a scan, with idle time, and how many spectra of each pass it flagged."""
    engine, flagged = LinearEngine(SIDE * SIDE, D, noise=POISSON), []
    for number in range(passes):
        visit, count = scene.visit(number + 1), 0
        for first in range(0, SIDE * SIDE, 128):
            index = np.arange(first, first + 128, dtype=np.uint32)
            count += int((engine.process(index, visit[first : first + 128]).flag > 0).sum())
            engine.promote()
            for _ in range(6):
                engine.background()
        flagged.append(count)
    return engine, flagged


def accepted_and_found(counts: float, seed: int) -> int:
    """How many of seven positions of a feature are found once a group of some of them is accepted."""
    scene = eds_scene(counts, side=SIDE, d=D, n_rare=7, seed=seed)
    engine, _ = scanned(scene)
    group = max(engine.groups, key=lambda g: g.evidence)
    assert group.kind == "feature"
    assert np.isin(group.positions, scene.rare).all()
    assert group.positions.size >= (2 if counts < 100 else 7)
    number = engine.accept(group)
    again = scene.visit(20)
    result = engine.process(scene.rare.astype(np.uint32), again[scene.rare])
    assert not result.flag.any(), "known now"
    while engine.background():
        pass
    found = engine.accepted(number)
    assert np.isin(found, scene.rare).all()
    engine.finish()
    assert set(found) <= set(engine.accepted(number)) <= set(scene.rare)
    assert not engine.held[found].any()
    truth = 2 * scene.expected[scene.rare]
    assert np.abs(engine.denoise(scene.rare) - truth).sum() < 0.5 * np.sqrt(truth).sum(), "and shown, not denoised away"
    return int(found.size)


def test_an_accepted_group_is_found_elsewhere_and_explains_later_spectra() -> None:
    assert accepted_and_found(300.0, 1) == 7


def test_of_few_counts_most_are_found_also_those_that_nobody_had_flagged() -> None:
    assert sum(accepted_and_found(50.0, seed) for seed in (1, 2, 3)) > 10


def test_what_is_dismissed_is_no_group_and_still_does_not_teach() -> None:
    scene = eds_scene(300.0, side=SIDE, d=D, n_rare=5, seed=2)
    engine, _ = scanned(scene)
    before = max(engine.groups, key=lambda g: g.evidence).positions
    engine.dismiss(before)
    engine.promote()
    assert not any(np.isin(g.positions, before).any() for g in engine.groups)
    assert engine.held[before].all()


def test_first_spectra_of_ordinary_phases_do_not_stay_flagged() -> None:
    scene = eds_scene(300.0, side=SIDE, d=D, seed=3)
    engine, flagged = scanned(scene, passes=2)
    cleared = engine.take_cleared()
    assert flagged[0] > 10, "each phase is new when it comes first"
    assert flagged[1] < 0.002 * SIDE * SIDE
    assert cleared.size > 0.3 * flagged[0]
    assert np.count_nonzero(engine.held) <= 3
    assert engine.take_cleared().size == 0, "told once"


def test_flags_wait_in_the_first_pass_until_it_is_clear_what_is_rare() -> None:
    scene = eds_scene(300.0, side=SIDE, d=D, n_rare=7, seed=1)
    engine, visit = LinearEngine(SIDE * SIDE, D, noise=POISSON), scene.visit(1)
    waits, confirmed = [], []
    for first in range(0, SIDE * SIDE, 128):
        index = np.arange(first, first + 128, dtype=np.uint32)
        flag = engine.process(index, visit[first : first + 128]).flag
        assert not (flag & FLAG_ANOMALOUS).any()
        waits += index[flag & FLAG_WAITS > 0].tolist()
        engine.promote()
        told = engine.take_confirmed()
        assert (told.flag == FLAG_ANOMALOUS).all()
        assert (told.p_value <= 2e-4).all()
        confirmed += told.index.tolist()
        while engine.background():
            pass
    assert len(waits) > 20, "each phase is new when it comes first"
    assert set(scene.rare) <= set(confirmed) < set(waits)
    assert len(confirmed) <= scene.rare.size + 1
    again = engine.process(scene.rare.astype(np.uint32), scene.visit(2)[scene.rare])
    assert (again.flag == FLAG_ANOMALOUS).all(), "known places: nothing to wait for"


def test_false_discoveries_are_as_rare_as_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        p_value = rng.random(2000)
        p_value[:40] = rng.random(40) * 1e-4
        p_value[-1] = np.nan
        found = discoveries(p_value, 0.1)
        assert found[:40].all()
        assert not found[-1]
        shares.append(found[40:].sum() / found.sum())
    assert 0.08 < np.mean(shares) < 0.12
    assert not discoveries(np.full(5, np.nan), 0.1).any()
