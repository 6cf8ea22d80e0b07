"""A real file as the instrument: its spectra at a chosen rate, thinned to a chosen dose if wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.detector import counts_dtype
from simulator.files import Recorded
from simulator.scene import Spectra
from streamer.wire import Events


class FileScene:
    """Shows a measured spectrum image; frame k is what pass k sees (over again where passes are more).

    Parameters
    ----------
    recorded : Recorded
    counts : float, optional
        Mean counts of a spectrum to thin to: every count is kept with the same probability.
    seed : int
        Of the thinning.
    list_mode : bool
        Events instead of spectra.

    Raises
    ------
    ValueError
        Where thinning or list mode is asked of what are no counts, or thinning to more than there are.
    """

    def __init__(
        self, recorded: Recorded, *, counts: float | None = None, seed: int = 0, list_mode: bool = False
    ) -> None:
        self.recorded = recorded
        self.nav_shape = recorded.nav_shape
        self.axis = recorded.axis
        self.kept = 1.0 if counts is None else counts / max(recorded.mean_counts(), 1e-300)
        if (counts is not None or list_mode) and not recorded.is_counts:
            raise ValueError(f"{recorded.title}: thinning and list mode need counts, these are measured values")
        if self.kept > 1:
            raise ValueError(f"{recorded.title}: {counts:g} counts were asked for, it has {recorded.mean_counts():.4g}")
        self._list_mode = list_mode
        self._n = int(np.prod(recorded.nav_shape))
        self._rng = np.random.Generator(np.random.Philox(seed))

    def header(self) -> dict[str, Any]:
        """Return technique, navigation axes and title; a file does not tell its noise."""
        head: dict[str, Any] = {"technique": self.recorded.technique}
        if self.recorded.nav_axes:
            head["nav_axes"] = [dict(a) for a in self.recorded.nav_axes]
        return head | {"metadata": {"title": self.recorded.title, "kept": self.kept}}

    def positions(self) -> NDArray[np.float64] | None:
        """Return the coordinates of a list of points."""
        return self.recorded.positions

    def measure(
        self, positions: NDArray[np.uint32], passes: NDArray[np.int64], dwell_s: NDArray[np.float64]
    ) -> Spectra:
        """Return the spectra of n visits; a file cannot be counted longer, so `dwell_s` is not used."""
        rows = (passes % self.recorded.frames) * self._n + positions
        taken = self.recorded.counts[rows]
        if self.kept < 1:
            taken = self._thinned(taken)
        if self._list_mode:
            return _events(taken)
        return counts_dtype(taken.toarray()) if self.recorded.is_sparse else np.ascontiguousarray(taken)

    def _thinned(self, taken: Any) -> Any:
        if self.recorded.is_sparse:
            thin = taken.copy()
            thin.data = self._rng.binomial(taken.data, self.kept)
            return thin
        return self._rng.binomial(taken.astype(np.int64), self.kept).astype(taken.dtype)


def _events(taken: Any) -> Events:
    if isinstance(taken, np.ndarray):
        rows, channels = np.nonzero(taken)
        values = taken[rows, channels].astype(np.int64)
    else:
        rows, channels = np.repeat(np.arange(taken.shape[0]), np.diff(taken.indptr)), taken.indices
        values = taken.data
    per_spectrum = np.bincount(rows, weights=values, minlength=taken.shape[0]).astype(np.int64)
    dtype = np.uint16 if taken.shape[1] <= 1 << 16 else np.uint32
    return Events(np.concatenate([[0], np.cumsum(per_spectrum)]), np.repeat(channels.astype(dtype), values))
