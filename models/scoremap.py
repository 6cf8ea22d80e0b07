"""Scores of every position: stored raw, published shrunk, re-expressed whenever the basis changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import Basis, Counts, Float32, Float64, Index, add_at, as_dense
from models.blocks import times
from models.learnt import Arrays
from models.noise import NoiseModel
from models.novelty import NoveltySpectra
from models.preprocess import as_float32
from models.published import Published
from models.store import CountStore
from models.turns import Turns
from models.uncertainty import linear_error

_ROWS = 1024


class ScoreMap:
    """What is known of each position under the published basis.

    Raw scores are linear in the counts (counts @ projector), so that visits add up and a new basis is a product away.
    """

    def __init__(self, n_positions: int, n_channels: int, max_rank: int, limit_bytes: int) -> None:
        self.store = CountStore(n_positions, n_channels, limit_bytes)
        self.n_positions, self.n_channels = n_positions, n_channels
        self.totals: Float64 = np.zeros(n_positions)
        self.visits: NDArray[np.uint32] = np.zeros(n_positions, dtype=np.uint32)
        self.exact: NDArray[np.bool_] = np.zeros(n_positions, dtype=np.bool_)
        self.n_visits = 0
        self.n_counts = 0.0
        """Counts of all visits."""
        self.published: Published | None = None
        self.novelties = NoveltySpectra(np.zeros((0, n_channels), dtype=np.float32))
        # Wide enough for any basis; only the first K columns are in use.
        self._raw: Float32 = np.zeros((n_positions, max_rank), dtype=np.float32)
        self._turns = Turns(n_positions)
        self._measured: NDArray[np.int64] | None = None
        self._n_columns = 0
        self._basis: tuple[Published, NoveltySpectra, Basis] | None = None
        self._cursor = n_positions

    @property
    def measured(self) -> NDArray[np.int64]:
        """Positions that were visited, rising."""
        if self._measured is None:
            self._measured = np.flatnonzero(self.visits)
        return self._measured

    def account(self, index: Index, total: Float64, counts: Counts, replace: bool) -> None:
        """Add visits (n, D) with total counts (n,) to the books and the store."""
        if replace:
            self.clear(index)
        fresh = self.visits[index] == 0
        if np.count_nonzero(fresh):
            self._measured = None
            self._turns.settle(index[fresh])
        self.n_visits += index.size
        self.n_counts += float(total.sum())
        add_at(self.totals, index, total)
        add_at(self.visits, index, np.uint32(1))
        self.store.leaving = lambda leaving: self._reproject_last(np.setdiff1d(leaving, index))
        self.store.add(index, counts)
        # The first visit under this basis makes a position exact; later ones keep it as it is.
        self.exact[index[fresh]] = self.published is not None

    def clear(self, index: NDArray[Any]) -> None:
        """Forget the counts of positions."""
        self.totals[index], self.visits[index] = 0.0, 0
        self._raw[index] = 0.0
        self.store.clear(index)
        self._measured = None

    def arrays(self, index: NDArray[Any]) -> Arrays:
        """What is known of positions, as plain arrays."""
        published = self.published
        none = np.zeros((0, self.n_channels), dtype=np.float32)
        return {
            "index": index,
            "totals": self.totals[index],
            "visits": self.visits[index],
            "raw": self.raw(index),
            "eigenspectra": none if published is None else published.eigenspectra,
            "complete": self.store.complete(index),
            **self.store.arrays(index),
        }

    def merge(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Add what another map knows of its positions; scores in its basis are taken to the present one."""
        index = np.asarray(arrays["index"], dtype=np.int64)
        self._turns.settle(index[self.visits[index] == 0])
        self.totals[index] += arrays["totals"]
        self.visits[index] += arrays["visits"].astype(np.uint32)
        self.n_visits += int(arrays["visits"].sum())
        self.n_counts += float(arrays["totals"].sum())
        self.store.merge(index, arrays)
        self._measured, self._cursor = None, 0
        if self.published is not None:
            self.accumulate(
                index.astype(np.uint32), arrays["raw"] @ (arrays["eigenspectra"] @ self.published.projector)
            )
            self.exact[index] = False

    def accumulate(self, index: Index, raw: Float32) -> None:
        """Add the raw scores (n, K) of visits."""
        self._turns.apply(self._raw, index)
        columns = self._raw[:, : raw.shape[1]]
        add_at(columns, index, raw)

    def exposure(self, index: NDArray[Any], noise: NoiseModel) -> Float64:
        """Variance summed over channels of the accumulated counts of positions, (n,)."""
        return noise.row_variance(self.totals[index], self.visits[index], self.n_channels)

    def raw(self, index: NDArray[Any]) -> Float32:
        """Raw scores (n, K) of positions."""
        self._turns.apply(self._raw, index)
        return np.asarray(self._raw[index, : self._n_columns])

    def scores(self, index: NDArray[Any]) -> Float32:
        """Published scores of positions (n, K); NaN where nothing was measured."""
        if self.published is None:
            return np.zeros((len(index), 0), dtype=np.float32)
        scores = self.published.scores(self.raw(index), self.exposure(index, self.published.test.noise))
        if self.novelties.groups:
            scores = np.concatenate([scores, self.novelties.of(index)], axis=1)
        scores[self.visits[index] == 0] = np.nan
        return scores

    def reexpress(self, old: Published | None, projector: Float32) -> None:
        """Take all raw scores to a new projector (D, K): by rotation, or from the counts if there was no basis yet."""
        self._n_columns = projector.shape[1]
        if old is None:
            measured = self.measured
            for part, counts in self.store.chunks(measured[self.store.complete(measured)], 1024):
                self._set(part, times(as_float32(counts), projector))
        else:
            self._turns.add(self._raw, old.eigenspectra @ projector)
            self.exact[:] = False
        self._cursor = 0

    def _set(self, index: NDArray[Any], raw: Float32) -> None:
        self._raw[index, : raw.shape[1]] = raw
        self._turns.settle(index)
        self.exact[index] = True

    @property
    def sweeping(self) -> bool:
        """Whether `next_inexact` has not come to the end of its sweep."""
        return self._cursor < self.n_positions

    def next_inexact(self, n: int) -> NDArray[np.int64] | None:
        """Positions among the next `n` whose scores can be made exact; None at the end of the sweep."""
        if self._cursor >= self.n_positions:
            return None
        some = slice(self._cursor, self._cursor + n)
        self._cursor += n
        return np.flatnonzero((self.visits[some] > 0) & ~self.exact[some]) + some.start

    def reproject(self, index: NDArray[Any]) -> tuple[Counts, Float32 | None] | None:
        """Make the raw scores of positions exact, where their counts are stored; returns those and their background."""
        index = index[self.store.complete(index)]
        if self.published is None or not index.size:
            return None
        counts = as_float32(self.store.rows(index))
        self._set(index, self.published.project(counts))
        background = self.store.background(index)
        return (counts, None) if background is None else (as_float32(as_dense(counts) + background), background)

    def _reproject_last(self, leaving: NDArray[np.int64]) -> None:
        """Make scores exact as long as there are counts; visits that are being taken are not in the scores yet."""
        leaving = leaving[(self.visits[leaving] > 0) & ~self.exact[leaving]]
        for first in range(0, leaving.size, _ROWS):
            self.reproject(leaving[first : first + _ROWS])

    def window(self, index: NDArray[Any], lo: int, hi: int) -> tuple[Float32, Float32]:
        """Denoised and raw counts (n,) of positions in channels lo to hi, NaN where not measured (raw: or stored)."""
        raw = np.full(index.size, np.nan, dtype=np.float32)
        denoised = raw.copy()
        measured = np.flatnonzero(self.visits[index])
        if self.published is None or not measured.size:
            return denoised, raw
        stored = measured[self.store.complete(index[measured])]
        raw[stored] = self.store.window_sums(index[stored], lo, hi)
        basis = self.basis()
        weights = basis.eigenspectra[:, lo:hi].sum(axis=1, dtype=np.float64)
        denoised[measured] = self.scores(index[measured]) @ weights + basis.mean[lo:hi].sum(dtype=np.float64)
        return denoised, raw

    def relative_error(self, noise: NoiseModel) -> Float32:
        """Expected relative error of each denoised spectrum (P,), NaN where nothing was measured."""
        out = np.full(self.n_positions, np.nan, dtype=np.float32)
        if self.published is not None:
            measured = self.measured
            out[measured] = self.published.relative_error(self.raw(measured), self.exposure(measured, noise))
        return out

    def error(self, index: NDArray[Any], weights: Float64, held: NDArray[np.bool_]) -> Float32:
        """Standard error (n,) of denoised spectra summed with weights (D,), NaN where nothing was measured.

        Positions of a novelty are shown as they were counted: theirs is the error of the counts, and what they were
        counted otherwise than they are shown beyond that. So is that of what is `held` (n,) alone, and in no group.
        """
        out = np.full(index.size, np.nan, dtype=np.float32)
        if self.published is None:
            return out
        rows, noise = np.flatnonzero(self.visits[index]), self.published.test.noise
        at, visits = index[rows], self.visits[index[rows]]
        background = self.store.background(at)
        known = self.raw(at), self.exposure(at, noise), visits, weights
        error = linear_error(self.published, *known, background)
        novel = np.flatnonzero((self.novelties.of(at).any(axis=1) | held[rows]) & self.store.complete(at))
        if novel.size:
            counts = self.counts(at[novel])
            shown = self.denoise(at[novel])
            # Of a channel without any count the error is that of what is shown.
            counted = noise.gain * (np.maximum(counts, shown) @ weights**2)
            base = noise.read_sigma**2 - noise.gain * noise.offset
            counted += visits[novel] * base * float((weights**2).sum())
            if background is not None:
                counted += noise.gain * (background[novel] @ weights**2)
            counted = np.maximum(counted, 0.0)
            hidden = np.maximum(((counts - shown) @ weights) ** 2 - counted, 0.0)
            error[novel] = np.sqrt(np.maximum(error[novel] ** 2, counted) + hidden)
        out[rows] = error
        return out

    def basis(self) -> Basis:
        """The published basis with the novelty groups behind the components."""
        if self.published is None:
            raise ValueError("nothing was published yet")
        made = self._basis
        if made is None or made[0] is not self.published or made[1] is not self.novelties:
            # Asked for with every batch, and only new with a new version.
            basis = self.published.with_novelties(self.novelties.eigenspectra)
            made = self._basis = self.published, self.novelties, basis
        return made[2]

    def denoise(self, index: NDArray[Any]) -> Float32:
        """Denoised accumulated spectra (n, D), NaN where nothing was measured."""
        if self.published is None:
            return np.full((len(index), self.n_channels), np.nan, dtype=np.float32)
        basis = self.basis()
        return np.asarray(basis.mean + self.scores(index) @ basis.eigenspectra, dtype=np.float32)

    def expected(self, index: NDArray[Any]) -> Float32:
        """What the components alone expect at positions (n, D), novelties left out."""
        if self.published is None:
            return np.full((len(index), self.n_channels), np.nan, dtype=np.float32)
        scores = self.published.scores(self.raw(index), self.exposure(index, self.published.test.noise))
        return np.asarray(self.published.basis.mean + scores @ self.published.eigenspectra, dtype=np.float32)

    def counts(self, index: NDArray[Any]) -> Float32:
        """Accumulated counts (n, D), dense."""
        return np.asarray(as_dense(self.store.rows(index)), dtype=np.float32)
