"""Whether a scan may stop: what it rests on, gathered from the model while the scan runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.axis import Axis
from models.base import Float64
from models.certainty import FinishedMap, finished_map, phase_errors, swayed
from models.foresight import FACTOR_ERROR, Foresight
from models.half_dose import HalfDose
from models.linear import LinearEngine
from models.phases import Phases
from models.pooled import pooled_contrast
from models.rank import smallest_visible_phase_px
from models.sampling import Inpainted
from models.stopping import (
    UNMEASURED,
    Condition,
    InARow,
    conditions,
    error_slope,
    independent_positions,
    misclassified_area,
    positions_to_see_one,
    unseen_area,
)
from streamer.config import PipelineConfig
from streamer.decisions import Proposal

_SAMPLE = 4096
_NEARLY = 0.9
_SLOPE_OVER = _SLOPE_FROM = 0.25
_SIGNAL_SHARE = 0.25
_FEW = 2
"""Conditions that are looked at as long as much is unmeasured."""
_POOLS_AHEAD = 0.25
_OPEN, _EVEN = 0.1, 0.5
_WAITING = 0.05
"""Part of the area that may be without labels as it has only just been measured."""
_WORDS = {
    "unmeasured_area": "{0:.1%} of the planned positions are not measured",
    "relative_error": "the median error of a denoised spectrum is {0:.1%}",
    "misclassified_area": "at most {0:.2%} of the area is called by a wrong phase",
    "error_slope_per_pass": "another pass would lower the error by {0:.2%}",
    "half_dose_angle_deg": "the model has turned by {0:.1f} degrees since half of the dose",
    "unseen_area": "a phase that was not seen has at most {0:.2%} of the area",
    "open_anomalies": "{0:.0f} anomalies that are hardly chance were seen only once",
}


@dataclass(frozen=True)
class Dose:
    """How much a scan has had.

    Attributes
    ----------
    dwell_s : ndarray, (P,)
        Of each position so far.
    committed_s : ndarray, (P,)
        The same at the end of the pass, as it is planned.
    planned_s : float or None
        Planned dwell of a position and pass.
    passes : int
        Passes planned.
    planned : int
        Positions planned to be measured.
    """

    dwell_s: Float64
    committed_s: Float64
    planned_s: float | None
    passes: int
    planned: int

    @property
    def total_s(self) -> float:
        """Dwell of all positions together."""
        return float(np.nansum(self.dwell_s))


class StopEvidence:
    """Gathers what a stop rests on; all conditions must hold in two checks in a row.

    Parameters
    ----------
    engine : LinearEngine
    phases : Phases, optional
    axis : Axis
    grid : tuple of int, optional
        Of the positions; None where they are none.
    """

    def __init__(
        self, engine: LinearEngine, phases: Phases | None, axis: Axis, grid: tuple[int, int] | None = None,
        *, is_sparse: bool = False,
    ) -> None:  # fmt: skip
        self._engine, self._phases, self._axis, self._grid = engine, phases, axis, grid
        # Few positions have neighbours that were measured, and what is guessed from their labels is far from finished.
        self._context = None if is_sparse else grid
        self._half, self._foresight = HalfDose(), Foresight()
        self._in_a_row = InARow()
        self._errors: list[tuple[float, float]] = []
        self._checked_rank = self._checked_visits = 0
        self.latest: list[Condition] = []

    def note(self) -> FinishedMap | None:
        """Remember the version that is in force, and the phase map; return that where it had to be foreseen."""
        published, dose = self._engine.score_map.published, float(self._engine.totals.sum())
        if published is not None:
            self._half.note(dose, published)
        if self._phases is None or not self._foresight.wants(dose):
            return None
        finished = finished_map(self._phases, self._engine, self._context)
        self._foresight.note(dose, *finished)
        return finished

    def check(
        self, config: PipelineConfig, dose: Dose, guess: Inpainted | None, finished: FinishedMap | None = None
    ) -> Proposal | None:
        """Look at all conditions; return a stop where they hold for the second time.

        Parameters
        ----------
        guess : Inpainted, optional
            Of a scan that does not measure all positions: what the others are.
        finished : FinishedMap, optional
            As `note` has just foreseen it: once is enough.
        """
        limit = self._limit(config, dose)
        self.latest = self.conditions(config, dose, guess, finished)
        self._checked_rank, self._checked_visits = self._rank, self._engine.score_map.n_visits
        met = self._in_a_row.check(self.latest if len(self.latest) > _FEW else [])
        if limit is not None:
            return Proposal("stop", "", limit, self.numbers())
        return Proposal("stop", "", self.reason(), self.numbers()) if met else None

    @property
    def visits_since(self) -> int:
        """Visits since the last check."""
        return self._engine.score_map.n_visits - self._checked_visits

    def may_be_confirmed(self, config: PipelineConfig, planned: int, enough: int) -> bool:
        """Whether the last check was met, and so many visits have come since that another says something.

        Parameters
        ----------
        planned : int
            Positions planned to be measured.
        """
        if not self._in_a_row.wants_another or self.visits_since < enough:
            return False
        return int(np.count_nonzero(self._engine.visits)) >= config.decisions.stop_coverage * planned

    def conditions(
        self, config: PipelineConfig, dose: Dose, guess: Inpainted | None, finished: FinishedMap | None = None
    ) -> list[Condition]:
        """All conditions as they are now; few as long as much is unmeasured, for the others cost time."""
        engine, asked = self._engine, config.decisions
        measured = int(np.count_nonzero(engine.visits))
        coverage = min(1.0, measured / max(dose.planned, 1))
        found = [
            Condition(UNMEASURED, 1.0 - coverage, 1.0 - asked.stop_coverage),
            Condition("relative_error", self._relative_error(), asked.stop_relative_error),
        ]
        if coverage < _NEARLY * asked.stop_coverage or engine.basis is None:
            return found
        rest = conditions(
            asked.targets(),
            wrong_area=self._wrong_area(asked.stop_risk, guess, finished),
            slope=self._slope(dose),
            angle_deg=self._angle_deg(),
            relative_errors=self._map_errors(config.windows),
            hidden_area=self._hidden_area(asked.stop_object_px, asked.stop_risk),
            open_anomalies=self._open_anomalies(dose.passes, asked.stop_risk),
        )
        found += [c for c in rest if not (c.name == "misclassified_area" and self._phases is None)]
        if self._rank < 2 and all(c.is_met for c in found) and self._differs_in_pools(measured):
            found = [replace(c, value=float("inf")) if c.name == "misclassified_area" else c for c in found]
        return found

    def numbers(self) -> dict[str, Any]:
        """Each condition with its value, its target and what is left of it."""
        told: dict[str, Any] = {}
        for condition in self.latest:
            told[condition.name] = condition.value
            told[f"{condition.name}_target"] = condition.target
            told[f"{condition.name}_margin"] = condition.margin
        told["coverage"] = 1.0 - told.get("unmeasured_area", 1.0)
        if self._phases is not None:
            told["phases_looked_for"] = self._phases.has_looked
        return told

    def undecided(self) -> str:
        """Say of which positions the phase is not known, and why; nothing where the phase map has what is asked."""
        unmet = any(c.name == "misclassified_area" and not c.is_met for c in self.latest)
        if self._phases is None or not unmet:
            return ""
        if self._unresolved:
            return "Compositions differ, but not enough was counted to say which phases there are."
        index, error = phase_errors(self._phases, self._engine)
        mixed = self._phases.mixed[index] > _EVEN
        n, m = np.count_nonzero(error > _OPEN), np.count_nonzero((error > _OPEN) & mixed)
        of_them = f"; {m} of them are mixtures of two, of which further counts would hardly tell which is more"
        return f"The phases of {n} of {index.size} measured positions are not told{of_them if m else ''}."

    def reason(self) -> str:
        """Say it in a sentence for the operator."""
        said = [words for condition in self.latest if (words := _in_words(condition))]
        return f"The scan has what was asked for: {'; '.join(said)}."

    def _limit(self, config: PipelineConfig, dose: Dose) -> str | None:
        asked, total_s = config.decisions, dose.total_s
        if asked.stop_time_s is not None and total_s >= asked.stop_time_s:
            return f"The scan has lasted {total_s:.4g} s, and {asked.stop_time_s:.4g} s were allowed."
        measured = max(int(np.count_nonzero(self._engine.visits)), 1)
        if asked.stop_dose_s is not None and total_s / measured >= asked.stop_dose_s:
            return f"A position has had {total_s / measured:.4g} s in the mean; {asked.stop_dose_s:.4g} s were allowed."
        return None

    @property
    def _rank(self) -> int:
        """Components; groups of rare positions come and go without the model being less settled."""
        return self._engine.basis.n_components if self._engine.basis is not None else 0

    def _relative_error(self) -> float:
        engine, rank = self._engine, self._rank
        totals = engine.totals[engine.visits > 0]
        if not rank or not totals.size:
            return float("inf")
        # In whitened units a spectrum of h counts has energy h, and K components let K units of noise through.
        return float(np.sqrt(rank / max(float(np.median(totals)), 1e-9)))

    def _wrong_area(self, risk: float, guess: Inpainted | None, finished: FinishedMap | None) -> float:
        if self._phases is None:
            return 0.0
        if self._unresolved:
            return float("inf")
        phases, n = self._phases, int(np.count_nonzero(self._engine.visits))
        label, doubt = finished or finished_map(phases, self._engine, self._context)
        index, error = phase_errors(phases, self._engine, doubt)
        beyond = swayed(phases, index, error) / max(float(error.sum()), 1e-9)
        waiting = phases.waiting(index)
        error = np.where(phases.outdated(index), 1.0, error)
        if 0 < np.count_nonzero(waiting) <= _WAITING * index.size:
            # What nobody has looked at yet is called wrongly as often as the rest.
            error[waiting] = error[~waiting].mean()
        at_once = np.ones(error.size)
        if guess is not None:
            guessed = 1.0 - guess.posterior[~guess.measured].max(axis=1)
            together = guess.stands_for[guess.measured].mean()
            error, n = np.concatenate([error, guessed]), guess.distance.size
            at_once = np.concatenate([at_once, np.full(guessed.size, together)])
        dose = float(self._engine.totals.sum())
        factor = max(self._foresight.factor(dose, label, doubt), 1.0 + beyond)
        if guess is None:
            factor = max(factor, self._foresight.unchecked(dose, label))
        return misclassified_area(error, n, risk, factor, at_once, FACTOR_ERROR)[1]

    @property
    def _unresolved(self) -> bool:
        """Whether compositions differ, and nothing says yet how.

        Phases have not been looked for in what there is; or there are two components, and one phase that may not be
        wide.
        """
        phases = self._phases
        if phases is None or self._rank < 2:
            return False
        found = phases.found
        if found is None or not phases.has_looked:
            return True
        view, mixture, ids = found
        return len(ids) == 1 and not (view.likelihood.spreads and mixture.phases[0].n_wide)

    def _differs_in_pools(self, measured: int) -> bool:
        """Whether sums of neighbours differ by what four times the dose would show in single spectra as well.

        As long as all is one phase, a second one that lies in pieces of several positions is seen there first.
        """
        engine, published = self._engine, self._engine.score_map.published
        if self._phases is None or published is None:
            return False
        positions = np.flatnonzero(engine.visits)
        exposure = float(np.median(engine.score_map.exposure(positions, engine.noise)))
        strength = exposure * pooled_contrast(engine, self._grid, self._axis.peak_width_channels())
        return bool(strength > _POOLS_AHEAD * np.sqrt(published.scaling.n_effective / measured))

    def _slope(self, dose: Dose) -> float:
        """What another pass would lower the thinned error by, as it went over most of the dose."""
        found = self._engine.live_error()
        if found is None or not dose.planned_s:
            return 0.0
        passes = dose.total_s / (dose.planned_s * max(dose.planned, 1))
        if not self._errors or passes > self._errors[-1][0]:
            self._errors.append((passes, found.relative))
        self._errors = [e for e in self._errors if e[0] >= _SLOPE_FROM * passes]
        points = np.array(self._errors)
        # No pass can lower the error by more than all of it.
        return error_slope(points[:, 1], points[:, 0]) if np.ptp(points[:, 0]) >= _SLOPE_OVER else found.relative

    def _angle_deg(self) -> float:
        engine, published = self._engine, self._engine.score_map.published
        if published is None or engine.basis is None:
            return 90.0
        # A basis that has just got another component has not settled, whatever the angle of the others.
        if self._rank != self._checked_rank:
            return 90.0
        return self._half.angle_deg(float(engine.totals.sum()), published)

    def _map_errors(self, windows: dict[str, tuple[float, float]]) -> dict[str, float]:
        """Relative error of each window map: root of mean squared standard errors over that of mean squared values."""
        measured = np.flatnonzero(self._engine.visits)
        some = measured[:: max(1, measured.size // _SAMPLE)]
        found = {}
        for label, (lo, hi) in windows.items():
            channels = self._axis.channel_range(lo, hi)
            if channels[0] < channels[1] and some.size:
                values = self._engine.window(channels, some)[0].astype(np.float64)
                errors = self._engine.window_error(channels, some).astype(np.float64)
                found[label] = float(np.sqrt(np.nansum(errors**2) / max(float(np.nansum(values**2)), 1e-300)))
        return found

    def _hidden_area(self, object_px: float, risk: float) -> float:
        """Part of the area of a phase that may have been missed: not met, or met and not told from noise."""
        engine = self._engine
        measured = np.flatnonzero(engine.visits)
        n, p = max(measured.size, 1), engine.n_positions
        once, twice = self._rarely_seen()
        missed = unseen_area(independent_positions(n, object_px), once, twice, risk) * (1.0 - n / p)
        return float(max(missed, self._faint_px(measured, risk) / p))

    def _faint_px(self, measured: NDArray[np.int64], risk: float) -> float:
        """Positions of the largest phase that would be measured and still not be told from noise.

        It shares three quarters of its counts with the others. It is told where it enters the basis, or where the
        anomaly test of the finished map flags one of its positions, should the rest of its counts be one line. As long
        as all is one phase, it need not be one line.
        """
        engine, published = self._engine, self._engine.score_map.published
        if published is None or not measured.size:
            return float("inf")
        exposure = float(np.median(engine.score_map.exposure(measured, engine.noise)))
        channels = published.scaling.n_effective
        learnt = smallest_visible_phase_px(channels, measured.size, _SIGNAL_SHARE * exposure)
        if self._rank < 2:
            return learnt
        power = published.test.power(_SIGNAL_SHARE, exposure, engine.config.false_alarm)
        return min(learnt, positions_to_see_one(power, risk))

    def _rarely_seen(self) -> tuple[int, int]:
        """How many phases were seen at exactly one position, and at exactly two."""
        groups = [len(g) for g in self._engine.score_map.novelties.groups]
        sizes = groups + ([p.n_positions for p in self._phases.infos] if self._phases is not None else [])
        return sizes.count(1), sizes.count(2)

    def _open_anomalies(self, passes: int, risk: float) -> int:
        """Flagged positions that nobody has looked at again, though there would be occasion to.

        Only those that chance would hardly bring about in the whole map: at the rate of flags, many a map has one.
        """
        engine = self._engine
        if passes < 2:
            return 0
        unlikely = engine.p_value <= risk / max(int(np.count_nonzero(engine.visits)), 1)
        return int(np.count_nonzero(engine.held & (engine.visits == 1) & unlikely))


def _in_words(condition: Condition) -> str:
    kind, _, label = condition.name.partition("/")
    if label:
        return f"the map of {label} has a relative error of {condition.value:.1%} (asked: {condition.target:.1%})"
    if kind in ("open_anomalies", "unmeasured_area"):
        return _WORDS[kind].format(condition.value) if condition.value else ""
    unit = f"{condition.target:g} degrees" if kind.endswith("_deg") else f"{condition.target:.1%}"
    return f"{_WORDS[kind].format(condition.value)} (asked: {unit})"
