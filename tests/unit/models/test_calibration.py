"""Counts put back to where they belong."""

import numpy as np
import pytest
from scipy import sparse

from models.axis import Axis
from models.base import as_dense
from models.calibration import Calibration, restored

D = 400
AXIS = Axis("Energy", "keV", D, -0.2, 0.02)
LISTED = Axis("Energy", "keV", D, listed=tuple((-0.2 + 0.02 * np.arange(D)).tolist()))


def recorded(calibration: Calibration) -> np.ndarray:
    """Two lines on a background, as an instrument with this calibration records them."""
    true = calibration.true(AXIS.values)
    return np.exp(-0.5 * ((true - 2.0) / 0.06) ** 2) + 0.5 * np.exp(-0.5 * ((true - 6.0) / 0.06) ** 2) + 0.02


@pytest.mark.parametrize("change", [Calibration(0.033, 0.0), Calibration(-0.01, 2e-3), Calibration(0.0, -4e-3)])
@pytest.mark.parametrize("axis", [AXIS, LISTED])
def test_lines_are_where_they_belong_again(change: Calibration, axis: Axis) -> None:
    back = np.asarray(restored(recorded(change)[None, :], axis, change, np.random.default_rng(0)))[0]
    for lo, hi, at in ((1.7, 2.3, 2.0), (5.7, 6.3, 6.0)):
        inside = (axis.values > lo) & (axis.values < hi)
        weight = back[inside] - 0.02
        assert weight @ axis.values[inside] / weight.sum() == pytest.approx(at, abs=1e-3)


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_poisson_counts_stay_poisson_counts(layout: str) -> None:
    rng, change = np.random.default_rng(1), Calibration(0.007, 1e-3)
    mean = 3.0 * recorded(change)
    counts = rng.poisson(mean, (4000, D)).astype(np.uint16)
    given = counts.copy() if layout == "dense" else sparse.csr_array(counts)
    back = restored(given, AXIS, change, rng)
    assert back.dtype == np.uint16
    assert isinstance(back, sparse.csr_array) == (layout == "sparse")
    assert np.array_equal(as_dense(given), counts)
    found = as_dense(back).astype(float)
    assert found.sum() <= counts.sum()
    assert found.sum() > 0.999 * counts.sum()
    inner = slice(20, D - 20)
    assert found[:, inner].var(axis=0) / found[:, inner].mean(axis=0) == pytest.approx(1.0, abs=0.13)
    neighbours = (found[:, 100:110] - found[:, 100:110].mean(0)).T @ (found[:, 101:111] - found[:, 101:111].mean(0))
    scale = np.sqrt(found[:, 100:110].var(0) * found[:, 101:111].var(0)) * len(found)
    assert np.abs(np.diagonal(neighbours) / scale).max() < 0.08


def test_nothing_moves_without_drift() -> None:
    counts = np.arange(2 * D, dtype=np.uint16).reshape(2, D)
    assert restored(counts, AXIS, Calibration(), np.random.default_rng(0)) is counts


def test_what_leaves_the_axis_is_lost_and_nothing_wraps_around() -> None:
    counts = np.zeros((1, D), dtype=np.uint32)
    counts[0, :5], counts[0, -5:] = 100, 100
    back = np.asarray(restored(counts, AXIS, Calibration(0.05, 0.0), np.random.default_rng(0))).astype(float)
    assert back[0, :3].sum() == pytest.approx(250, abs=60)
    assert back[0, -12:].sum() == 500
    assert back[0, 10 : D - 12].sum() == 0
