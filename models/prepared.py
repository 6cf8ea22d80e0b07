"""The linear engine behind preprocessing steps: it learns what they make of the counts, and publishes counts.

What goes in and comes out is on the sender's axis. Raw counts are kept as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as with_changes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.axis import Axis
from models.base import Basis, BatchResult, Counts, Float32, Float64, Index, Pieces, add_at, as_dense
from models.grouping import Group
from models.learnt import Arrays
from models.linear import LinearEngine
from models.linear_config import LinearConfig
from models.live_error import LiveError
from models.netmaps import Backgrounds
from models.netstore import NetStore
from models.noise import NoiseModel
from models.novelty import NoveltySpectra
from models.preprocess import as_float32, row_sums
from models.published import Published, empty_basis
from models.steps import Prepared, Steps, StepsConfig
from models.store import CountStore
from models.visits import Visits, compact, last_of_each, read_visits


class PreparedEngine(LinearEngine):
    """A `LinearEngine` of prepared spectra that speaks of the sender's channels and counts.

    Basis and scores are net of what was subtracted; denoised spectra and window maps have it added back. Normalising
    a spectrum divides its noise too, and the fit weighs each spectrum by its noise: the two cancel term by term. So
    the linear model is fitted to counts in any case, everything stays in counts, and the scale is published beside.

    Parameters
    ----------
    n_positions : int
    steps : Steps
        Of this series alone.
    config, noise, axis :
        As of `LinearEngine`; noise and axis are the sender's.
    """

    def __init__(
        self,
        n_positions: int,
        steps: Steps,
        config: LinearConfig | None = None,
        noise: NoiseModel | None = None,
        axis: Axis | None = None,
    ) -> None:
        layout, config = steps.layout, config or LinearConfig()
        axis = axis or Axis("channel", "", layout.n_channels)
        modelled = Axis(axis.name, axis.units, layout.n_modelled, listed=tuple(layout.axis_values(axis).tolist()))
        super().__init__(
            n_positions, layout.n_modelled, config, None if noise is None else layout.noise(noise), modelled
        )
        self._steps, self._layout, self._axis = steps, layout, axis
        self.modelled = modelled
        """The axis of the model's channels."""
        self._raw_totals: Float64 = np.zeros(n_positions)
        self._shift_sum: Float64 = np.zeros(n_positions)
        self._scale_sum: Float64 = np.zeros(n_positions)
        self._came: Counts = np.zeros((0, layout.n_channels), dtype=np.float32)
        self._prepared = Prepared(self._came)
        self._seen: tuple[Published, NoveltySpectra, Basis] | None = None
        self._share = layout.share(np.zeros(layout.n_channels))
        self._stores(n_positions, config.store_limit_bytes)

    def _stores(self, n_positions: int, limit: int) -> None:
        """Counts as the model takes them, and raw ones besides where those are others."""
        layout, shapes, after = self._layout, self._steps.shapes, self._steps.afterwards
        self._after = None if after is None else Backgrounds(n_positions, after, self._map.denoise)
        limit = max(limit - (0 if self._after is None else self._after.nbytes), 0)
        self._raw_store: CountStore | None = None
        if self._steps.moves or not layout.is_plain:
            part = limit * layout.n_channels // (layout.n_channels + layout.n_modelled)
            self._raw_store, limit = CountStore(n_positions, layout.n_channels, part), limit - part
        if shapes is None:
            self._map.store = CountStore(n_positions, layout.n_modelled, limit)
        else:
            self._map.store = NetStore(n_positions, layout.n_modelled, limit, shapes)

    @property
    def subtracts(self) -> bool:
        """Whether something is subtracted from the counts, before the model sees them or after."""
        return self._steps.shapes is not None or self._after is not None

    @property
    def totals(self) -> Float64:
        """Accumulated counts of each position as they came, (P,)."""
        return self._raw_totals

    @property
    def basis(self) -> Basis | None:
        """The published basis on the sender's axis, net; its mean is NaN in channels that the model has not."""
        published, novelties = self._map.published, self._map.novelties
        if published is None:
            return None
        if self._seen is None or self._seen[0] is not published or self._seen[1] is not novelties:
            self._share = self._steps.share
            inner = self._map.basis()
            mean = self._expanded(inner.mean[None, :])[0]
            eigenspectra = self._layout.expand(inner.eigenspectra, self._share)
            if self._after is not None:
                self._after.touch()
            self._seen = published, novelties, with_changes(inner, mean=mean, eigenspectra=eigenspectra)
        return self._seen[2]

    def _expanded(self, spectra: NDArray[Any]) -> Float32:
        return self._layout.expand(spectra, self._share, outside=np.nan)

    def of_sender(self, spectra: NDArray[Any]) -> Float32:
        """Spectra (n, D) on the sender's axis of some (n, m) in channels of the model; NaN where that has none."""
        return self._expanded(spectra)

    def process(self, index: Index, counts: Counts, replace: bool = False) -> BatchResult:
        """As `LinearEngine.process`, with counts (n, D) of the sender."""
        index = np.asarray(index, dtype=np.uint32)
        if replace:
            index, counts = last_of_each(index, counts)
        self._came, self._prepared = counts, self._steps.prepare(counts)
        result = super().process(index, self._prepared.counts, replace)
        return with_changes(result, window=self._layout.ranges(result.window))

    def take_confirmed(self) -> BatchResult:
        """As `LinearEngine.take_confirmed`, on the sender's axis."""
        result = super().take_confirmed()
        return with_changes(result, window=self._layout.ranges(result.window))

    def _account(self, index: Index, visits: Visits, replace: bool) -> None:
        if replace:
            self._clear(index)
        super()._account(index, visits, replace)
        prepared, store = self._prepared, self._map.store
        add_at(self._raw_totals, index, row_sums(as_float32(self._came)))
        if self._raw_store is not None:
            self._raw_store.add(index, compact(self._came))
        if prepared.shift is not None:
            add_at(self._shift_sum, index, prepared.shift)
        if prepared.scale is not None:
            add_at(self._scale_sum, index, prepared.scale)
        if prepared.added is not None and isinstance(store, NetStore):
            store.add_background(index, prepared.added)
        if self._after is not None:
            self._after.touch(index)

    def _clear(self, index: NDArray[Any]) -> None:
        super()._clear(index)
        for sums in (self._raw_totals, self._shift_sum, self._scale_sum):
            sums[index] = 0.0
        if self._raw_store is not None:
            self._raw_store.clear(index)

    def _read(self, index: Index, counts: Counts) -> Visits:
        visits = read_visits(counts, self.windows)
        added = self._prepared.added
        if added is None or self._steps.shapes is None:
            return visits
        return visits.net_of(added @ self._steps.shapes, self.windows)

    def _read_stored(self, index: NDArray[Any]) -> Visits:
        store = self._map.store
        background = store.background(index)
        if background is None or not isinstance(store, NetStore):
            return super()._read_stored(index)
        return read_visits(store.gross(index), self.windows).net_of(background, self.windows)

    def promote(self) -> Basis | None:
        """As `LinearEngine.promote`, on the sender's axis."""
        return None if super().promote() is None else self.basis

    @property
    def wants_background(self) -> bool:
        """Whether `background` would do something."""
        return super().wants_background or (self._after is not None and self._after.waiting)

    def background(self) -> bool:
        """As `LinearEngine.background`; then find backgrounds of denoised spectra."""
        return super().background() or (self._after is not None and self._after.work(self._map.measured))

    def finishing(self) -> Pieces[Basis]:
        """As `LinearEngine.finishing`, on the sender's axis."""
        yield from super().finishing()
        basis = self.basis
        if self._after is not None and basis is not None:
            self._after.at(self._map.measured, refresh=True)
        return basis or empty_basis(self._layout.n_channels)

    def denoise(self, index: NDArray[Any]) -> Float32:
        """Denoised accumulated spectra (n, D) with their background; NaN in channels that the model has not."""
        return self._published(index, self._map.denoise(np.asarray(index)))

    def _published(self, index: NDArray[Any], net: Float32) -> Float32:
        background = self._map.store.background(np.asarray(index))
        return self._expanded(net if background is None else net + background)

    def spectrum(self, index: int) -> tuple[Float32, Float32, Float32]:
        """Raw, denoised and expected counts (D,) of one position."""
        at = np.array([index])
        raw = np.asarray(as_dense(self._raw(at))[0], dtype=np.float32)
        return raw, self.denoise(at)[0], self._published(at, self._map.expected(at))[0]

    def window_of(self, group: Group) -> tuple[int, int]:
        """As `LinearEngine.window_of`, in the sender's channels."""
        lo, hi = self._layout.ranges(np.array([super().window_of(group)]))[0]
        return int(lo), int(hi)

    def _raw(self, index: NDArray[Any]) -> Counts:
        """Raw counts (n, D) of positions."""
        return (self._map.store if self._raw_store is None else self._raw_store).gross(index)

    def arrays(self) -> Arrays:
        """As `LinearEngine.arrays`, with what was counted before the steps; what steps have learnt stays here."""
        index = self._map.measured
        sums = np.stack([self._raw_totals, self._shift_sum, self._scale_sum])[:, index]
        raw: Arrays = {"steps/index": index, "steps/sums": sums}
        if self._raw_store is not None:
            kept = self._raw_store.arrays(index) | {"complete": self._raw_store.complete(index)}
            raw |= {f"raw/{name}": array for name, array in kept.items()}
        return super().arrays() | raw

    def merge(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """As `LinearEngine.merge`, of an engine behind the same steps."""
        super().merge(arrays)
        index = np.asarray(arrays["steps/index"])
        for mine, sums in zip((self._raw_totals, self._shift_sum, self._scale_sum), arrays["steps/sums"], strict=True):
            mine[index] += sums
        if self._raw_store is not None:
            raw = {name.removeprefix("raw/"): a for name, a in arrays.items() if name.startswith("raw/")}
            self._raw_store.merge(index, raw)
        if self._after is not None:
            self._after.touch(index)

    def background_of(self, index: int) -> Float32 | None:
        """What is not signal in the counts (D,) of a position; None where nothing is subtracted."""
        at = np.array([index])
        found = self._map.store.background(at)
        if self._after is not None:
            after = self._after.at(at, refresh=True) @ self._after.shapes
            found = after if found is None else found + after
        return None if found is None else self._expanded(found)[0]

    def window(self, channels: tuple[int, int], index: NDArray[Any] | None = None) -> tuple[Float32, Float32]:
        """Denoised and raw counts (n,) of positions (all, if not given) in a half-open channel range.

        NaN where nothing was measured; denoised ones also where the model has no channel.
        """
        index = np.arange(self.n_positions) if index is None else index
        denoised, raw = self._modelled(channels, index), np.full(index.size, np.nan, dtype=np.float32)
        measured, shapes = np.flatnonzero(self.visits[index]), self._steps.shapes
        if self._map.published is None:
            return denoised, raw
        store = self._map.store
        if isinstance(store, NetStore) and shapes is not None:
            denoised[measured] += store.background_sums(index[measured], self._sums(shapes, channels))
        store = store if self._raw_store is None else self._raw_store
        kept = measured[store.complete(index[measured])]
        raw[kept] = store.window_sums(index[kept], *channels)
        return denoised, raw

    def window_error(self, channels: tuple[int, int], index: NDArray[Any] | None = None) -> Float32:
        """As `LinearEngine.window_error`, in channels of the sender."""
        index = np.arange(self.n_positions) if index is None else index
        basis = self.basis
        if basis is None or np.isnan(basis.mean[slice(*channels)]).any():
            return np.full(index.size, np.nan, dtype=np.float32)
        return self._map.error(index, self._layout.collected(channels, self._share), self.held[index])

    def _sums(self, shapes: Float32, channels: tuple[int, int]) -> Float32:
        """Sums (M,) of the model's spectra (M, m) over a channel range of the sender."""
        return np.asarray(self._layout.expand(shapes, self._share)[:, slice(*channels)].sum(axis=1))

    def net_window(self, channels: tuple[int, int], index: NDArray[Any] | None = None) -> Float32:
        """Denoised counts (n,) of positions in a channel range without background, NaN where that is not known yet."""
        index = np.arange(self.n_positions) if index is None else index
        out, measured = self._modelled(channels, index), np.flatnonzero(self.visits[index])
        if self._after is not None and self._map.published is not None:
            found = self._after.at(index[measured], refresh=False)
            out[measured] -= found @ self._sums(self._after.shapes, channels)
        return out

    def _modelled(self, channels: tuple[int, int], index: NDArray[Any]) -> Float32:
        """What the model has (n,) of positions in a half-open channel range."""
        out = np.full(index.size, np.nan, dtype=np.float32)
        basis, measured = self.basis, np.flatnonzero(self.visits[index])
        if basis is not None and measured.size:
            weights = basis.eigenspectra[:, slice(*channels)].sum(axis=1, dtype=np.float64)
            mean = basis.mean[slice(*channels)].sum(dtype=np.float64)
            out[measured] = self._map.scores(index[measured]) @ weights + mean
        return out

    def step_maps(self) -> dict[str, Float32]:
        """Maps (P,) of what steps found: shift in axis units (mean of the visits), scale (their sum)."""
        out, visits = {}, np.where(self.visits > 0, self.visits, np.nan)
        if self._steps.moves and self._steps.config.align is not None:
            home = int(np.clip(round(self._axis.to_channel(self._steps.config.align)), 0, self._axis.size - 1))
            step = float(np.gradient(self._axis.values)[home])
            out["shift"] = (self._shift_sum / visits * step).astype(np.float32)
        if self._steps.scales:
            out["scale"] = np.where(self.visits > 0, self._scale_sum, np.nan).astype(np.float32)
        return out

    def live_error(self) -> LiveError | None:
        """As of `LinearEngine`; None too where steps move or subtract counts, whose noise is no longer their own."""
        return None if self._steps.moves or self._steps.shapes is not None else super().live_error()

    def state_summary(self) -> dict[str, Any]:
        """As of `LinearEngine`, with the steps and how each is undone."""
        summary = super().state_summary() | {"steps": self._steps.config.told()}
        if self._raw_store is not None:
            summary["store_bytes"] += self._raw_store.bytes_used
        return summary


def make_engine(
    n_positions: int, config: LinearConfig, noise: NoiseModel | None, axis: Axis, steps: StepsConfig
) -> LinearEngine:
    """The linear engine of a series, behind steps where there are any.

    Raises
    ------
    ValueError
        Where the axis has no room for a step, with a sentence for the operator.
    """
    if steps.is_nothing:
        return LinearEngine(n_positions, axis.size, config, noise, axis)
    return PreparedEngine(n_positions, Steps(steps, axis, noise), config, noise, axis)
