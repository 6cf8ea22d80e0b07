"""What a scientist would do offline with the same counts: the reference that live results are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BatchPCA:
    """Leading part of the SVD of Poisson-scaled counts, x = (u s vt) * scale (Keenan and Kotula 2004).

    Attributes
    ----------
    u, s, vt : ndarray, (n, K), (K,), (K, D)
    scale : ndarray, (n, D)
        Square roots of h_i g_j.
    size : (n, D)
        Spectra and channels that have any counts.
    """

    u: Array
    s: Array
    vt: Array
    scale: Array
    size: tuple[int, int]

    @classmethod
    def of(cls, counts: NDArray[Any], max_rank: int) -> BatchPCA:
        """Fit counts (n, D)."""
        x = np.asarray(counts, dtype=np.float64)
        g, h = x.sum(axis=0) / x.sum(), x.sum(axis=1)
        scale = np.sqrt(np.outer(h, g))
        y = np.divide(x, scale, out=np.zeros_like(x), where=scale > 0)
        d = y.shape[1]
        values, vectors = eigh(y.T @ y, subset_by_index=(max(d - max_rank, 0), d - 1))
        s, v = np.sqrt(np.maximum(values[::-1], 0.0)), vectors[:, ::-1]
        u = (y @ v) / np.where(s > 0, s, 1.0)
        return cls(u, s, v.T, scale, (int(np.count_nonzero(h)), int(np.count_nonzero(g))))

    def shrunk(self) -> BatchPCA:
        """Singular values shrunk for least squared error in white noise (Gavish and Donoho 2017), 0 below the edge."""
        n, d = self.size
        ratio, value = d / n, np.maximum(self.s**2 / n, 1e-12)
        root = np.maximum((value - ratio - 1.0) ** 2 - 4.0 * ratio, 0.0)
        kept = value > (1.0 + np.sqrt(ratio)) ** 2
        return BatchPCA(self.u, self.s * np.where(kept, np.sqrt(root) / value, 0.0), self.vt, self.scale, self.size)

    def spectra(self) -> Iterator[Array]:
        """Denoised counts (n, D) by the first component, the first two, and so on."""
        fit = np.zeros_like(self.scale)
        for k in range(self.s.size):
            fit += np.outer(self.u[:, k] * self.s[k], self.vt[k])
            yield fit * self.scale


def keenan_kotula(counts: NDArray[Any], max_rank: int) -> list[Array]:
    """Denoised spectra (n, D) by truncated PCA of Poisson-scaled counts, for each rank from 1 to `max_rank`."""
    return list(BatchPCA.of(counts, max_rank).spectra())


def weighted_error(estimate: NDArray[Any], truth: NDArray[Any]) -> float:
    """Mean squared error in units of the Poisson variance of the mean spectrum; 1 for raw counts."""
    weight = 1.0 / np.maximum(truth.mean(axis=0), 1e-3 * truth.mean())
    return float((((estimate - truth) ** 2) * weight).mean())


def best_batch_error(counts: NDArray[Any], truth: NDArray[Any], max_rank: int = 12) -> float:
    """Smallest error that truncated batch PCA reaches with any rank."""
    return min(weighted_error(y, truth) for y in BatchPCA.of(counts, max_rank).spectra())
