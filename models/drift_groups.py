"""Spectra of a stream sorted by composition, so that each kind can be looked at through filters of its own."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Float32, Float64
from models.published import Published
from models.visits import Visits

MOST_GROUPS: Final = 4
_AROUND = 2
_ROUNDS = 8


class GroupSums:
    """Sums over spectra, by group.

    Attributes
    ----------
    counts : ndarray, (G, D)
    n : ndarray, (G,)
        Spectra.
    """

    def __init__(self, n_channels: int) -> None:
        self.counts: Float64 = np.zeros((MOST_GROUPS, n_channels))
        self.n: Float64 = np.zeros(MOST_GROUPS)

    def add(self, visits: Visits) -> None:
        """Take visits; all are of the first group where they were not sorted."""
        group, d = visits.group, visits.channels.size
        if group is None or visits.background is not None or not group.any():
            self.counts[0] += visits.channels
            self.n[0] += visits.total.size
            return
        self.n += np.bincount(group, minlength=MOST_GROUPS)
        if isinstance(visits.block, sparse.csr_array):
            entry = np.repeat(group * d, np.diff(visits.block.indptr)) + visits.block.indices
            self.counts += np.bincount(entry, visits.block.data, self.counts.size).reshape(self.counts.shape)
        else:
            self.counts += (group == np.arange(MOST_GROUPS)[:, None]).astype(np.float32) @ visits.block

    def since(self, before: GroupSums) -> GroupSums:
        """What came since an earlier copy."""
        out = GroupSums(self.counts.shape[1])
        out.counts, out.n = self.counts - before.counts, self.n - before.n
        return out

    def copy(self) -> GroupSums:
        """As it is now."""
        return self.since(GroupSums(self.counts.shape[1]))


class CompositionGroups:
    """Sorts spectra into a few groups of alike composition, told by their neighbours in the stream.

    Neighbours in a raster are mostly of one phase, and a spectrum's own noise has no part in where it goes: what a
    group's sum shows is not chosen. Where neighbours are not alike, groups are mixtures and only less is gained.
    """

    def __init__(self) -> None:
        self._published: Published | None = None
        self._centres: Float64 = np.zeros((0, 0))
        self._spectra: Float64 = np.zeros((0, 0))

    def rebase(self, published: Published, raw: Float32, exposure: Float64) -> None:
        """Follow a new version of the model: groups stay what they are, as far as they can.

        Parameters
        ----------
        raw : ndarray, (n, K)
            Raw scores of some positions.
        exposure : ndarray, (n,)
            Their variances, summed over channels.
        """
        self._published = published
        lit = exposure > 0
        compositions = _compositions(published, raw[lit], exposure[lit], fitted=True)
        n_components = compositions.shape[1]
        if not compositions.size:
            self._centres = np.zeros((0, n_components))
            return
        kept = self._spectra[:n_components]
        centres = kept @ published.projector if kept.size else compositions[:1].astype(np.float64)
        while len(centres) < min(MOST_GROUPS, n_components):
            farthest = int(np.argmax(_squared_distances(compositions, centres).min(axis=1)))
            centres = np.concatenate([centres, compositions[farthest : farthest + 1]])
        for _ in range(_ROUNDS):
            nearest = np.argmin(_squared_distances(compositions, centres), axis=1)
            for group in np.unique(nearest):
                centres[group] = compositions[nearest == group].mean(axis=0)
        self._centres, self._spectra = centres, centres @ published.eigenspectra

    def sort(self, raw: Float32, total: Float64) -> NDArray[np.intp]:
        """Group (n,) of each of the spectra of a block with these raw scores (n, K) and total counts (n,)."""
        published = self._published
        if published is None or len(self._centres) < 2 or raw.shape[1] != self._centres.shape[1]:
            return np.zeros(len(raw), dtype=np.intp)
        exposure = published.test.noise.row_variance(total, 1.0, published.eigenspectra.shape[1])
        around = _sum_of_neighbours(np.column_stack([raw, exposure]))
        compositions = _compositions(published, around[:, :-1].astype(np.float32), around[:, -1], fitted=False)
        nearest = np.argmin(_squared_distances(compositions, self._centres), axis=1)
        return np.where(around[:, -1] > 0, nearest, 0)


def _compositions(published: Published, raw: Float32, exposure: Float64, *, fitted: bool) -> Float64:
    shrunk = published.shrinkage.apply(raw, exposure, fitted)
    return np.asarray(shrunk / np.maximum(exposure, 1e-300)[:, None], dtype=np.float64)


def _squared_distances(points: Float64, centres: Float64) -> Float64:
    """Between points (n, K) and centres (g, K), up to what is the same for all centres of a point, (n, g)."""
    whole = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
    return np.asarray(whole - 2.0 * points @ centres.T)


def _sum_of_neighbours(rows: Float64) -> Float64:
    """Sums (n, c) of the two rows before and the two after each."""
    n = len(rows)
    edge = np.zeros((_AROUND, rows.shape[1]))
    padded = np.concatenate([edge, rows, edge])
    shifts = [k for k in range(2 * _AROUND + 1) if k != _AROUND]
    return np.asarray(sum(padded[k : k + n] for k in shifts))
