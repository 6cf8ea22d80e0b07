"""How many components a scaled data set has, and how far their scores are to be shrunk."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from models.base import Float64

_EDGE_MARGIN = 1.02
_SCREE_MARGIN = 1.1
_TRACY_WIDOM_95 = 0.9793


def noise_edge(n_channels: float, n_spectra: float) -> float:
    """Largest eigenvalue of white noise of unit variance, with 2 % margin (Marchenko-Pastur).

    Parameters
    ----------
    n_channels : float
        Channels that count, D (after merging).
    n_spectra : float
        Spectra that the second moment is an average over, N.
    """
    return float(_EDGE_MARGIN * (1.0 + np.sqrt(n_channels / max(n_spectra, 1.0))) ** 2)


def noise_quantile(share_above: ArrayLike, n_channels: float, n_spectra: float) -> Float64:
    """Eigenvalue of unit white noise that a share of the min(D, N) non-zero ones exceeds (Marchenko-Pastur)."""
    ratio = n_channels / n_spectra
    # The non-zero eigenvalues of a D x D and of the transposed N x N problem differ by the factor D/N alone.
    factor, ratio = (1.0, ratio) if ratio <= 1 else (ratio, 1.0 / ratio)
    # Over the angle of x = 1 + ratio - 2 sqrt(ratio) cos(angle) the density is smooth, also where it has a pole in x.
    angle = (np.arange(2000) + 0.5) * (np.pi / 2000)
    x = 1.0 + ratio - 2.0 * np.sqrt(ratio) * np.cos(angle)
    mass = np.cumsum(np.sin(angle) ** 2 / x)
    return np.asarray(factor * np.interp(1.0 - np.asarray(share_above), mass / mass[-1], x))


def noise_level(eigenvalues: ArrayLike, n_channels: float, n_spectra: float) -> float:
    """Variance of the noise behind a scree whose noise was only nearly whitened, at least 1.

    The last quarter of the known eigenvalues (falling, no more than half of all) is taken for noise.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    size = min(n_channels, n_spectra)
    if values.size < 8 or values.size > size / 2:
        return 1.0
    tail = np.arange(3 * values.size // 4, values.size)
    expected = noise_quantile((tail + 0.5) / size, n_channels, n_spectra)
    return max(1.0, float(np.median(values[tail] / expected)))


def scree_edge(eigenvalues: ArrayLike, n_channels: float, n_spectra: float) -> float:
    """Edge that the scree itself tells where the noise is of unknown shape; 0 where too few eigenvalues are known.

    Correlated noise has no sharp edge: its logarithmic scree falls nearly along a line. The line through the second
    half of the known eigenvalues (falling, no more than half of all) is drawn on to the first; components end where
    the scree comes within 10 % of it.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    if values.size < 16 or values.size > min(n_channels, n_spectra) / 2 or values[-1] <= 0:
        return 0.0
    order = np.arange(values.size)
    half = order[values.size // 2 :]
    slope, offset = np.polyfit(half, np.log(values[half]), 1)
    line = _SCREE_MARGIN * np.exp(offset + slope * order)
    below = values <= line
    return float(line[int(np.argmax(below))]) if below.any() else 0.0


def is_dispersed(eigenvalues: ArrayLike, edge: float, dispersion: float, n_channels: float, n_spectra: float) -> bool:
    """Whether the noise itself has a variance of `dispersion`, more than 1, where residuals have.

    Residuals scatter more also where the model lacks a component or two. Noise lifts as many eigenvalues over the edge
    of white noise as are within so much of it; at least half of those must be there, and more than one.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    noise = values[values <= dispersion * edge]
    if dispersion <= 1.0 or not noise.size:
        return False
    size = max(min(n_channels, n_spectra), 1.0)
    expected = dispersion * noise_quantile((np.arange(noise.size) + 0.5) / size, n_channels, n_spectra)
    return bool(2 * np.count_nonzero(noise > edge) >= max(int(np.count_nonzero(expected > edge)), 4))


def rank_by_edge(eigenvalues: ArrayLike, edge: float) -> int:
    """Number of eigenvalues above the noise edge."""
    return int(np.count_nonzero(np.asarray(eigenvalues) > edge))


def rank_by_elbow(eigenvalues: ArrayLike) -> int:
    """Components before the point of the logarithmic scree that lies farthest below its chord."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    values = np.log(values[values > 0])
    if values.size < 3:
        return int(values.size)
    chord = np.linspace(values[0], values[-1], values.size)
    return int(np.argmax(chord - values))


def rank_by_variance(eigenvalues: ArrayLike, total: float, share: float = 0.95) -> int:
    """Components that carry `share` of the variance `total`; one more than are known where they do not reach it."""
    carried = np.cumsum(np.asarray(eigenvalues, dtype=np.float64))
    return int(np.searchsorted(carried, share * total) + 1) if carried.size else 0


def rank_by_parallel(eigenvalues: ArrayLike, null_eigenvalues: ArrayLike) -> int:
    """Parallel analysis (Horn 1965): eigenvalues above the largest that structureless data of the same size has.

    The largest at every rank, not the one of the same rank: behind k components the k+1st value is the first of noise.
    """
    null = np.asarray(null_eigenvalues)
    return int(np.count_nonzero(np.asarray(eigenvalues) > null.max(initial=0.0)))


def null_top(n_channels: float, n_spectra: float) -> float:
    """95 % point of the largest eigenvalue of unit white noise: what parallel analysis draws, without drawing.

    Tracy-Widom law of real Wishart matrices, centred and scaled as by Johnstone, Ann. Stat. 29 (2001) 295.
    """
    root_n, root_d = np.sqrt(max(n_spectra - 1.0, 1.0)), np.sqrt(max(n_channels, 1.0))
    spread = (root_n + root_d) * (1.0 / root_n + 1.0 / root_d) ** (1.0 / 3.0)
    return float(((root_n + root_d) ** 2 + _TRACY_WIDOM_95 * spread) / max(n_spectra, 1.0))


def rank_criteria(eigenvalues: ArrayLike, edge: float, n_channels: float, n_spectra: float) -> dict[str, int]:
    """Rank by the noise edge, by the elbow, by 95 % of the variance and by parallel analysis, to be shown together.

    Only the edge decides. Eigenvalues that are not known are taken for noise (Marchenko-Pastur) in the variance.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    n_channels, n_spectra = max(n_channels, 1.0), max(n_spectra, 1.0)
    level = noise_level(values, n_channels, n_spectra)
    size = int(min(n_channels, n_spectra))
    rest = level * noise_quantile((np.arange(values.size, size) + 0.5) / size, n_channels, n_spectra)
    scree = np.concatenate([values, rest])
    return {
        "edge": rank_by_edge(values, edge),
        "elbow": rank_by_elbow(values),
        "variance_95": rank_by_variance(scree, float(scree.sum())),
        "parallel": rank_by_parallel(values, [level * null_top(n_channels, n_spectra)]),
    }


def null_eigenvalues(n_channels: int, n_spectra: int, n_values: int, seed: int = 0, draws: int = 3) -> Float64:
    """Mean leading eigenvalues of unit white noise, drawn (for parallel analysis); at most 512 channels are simulated.

    The shape of the spectrum depends on D/N alone, so large problems are simulated at a smaller size of the same ratio.
    """
    shrink = min(1.0, 512 / n_channels)
    d, n = max(1, round(n_channels * shrink)), max(1, round(n_spectra * shrink))
    rng = np.random.default_rng(seed)
    spectra = []
    for _ in range(draws):
        # Bartlett: the Cholesky factor of a Wishart matrix has chi-distributed diagonal, normal lower triangle.
        k = min(d, n)
        factor = np.tril(rng.standard_normal((d, k)), -1)
        factor[np.arange(k), np.arange(k)] = np.sqrt(rng.chisquare(n - np.arange(k)))
        spectra.append(np.linalg.svd(factor, compute_uv=False) ** 2 / n)
    mean = np.mean(spectra, axis=0)
    positions = np.minimum(np.arange(n_values) * shrink, mean.size - 1)
    return np.asarray(np.interp(positions, np.arange(mean.size), mean))


def spike_strength(eigenvalues: ArrayLike, ratio: float) -> Float64:
    """Signal variance theta = l - 1 behind sample eigenvalues lam of a spiked model, 0 below the edge.

    l = ((lam + 1 - gamma) + sqrt((lam + 1 - gamma)^2 - 4 lam)) / 2, gamma = `ratio` = D/N (Baik & Silverstein 2006).
    """
    lam = np.asarray(eigenvalues, dtype=np.float64)
    centre = lam + 1.0 - ratio
    root = np.sqrt(np.maximum(centre**2 - 4.0 * lam, 0.0))
    above = lam > (1.0 + np.sqrt(ratio)) ** 2
    return np.where(above, np.maximum((centre + root) / 2.0 - 1.0, 0.0), 0.0)


def direction_overlap(strength: ArrayLike, ratio: float) -> Float64:
    """Squared cosine between a sample eigenvector and the true one, (1 - g/th^2)/(1 + g/th), 0 below the edge."""
    theta = np.asarray(strength, dtype=np.float64)
    safe = np.where(theta > 0, theta, 1.0)
    cos2 = (1.0 - ratio / safe**2) / (1.0 + ratio / safe)
    return np.where(theta > 0, np.clip(cos2, 0.0, 1.0), 0.0)


def smallest_visible_phase_px(n_channels: float, n_spectra: float, distance2: float) -> float:
    """Positions that a phase needs before it can enter the basis: sqrt(D N) / s2.

    Parameters
    ----------
    distance2 : float
        s2 = h sum((dp)^2 / p): squared scaled distance of one spectrum of the phase from the span of the others.
    """
    return float(np.sqrt(n_channels * n_spectra) / distance2) if distance2 > 0 else float("inf")
