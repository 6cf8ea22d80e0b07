"""Cosmic rays that hit a camera: spikes of one to three channels, whatever is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.detector import counts_dtype

WIDEST_CHANNELS = 3


def cosmic_rays(
    rng: np.random.Generator, dwell_s: NDArray[np.float64], n_channels: int, per_s: float, mean_counts: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Draw spikes.

    Rays come at random; each hits one to three neighbouring channels, and leaves in all a number of counts that is
    exponential, as tracks of any length through the silicon are.

    Parameters
    ----------
    dwell_s : f8[n]
    per_s : float
        Rays a second.
    mean_counts : float

    Returns
    -------
    rows, channels, counts : i8[m]
        Where counts are to be added.
    """
    rays = rng.poisson(per_s * dwell_s)
    rows = np.repeat(np.arange(len(dwell_s)), rays)
    first = rng.integers(n_channels, size=len(rows))
    widths = rng.integers(1, WIDEST_CHANNELS + 1, size=len(rows))
    heights = rng.exponential(mean_counts, size=len(rows)) / widths
    each = np.repeat(np.arange(len(rows)), widths)
    channels = first[each] + np.arange(len(each)) - np.repeat(np.cumsum(widths) - widths, widths)
    inside = channels < n_channels
    counts = np.maximum(np.rint(heights[each]), 1).astype(np.int64)
    return rows[each][inside], channels[inside], counts[inside]


def with_rays(
    spectra: NDArray[Any], rays: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
) -> NDArray[Any]:
    """Return spectra (n, D) with the counts of rays, in a type that holds them."""
    rows, channels, counts = rays
    if not len(rows):
        return spectra
    if spectra.dtype.kind == "f":
        hit = spectra.copy()
        np.add.at(hit, (rows, channels), counts.astype(hit.dtype))
        return hit
    sums = spectra.astype(np.int64)
    np.add.at(sums, (rows, channels), counts)
    return counts_dtype(sums)
