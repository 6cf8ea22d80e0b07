"""What a limit on stored counts costs: a share of the positions is exact, and the map as good as without it."""

import numpy as np
import pytest

from models.linear import LinearEngine
from models.linear_config import LinearConfig
from models.noise import POISSON
from tests.unit.models.scenes import eds_scene, weighted_error

SIDE, D, PASSES, BLOCK = 64, 256, 4, 128
N = SIDE * SIDE


def scanned(limit_bytes: int, visits: list[np.ndarray]) -> LinearEngine:
    engine = LinearEngine(N, D, LinearConfig(store_limit_bytes=limit_bytes), POISSON)
    for visit in visits:
        for first in range(0, N, BLOCK):
            index = np.arange(first, first + BLOCK, dtype=np.uint32)
            engine.process(index, visit[index])
            assert engine.score_map.store.bytes_used <= limit_bytes
            if first % (4 * BLOCK) == 0:
                engine.promote()
        while engine.background():
            pass
    return engine


@pytest.mark.parametrize(("counts", "limit"), [(16.0, 700_000), (400.0, 900_000)])
def test_at_the_limit_a_share_of_the_map_stays_exact_and_the_whole_as_good(counts: float, limit: int) -> None:
    scene = eds_scene(counts, side=SIDE, d=D)
    visits = [scene.visit(seed) for seed in range(PASSES)]
    truth = PASSES * scene.expected
    limited, free = scanned(limit, visits), scanned(1 << 30, visits)
    assert 0.2 * N < limited.exact.sum() < 0.9 * N
    assert free.exact.all()
    for engine in (limited, free):
        engine.finish()
    assert 0.2 * N < limited.exact.sum() < 0.9 * N
    stored = limited.score_map.store.complete(np.arange(N))
    assert np.array_equal(limited.exact, stored)
    errors = [weighted_error(e.denoise(np.arange(N)), truth) for e in (limited, free)]
    assert errors[0] < 1.15 * errors[1]
    # Positions whose counts are there are as good as if all were.
    errors = [weighted_error(e.denoise(np.flatnonzero(stored)), truth[stored]) for e in (limited, free)]
    assert errors[0] < 1.06 * errors[1]
