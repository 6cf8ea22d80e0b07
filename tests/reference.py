"""What a scientist would do offline with the same counts: the reference that live results are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def keenan_kotula(counts: NDArray[Any], max_rank: int) -> list[Array]:
    """Denoised spectra (n, D) by truncated PCA of Poisson-scaled counts, for each rank from 1 to `max_rank`."""
    x = np.asarray(counts, dtype=np.float64)
    total = x.sum()
    g, h = x.sum(axis=0) / total, x.sum(axis=1)
    scale = np.sqrt(np.outer(h, g))
    safe = np.where(scale > 0, scale, 1.0)
    u, s, v = np.linalg.svd(x / safe, full_matrices=False)
    return [(u[:, :k] * s[:k]) @ v[:k] * scale for k in range(1, max_rank + 1)]


def weighted_error(estimate: NDArray[Any], truth: NDArray[Any]) -> float:
    """Mean squared error in units of the Poisson variance of the mean spectrum; 1 for raw counts."""
    weight = 1.0 / np.maximum(truth.mean(axis=0), 1e-3 * truth.mean())
    return float((((estimate - truth) ** 2) * weight).mean())


def best_batch_error(counts: NDArray[Any], truth: NDArray[Any], max_rank: int = 12) -> float:
    """Smallest error that truncated batch PCA reaches with any rank."""
    return min(weighted_error(y, truth) for y in keenan_kotula(counts, max_rank))
