"""Which of the sender's channels a model has: cropped, summed by several, without the dead ones.

All of it sums counts or leaves them out, so that Poisson counts stay Poisson counts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.axis import Axis
from models.base import Counts, Float64
from models.noise import NoiseModel
from models.preprocess import csr_rows


@dataclass(frozen=True, eq=False)
class Layout:
    """Sums of the sender's D channels that make the model's m.

    Attributes
    ----------
    group : ndarray of int64, (D,)
        Channel of the model that each one adds to, rising; -1 where it is left out.
    dead : ndarray of bool, (D,)
        Left out because it counts wrongly: what is published is interpolated there.
    """

    group: NDArray[np.int64]
    dead: NDArray[np.bool_]

    @property
    def n_channels(self) -> int:
        """Channels of the sender, D."""
        return int(self.group.size)

    @cached_property
    def kept(self) -> NDArray[np.int64]:
        """The sender's channels that are in the model, rising."""
        return np.flatnonzero(self.group >= 0)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where in `kept` each channel of the model begins, (m,)."""
        groups = self.group[self.kept]
        return np.flatnonzero(np.diff(groups, prepend=-1))

    @property
    def n_modelled(self) -> int:
        """Channels of the model, m."""
        return int(self.starts.size)

    @property
    def width(self) -> float:
        """The sender's channels in one of the model, in the mean."""
        return self.kept.size / self.n_modelled

    @property
    def is_plain(self) -> bool:
        """Whether the model has exactly the sender's channels."""
        return self.n_modelled == self.n_channels

    def noise(self, noise: NoiseModel) -> NoiseModel:
        """Noise of the model's channels: the offset adds up, and so does the variance of the readout."""
        if self.width == 1:
            return noise
        return NoiseModel(noise.kind, noise.gain, noise.offset * self.width, noise.read_sigma * float(self.width**0.5))

    def apply(self, counts: Counts) -> Counts:
        """Counts (n, m) in the model's channels; a view where nothing has to be summed."""
        if self.is_plain:
            return counts
        if isinstance(counts, sparse.csr_array):
            return self._sparse(counts)
        first, last = int(self.kept[0]), int(self.kept[-1]) + 1
        kept = counts[:, first:last] if self.kept.size == last - first else counts[:, self.kept]
        if self.kept.size == self.n_modelled:
            return kept
        return np.add.reduceat(kept, self.starts, axis=1, dtype=_wide(counts.dtype))

    def _sparse(self, counts: sparse.csr_array) -> sparse.csr_array:
        group = self.group[counts.indices]
        inside = group >= 0
        before = np.concatenate([[0], np.cumsum(inside)])
        indptr = before[counts.indptr].astype(np.int32)
        return csr_rows(counts.data[inside], group[inside].astype(np.int32), indptr, self.n_modelled)

    def share(self, mean: NDArray[Any]) -> Float64:
        """Share (D,) that each channel has of the sum it is in, by the mean spectrum (D,) of the sender."""
        weight = np.maximum(np.asarray(mean, dtype=np.float64)[self.kept], 0.0)
        total = np.add.reduceat(weight, self.starts)
        size = np.diff(self.starts, append=self.kept.size)
        group = self.group[self.kept]
        known = total[group] > 0
        share = np.zeros(self.n_channels)
        share[self.kept] = np.where(known, weight / np.where(known, total[group], 1.0), 1.0 / size[group])
        return share

    def expand(self, columns: NDArray[Any], share: Float64, outside: float = 0.0) -> NDArray[np.float32]:
        """Spectra (n, D) of the sender from the model's (n, m); `outside` where the model has no channel.

        A sum is spread by the `share` (D,) of its channels; dead ones are interpolated between their neighbours.
        """
        columns = np.asarray(columns, dtype=np.float32)
        if self.is_plain:
            return columns
        out = np.full((columns.shape[0], self.n_channels), outside, dtype=np.float32)
        out[:, self.kept] = columns[:, self.group[self.kept]] * share[self.kept].astype(np.float32)
        left, right, weight = self._neighbours
        out[:, self.dead] = out[:, left] * (1.0 - weight) + out[:, right] * weight
        return out

    def collected(self, channels: tuple[int, int], share: Float64) -> Float64:
        """Weights (m,) of the model's channels whose sum is that of `expand` over a channel range of the sender."""
        inside = np.zeros(self.n_channels)
        inside[slice(*channels)] = 1.0
        if self.is_plain:
            return inside
        left, right, weight = self._neighbours
        spread = inside.copy()
        np.add.at(spread, left, inside[self.dead] * (1.0 - weight))
        np.add.at(spread, right, inside[self.dead] * weight)
        summed = np.bincount(self.group[self.kept], (spread * share)[self.kept], minlength=self.n_modelled)
        return np.asarray(summed, dtype=np.float64)

    @cached_property
    def _neighbours(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Nearest channels on either side of each dead one, and the weight of the right one."""
        dead, kept = np.flatnonzero(self.dead), self.kept
        at = np.searchsorted(kept, dead)
        left, right = kept[np.maximum(at - 1, 0)], kept[np.minimum(at, kept.size - 1)]
        gap = right - left
        weight = np.where(gap > 0, (dead - left) / np.where(gap > 0, gap, 1), 0.0)
        return left, right, np.clip(weight, 0.0, 1.0).astype(np.float32)

    def ranges(self, model_ranges: NDArray[np.int64]) -> NDArray[np.int64]:
        """Half-open channel ranges (n, 2) of the sender, of half-open ranges of the model."""
        stops = np.append(self.starts, self.kept.size)
        first = self.kept[self.starts[model_ranges[:, 0]]]
        last = self.kept[stops[np.maximum(model_ranges[:, 1], model_ranges[:, 0] + 1)] - 1] + 1
        return np.stack([first, last], axis=1)

    def axis_values(self, axis: Axis) -> Float64:
        """Axis values (m,) of the model's channels: the mean of those that are summed."""
        size = np.diff(self.starts, append=self.kept.size)
        return np.asarray(np.add.reduceat(axis.values[self.kept], self.starts) / size)


def make_layout(
    axis: Axis, crop: tuple[float, float] | None = None, rebin: int = 1, dead: Collection[int] = ()
) -> Layout:
    """Layout of a cropped, rebinned axis without some channels; dead channels that the axis has not are ignored.

    Raises
    ------
    ValueError
        Where nothing is left, with a sentence for the operator.
    """
    first, stop = (0, axis.size) if crop is None else axis.channel_range(*crop)
    group = np.full(axis.size, -1, dtype=np.int64)
    group[first:stop] = np.arange(stop - first) // rebin
    wrong = np.zeros(axis.size, dtype=np.bool_)
    wrong[[channel for channel in dead if first <= channel < stop]] = True
    group[wrong] = -1
    if not (group >= 0).any():
        ends = f"{axis.values[0]:g} to {axis.values[-1]:g} {axis.units}".strip()
        raise ValueError(f"crop {crop} and dead channels leave nothing of the axis from {ends}")
    _, group[group >= 0] = np.unique(group[group >= 0], return_inverse=True)
    return Layout(group, wrong)


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Type that holds sums of several channels."""
    if dtype.kind == "f":
        return dtype
    return np.dtype(np.uint32 if dtype.kind == "u" else np.int64)
