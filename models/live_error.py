"""Error of denoised spectra against a truth that nobody knows, by thinning, without bias.

Split by a coin, the counts of a spectrum are two independent Poisson spectra: one can be denoised, the other judges it
(Neufeld et al. 2023, arXiv 2301.07276). With a real coin of 0.9 / 0.1 the judge is so noisy that the error of one
spectrum is known to 14 D, D the error of raw counts, with the truth being K of K components. So single counts are taken
out in turn and each judges all the others, averaged over all of them: the coin that nearly always falls on one side. No
count is lost, no random number needed, the error is that at the full dose, and known to 1.4 sqrt(D). For a linear
estimate this has a closed form (Hudson, Ann. Stat. 6 (1978) 473; for Gaussian noise it is Stein's estimate):

    error = |y - f|^2 - sum v + 2 sum_j v_j df_j/dy_j,   v_j the variance, estimated by the counts themselves.

The basis was fitted to the same counts and leans towards their noise. That adds to df/dy, for each component of signal
variance theta that is kept by a factor c, c (1 + 2/theta) D/N (from the derivative of singular values and vectors,
Candes, Sing-Long and Trzasko 2013, arXiv 1210.4139, with noise that follows Marchenko and Pastur).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Float32, Float64
from models.blocks import power
from models.preprocess import as_float32
from models.published import Published
from models.scoremap import ScoreMap

_TINY = 1e-12


@dataclass(frozen=True)
class LiveError:
    """Estimated error of denoised spectra, noise-weighted, as a mean over some of them.

    Attributes
    ----------
    n_spectra : int
        Spectra it was estimated from.
    share_of_raw : float
        Mean squared error over that of raw counts; by chance it may be negative where it is small.
    standard_error : float
        Of `share_of_raw`.
    by_scores : tuple of float
        Relative error (root of mean squared error over mean squared spectrum) of the mean spectrum alone, with one
        score, with two, and so on to all of them; 0 where the estimate is negative.
    """

    n_spectra: int
    share_of_raw: float
    standard_error: float
    by_scores: tuple[float, ...]

    @property
    def relative(self) -> float:
        """Relative error of what is published."""
        return self.by_scores[-1]

    def told(self) -> dict[str, Any]:
        """What the status says of it."""
        return {
            "n_spectra": self.n_spectra,
            "share_of_raw": self.share_of_raw,
            "standard_error": self.standard_error,
            "relative": self.relative,
            "by_scores": list(self.by_scores),
        }


def error_of_map(score_map: ScoreMap, left_out: NDArray[np.bool_], rows: int) -> LiveError | None:
    """Estimate the error of a map from up to `rows` of its positions, drawn with a fixed seed; None without any.

    Parameters
    ----------
    left_out : ndarray of bool, (P,)
        Positions that the basis was not fitted on, or that have an eigenspectrum of their own.
    """
    published, measured = score_map.published, score_map.measured
    if published is None:
        return None
    index = measured[score_map.store.complete(measured) & ~left_out[measured]]
    if index.size > rows:
        index = np.unique(index[np.random.default_rng(0).integers(0, index.size, rows)])
    counts = as_float32(score_map.store.rows(index))
    visits = score_map.visits[index].astype(np.float64)
    return live_error(counts, score_map.raw(index), visits, published, measured.size)


def live_error(
    counts: Float32 | sparse.csr_array, raw: Float32, visits: Float64, published: Published, n_fitted: int
) -> LiveError | None:
    """Estimate the error of spectra that the basis was fitted on; None where there is nothing to estimate it from.

    Parameters
    ----------
    counts : (n, D)
        Accumulated counts in float32.
    raw : ndarray of float32, (n, K)
        Their raw scores, as stored.
    visits : ndarray, (n,)
        Visits they were collected in.
    n_fitted : int
        Spectra that the basis was fitted on.
    """
    noise, shrinkage = published.test.noise, published.shrinkage
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    exposure = noise.row_variance(total, visits, published.scaling.n_channels)
    lit = exposure > 0
    if np.count_nonzero(lit) < 2:
        return None
    if not lit.all():
        counts, raw, visits, exposure = counts[lit], raw[lit], visits[lit], exposure[lit]
    base = visits * (noise.read_sigma**2 - noise.gain * noise.offset)

    scores, kept = shrinkage.apply(raw, exposure).astype(np.float64), shrinkage.kept(exposure)
    weights = published.error_weights
    sums = np.asarray(counts @ weights, dtype=np.float64)
    found, variances = sums[:, : scores.shape[1]], noise.gain * sums
    variances += np.multiply.outer(base, weights.sum(axis=0, dtype=np.float64))
    projected, along, variance = np.split(variances, [scores.shape[1], 2 * scores.shape[1]], axis=1)
    # How much of each score a count of its own adds: by being projected, and by raising the exposure.
    drawn = shrinkage.centre - (kept * (shrinkage.centre @ shrinkage.axes)) @ shrinkage.axes.T
    own = (along * kept) @ (shrinkage.axes**2).T + noise.gain * projected * drawn
    own += exposure[:, None] * _leaning(kept, shrinkage.pull, published.scaling.n_effective / max(n_fitted, 1))
    squared = power(counts, published.scaling.starts, published.scaling.inverse**2)
    variance = variance[:, 0]
    inside = (found**2).sum(axis=1)
    # Squared error of each score, and of the mean score in its place; outside the basis everything is error.
    with_score = (found - scores) ** 2 + 2.0 * own
    without = (found - published.mean_score) ** 2
    outside = squared - inside - variance
    return _summed(outside / exposure, with_score / exposure[:, None], without / exposure[:, None],
                   (squared - variance) / exposure, variance / exposure)  # fmt: skip


def _leaning(kept: Float64, pull: Float64, ratio: float) -> Float64:
    """What a spectrum adds to its own scores by turning the basis, in all over K, (n, 1)."""
    leaning = ratio + (kept * (ratio + 2.0 * (pull - 1.0))).sum(axis=1)
    return np.asarray(leaning[:, None] / max(pull.size, 1))


def _summed(outside: Float64, with_score: Float64, without: Float64, signal: Float64, variance: Float64) -> LiveError:
    """Means over spectra, all per unit of exposure."""
    error = outside + with_score.sum(axis=1)
    dropped = (without - with_score).mean(axis=0)[::-1].cumsum()[::-1]
    by_scores = float(error.mean()) + np.append(dropped, 0.0)
    relative = np.sqrt(np.maximum(by_scores, 0.0) / max(float(signal.mean()), _TINY))
    raw = max(float(variance.mean()), _TINY)
    return LiveError(
        n_spectra=error.size,
        share_of_raw=float(error.mean()) / raw,
        standard_error=float(error.std(ddof=1)) / np.sqrt(error.size) / raw,
        by_scores=tuple(relative.tolist()),
    )
