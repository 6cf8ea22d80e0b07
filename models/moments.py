"""Exact second moments of sparse counts, and their leading components by warm-started subspace iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Float32, Float64
from models.blocks import event_parts
from models.kernels import add_pairs
from models.pca import orthonormal
from models.preprocess import Scaling

_FIRST_STEPS, _STEPS, _ROUNDS = 4, 2, 3
_GROWTH = 0.02
_PANEL_ROWS = 256


@dataclass
class _Sweep:
    """A product with the moment that is under way."""

    vectors: Float64
    columns: Float32
    image: Float32
    row: int = 0


class Moments:
    """Sum of w x x' over spectra x (D,), from pairs of events: cheap while counts are few, and nothing is cut off.

    Sums of different workers add up, and the channel scaling may change afterwards.

    Parameters
    ----------
    n_channels : int
        D; the matrix takes 4 D^2 bytes.
    keep : int
        Components that `solve` looks for.
    """

    def __init__(self, n_channels: int, keep: int) -> None:
        self._half: Float32 = np.zeros((n_channels, n_channels), dtype=np.float32)
        self._keep = keep
        self._next: Float64 | None = None
        self._scaling: Scaling | None = None
        self._sweep: _Sweep | None = None
        self._rounds = 0
        self._found: tuple[Float64, Float64] | None = None
        self._known: Float64 = np.zeros(0)
        self.n_rows = self.squares = 0.0

    @property
    def n_effective(self) -> float:
        """Spectra of equal weight that would be as noisy: fewer, where older ones were forgotten in part."""
        return self.n_rows**2 / self.squares if self.squares > 0 else 0.0

    def forget(self, factor: float) -> None:
        """Let everything so far count for less."""
        self.scale(factor)
        self.n_rows, self.squares = self.n_rows * factor, self.squares * factor**2

    def scale(self, factor: float) -> None:
        """Multiply everything so far, for as many spectra."""
        self._half *= np.float32(factor)
        self._sweep = self._found = None

    def packed(self) -> Float32:
        """Upper triangle, row by row, (D (D + 1) / 2,)."""
        return np.asarray(self._half[np.triu_indices(self._half.shape[0])])

    def unpack(self, packed: NDArray[Any], n_rows: float, squares: float) -> None:
        """Take what another one packed in the place of what is here."""
        self._half[np.triu_indices(self._half.shape[0])] = packed
        self.n_rows, self.squares = n_rows, squares
        self._sweep = self._found = None

    def add(self, counts: sparse.csr_array, squared_weight: Float64) -> None:
        """Add CSR spectra (n, D) in float32 with squared weights (n,)."""
        add_pairs(*event_parts(counts), squared_weight, self._half)
        self.n_rows += counts.shape[0]
        self.squares += counts.shape[0]

    def merge(self, other: Moments) -> None:
        """Add what another worker summed: exact."""
        self._half += other._half
        self._sweep = self._found = None
        self.n_rows += other.n_rows
        self.squares += other.squares

    def start_from(self, other: Moments) -> None:
        """Look for components where another one has found them, which is of nearly the same spectra."""
        self._next, self._known = other._next, other._known

    def times(self, columns: Float32) -> Float32:
        """The moment times columns (D, k)."""
        image = np.zeros_like(columns)
        for first in range(0, columns.shape[0], _PANEL_ROWS):
            self._add_panel(columns, image, first, min(first + _PANEL_ROWS, columns.shape[0]))
        return image

    def _add_panel(self, columns: Float32, image: Float32, first: int, last: int) -> None:
        """Add what rows first to last of the upper triangle contribute to the product."""
        panel = self._half[first:last, first:]
        image[first:last] += panel @ columns[first:]
        image[first:] += panel.T @ columns[first:last]
        image[first:last] -= panel.diagonal()[:, None] * columns[first:last]

    def solve(self, scaling: Scaling) -> tuple[Float64, Float64]:
        """Leading vectors (m, k) and summed variances (k,) in a scaling.

        Each call takes a step of subspace iteration from where the last one ended, and another where that one found
        more variance than was known (new structure); `work` takes more in between.
        """
        if self._found is None or scaling is not self._scaling:
            self.prepare(scaling)
            for left in reversed(range(_FIRST_STEPS if self._next is None else _STEPS)):
                vectors = self._start(scaling)
                values = self._step(scaling, vectors, self.times(scaling.projector(vectors)))
                if left < _STEPS and self._has_settled(values):
                    break
        if self._found is None:
            raise AssertionError("a step has been taken")
        found, self._found, self._rounds = self._found, None, _ROUNDS
        self._known = found[1][::-1] / max(self.n_rows, 1.0)
        live = int(np.count_nonzero(found[1] > 1e-6 * max(float(found[1].max(initial=0.0)), 1e-300)))
        return found[0][:, :live], found[1][:live]

    def prepare(self, scaling: Scaling) -> None:
        """Let `work` take the steps for the next `solve` in this scaling, which then has nothing left to do."""
        self._scaling, self._sweep, self._found, self._rounds = scaling, None, None, _STEPS

    def _has_settled(self, values: Float64) -> bool:
        """Whether the stronger half of the rising values is as it was at the last `solve`, per spectrum."""
        now, half = values / max(self.n_rows, 1.0), values.size // 2
        known = self._known
        return known.size == now.size and bool(np.all(now[half:] <= (1.0 + _GROWTH) * known[half:]))

    def _step(self, scaling: Scaling, vectors: Float64, image: Float32) -> Float64:
        """Rising Rayleigh-Ritz values in the span of the vectors; their image is where to start next."""
        merged = scaling.merge(image)
        small = vectors.T @ merged
        values, rotation = np.linalg.eigh((small + small.T) / 2)
        self._next = scaling.eigenspectra(orthonormal(merged @ rotation[:, ::-1])).T.astype(np.float64)
        self._found = vectors @ rotation[:, ::-1], values[::-1]
        return np.asarray(values)

    @property
    def wants_work(self) -> bool:
        """Whether `work` would do something."""
        return self._rounds > 0 and self._next is not None

    def work(self) -> bool:
        """Do a part of the next step (half a millisecond); False when enough was done since the last `solve`."""
        if not self.wants_work or self._scaling is None:
            return False
        if self._sweep is None:
            vectors = self._start(self._scaling)
            columns = self._scaling.projector(vectors)
            self._sweep = _Sweep(vectors, columns, np.zeros_like(columns))
        sweep, size = self._sweep, self._half.shape[0]
        last = min(sweep.row + _PANEL_ROWS, size)
        self._add_panel(sweep.columns, sweep.image, sweep.row, last)
        sweep.row = last
        if last == size:
            self._step(self._scaling, sweep.vectors, sweep.image)
            self._sweep, self._rounds = None, self._rounds - 1
        return True

    def _start(self, scaling: Scaling) -> Float64:
        """Where the last step ended, in the present scaling, filled up with fixed random columns."""
        k = min(self._keep, scaling.n_groups)
        known = np.zeros((scaling.n_groups, 0)) if self._next is None else scaling.merge(self._next)
        fill = np.random.default_rng(0).standard_normal((scaling.n_groups, k - min(known.shape[1], k)))
        return orthonormal(np.concatenate([known[:, :k], fill / np.sqrt(scaling.n_groups)], axis=1))
