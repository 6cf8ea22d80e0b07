"""Groups of like anomalies: which belong together, and which are defects of the detector."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.anomaly import ScanWindows
from models.grouping import Residuals, find_groups, is_spike, steepest
from models.noise import POISSON
from tests.unit.models.scenes import peak

D, FWHM = 400, 12.0
WINDOWS = ScanWindows.for_peaks(D, FWHM)
BROAD = (100.0 * (np.exp(-np.arange(D) / 150) + 3 * peak(D, 60, FWHM / 2.355))).astype(np.float32)
STEEP = steepest(BROAD, WINDOWS.width)


def residuals(more: NDArray[np.float64], seed: int = 0, base: float = 0.2) -> Residuals:
    """Poisson counts over `base` a channel, with `more` (n, D), flagged where they stand out most."""
    rng = np.random.default_rng(seed)
    excess = (rng.poisson(base + more) - base).astype(np.float32)
    sums = WINDOWS.sums(WINDOWS.bins(np.ascontiguousarray(excess)))
    n = len(more)
    return Residuals(np.arange(n) * 7, excess, np.full((n, D), base), np.argmax(sums, axis=1), sums.max(axis=1), 1.0)


def lines(*at: tuple[float, float]) -> NDArray[np.float64]:
    """Lines of the width of the instrument, each with a centre and counts."""
    sigma = FWHM / 2.355
    each = [counts * peak(D, centre, sigma) / (sigma * np.sqrt(2 * np.pi)) for centre, counts in at]
    return np.asarray(np.sum(each, axis=0))


def test_a_phase_with_two_lines_is_one_group_and_another_phase_is_not() -> None:
    # Half of the spectra show one line more, half the other, so that they are flagged in different windows.
    both = [lines((120, 30), (300, 12))] * 4 + [lines((120, 12), (300, 30))] * 4
    other = [lines((210, 30))] * 3
    groups, _ = find_groups(residuals(np.stack(both + other)), WINDOWS, STEEP, 16)
    assert [set(g.positions // 7) for g in groups if g.positions.size > 3] == [set(range(8))]
    assert [set(g.positions // 7) for g in groups if g.positions.size == 3] == [{8, 9, 10}]
    assert {g.kind for g in groups} == {"feature"}
    assert all(g.evidence > 25 for g in groups)
    assert np.abs(groups[0].share.sum() - 1.0) < 1e-5


def test_spikes_are_told_from_lines() -> None:
    hot, ray = np.zeros(D), np.zeros(D)
    hot[250], ray[330:332] = 40, 25
    found, pixels = find_groups(residuals(np.stack([hot] * 4 + [ray] + [lines((120, 60))] * 2)), WINDOWS, STEEP, 16)
    assert {g.kind: sorted((g.positions // 7).tolist()) for g in found} == {
        "feature": [5, 6],
        "hot pixel": [0, 1, 2, 3],
        "cosmic ray": [4],
    }
    assert next(g.kind for g in found) == "feature", "what is of the specimen comes first"
    assert [(p // 7).tolist() for p in pixels] == [[0, 1, 2, 3]]
    none, _ = find_groups(
        residuals(np.stack([lines((120, 60))] * 2)), WINDOWS, STEEP, 16, lambda positions, evidence: evidence > 1e6
    )
    assert none == []


@pytest.mark.parametrize("counts", [15.0, 60.0, 1000.0])
def test_lines_are_hardly_ever_called_spikes(counts: float) -> None:
    wrong = [
        g.kind
        for seed in range(40)
        for g in find_groups(residuals(np.stack([lines((200.4, counts))] * 2), seed), WINDOWS, STEEP, 16)[0]
        if g.kind != "feature"
    ]
    assert len(wrong) <= 1


def test_where_the_specimen_has_sharp_lines_nothing_is_a_spike() -> None:
    sharp = BROAD + np.float32(5000) * peak(D, 60, 0.8).astype(np.float32)
    assert STEEP < 0.2
    assert steepest(sharp, WINDOWS.width) > 0.5
    spike = np.full(D, 2.0, dtype=np.float32)
    spike[200] += 200
    expected = np.full(D, 2.0, dtype=np.float32)
    assert is_spike(spike, expected, POISSON, WINDOWS, STEEP, 196)
    assert not is_spike(spike, expected, POISSON, WINDOWS, steepest(sharp, WINDOWS.width), 196)
