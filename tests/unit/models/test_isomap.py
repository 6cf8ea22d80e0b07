"""Coordinates along a curved sheet, and spectra at the nodes of a grid on it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from models.isomap import at_nodes, grid, isomap
from tests.unit.models.spectra import moving_line


def test_a_line_that_moves_far_is_unrolled_where_its_first_principal_component_folds() -> None:
    place = np.random.default_rng(0).uniform(20.0, 170.0, 600)
    spectra = np.sqrt(moving_line(place, 192, 1.5))
    centred = spectra - spectra.mean(axis=0)
    first = np.linalg.svd(centred, full_matrices=False)[0][:, 0]
    at = isomap(centred, 1)
    assert abs(spearmanr(at[:, 0], place).statistic) > 0.999
    assert abs(spearmanr(first, place).statistic) < 0.9
    assert at.min() == pytest.approx(-1.0)
    assert at.max() == pytest.approx(1.0)


def test_a_rolled_sheet_lies_flat_in_two_coordinates() -> None:
    rng = np.random.default_rng(1)
    along, across = rng.uniform(0.0, 1.0, 700), rng.uniform(0.0, 1.0, 700)
    angle = np.pi * (1.0 + 3.0 * along)
    rolled = np.column_stack([angle * np.cos(angle), 20.0 * across, angle * np.sin(angle)])
    length = angle**2  # of the spiral, nearly
    at = isomap(rolled, 2)
    assert abs(spearmanr(at[:, 0], length).statistic) > 0.99
    assert abs(spearmanr(at[:, 1], across).statistic) > 0.95


def test_points_in_two_heaps_are_joined() -> None:
    rng = np.random.default_rng(2)
    heaps = np.concatenate([rng.normal(0.0, 0.1, (40, 3)), rng.normal(50.0, 0.1, (40, 3))])
    at = isomap(heaps, 1)[:, 0]
    assert np.isfinite(at).all()
    assert abs(at[:40].mean() - at[40:].mean()) > 1.5


@pytest.mark.parametrize("k", [1, 2])
def test_nodes_are_found_from_means_of_them_and_gaps_are_bridged(k: int) -> None:
    side, rng = 5, np.random.default_rng(3)
    nodes = grid(side, k)
    known = np.column_stack([nodes.sum(axis=1), 1.0 - nodes[:, 0], np.full(len(nodes), 2.0)])  # a plane
    share = np.zeros((300, side**k))
    for row, pair in enumerate(rng.integers(0, side**k, (300, 2))):
        share[row, pair] = 0.5
    share[:, 1] = 0.0  # nothing lies near this one
    share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(at_nodes(share @ known, share, side, k), known, atol=1e-2)
