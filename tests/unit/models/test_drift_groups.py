"""Spectra sorted by composition for the drift test: by their neighbours, stable, and worth it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from models.anomaly import ScanWindows
from models.calibration import Calibration
from models.drift import DriftMonitor
from models.drift_groups import MOST_GROUPS, CompositionGroups, GroupSums
from models.drift_parts import GroupedHistory
from models.linear import LinearEngine
from models.noise import POISSON
from models.visits import Visits, read_visits
from tests.unit.models.test_drift import AXIS, D, Float, phase_spectra

BANDS = 16
"""Spectra in a row that are of one phase."""


def spectra_of(number: int, n: int, spectra: Float, seed: int = 0) -> NDArray[np.uint16]:
    """Spectra (n, D) of 200 counts in bands of one phase each, from spectrum `number` on."""
    phase = (number + np.arange(n)) // BANDS % 3
    return np.random.default_rng([seed, number]).poisson(200.0 * spectra[phase]).astype(np.uint16)


def learnt_engine(n: int = 3072) -> LinearEngine:
    engine = LinearEngine(n, D, noise=POISSON, axis=AXIS)
    for first in range(0, n, 128):
        engine.process(np.arange(first, first + 128, dtype=np.uint32), spectra_of(first, 128, phase_spectra()))
    engine.promote()
    return engine


def follow(groups: CompositionGroups, engine: LinearEngine) -> None:
    published, index = engine.score_map.published, engine.score_map.measured
    assert published is not None
    groups.rebase(published, engine.score_map.raw(index), engine.score_map.exposure(index, POISSON))


def sorted_by(groups: CompositionGroups, engine: LinearEngine, counts: NDArray[np.uint16]) -> NDArray[np.intp]:
    published = engine.score_map.published
    assert published is not None
    return groups.sort(published.project(counts.astype(np.float32)), counts.sum(axis=1).astype(np.float64))


def test_neighbours_tell_the_phase_and_own_counts_do_not() -> None:
    engine, groups = learnt_engine(), CompositionGroups()
    follow(groups, engine)
    counts = spectra_of(0, 192, phase_spectra(), seed=5)
    group = sorted_by(groups, engine, counts)
    phase = np.arange(192) // BANDS % 3
    right = sum(np.bincount(group[phase == k]).max() for k in range(3))
    assert right > 0.9 * 192
    other = counts.copy()
    other[40] = spectra_of(64, 1, phase_spectra())[0]
    assert sorted_by(groups, engine, other)[40] == group[40]


def test_groups_stay_what_they_are_when_the_model_turns() -> None:
    engine, groups = learnt_engine(), CompositionGroups()
    follow(groups, engine)
    counts = spectra_of(0, 192, phase_spectra(), seed=5)
    before, version = sorted_by(groups, engine, counts), engine.basis
    extra = phase_spectra()[1] + phase_spectra()[2]
    for first in range(0, 3072, 128):
        draw = np.random.default_rng([7, first]).poisson(np.tile(100.0 * extra, (128, 1))).astype(np.uint16)
        engine.process(np.arange(first, first + 128, dtype=np.uint32), draw)
    engine.promote()
    assert engine.basis is not None
    assert version is not None
    assert engine.basis.version > version.version
    follow(groups, engine)
    assert np.mean(sorted_by(groups, engine, counts) == before) > 0.9


def test_nothing_is_sorted_before_there_is_a_model() -> None:
    assert not CompositionGroups().sort(np.zeros((5, 0), np.float32), np.ones(5)).any()


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_sums_by_group(layout: str) -> None:
    counts = spectra_of(0, 60, phase_spectra())
    windows = ScanWindows.for_peaks(D, 5.0)
    visits = read_visits(sparse.csr_array(counts) if layout == "sparse" else counts, windows)
    group = np.arange(60) % MOST_GROUPS
    sums = GroupSums(D)
    sums.add(Visits(visits.stored, visits.block, visits.total, visits.channels, group=group))
    before = sums.copy()
    assert np.array_equal(before.counts, [counts[group == g].sum(axis=0) for g in range(MOST_GROUPS)])
    assert np.array_equal(before.n, np.full(MOST_GROUPS, 15))
    sums.add(visits)
    new = sums.since(before)
    assert np.array_equal(new.counts, [counts.sum(axis=0), *np.zeros((MOST_GROUPS - 1, D))])
    assert np.array_equal(new.n, [60, 0, 0, 0])


def largest_statistic(shift: float, *, by_phase: bool, seed: int) -> float:
    """Of 12 segments that have moved by so much after 60 that have not; the phases take turns, spectrum by spectrum."""
    history = GroupedHistory(AXIS, POISSON, 3 if by_phase else 1)
    total = np.zeros(D)
    for number in range(72):
        mean = 64 * 200 / 3 * phase_spectra(Calibration(shift) if number >= 60 else None)
        counts = np.random.default_rng([seed, number]).poisson(mean).astype(np.float64)
        total += counts.sum(axis=0)
        if by_phase:
            history.add(counts, np.full(3, 64 / 3), np.zeros(2))
        else:
            history.add(counts.sum(axis=0, keepdims=True), np.array([64.0]), np.zeros(2))
    history.reread(phase_spectra(), total, 72 * 64.0, 1e9 * np.eye(3))
    assert history.best_split(np.array([60]))[0] == 60
    contrast = history.contrast(0, 60)
    assert contrast is not None
    return contrast.statistic


def test_each_phase_through_its_own_filters_tells_more_than_their_sum() -> None:
    gains = [
        largest_statistic(1e-3, by_phase=True, seed=s) / largest_statistic(1e-3, by_phase=False, seed=s)
        for s in range(8)
    ]
    assert np.mean(gains) > 1.1


def test_the_joint_statistic_of_groups_is_chi_squared_where_nothing_moves() -> None:
    found = [largest_statistic(0.0, by_phase=True, seed=s) for s in range(40)]
    assert np.mean(found) == pytest.approx(2.0, abs=3 * 2 / np.sqrt(len(found)))


def test_a_group_that_begins_is_compared_with_nothing() -> None:
    """All that is new goes to a group without earlier spectra; the other group goes on as it was."""
    monitor = DriftMonitor(AXIS, POISSON, n_groups=2)
    total, spectra = np.zeros(D), phase_spectra()
    for number in range(60):
        draws = np.random.default_rng([3, number]).poisson(64 * 100.0 * spectra).astype(np.float64)
        both = np.stack([draws[0], draws[1] if number >= 40 else 0 * draws[1]])
        total += both.sum(axis=0)
        if number % 5 == 0:
            monitor.rebase(spectra[:2], total, 64.0 * (number + 1), 1e6 * np.eye(2))
        assert monitor.add(both, np.array([64.0, 64.0 if number >= 40 else 0.0])) is None
