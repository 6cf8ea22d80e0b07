"""Spectra of a specimen of uneven thickness, as all of one thickness would be: then mixtures are sums again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from models.base import Float32, Float64, as_dense
from models.linear import LinearEngine
from models.phase_sample import Positions
from models.share_fit import pooled_channels
from models.share_kernel import fit_rows
from models.thickness import Thickness

_BLOCK_COUNTS = 4000.0
_LEVELS = 32
_SUMS = 128
_EDGE = 1.02
_GAIN, _NEAR = 0.1, 0.02
_RATIOS = np.linspace(0.04, 2.92, 49)
_LEAST_RATIO = 0.02
_FEWEST = 30.0
_FINER = np.geomspace(0.8, 1.25, 7)
_DARK, _MOST_GAIN = 1e-3, 10.0


@dataclass(frozen=True)
class Blocks:
    """Square parts of a grid of positions, over each of which the thickness hardly changes.

    Attributes
    ----------
    number : ndarray, (P,)
        Which block a position is in.
    place : ndarray, (2, P)
        Positions in units of blocks from the centre of the first.
    shape : (int, int)
        Of the grid of blocks.
    """

    number: NDArray[np.int64]
    place: Float64
    shape: tuple[int, int]

    @classmethod
    def of(
        cls, nav_shape: tuple[int, ...] | None, n_positions: int, counts: float, most: int | None = None,
        wanted: float = _BLOCK_COUNTS,
    ) -> Blocks:  # fmt: skip
        """Blocks with as many counts as wanted, at this mean of counts a position; at `most` so many a side.

        As many as are wanted by default tell a thickness.

        Where positions are no plane, those that were numbered one after the other are taken together.
        """
        ny, nx = nav_shape if nav_shape is not None and len(nav_shape) == 2 else (1, n_positions)
        n_wanted = max(wanted / max(counts, 1e-9), 1.0)
        side = int(np.ceil(np.sqrt(n_wanted))) if ny > 1 else int(np.ceil(n_wanted))
        side = max(side, 1 if most is None else -(-max(ny, nx) // most))
        at = np.stack(np.unravel_index(np.arange(n_positions), (ny, nx)))
        shape = -(-ny // side), -(-nx // side)
        return cls(np.ravel_multi_index(tuple(at // side), shape), (at + 0.5) / side - 0.5, shape)

    def sums(self, values: Float64, rows: Positions) -> Float64:
        """Sums over blocks (B, ...) of values of some positions (n, ...)."""
        out = np.zeros((self.shape[0] * self.shape[1], *values.shape[1:]))
        np.add.at(out, self.number[rows], values)
        return out

    def at_positions(self, values: Float64, weight: Float64) -> Float64:
        """Values of blocks (B,), averaged with those beside them where their weights are small, at positions (P,)."""
        weighted, weights = (values * weight).reshape(self.shape), weight.reshape(self.shape)
        top, bottom = (map_coordinates(a, self.place, order=1, mode="nearest") for a in (weighted, weights))
        mean = float((values * weight).sum() / weight.sum())
        return np.asarray(np.where(bottom > 0, top / np.maximum(bottom, 1e-300), mean))


def quanta(engine: LinearEngine, positions: Positions) -> Float64:
    """Accumulated counts (n, D) of positions as those of a Poisson detector: less the offset, over the gain."""
    noise, visits = engine.noise, engine.visits[positions].astype(np.float64)[:, None]
    counts = as_dense(engine.score_map.store.rows(positions)).astype(np.float64)
    return np.maximum((counts - noise.offset * visits) / (noise.gain if noise.gain > 0 else 1.0), 0.0)


def expected_quanta(engine: LinearEngine, positions: Positions) -> Float64:
    """Denoised counts (n, D) of positions, on the scale of `quanta`."""
    noise = engine.noise
    counts = np.asarray(engine.score_map.denoise(positions), dtype=np.float64)
    offset = noise.offset * engine.visits[positions].astype(np.float64)[:, None]
    return np.asarray((counts - offset) / (noise.gain if noise.gain > 0 else 1.0))


def by_level(thickness: Float64) -> Iterator[tuple[Positions, float]]:
    """Rows (n,) of thicknesses that are nearly the same, with their mean; no more than some tens of groups."""
    low, high = float(thickness.min()), float(thickness.max())
    level = np.floor((thickness - low) / max(high - low, 1e-300) * (_LEVELS - 1e-6)).astype(np.int64)
    for number in np.unique(level):
        rows = np.flatnonzero(level == number)
        yield rows, float(thickness[rows].mean())


def linearised(
    rows: NDArray[np.floating], expected: NDArray[np.floating], thickness: Float64, reference: float, law: Thickness
) -> Float32:
    """Spectra (n, D), each of its own thickness (n,), as of a film of one thickness.

    Each channel is scaled as the denoised spectra (n, D) say, so that noise stays independent from channel to channel
    also where thickness spreads counts over channels.
    """
    out = np.empty(rows.shape, dtype=np.float32)
    for some, mean in by_level(thickness):
        before = np.maximum(expected[some], _DARK * expected[some].mean(axis=1, keepdims=True))
        after = np.maximum(law.moved(before, mean, reference), 0.0)
        out[some] = rows[some] * np.minimum(after / np.maximum(before, 1e-300), _MOST_GAIN)
    return out


def scale_of(rows: Float64, expected: Float64, relative: Float64, law: Thickness) -> float:
    """Mean thickness of a film of which relative thicknesses (n,) are known; 0 where spectra do not tell of one.

    Thickness that is not accounted for is one more component of the spectra, or several. Of the thicknesses tried, the
    one after which what components hold beyond noise is least (sum of the logarithms of eigenvalues above the edge of
    noise), and of those about as good the thinnest.
    """
    tried = np.concatenate([[0.0], law.candidates(rows.mean(axis=0))])
    cost = np.array([_structure(rows, expected, relative * mean, law) for mean in tried])
    gain = cost[0] - cost.min()
    if gain < _GAIN:
        return 0.0
    best = int(np.flatnonzero(cost <= cost.min() + _NEAR * gain)[0])
    finer = tried[best] * _FINER
    return float(finer[np.argmin([_structure(rows, expected, relative * mean, law) for mean in finer])])


def _structure(rows: Float64, expected: Float64, thickness: Float64, law: Thickness) -> float:
    same = rows if not thickness.any() else linearised(rows, expected, thickness, float(thickness.mean()), law)
    starts = np.unique(np.linspace(0, rows.shape[1], _SUMS, endpoint=False).astype(np.int64))
    sums = np.add.reduceat(same.astype(np.float64), starts, axis=1)
    sums = sums[:, sums.sum(axis=0) >= _FEWEST]
    totals, channel = sums.sum(axis=1, keepdims=True), sums.sum(axis=0)
    scaled = sums / np.sqrt(np.maximum(totals, 1.0) * channel / channel.sum())
    values = np.linalg.eigvalsh(scaled.T @ scaled / len(scaled))
    edge = _EDGE * (1.0 + np.sqrt(sums.shape[1] / len(sums))) ** 2
    # The largest is the mean spectrum.
    return float(np.log(np.maximum(values[:-1] / edge, 1.0)).sum())


def refined(
    sums: Float64, prior: Float64, spectra: Float64, reference: float, law: Thickness
) -> tuple[Float64, Float64]:
    """Likeliest thickness (B,) of sums of counts (B, D), each near a prior one (B,), and the information of each.

    Spectra (M, D) are end-members at the reference; how much there is of each is fitted at each thickness tried.
    """
    mean = float(prior.mean())
    tried = mean * _RATIOS
    at = np.stack([law.moved(spectra, reference, t) for t in tried])
    group = pooled_channels(_unit(np.concatenate([at[0], at[len(at) // 2], at[-1]])))
    pooled = _pooled(sums, group)
    loss = np.empty((len(tried), len(sums)))
    for k, members in enumerate(at):
        unit = _unit(_pooled(np.maximum(members, 0.0), group))
        lit = unit.sum(axis=0) > 0
        counts, unit = np.ascontiguousarray(pooled[:, lit]), np.ascontiguousarray(unit[:, lit])
        amounts, _ = fit_rows(counts, unit, np.zeros_like(counts))
        expected = np.maximum(amounts @ unit, 1e-12)
        loss[k] = (expected - counts * np.log(expected)).sum(axis=1)
    return _minima(tried, loss, prior)


def _pooled(spectra: Float64, group: NDArray[np.int64]) -> Float64:
    """Sums (n, G) of groups of channels."""
    return np.asarray(spectra @ np.eye(int(group.max()) + 1)[group], dtype=np.float64)


def _minima(tried: Float64, loss: Float64, prior: Float64) -> tuple[Float64, Float64]:
    """Minimum of each column by a parabola through the three lowest points, shrunk to the prior by its information."""
    best = np.clip(loss.argmin(axis=0), 1, len(tried) - 2)
    column, step = np.arange(loss.shape[1]), tried[1] - tried[0]
    low, mid, high = loss[best - 1, column], loss[best, column], loss[best + 1, column]
    bend = np.maximum((low - 2 * mid + high) / step**2, 1e-12)
    found = tried[best] + np.clip((low - high) / (2 * step * bend), -step, step)
    off = (found - prior) ** 2
    # Scatter about the prior beyond that of noise, which is what the prior is wrong by.
    scatter = max(float(np.average(off, weights=bend)) - 1.0 / float(bend.mean()), 0.0)
    believed = scatter * bend / (1.0 + scatter * bend)
    return np.maximum(prior + believed * (found - prior), _LEAST_RATIO * prior.mean()), bend


def _unit(spectra: Float64) -> Float64:
    spectra = np.maximum(spectra, 0.0)
    return np.asarray(spectra / np.maximum(spectra.sum(axis=1, keepdims=True), 1e-300))
