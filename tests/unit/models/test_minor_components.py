"""Components that few positions carry: found though they have taught the model, and known again when accepted."""

import numpy as np
import pytest

from models.linear import LinearEngine
from models.minor_components import MinorComponents, minor_components
from models.noise import POISSON
from tests.unit.models.scenes import eds_scene, peak

SIDE, D = 40, 256
RARE = np.array([3, 5, 44, 45])


def taught(rare: np.ndarray, seed: int = 0, counts: float = 300.0) -> tuple[LinearEngine, np.ndarray]:
    """An engine whose first block had a line that nothing else has, and the counts that it saw."""
    scene = eds_scene(counts, side=SIDE, d=D, seed=seed)
    rng = np.random.default_rng(seed)
    expected = scene.expected.copy()
    line = peak(D, 0.9 * D, 1.5)
    expected[rare] += 60 * line / line.sum()
    seen = rng.poisson(expected).astype(np.uint16)
    engine = LinearEngine(SIDE**2, D, noise=POISSON)
    for first in range(0, SIDE**2, 160):
        engine.process(np.arange(first, first + 160, dtype=np.uint32), seen[first : first + 160])
        engine.promote()
        for _ in range(20):
            engine.background()
    return engine, seen


@pytest.mark.parametrize("seed", [0, 1])
def test_what_was_in_the_first_block_is_found_in_the_model(seed: int) -> None:
    engine, _ = taught(RARE, seed)
    assert not engine.held[RARE].any()
    (group,) = minor_components(engine, 0.01)
    assert np.isin(group.positions, RARE).all()
    assert group.evidence > 25
    lo, hi = engine.window_of(group)
    assert lo <= 0.9 * D < hi
    assert group.kind == "feature"


def test_ordinary_phases_are_no_minor_components() -> None:
    engine, _ = taught(RARE[:0], 2)
    assert minor_components(engine, 0.01) == []


def test_in_the_middle_of_a_pass_only_what_lasts_is_told() -> None:
    looks = MinorComponents()
    scene = eds_scene(300.0, side=SIDE, d=D, seed=0)
    expected = scene.expected.copy()
    line = peak(D, 0.9 * D, 1.5)
    expected[RARE] += 60 * line / line.sum()
    seen = np.random.default_rng(1).poisson(expected).astype(np.uint16)
    engine, told = LinearEngine(SIDE**2, D, noise=POISSON), []
    for first in range(0, SIDE**2, 160):
        engine.process(np.arange(first, first + 160, dtype=np.uint32), seen[first : first + 160])
        engine.promote()
        told.append(looks.look(engine, ended=False))
    looked = [k for k, groups in enumerate(told) if groups]
    # Seen after 320 positions, and told when it is the same after twice as many.
    assert looked == [3, 7]
    assert all(np.isin(group.positions, RARE).all() for k in looked for group in told[k])
    assert np.isin(looks.look(engine, ended=True)[0].positions, RARE).all()


def test_an_accepted_feature_is_known_again_in_others() -> None:
    engine, seen = taught(RARE, 0)
    (group,) = minor_components(engine, 0.01)
    number = engine.accept(group)
    assert engine.join(group) == number
    line = peak(D, 0.9 * D, 1.5)
    later = np.array([800, 900])
    more = np.random.default_rng(5).poisson(60 * line / line.sum(), (2, D)).astype(np.uint16)
    other = engine.groups[0] if engine.groups else group
    again = type(group)(later, (seen[later] * 0 + more).sum(axis=0).astype(np.float32), other.share, 0, 30.0, "feature")
    assert engine.join(again) == number
    assert np.isin(later, engine.accepted(number)).all()
    flat = np.zeros(D, dtype=np.float32)
    flat[20:60] = 5.0
    assert engine.join(type(group)(np.array([50]), flat, other.share[:1], 0, 30.0, "feature")) == -1
