"""Standard errors of what is denoised: how far a window map may be from the truth at each position.

Three parts, added in squares. The noise of the counts: what is denoised is a weighted sum of the counts of all
channels, through the projection on the components and through the exposure that the mean composition is scaled with,
and each channel's variance is that of its own denoised counts (a line of a minor phase is noisier than the mean
spectrum says). What shrinkage takes off, as a variance of the compositions. And the noise of the eigenspectra, which
tilts each by 1 - c2 in all directions alike (spiked model; `models.rank`). What the components leave out (a phase too
rare or too faint to be learnt) is in none of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import Float32, Float64
from models.published import Published
from models.rank import direction_overlap


def linear_error(
    published: Published,
    raw: Float32,
    exposure: Float64,
    visits: NDArray[Any],
    weights: Float64,
    background: NDArray[Any] | None = None,
) -> Float64:
    """Standard error (n,) of weighted sums over channels of denoised spectra.

    Parameters
    ----------
    raw, exposure, visits : ndarray, (n, K), (n,) and (n,)
        Of accumulated spectra that the basis was fitted on.
    weights : ndarray, (D,)
        For instance 1 in a window, 0 outside.
    background : ndarray, (n, D), optional
        Counts that were subtracted; their noise is still there.
    """
    shrinkage, noise = published.shrinkage, published.test.noise
    h = np.maximum(exposure, 0.0)[:, None]
    along = (published.eigenspectra @ weights) @ shrinkage.axes
    typical = shrinkage.strength / (shrinkage.strength + 1.0)
    # Weight of each channel's counts in the result: by the components, and by the exposure where they are shrunk.
    through = (published.projector @ shrinkage.axes) @ (along * typical)
    through += noise.gain * float(along @ ((1.0 - typical) * (shrinkage.centre @ shrinkage.axes)))
    squared = through**2
    scores = shrinkage.apply(raw, exposure).astype(np.float64)
    base = noise.read_sigma**2 - noise.gain * noise.offset
    variance = noise.gain * (scores @ (published.eigenspectra @ squared)) + visits * base * squared.sum()
    if background is not None:
        variance += noise.gain * (background @ squared)
    kept = shrinkage.signal * h / (shrinkage.signal * h + 1.0)
    taken = (h * kept * (1.0 - kept) * along**2).sum(axis=1)
    tilt = np.where(shrinkage.strength > 0, 1.0 - direction_overlap(shrinkage.strength, shrinkage.ratio), 0.0)
    away = (scores - h * shrinkage.centre) @ shrinkage.axes
    spread = float(published.channel_variance @ weights**2) / max(published.scaling.n_effective, 1)
    return np.asarray(np.sqrt(np.maximum(variance, 0.0) + taken + (away**2 @ tilt) * spread))
