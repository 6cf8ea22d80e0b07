"""How good a denoiser is, beside shrunk PCA of the same counts: for whole spectra, and for the strongest line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.attune import attuned
from models.axis import Axis
from models.base import Float32
from models.card import Metric
from models.linear import LinearEngine
from models.noise import POISSON, NoiseModel
from models.thinning import squared_error, thin, thinned_error

Denoiser: TypeAlias = Callable[[NDArray[Any]], Float32]
"""Denoised quanta (n, D) of a whole map from its quanta (n, D)."""
_BATCH = 1024


def shrunk_pca(quanta: NDArray[Any], noise: NoiseModel = POISSON, axis: Axis | None = None) -> Float32:
    """Spectra (n, D) denoised by the daemon's linear model, fitted on all of them, as at the end of a scan."""
    engine = LinearEngine(quanta.shape[0], quanta.shape[1], noise=noise, axis=axis)
    for first in range(0, len(quanta), _BATCH):
        part = np.arange(first, min(first + _BATCH, len(quanta)), dtype=np.uint32)
        engine.process(part, quanta[part])
    engine.finish()
    return engine.denoise(np.arange(len(quanta)))


def against_truth(
    name: str, network: Denoiser, expected: NDArray[Any], quanta: float, axis: Axis, seed: int = 0
) -> Metric:
    """Errors on Poisson draws of expected spectra (n, D), scaled to a mean of `quanta` in a spectrum.

    The network is attuned to the map, as the daemon has it.
    """
    truth = np.asarray(expected, dtype=np.float64)
    truth = truth * (quanta / truth.sum(axis=1).mean())
    counts = np.random.default_rng(seed).poisson(truth).astype(np.float32)
    line = strongest_line(truth.mean(axis=0), axis)
    both = (attuned(network(counts), counts, axis), shrunk_pca(counts, axis=axis))
    found = [(squared_error(x, truth).mean(), line_error(x, truth, line)) for x in both]
    return _metric(name, quanta, "truth", found)


def against_thinned(
    name: str,
    network: Denoiser,
    quanta: NDArray[Any],
    axis: Axis,
    read_sigma: float = 0.0,
    rows: NDArray[Any] | None = None,
    seed: int = 0,
) -> Metric:
    """Errors of one half of measured quanta (n, D), judged by the other; in units of the noise of a half.

    The truth stays unknown; `read_sigma` is in quanta. PCA is fitted on all spectra and both are judged on `rows`,
    which the network must not have seen.
    """
    half, other = thin(np.asarray(quanta), 0.5, np.random.default_rng(seed), read_sigma)
    read_variance = 0.5 * read_sigma**2
    noise = NoiseModel("poisson_gaussian", 1.0, 0.0, float(np.sqrt(read_variance))) if read_sigma else POISSON
    judged = slice(None) if rows is None else rows
    mean, found = other.mean(axis=0), []
    line = strongest_line(mean, axis)
    tuned = attuned(network(half), half, axis, float(np.sqrt(read_variance)))
    for predicted in (tuned[judged], shrunk_pca(half, noise, axis)[judged]):
        error = thinned_error(predicted, other[judged], mean, read_variance).mean()
        found.append((error, _thinned_line_error(predicted, other[judged], line, read_variance)))
    return _metric(name, float(half.sum(axis=1).mean()), "thinned", found)


def strongest_line(mean: NDArray[Any], axis: Axis) -> slice:
    """Channels within a peak width about the highest point of a mean spectrum (D,) over its broad background."""
    width = max(1, round(axis.peak_width_channels()))
    broad = np.convolve(np.pad(mean, 4 * width, mode="edge"), np.ones(8 * width + 1) / (8 * width + 1), mode="valid")
    top = int(np.argmax(mean - broad))
    return slice(max(0, top - width), min(mean.size, top + width + 1))


def line_error(found: NDArray[Any], truth: NDArray[Any], line: slice) -> float:
    """Squared error of the sum over a line, in units of its counting noise."""
    away = found[:, line].sum(axis=1, dtype=np.float64) - truth[:, line].sum(axis=1)
    return float((away**2).mean() / max(truth[:, line].sum(axis=1).mean(), 1e-12))


def _thinned_line_error(found: NDArray[Any], other: NDArray[Any], line: slice, read_variance: float) -> float:
    there = other[:, line].sum(axis=1, dtype=np.float64)
    away = (
        (found[:, line].sum(axis=1, dtype=np.float64) - there) ** 2 - there - read_variance * (line.stop - line.start)
    )
    return float(away.mean() / max(there.mean(), 1e-12))


def _metric(name: str, counts: float, against: Any, found: list[tuple[Any, float]]) -> Metric:
    (network, line), (pca, line_pca) = found
    return Metric(
        data=name, counts=counts, against=against, network=float(network), pca=float(pca), line=line, line_pca=line_pca
    )
