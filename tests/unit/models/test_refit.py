"""The final fit: sweeps over the counts and the counted moment find the same components, also after a change."""

import numpy as np
import pytest

from models.anomaly import ScanWindows
from models.noise import POISSON
from models.pca import ScaledRows
from models.preprocess import as_float32, make_scaling
from models.refit import CountedMoment, fit_components
from models.store import CountStore
from models.visits import read_visits
from tests.unit.models.scenes import eds_scene


@pytest.mark.parametrize("d", [256, 1024])
def test_counted_moment_and_sweeps_agree(d: int) -> None:
    counts = eds_scene(30.0, side=48, d=d).visit(0)
    n = len(counts)
    store = CountStore(n, d)
    store.add(np.arange(n), read_visits(counts, ScanWindows.for_peaks(d, 5.0)).stored)
    weight = 1.0 / np.maximum(counts.sum(axis=1), 1.0)
    moment = CountedMoment(store, weight)
    moment.cover(np.arange(0, n, 2), 500)
    teach = np.arange(n // 4, n)
    moment.cover(teach, 500)
    np.testing.assert_allclose(moment.total, counts[teach].sum(axis=0), atol=1e-6)
    np.testing.assert_allclose(moment.profile, weight[teach] @ counts[teach], rtol=1e-4, atol=1e-4)
    scaling = make_scaling(moment.total / n, n, POISSON, 5.0, moment.profile)
    rows = ScaledRows((as_float32(store.rows(teach)),), np.sqrt(weight[teach]), scaling)
    start = np.zeros((scaling.n_groups, 0))
    vectors, values = moment.components(scaling, start, 16)
    expected, expected_values = fit_components(lambda: [rows], scaling.n_groups, start, 16)
    np.testing.assert_allclose(values[:4], expected_values[:4], rtol=1e-3)
    assert np.linalg.norm(vectors[:, :3].T @ expected[:, :3]) == pytest.approx(np.sqrt(3), rel=1e-3)
