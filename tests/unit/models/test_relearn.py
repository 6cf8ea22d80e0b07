"""Repeated visits are learnt as one spectrum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.linear import LinearEngine
from models.moments import Moments
from models.noise import POISSON
from models.preprocess import row_weights
from simulator.sample import load_specimen
from tests.unit.models.scenes import weighted_error

N, D = 600, 256


def _spectra() -> NDArray[np.float64]:
    """Expected counts (N, D) of a visit: two phases that differ in one count of two."""
    rates = np.full((N, D), 2.0 / D)
    rates[: N // 2, 40:80] *= 2.5
    return rates


def _passes(engine: LinearEngine, number: int, *, idle: int, seed: int = 0) -> NDArray[np.float64]:
    """Scan in blocks with so much idle time after each; return the accumulated counts (N, D)."""
    rng, rates = np.random.default_rng(seed), _spectra()
    total = np.zeros((N, D))
    for _ in range(number):
        for at in np.split(np.arange(N), 6):
            counts = rng.poisson(rates[at]).astype(np.uint16)
            total[at] += counts
            engine.process(at.astype(np.uint32), counts)
            for _ in range(idle):
                engine.background()
        engine.promote()
    return total


def _moment(total: NDArray[np.float64], clip: float) -> NDArray[np.float32]:
    moments = Moments(D, 4)
    exposure = total.sum(axis=1)
    moments.add(sparse.csr_array(total.astype(np.float32)), row_weights(exposure, float(np.median(exposure)), clip))
    return moments.packed()


def test_moments_are_those_of_accumulated_counts_whatever_comes_while_they_are_made() -> None:
    """Few pieces between blocks: each making goes on over several of them, and none is lost or counted twice."""
    for idle in (8, 400):
        engine = LinearEngine(N, D, noise=POISSON)
        total = _passes(engine, 8, idle=idle)
        known = engine._learner.learnt()
        assert known.weight < 6 * N
        taught = total[~engine.held]
        np.testing.assert_allclose(known.total.sum(), taught.sum(), rtol=0.02)
        assert known.exposure == known.total.sum()
        assert isinstance(known.tracker, Moments)
        assert known.tracker.n_rows == known.weight


def test_quick_passes_are_worth_what_one_long_one_is() -> None:
    """Made anew when nothing comes any more, the moment is that of accumulated counts, and shows the two phases."""
    engine = LinearEngine(N, D, noise=POISSON)
    total = _passes(engine, 40, idle=0)
    assert engine.basis is not None
    assert engine.basis.rank == 1
    while engine._relearning.work():
        pass
    known = engine._learner.learnt()
    assert isinstance(known.tracker, Moments)
    assert known.weight == np.count_nonzero(~engine.held)
    np.testing.assert_allclose(
        known.tracker.packed(), _moment(total[~engine.held], engine.config.bright_clip), rtol=1e-4
    )
    engine.promote()
    assert engine.basis.rank == 2


def test_with_idle_time_phases_show_in_the_scan() -> None:
    """Without any more counts than a scan has in which they do not."""
    engine = LinearEngine(N, D, noise=POISSON)
    _passes(engine, 40, idle=60)
    assert engine.basis is not None
    assert engine.basis.rank == 2
    assert engine._learner.n_paired < 40 * N / 2


def test_the_live_map_of_quick_passes_is_nearly_as_good_as_the_finished_one() -> None:
    """Learnt visit by visit it is fourteen times as far from the truth."""
    rates = 2.0 * load_specimen("core_shell", shape=(32, 32), channels=512).expected()
    n, d = rates.shape
    engine, rng, every = LinearEngine(n, d, noise=POISSON), np.random.default_rng(0), np.arange(n)
    for _ in range(40):
        for at in np.split(every, 16):
            engine.process(at.astype(np.uint32), rng.poisson(rates[at]).astype(np.uint16))
            for _ in range(60):
                engine.background()
        engine.promote()
    live = weighted_error(engine.denoise(every), 40 * rates)
    engine.finish()
    assert live < 1.5 * weighted_error(engine.denoise(every), 40 * rates)


def test_single_passes_are_left_alone() -> None:
    """Where no position is visited twice there is nothing to sum."""
    engine = LinearEngine(N, D, noise=POISSON)
    _passes(engine, 1, idle=50)
    assert not engine._relearning.is_due
    engine._learner.flush()
    assert engine._learner.n_paired > 0.99 * N
