"""Damage by the beam, seen on some positions of a scan whose counts are kept apart visit by visit."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Float64
from models.damage import Damage, DamageConfig, DamageMonitor, Repeats, readouts
from models.linear import LinearEngine
from models.phase_sample import spread_out
from models.phases import Phases

_WATCHED, _ROWS, _FEWEST = 2048, 128, 64


class DamageFeed:
    """Compares what watched positions gave since the last look with all that they gave.

    Positions are watched that are spread evenly over the scan. Their phases are those of all their counts, the newest
    included, which is what `DamageMonitor` asks for.

    Parameters
    ----------
    engine : LinearEngine
    phases : Phases
    loss : float
        Relative loss until which the dose left is told.
    """

    def __init__(self, engine: LinearEngine, phases: Phases, loss: float) -> None:
        self._engine, self._phases, self._loss = engine, phases, loss
        self._watched = spread_out(engine.n_positions, _WATCHED)
        n = self._watched.size
        self._before = self._base = sparse.csr_array((n, engine.n_channels))
        self._base_dose: Float64 = np.zeros(n)
        self._begins_anew = False
        self._dose_before: Float64 = np.zeros(n)
        self._history: list[tuple[NDArray[np.int64], sparse.csr_array, Float64, Float64]] = []
        self._looked_at = 0
        self.found: list[Damage] = []

    def restart(self) -> None:
        """Begin anew with the next look: counts from before it are not to be compared with later ones.

        What a phase loses goes with the dose from any beginning, so that the dose constant is the same.
        """
        self._begins_anew = True

    def is_due(self, n_visits: int) -> bool:
        """Whether enough came since the last look: half of a pass, and more and more, for looking again costs time."""
        return n_visits - self._looked_at >= max(self._engine.n_positions // 2, self._looked_at // 5, _FEWEST)

    def look(self, n_visits: int, dwell_s: Float64) -> Generator[None, None, None]:
        """Look at what is new, in pieces of about a millisecond; `found` is up to date at the end.

        Parameters
        ----------
        dwell_s : ndarray, (P,)
            Dose of each position so far, which goes on while this is done.
        """
        self._looked_at = n_visits
        store = self._engine.score_map.store
        rows = np.flatnonzero(store.complete(self._watched))
        pieces = []
        dose = np.zeros(self._watched.size)
        for first in range(0, rows.size, _ROWS):
            at = rows[first : first + _ROWS]
            counts = store.rows(self._watched[at])
            # Together with its counts: visits go on while the rest is read.
            dose[at] = dwell_s[self._watched[at]]
            pieces.append(sparse.csr_array(counts, dtype=np.float64))
            yield
        if not pieces:
            return
        now = sparse.csr_array(sparse.vstack(pieces, format="csr"))
        yield
        if self._begins_anew:
            self._begins_anew, self._history = False, []
            self._base, self._base_dose = self._placed(rows, now), dose.copy()
            self._before, self._dose_before = 0 * self._base, np.zeros(dose.size)
        if self._base.nnz:
            now = sparse.csr_array(now - self._base[rows])
            yield
        dose = dose - self._base_dose
        repeated = (self._dose_before[rows] > 0) & (dose[rows] > self._dose_before[rows])
        if repeated.any():
            at = rows[repeated]
            fresh = sparse.csr_array(now[repeated] - self._before[at])
            self._history.append((at, fresh, self._dose_before[at], dose[at] - self._dose_before[at]))
            yield
        self._before, self._dose_before = self._placed(rows, now), np.zeros(dose.size)
        self._dose_before[rows] = dose[rows]
        yield
        self.found = self._tested(rows, now)

    def _placed(self, rows: NDArray[np.int64], counts: sparse.csr_array) -> sparse.csr_array:
        """Counts of some watched positions as rows of all."""
        sizes = np.zeros(self._watched.size + 1, dtype=counts.indptr.dtype)
        # Rows are in their order, so that only where each begins is another.
        sizes[rows + 1] = np.diff(counts.indptr)
        parts = counts.data, counts.indices, np.cumsum(sizes, dtype=sizes.dtype)
        return sparse.csr_array(parts, shape=(self._watched.size, counts.shape[1]))

    def _tested(self, rows: NDArray[np.int64], now: sparse.csr_array) -> list[Damage]:
        """Damage by phase, with everything that was seen so far, under the phases as they are known now.

        Told by the numbers of the phases: their places change whenever phases are looked for anew.
        """
        ids, spectra = self._phases.spectra()
        if not self._history:
            return []
        if ids:
            label = self._phases.label[self._watched]
            confidence = np.nan_to_num(self._phases.confidence[self._watched].astype(np.float64))
            posterior = np.stack([np.where(label == i, confidence, 0.0) for i in ids], axis=1)
        else:
            # Before there are phases, all is one.
            posterior = np.ones((self._watched.size, 1))
            spectra = np.asarray(now.sum(axis=0), dtype=np.float64)[None, :]
        matrix, covariance = readouts(np.maximum(spectra, 0.0))
        monitor = DamageMonitor(covariance, DamageConfig(loss=self._loss))
        totals = np.zeros((self._watched.size, posterior.shape[1]))
        counted = np.zeros(self._watched.size)
        self._add_all(monitor, posterior, matrix, totals, counted)
        return [replace(found, phase=ids[found.phase] if ids else -1) for found in monitor.found()]

    def _add_all(
        self, monitor: DamageMonitor, posterior: Float64, matrix: Float64, totals: Float64, counted: Float64
    ) -> None:
        """Repeats one after another: each against what its positions had by then, the repeat included."""
        seen = [(np.asarray(fresh @ matrix), np.asarray(fresh.sum(axis=1))) for _, fresh, _, _ in self._history]
        totals += self._before @ matrix
        counted += np.asarray(self._before.sum(axis=1))
        for (at, _, _, _), (amounts, counts) in zip(self._history, seen, strict=True):
            totals[at] -= amounts
            counted[at] -= counts
        for (at, _, before, dose), (amounts, counts) in zip(self._history, seen, strict=True):
            totals[at] += amounts
            counted[at] += counts
            monitor.add(Repeats(posterior[at], amounts, totals[at], counted[at], before, dose))
