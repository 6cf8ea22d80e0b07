"""Small simulated Poisson scenes with known truth, and the offline references they are judged by."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """Expected counts of one visit, (P, D), and the positions of the rare phase."""

    expected: Float
    rare: NDArray[np.int64]

    def visit(self, seed: int) -> NDArray[np.uint16]:
        """Counts of one pass over all positions."""
        return np.random.default_rng(seed).poisson(self.expected).astype(np.uint16)


def peak(d: int, centre: float, width: float) -> Float:
    """A Gaussian line of unit height on channels 0 to d - 1."""
    return np.asarray(np.exp(-0.5 * ((np.arange(d) - centre) / width) ** 2))


def eds_scene(counts: float, side: int = 64, d: int = 1024, n_rare: int = 0, seed: int = 0) -> Scene:
    """Grains of four phases, one with a gradient, a thickness wedge, and perhaps single positions of a fifth phase."""
    rng = np.random.default_rng(seed)
    width = 6.0 * d / 1024
    lines = [(0.08, 0.3), (0.15, 0.32), (0.5, 0.6), (0.08, 0.62), (0.42, 0.46), (0.75, 0.8)]
    background = np.exp(-np.arange(d) / (0.35 * d)) + 0.03
    phases = [background + 7 * peak(d, a * d, width) + 4 * peak(d, b * d, width) for a, b in lines]
    spectra = np.stack([p / p.sum() for p in phases])
    y, x = np.divmod(np.arange(side * side), side)
    seeds = rng.uniform(0, side, (12, 2))
    grain = np.argmin((y[:, None] - seeds[:, 0]) ** 2 + (x[:, None] - seeds[:, 1]) ** 2, axis=1) % 4
    abundance = np.eye(6)[grain]
    graded = grain == 2
    abundance[graded, 2], abundance[graded, 4] = 1 - x[graded] / side, x[graded] / side
    rare = np.sort(rng.choice(side * side, n_rare, replace=False))
    abundance[rare] = 0.3 * abundance[rare]
    abundance[rare, 5] += 0.7
    wedge = 0.6 + 0.8 * x / side
    return Scene(counts * wedge[:, None] * (abundance @ spectra), rare)


def batch_pca_errors(counts: NDArray[np.integer], truth: Float, max_rank: int = 16) -> tuple[Float, Float]:
    """Keenan-Kotula weighted and plain squared error of truncated batch PCA at ranks 1 to `max_rank`."""
    h = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    g = np.maximum(counts.sum(axis=0), 0.5)
    scale = np.sqrt(h * (g / g.sum()))
    u, s, vt = np.linalg.svd(counts / scale, full_matrices=False)
    fits = [((u[:, :k] * s[:k]) @ vt[:k]) * scale for k in range(1, max_rank + 1)]
    return np.array([weighted_error(f, truth) for f in fits]), np.array([((f - truth) ** 2).mean() for f in fits])


def weighted_error(found: NDArray[Any], truth: Float) -> float:
    """Mean squared error in units of the Keenan-Kotula noise variance of the truth, summed over channels.

    Channels in which the whole map expects less than one count say nothing: their unit is next to nothing.
    """
    lit = truth.sum(axis=0) >= 1.0
    variance = truth.sum(axis=1, keepdims=True) * truth.sum(axis=0)[lit] / truth.sum()
    return float(((found[:, lit] - truth[:, lit]) ** 2 / variance).sum(axis=1).mean())


def dead_time_counts(rng: np.random.Generator, expected: Float, dead: float) -> NDArray[np.int64]:
    """Counts (n, D), on average `expected`, of a detector that is blind for a time after each count.

    The detector is blind for the part `dead` of the time, and does not extend that by what it misses: waiting times are
    exponential after a fixed pause, the number of counts scatters less than Poisson, and their channels are as ever.
    """
    total = expected.sum(axis=1)
    most = int(2 * total.max() + 50)
    pause = dead / total
    waits = pause[:, None] + rng.exponential((1 - dead) / total[:, None], (len(total), most))
    counted = (np.cumsum(waits, axis=1) - pause[:, None] < 1.0).sum(axis=1)
    return np.asarray(rng.multinomial(counted, expected / total[:, None]), dtype=np.int64)
