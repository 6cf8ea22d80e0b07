"""Null spectra drawn from the model, most of them with one window made brighter, so that rare scores are seen often.

Plain draws would have to be millions to show a false alarm of one in ten thousand. Here three of four draws get
further counts in one window, as if a peak lay there, and every draw has the weight dP/dQ by which it stands for plain
ones: importance sampling for scan statistics (Naiman and Priebe, J. Comput. Graph. Stat. 10 (2001) 296), by
exponential tilting, with a share of plain draws that bounds the weights (Owen and Zhou, JASA 95 (2000) 135).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.anomaly import ScanWindows
from models.base import Float32, Float64, Pieces
from models.noise import NoiseModel
from models.scan_kernels import scatter_events

VARIANTS = 4
# To the higher one a window must be brighter; to the lower one, where chance also makes the model expect too little.
_LEVELS = np.array([5.0, 10.0])[:, None, None]
_EVENTS_A_CHANNEL = 8.0
_NEWTON = 6
_LEAST = 1e-6
_MOST_POWER = 80.0
_MOST_QUANTA = 1e15


@dataclass(frozen=True)
class Draws:
    """Null spectra (n, D), the base spectrum (n,) that each is of, and weights (n,) that make plain ones of them."""

    spectra: Float32
    row: NDArray[np.int64]
    weight: Float64


@dataclass(frozen=True)
class _Tilts:
    """Tilts exp(theta S - cost) of window sums S to each level, for each base spectrum and window, (L, m, W)."""

    theta: Float64
    cost: Float64


def draw_null(
    expected: Float32,
    visits: Float64,
    per_row: int,
    windows: ScanWindows,
    noise: NoiseModel,
    rng: np.random.Generator,
) -> Pieces[Draws]:
    """Draw null spectra in pieces, 4 `per_row` of each expected one, of which every fourth is plain.

    Parameters
    ----------
    expected : ndarray, (m, D)
        Expected counts.
    visits : ndarray, (m,)
        Visits that they took: each brings the offset and the read noise once.
    """
    fixed = (noise.offset * visits)[:, None].astype(np.float32)
    quanta = np.zeros(expected.shape)
    if noise.gain > 0:
        quanta = np.clip((expected - fixed).astype(np.float64) / noise.gain, 0.0, _MOST_QUANTA)
    else:
        fixed = expected
    read2 = noise.read_sigma**2 * visits
    base = np.repeat(np.arange(len(expected)), per_row)
    spectra = _poisson(quanta, base, rng)
    spectra *= np.float32(noise.gain)
    if noise.read_sigma > 0:
        spectra += np.sqrt(read2[base, None]).astype(np.float32) * rng.standard_normal(spectra.shape, dtype=np.float32)
    yield
    spectra, row = np.repeat(spectra, VARIANTS, axis=0), np.repeat(base, VARIANTS)
    tilts = _tilts(quanta, read2, windows, noise.gain)
    _raise(spectra, quanta, read2, row, tilts, windows, noise.gain, rng)
    yield
    weight = _weights(windows.sums(windows.bins(spectra)), tilts)
    spectra += fixed[row]
    return Draws(spectra, row, weight)


def _tilts(quanta: Float64, read2: Float64, windows: ScanWindows, gain: float) -> _Tilts:
    """Tilts that bring the score of a window to each level on average."""
    widths = np.diff(windows.ranges(np.arange(windows.n_windows)))[:, 0]
    read = widths * read2[:, None]
    if gain == 0:
        theta = np.sqrt(2.0 * _LEVELS / np.maximum(read, 1e-300))
        return _Tilts(theta, 0.5 * theta**2 * read)
    n = np.maximum(windows.sums(windows.bins(quanta.astype(np.float32))).astype(np.float64), _LEAST)
    theta = _solve(n, read / gain**2, _excess(n + read / gain**2))
    return _Tilts(theta / gain, n * np.expm1(theta) + 0.5 * theta**2 * read / gain**2)


def _excess(n: Float64) -> Float64:
    """Counts above n whose likelihood ratio n (x ln x - x + 1) is each level, by Newton from above."""
    ratio = _LEVELS / n
    x = 1.0 + np.sqrt(2.0 * ratio) + ratio
    for _ in range(_NEWTON):
        log = np.log(x)
        x -= (x * log - x + 1.0 - ratio) / log
    return np.asarray(n * (x - 1.0))


def _solve(n: Float64, read: Float64, wanted: Float64) -> Float64:
    """theta of n (exp(theta) - 1) + read theta = wanted, by Newton from above."""
    theta = np.log1p(wanted / n)
    if (read > 0).any():
        theta = np.minimum(theta, wanted / np.maximum(read, 1e-300))
        for _ in range(_NEWTON):
            theta -= (n * np.expm1(theta) + read * theta - wanted) / (n * np.exp(theta) + read)
    return theta


def _poisson(rates: Float64, base: NDArray[np.int64], rng: np.random.Generator) -> Float32:
    """Poisson counts (n, D) of rows of the rates; event by event unless there are many to a channel."""
    if rates.mean() > _EVENTS_A_CHANNEL:
        return rng.poisson(rates[base]).astype(np.float32)
    steps = np.cumsum(rates, axis=1)
    totals = rng.poisson(steps[base, -1])
    return scatter_events(steps, base, totals, rng.random(int(totals.sum()), dtype=np.float32))


def _raise(
    spectra: Float32,
    quanta: Float64,
    read2: Float64,
    row: NDArray[np.int64],
    tilts: _Tilts,
    windows: ScanWindows,
    gain: float,
    rng: np.random.Generator,
) -> None:
    """Give any one window of each draw but every fourth what it has more when tilted: counts and shifts add up."""
    chosen = np.flatnonzero(np.arange(row.size) % VARIANTS)
    base, window = row[chosen], rng.integers(windows.n_windows, size=chosen.size)
    theta = tilts.theta[rng.integers(len(tilts.theta), size=chosen.size), base, window]
    columns = (window * windows.step)[:, None] + np.arange(windows.width)
    inside = columns < windows.n_channels
    columns = np.where(inside, columns, 0)
    more = (read2[base] * theta)[:, None] * np.ones(columns.shape)
    if gain > 0:
        rates = quanta[base[:, None], columns] * np.expm1(gain * theta)[:, None]
        more += gain * rng.poisson(np.minimum(rates, _MOST_QUANTA))
    np.add.at(spectra, (chosen[:, None], columns), np.where(inside, more, 0.0).astype(np.float32))


def _weights(sums: Float32, tilts: _Tilts) -> Float64:
    """dP/dQ of each draw, from its window sums (n, W) without offset; draws lie base by base."""
    by_base = sums.reshape(tilts.theta.shape[1], -1, sums.shape[1])
    ratio = np.zeros(len(sums))
    for theta, cost in zip(tilts.theta.astype(np.float32), tilts.cost.astype(np.float32), strict=True):
        power = by_base * theta[:, None] - cost[:, None]
        np.exp(np.minimum(power, np.float32(_MOST_POWER), out=power), out=power)
        ratio += power.mean(axis=2, dtype=np.float64).ravel() / len(tilts.theta)
    return np.asarray(VARIANTS / (1.0 + (VARIANTS - 1) * ratio))
