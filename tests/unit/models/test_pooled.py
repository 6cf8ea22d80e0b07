"""Sums of neighbours show a second phase before single spectra do, and none where there is none."""

import numpy as np
import pytest

from models.linear import LinearEngine
from models.noise import POISSON
from models.pooled import contrast, pooled_contrast
from tests.unit.models.scenes import peak

D, SIDE, WIDTH = 96, 32, 6.0
BASE = 0.3 + 4 * peak(D, 20, 2.5) + 2 * peak(D, 60, 2.5)
OTHER = 0.3 + 3.2 * peak(D, 20, 2.5) + 2.8 * peak(D, 60, 2.5)
SHAPES = np.stack([BASE / BASE.sum(), OTHER / OTHER.sum()])


def engine_of(counts: float, part: float, seed: int, square: int = 8) -> LinearEngine:
    """A map of two near phases, the second in squares that cover a part of it, with a wedge in thickness."""
    rng = np.random.default_rng(seed)
    across = SIDE // square
    blocks = rng.permutation(across**2) < round(across**2 * part)
    y, x = np.divmod(np.arange(SIDE * SIDE), SIDE)
    shape = SHAPES[blocks[y // square * across + x // square].astype(int)]
    engine = LinearEngine(SIDE * SIDE, D, noise=POISSON)
    spectra = rng.poisson((counts * (0.5 + x / SIDE))[:, None] * shape).astype(np.uint16)
    engine.process(np.arange(SIDE * SIDE, dtype=np.uint32), spectra)
    engine.promote()
    return engine


@pytest.mark.parametrize(("grid", "counts", "square"), [((SIDE, SIDE), 16.0, 8), (None, 24.0, 16)])
def test_pools_show_what_single_spectra_do_not(grid: tuple[int, int] | None, counts: float, square: int) -> None:
    """Without a grid, pools are runs of sixteen positions."""
    true = 0.25 * 0.75 * float(((SHAPES[1] - SHAPES[0]) ** 2 / (0.75 * SHAPES[0] + 0.25 * SHAPES[1])).sum())
    for seed in range(3):
        engine = engine_of(counts, 0.25, seed, square)
        assert engine.basis is not None
        assert engine.basis.n_components < 2
        assert pooled_contrast(engine, grid, WIDTH) == pytest.approx(true, rel=0.6)


def test_pools_of_one_phase_do_not_differ() -> None:
    assert [pooled_contrast(engine_of(16.0, 0.0, seed), (SIDE, SIDE), WIDTH) for seed in range(12)] == [0.0] * 12


def test_chance_is_exceeded_as_seldom_as_it_should() -> None:
    rng = np.random.default_rng(0)
    found = [contrast(rng.poisson(rng.uniform(100, 800, (64, 1)) * SHAPES[0])) for _ in range(1000)]
    assert np.count_nonzero(found) <= 6
    assert contrast(np.zeros((10, D))) == 0.0
