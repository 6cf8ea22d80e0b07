"""Streaming PCA against scikit-learn's IncrementalPCA on the same rows."""

from typing import Literal

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from sklearn.decomposition import IncrementalPCA

from models.checks import check_model
from models.pca import StreamingPCA


def scaled_counts(n: int, seed: int = 3, d: int = 400, counts: float = 200.0) -> np.ndarray:
    """Keenan-Kotula scaled Poisson spectra of four mixed phases, float32 (n, d)."""
    rng = np.random.default_rng(seed)
    x = np.arange(d)
    shapes = [np.exp(-x / 150) + 0.05 + 9 * np.exp(-0.5 * ((x - c) / 4) ** 2) for c in (60, 150, 230, 320)]
    phases = np.stack([s / s.sum() for s in shapes])
    rows = rng.poisson(rng.dirichlet(np.full(4, 0.3), n) @ phases * counts)
    return np.asarray(rows / np.sqrt(phases.mean(axis=0) * counts), dtype=np.float32)


@pytest.mark.parametrize("update", ["gram", "ritz"])
@pytest.mark.parametrize("centred", [True, False])
def test_conforms(update: Literal["gram", "ritz"], centred: bool) -> None:
    check_model(lambda d: StreamingPCA(d, 6, n_kept=16, centred=centred, update=update))


def test_gram_update_is_sklearns_subspace() -> None:
    rows = scaled_counts(1600)
    reference = IncrementalPCA(n_components=6)
    model = StreamingPCA(400, 6)
    for first in range(0, 1600, 100):
        reference.partial_fit(rows[first : first + 100])
        model.partial_fit(rows[first : first + 100])
    ours, theirs = model.components[:3], reference.components_[:3]
    assert np.abs(np.abs((ours * theirs).sum(axis=1)) - 1).max() < 1e-4
    assert np.degrees(subspace_angles(model.components.T, reference.components_.T).max()) < 0.2
    np.testing.assert_allclose(model.eigenvalues, reference.singular_values_**2 / 1600, rtol=1e-4)
    np.testing.assert_allclose(model.mean, reference.mean_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("counts", [20.0, 200.0])
def test_ritz_subspace_is_no_worse_than_sklearns(counts: float) -> None:
    rows = scaled_counts(4096, counts=counts)
    centred = (rows - rows.mean(axis=0)).astype(np.float64)
    truth = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :3]
    reference = IncrementalPCA(n_components=8)
    model = StreamingPCA(400, 8, n_kept=16, update="ritz")
    for first in range(0, 4096, 256):
        reference.partial_fit(rows[first : first + 256])
        model.partial_fit(rows[first : first + 256])
    errors = [np.linalg.norm(truth - c.T @ (c @ truth)) for c in (model.components, reference.components_)]
    assert errors[0] <= 1.02 * errors[1]


def test_rejects_other_channels() -> None:
    with pytest.raises(ValueError, match="10 channels"):
        StreamingPCA(12, 2).partial_fit(np.zeros((3, 10), dtype=np.float32))
    with pytest.raises(ValueError, match="n_components"):
        StreamingPCA(12, 13)
