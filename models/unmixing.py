"""Unmixing while the scan runs: end-members from phases and gradients, and how much of each a position is."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from models.abundances import LinearUnmixing
from models.base import Float32, Float64, Pieces, done, together
from models.corrected import Corrected, Correction, corrected
from models.endmembers import Corners, corners_of, fitted
from models.linear import LinearEngine
from models.linearity import Bend, bends
from models.noise import POISSON
from models.phase_mixture import Mixture, Sample
from models.phase_sample import PhaseView, Positions, spread_out
from models.phases import Phases
from models.share_fit import ShareFit
from models.store import CountStore

_SAMPLE, _FINAL_SAMPLE, _ROWS, _FINAL_ROWS = 2048, 4096, 256, 1024
_STEPS, _FINAL_STEPS = 12, 40
_GROWTH = 1.5
_SAME = 0.3


@dataclass(frozen=True)
class EndMembers:
    """One version of the end-members of a scan.

    Attributes
    ----------
    labels : tuple of str, (M,)
        Number of the phase that an end-member is, or `end0`, `end1`, ... for ends of gradients; kept while they last.
    phases : tuple of int or None, (M,)
    spectra : ndarray, (M, D)
        Of unit sum, nowhere negative, in channels of the model.
    view : PhaseView
    linear : LinearUnmixing
    """

    labels: tuple[str, ...]
    phases: tuple[int | None, ...]
    spectra: Float64
    view: PhaseView
    linear: LinearUnmixing

    @property
    def spread(self) -> bool:
        """Whether all are ends of gradients, between which positions are spread, with hardly one that is pure."""
        return all(phase is None for phase in self.phases)

    def shares(self, positions: Positions) -> tuple[Float64, Float64]:
        """Shares (n, M) of positions by their scores, and standard errors; NaN where nothing is known."""
        sample = self.view.sample(positions, [])
        if self.spread:
            z, errors = self.linear.among(sample.z, sample.exposure)
            shares = self.linear.shares(z)
        else:
            shares = self.linear.shares(sample.z)
            errors = self.linear.errors(shares, sample.exposure)
        dark = sample.exposure <= 0
        shares[dark], errors[dark] = np.nan, np.nan
        return shares, errors


class Unmixing:
    """End-members that follow the phases, and abundances by them.

    Seeded by phases, refined with more positions: an online non-negative factorisation whose abundances sum to one. All
    learning is done in pieces of less than a millisecond, one whenever `work` is called; nothing depends on a clock.

    Parameters
    ----------
    engine : LinearEngine
    phases : Phases
        Of the same engine.
    correction : Correction, optional
        How thickness bends mixtures: corrected for at the end, where spectra tell of it.
    """

    def __init__(self, engine: LinearEngine, phases: Phases, correction: Correction | None = None) -> None:
        self._engine, self._phases, self._correction = engine, phases, correction
        self.revision = 0
        """Rises whenever positions get other abundances for the same counts."""
        self.end_members: EndMembers | None = None
        self.labels: list[str] = []
        """All labels there ever were: the map of one that is no more shows nothing, and is not left as it was."""
        self.bends: list[Bend] = []
        self._job: Generator[None, None, None] | None = None
        self._made_of: tuple[PhaseView, Mixture] | None = None
        self._made_at = 0
        self._final: tuple[Float32, Float32] | None = None
        self.corrected: Corrected | None = None
        """What was found of thickness at the end, where that was asked for."""

    @property
    def wants_work(self) -> bool:
        """Whether `work` would do something."""
        return self._job is not None or self._is_due()

    def work(self) -> None:
        """Do one piece."""
        if self._job is None:
            self._job = self._learn(_SAMPLE, _STEPS)
        elif next(self._job, self) is self:
            self._job = None

    def finish(self) -> None:
        """Learn once more, and fit the end-members to the counts of every position by their full likelihood.

        Not where all are ends of gradients: of noisy spectra, what is known of all of them says more than likelihoods.
        """
        done(self.finishing())

    def finishing(self) -> Pieces[None]:
        """As `finish`, in pieces between which everything can be asked for."""
        self._job = self._final = None
        yield from together(self._learn(_FINAL_SAMPLE, _FINAL_STEPS))
        if type(self._engine.score_map.store) is not CountStore:
            return
        if self._correction is not None and self._engine.basis is not None:
            self.corrected = yield from corrected(
                self._engine, self._correction.law, self._correction.nav_shape, self._learnt_from
            )
        found = self.end_members
        if self.corrected is not None:
            yield from self._adopt_corrected(self.corrected)
        elif found is not None and not found.spread:
            self._final = yield from self._fitted(found)
            self.revision += 1

    def abundances(self, index: Positions, labels: list[str]) -> tuple[Float32, Float32]:
        """Shares (n, L) of labels at positions, and their standard errors; NaN where there are none."""
        shares, errors = np.full((2, index.size, len(labels)), np.nan, dtype=np.float32)
        found = self.end_members
        if found is None:
            return shares, errors
        columns = [k for k, label in enumerate(labels) if label in found.labels]
        of = [found.labels.index(labels[k]) for k in columns]
        rows = np.flatnonzero(self._engine.visits[index])
        at, final = index[rows], self._final
        values, doubt = found.shares(at) if final is None else (final[0][at], final[1][at])
        for column, k in zip(columns, of, strict=True):
            shares[rows, column], errors[rows, column] = values[:, k], doubt[:, k]
        return shares, errors

    def summary(self) -> dict[str, Any] | None:
        """What the status shows; None before there are end-members."""
        found = self.end_members
        if found is None:
            return None
        names = [
            label if p is None else self._phases.name(p) for label, p in zip(found.labels, found.phases, strict=True)
        ]
        members = [
            {"label": label, "name": name, "phase": phase}
            for label, name, phase in zip(found.labels, names, found.phases, strict=True)
        ]
        tested = [{"pair": [names[i] for i in b.pair], "p_value": b.p_value, "n": round(b.n_mixed)} for b in self.bends]
        return {"end_members": members, "nonlinear": tested, "corrected": self._corrected_summary()}

    def _corrected_summary(self) -> dict[str, Any] | None:
        if self.corrected is None:
            return None
        law, thickness = self.corrected.law, self.corrected.thickness
        low, middle, high = (float(v) for v in np.nanpercentile(thickness, (1, 50, 99)))
        return {"model": law.name, "units": law.units, "thickness": [low, middle, high]}

    # Learning

    def _is_due(self) -> bool:
        """Whether phases are others than those that end-members were made of, or there are many more positions."""
        made_of = self._phases.found
        if made_of is None:
            return self._made_of is not None
        if self._made_of is None or made_of[1] is not self._made_of[1]:
            return True
        grown = self._engine.score_map.n_visits > _GROWTH * self._made_at
        return grown and self.end_members is not None

    def _learn(self, n: int, steps: int) -> Pieces[None]:
        made_of = self._phases.found
        self._made_at = self._engine.score_map.n_visits
        self._made_of = None if made_of is None else made_of[:2]
        if made_of is None:
            self._adopt(None)
            return
        view, mixture, ids = made_of
        corners = corners_of(mixture, view.space, view.typical)
        if len(corners.z) < 2:
            self._adopt(None)
            return
        yield
        sample = yield from self._sample(view, n)
        corners = yield from fitted(corners, sample, view.space, steps)
        yield
        members = self._named(corners, view, ids)
        yield
        shares = np.empty((len(sample.z), len(corners.z)))
        for first in range(0, len(shares), _ROWS):
            shares[first : first + _ROWS] = members.linear.shares(sample.z[first : first + _ROWS])
            yield
        found = yield from bends(shares, members.linear.residual(sample.z), sample.exposure)
        self._adopt(members, found)

    def _sample(self, view: PhaseView, n: int) -> Pieces[Sample]:
        measured = self._engine.score_map.measured
        chosen = measured[spread_out(measured.size, n)]
        chosen = chosen[view.usable(chosen)]
        parts = []
        for first in range(0, chosen.size, _ROWS):
            parts.append(view.sample(chosen[first : first + _ROWS], []))
            yield
        z, exposure, weight, known = (
            np.concatenate([getattr(p, name) for p in parts]) for name in ("z", "exposure", "weight", "known")
        )
        return Sample(z, exposure, weight, known)

    def _adopt(self, found: EndMembers | None, tested: list[Bend] | None = None) -> None:
        self.bends = tested or []
        if found is None and self.end_members is None:
            return
        self.end_members = found
        self.labels += [label for label in (found.labels if found else ()) if label not in self.labels]
        self.revision += 1

    def _named(self, corners: Corners, view: PhaseView, ids: list[int]) -> EndMembers:
        spectra = _of_unit_sum(view.spectra(corners.z))
        ends = iter(self._end_labels(spectra[corners.free]))
        numbers = [None if c is None else ids[c] for c in corners.phase]
        labels = [next(ends) if number is None else str(number) for number in numbers]
        # Phases by number, then ends.
        order = sorted(range(len(labels)), key=lambda k: (numbers[k] is None, numbers[k] or 0, labels[k]))
        return EndMembers(
            tuple(labels[k] for k in order),
            tuple(numbers[k] for k in order),
            spectra[order],
            view,
            LinearUnmixing(view.space, corners.z[order]),
        )

    def _end_labels(self, spectra: Float64) -> list[str]:
        """Labels of ends of gradients: those that the most alike had before, or new ones."""
        before = self.end_members
        kept = {} if before is None else {row: before.labels[k] for row, k in _alike(spectra, before).items()}
        unused = (f"end{k}" for k in count() if f"end{k}" not in kept.values())
        return [kept[row] if row in kept else next(unused) for row in range(len(spectra))]

    # The end

    def _fitted(self, found: EndMembers) -> Pieces[tuple[Float32, Float32]]:
        """Shares (P, M) of all positions and their errors, by counts where all of them are stored."""
        scores, noise = self._engine.score_map, self._engine.noise
        shares, errors = np.full((2, scores.n_positions, len(found.labels)), np.nan, dtype=np.float32)
        measured, fit = scores.measured, ShareFit(found.spectra)
        for first in range(0, measured.size, _FINAL_ROWS):
            part = measured[first : first + _FINAL_ROWS]
            stored = part[scores.store.complete(part)]
            left = part[~scores.store.complete(part)]
            shares[left], errors[left] = found.shares(left)
            if stored.size:
                shares[stored], errors[stored] = fit.fit(scores.store.rows(stored), noise, scores.visits[stored])
            yield
        return shares, errors

    # Thickness

    def _learnt_from(
        self, rows: Float32, nav_shape: tuple[int, ...] | None
    ) -> Pieces[tuple[Float64, tuple[bool, ...]] | None]:
        """End-members of other spectra (n, D) on the same channels, found by an engine and phases of their own."""
        if self._correction is None:
            return None
        engine = LinearEngine(len(rows), rows.shape[1], noise=POISSON)
        for first in range(0, len(rows), _ROWS):
            index = np.arange(first, min(first + _ROWS, len(rows)), dtype=np.uint32)
            engine.process(index, rows[index])
            yield
        yield from engine.finishing()
        phases = Phases(engine, self._correction.peak_width, nav_shape, self._correction.limits)
        yield from phases.finishing()
        unmixing = Unmixing(engine, phases)
        yield from unmixing.finishing()
        found = unmixing.end_members
        return None if found is None else (found.spectra, tuple(phase is not None for phase in found.phases))

    def _adopt_corrected(self, found: Corrected) -> Pieces[None]:
        """Fit shares of end-members of one thickness to all stored counts, and label them."""
        scores, engine = self._engine.score_map, self._engine
        shares, errors = np.full((2, scores.n_positions, len(found.spectra)), np.nan, dtype=np.float32)
        measured = scores.measured[scores.store.complete(scores.measured)]
        # Of like thickness at a time: what it does to the end-members is worked out once for all of them.
        order = measured[np.argsort(found.thickness[measured], kind="stable")]
        for first in range(0, order.size, _FINAL_ROWS):
            at = order[first : first + _FINAL_ROWS]
            counts, visits = scores.store.rows(at), scores.visits[at]
            shares[at], errors[at] = found.fit(counts, engine.noise, visits, found.thickness[at])
            yield
        view = self._made_of[0] if self._made_of else PhaseView.of(scores, engine.noise, engine.windows)
        if view is None:
            return
        numbers = self._numbers(shares, found.pure)
        self.end_members = None
        ends = (f"end{k}" for k in count())
        labels = tuple(next(ends) if n is None else str(n) for n in numbers)
        linear = LinearUnmixing(view.space, view.coordinates_of(found.spectra))
        self._adopt(EndMembers(labels, numbers, found.spectra, view, linear), self.bends)
        self._final = shares, errors

    def _numbers(self, shares: Float32, pure: tuple[bool, ...]) -> tuple[int | None, ...]:
        """Number of the phase that each end-member is, if one is mostly of it and it is mostly of that one."""
        label = self._phases.label
        ids = [int(i) for i in np.unique(label) if i >= 0]
        if not ids:
            return (None,) * len(pure)
        mean = np.stack([np.nan_to_num(shares[label == i]).mean(axis=0) for i in ids])
        numbers: list[int | None] = []
        for k, is_phase in enumerate(pure):
            row = int(mean[:, k].argmax())
            numbers.append(ids[row] if is_phase and int(mean[row].argmax()) == k else None)
        return tuple(numbers)


def _of_unit_sum(spectra: Float64) -> Float64:
    spectra = np.maximum(spectra, 0.0)
    return np.asarray(spectra / spectra.sum(axis=1, keepdims=True))


def _alike(spectra: Float64, before: EndMembers) -> dict[int, int]:
    """Rows of spectra of unit sum, and the end of a gradient there was that each is like."""
    old = [k for k, phase in enumerate(before.phases) if phase is None]
    # Half the absolute difference: 0 for equal spectra, 1 where they share nothing.
    unlike = 0.5 * np.abs(spectra[:, None] - before.spectra[old][None]).sum(axis=2)
    pairs = zip(*linear_sum_assignment(unlike), strict=True)
    return {int(row): old[int(column)] for row, column in pairs if unlike[row, column] < _SAME}
