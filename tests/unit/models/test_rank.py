"""Rank criteria and shrinkage formulas against simulation."""

import numpy as np
import pytest

from models.rank import (
    direction_overlap,
    is_dispersed,
    noise_edge,
    noise_level,
    noise_quantile,
    null_eigenvalues,
    null_top,
    rank_by_edge,
    rank_by_elbow,
    rank_by_parallel,
    rank_by_variance,
    rank_criteria,
    scree_edge,
    smallest_visible_phase_px,
    spike_strength,
)

D, N = 300, 1200


def spiked(strengths: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Falling eigenvalues and eigenvectors of unit noise with these signal variances along the first axes."""
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((N, D))
    y[:, : len(strengths)] += rng.standard_normal((N, len(strengths))) * np.sqrt(strengths)
    values, vectors = np.linalg.eigh(y.T @ y / N)
    return values[::-1], vectors[:, ::-1]


def test_edge_separates_noise_from_structure() -> None:
    edge = noise_edge(D, N)
    assert rank_by_edge(spiked([])[0], edge) == 0
    assert rank_by_edge(spiked([20.0, 5.0, 2.0])[0], edge) == 3


def test_other_criteria_agree_where_structure_is_plain() -> None:
    values, _ = spiked([40.0, 30.0, 20.0])
    assert rank_by_elbow(values[:32]) == 3
    assert rank_by_parallel(values, null_eigenvalues(D, N, 32)) == 3
    assert rank_by_variance(values, values.sum()) > 100


def test_parallel_null_is_the_noise_scree() -> None:
    np.testing.assert_allclose(null_eigenvalues(D, N, 16), spiked([], seed=7)[0][:16], rtol=0.05)
    large = null_eigenvalues(2048, 8192, 8)
    assert large[0] == pytest.approx((1 + 0.5) ** 2, rel=0.03)


def test_the_largest_noise_eigenvalue_is_that_of_draws() -> None:
    tops = [spiked([], seed)[0][0] for seed in range(20)]
    assert (np.array(tops) > null_top(D, N)).mean() <= 0.15
    assert null_top(D, N) == pytest.approx(np.mean(tops), rel=0.03)


def test_criteria_side_by_side() -> None:
    values, _ = spiked([40.0, 30.0, 20.0])
    found = rank_criteria(values[:32], noise_edge(D, N), D, N)
    assert (found["edge"], found["elbow"], found["parallel"]) == (3, 3, 3)
    assert found["variance_95"] == pytest.approx(rank_by_variance(values, values.sum()), rel=0.03)
    assert rank_criteria([], 1.0, 0, 0)["edge"] == 0


def test_strength_and_overlap_of_a_spike() -> None:
    values, vectors = spiked([6.0])
    theta = spike_strength(values[:2], D / N)
    assert theta[0] == pytest.approx(6.0, rel=0.1)
    assert theta[1] == 0.0
    assert direction_overlap(theta, D / N)[0] == pytest.approx(vectors[0, 0] ** 2, abs=0.02)


@pytest.mark.parametrize(("d", "n"), [(D, N), (N, D), (D, D)])
def test_noise_quantiles(d: int, n: int) -> None:
    values = np.linalg.svd(np.random.default_rng(0).standard_normal((n, d)), compute_uv=False) ** 2 / n
    expected = np.quantile(values, [0.9, 0.5, 0.1])
    np.testing.assert_allclose(noise_quantile([0.1, 0.5, 0.9], d, n), expected, rtol=0.03, atol=0.003)


def test_noise_level_of_a_scree_that_is_not_white() -> None:
    values, _ = spiked([50.0, 20.0])
    assert noise_level(values[:32], D, N) == pytest.approx(1.0, abs=0.03)
    assert noise_level(1.5 * values[:32], D, N) == pytest.approx(1.5, rel=0.03)
    assert noise_level(values[:4], D, N) == 1.0


def test_the_scree_tells_the_edge_of_correlated_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((N, D + 3))
    y = noise[:, 3:] + noise[:, 2:-1] + noise[:, 1:-2] + noise[:, :-3]
    y[:, :3] += 40 * rng.standard_normal((N, 3))
    values = np.linalg.eigvalsh(y.T @ y / N)[::-1][:32]
    assert rank_by_edge(values, noise_edge(D, N) * noise_level(values, D, N)) > 8
    assert rank_by_edge(values, scree_edge(values, D, N)) == 3


def test_the_scree_edge_keeps_the_components_of_white_noise() -> None:
    values, _ = spiked([50.0, 20.0, 2.0])
    assert rank_by_edge(values[:32], scree_edge(values[:32], D, N)) == 3
    assert scree_edge(values[:8], D, N) == 0.0


def test_degenerate_screes() -> None:
    assert rank_by_elbow([]) == 0
    assert rank_by_variance([], 1.0) == 0
    assert rank_by_parallel([], []) == 0
    assert smallest_visible_phase_px(100, 100, 0.0) == float("inf")
    assert smallest_visible_phase_px(2048, 512 * 512, 231.7) == pytest.approx(100.0, rel=0.01)


def test_noise_of_more_variance_is_told_from_components_that_nobody_modelled() -> None:
    edge = noise_edge(D, N)
    structure, noise = spiked([8.0, 4.0, 1.2])[0][:24], 1.3 * spiked([8.0, 4.0])[0][:24]
    assert not is_dispersed(structure, edge, 1.3, D, N)
    assert is_dispersed(noise, edge, 1.3, D, N)
    assert rank_by_edge(noise, 1.3 * edge) == 2 < rank_by_edge(noise, edge)
    assert not is_dispersed(noise, edge, 1.0, D, N)
    assert not is_dispersed([], edge, 1.3, D, N)
