"""What may go wrong under the beam: drift of the axis, damage, a signal that is gone; and what is decided then."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from models.axis import Axis
from models.base import Counts, Float64
from models.calibration import Calibration, restored
from models.damage import Damage
from models.damage_feed import DamageFeed
from models.drift import Drift
from models.drift_feed import DriftFeed
from models.drift_filters import shows_drift
from models.linear import LinearEngine
from models.phases import Phases
from streamer.config import PipelineConfig
from streamer.decisions import Proposal
from streamer.events import Event, Log

_SILENT, _SILENT_SHARE, _TELLING = 64, 0.05, 50.0
_WINDOW, _JUMP, _JUMP_SIGMA = 2000.0, 0.12, 5.0
_TOO_FAR = 0.5
_SURE = 3.0
_ASCRIBED = 0.1
"""Part of the rate of loss of one phase that may be ascribed to another."""


class Watch:
    """Watches one series.

    Parameters
    ----------
    engine : LinearEngine
    phases : Phases, optional
    axis : Axis
    config : PipelineConfig
    plain : bool
        Whether the engine takes counts as they come.
    """

    def __init__(
        self, engine: LinearEngine, phases: Phases | None, axis: Axis, config: PipelineConfig, *, plain: bool
    ) -> None:
        self._engine, self._axis = engine, axis
        plain = plain and config.linear.forget == 1.0 and not config.linear.reset_on_change
        seen = plain and config.drift.enabled and shows_drift(axis)
        self._drift = DriftFeed(engine, axis) if seen else None
        self._damage = DamageFeed(engine, phases, config.decisions.stop_loss) if plain and phases is not None else None
        self._rng = np.random.default_rng(0)
        self._undone = Calibration()
        self._silent, self._waiting = 0, np.zeros(3)
        self._newest, self._earlier = np.zeros(2), np.zeros(2)
        self._jumps: list[float] = []
        self._n_jumps = 0
        self._n_changes = 0
        self._told: set[str] = set()
        self.drift: Drift | None = None

    @property
    def lost_signal(self) -> bool:
        """Whether positions that gave counts before give none any more."""
        return self._silent >= _SILENT

    @property
    def damage(self) -> list[Damage]:
        """Phases that change, as far as is known."""
        return [] if self._damage is None else self._damage.found

    @property
    def losing(self) -> list[Damage]:
        """Those of them that lose what they had.

        Positions that are visited again because they had given little seem to grow, and so does what others turn
        into; and of a phase that lies beside a damaged one only its neighbour's part is lost. Where end-members are
        not quite pure, a little of what one loses is ascribed to the others.
        """
        fastest = max((found.rate for found in self.damage), default=0.0)
        return [
            found
            for found in self.damage
            if found.rate - _SURE * found.rate_error > (_ASCRIBED * fastest if found.rate < fastest else 0.0)
        ]

    def corrected(self, counts: Counts) -> Counts:
        """Counts (n, D) put back to where they belong."""
        return restored(counts, self._axis, self._undone, self._rng)

    def seen(self, n: float, expected: float, counted: float) -> None:
        """Note `n` visits that were expected to bring so many counts, by what their positions gave before.

        Few counts say nothing by themselves, and wait for others.
        """
        self._waiting += np.array([n, expected, counted])
        n, expected, counted = self._waiting.tolist()
        if expected < _TELLING:
            return
        self._waiting[:] = 0.0
        self._silent = self._silent + round(n) if counted < _SILENT_SHARE * expected else 0
        self._newest += np.array([expected, counted])
        if self._newest[0] >= _WINDOW:
            self._compare()

    def _compare(self) -> None:
        """Whether what is counted, of what was expected, has jumped since a moment ago, whatever is under the beam.

        Damage comes slowly, and to some phases; a detector that loses a part, or a beam that is less, at once.
        """
        (e0, c0), (e1, c1) = self._earlier, self._newest
        if e0 > 0 and c0 > 0:
            ratio = (c1 / e1) / (c0 / e0)
            sigma = ratio * float(np.sqrt(1.0 / max(c0, 1.0) + 1.0 / max(c1, 1.0) + 1.0 / e0 + 1.0 / e1))
            # Where a part is lost, some positions were counted without it before others: these then seem to gain.
            if ratio < 1.0 - max(_JUMP, _JUMP_SIGMA * sigma) or ratio > 1.0 + max(3 * _JUMP, _JUMP_SIGMA * sigma):
                self._jumps.append(ratio)
                if self._damage is not None:
                    self._damage.restart()
        self._earlier, self._newest = self._newest, np.zeros(2)

    def signal(self) -> tuple[list[Proposal], list[Event]]:
        """Say whether the signal is gone, or has jumped."""
        proposals: list[Proposal] = []
        if self.lost_signal and "signal" not in self._told:
            self._told.add("signal")
            evidence = {"silent_spectra": self._silent}
            reason = (
                f"The last {self._silent} spectra have less than {_SILENT_SHARE:.0%} of the counts of earlier visits."
            )
            proposals.append(Proposal("pause", "signal", reason, evidence))
        elif not self.lost_signal:
            self._told.discard("signal")
        for ratio in self._jumps:
            self._n_jumps += 1
            reason = f"All at once {ratio:.0%} of the usual counts come: beam, dwell or detector have changed."
            proposals.append(Proposal("pause", f"intensity/{self._n_jumps}", reason, {"intensity_ratio": ratio}))
        self._jumps = []
        return proposals, [_log(p) for p in proposals]

    def look(self, config: PipelineConfig) -> tuple[list[Proposal], list[Event]]:
        """Test what was learnt since the last look for drift."""
        found = None if self._drift is None else self._drift.look(self._undone)
        if found is None or self._drift is None:
            return [], []
        proposals = self._drifted(found)
        if config.drift.correct and self._drift.calibration != self._undone:
            self._drift.close(self._undone)
            self._undone = self._drift.calibration
        return proposals, [_log(p) for p in proposals]

    def _drifted(self, found: Drift) -> list[Proposal]:
        """What to say of drift: each change once, and again where shift or gain are known to be others by now."""
        before, self.drift = self.drift, found
        errors = np.array([found.shift_error, found.gain_error])
        step = np.array([found.calibration.shift, found.calibration.gain])
        if before is not None:
            step = step - np.array([before.calibration.shift, before.calibration.gain])
        if before is not None and not (np.abs(step) > _SURE * errors).any():
            return []
        self._n_changes += 1
        units = self._axis.units or "channels"
        evidence: dict[str, Any] = {
            "shift": found.shift, "gain": found.gain, "shift_error": found.shift_error,
            "gain_error": found.gain_error, "kind": found.kind, "statistic": found.statistic,
            "n_spectra": found.n_spectra, "corrected_shift": found.calibration.shift,
            "corrected_gain": found.calibration.gain,
        }  # fmt: skip
        reason = (
            f"The axis has moved: shift {found.shift:.3g} +- {found.shift_error:.2g} {units}, "
            f"gain {found.gain:.2g} +- {found.gain_error:.2g} ({found.kind})."
        )
        proposals = [Proposal("recalibrate", str(self._n_changes), reason, evidence)]
        middle = float(np.median(self._axis.values))
        moved = abs(float(found.calibration.recorded(np.array([middle]))[0]) - middle)
        width = self._axis.peak_width_channels() * abs(float(np.diff(self._axis.values[:2])[0]))
        if moved > _TOO_FAR * width:
            proposals.append(Proposal("pause", f"drift/{self._n_changes}", f"{reason} This is too far.", evidence))
        return proposals

    def damage_work(self, n_visits: int, dwell_s: Float64) -> Generator[None, None, None] | None:
        """Return the work of looking for damage in pieces, where that is due."""
        phases_behind = self._damage is None or not self._engine.noise.is_poisson
        if phases_behind or self._damage is None or not self._damage.is_due(n_visits):
            return None
        return self._damage.look(n_visits, dwell_s)

    def damaged(self, config: PipelineConfig, next_dose_s: float, name: Any) -> tuple[list[Proposal], list[Event]]:
        """What follows from damage that was found.

        Parameters
        ----------
        next_dose_s : float
            What a position would get next.
        name : callable
            Gives the name of a phase by its number.
        """
        proposals: list[Proposal] = []
        for found in self.losing:
            evidence = {
                "phase": name(found.phase), "statistic": found.statistic, "threshold": found.threshold,
                "dose_s": found.dose, "dose_constant_s": found.dose_constant,
                "dose_constant_error_s": found.dose_constant_error, "lost": found.lost,
                "dose_left_s": found.dose_left, "kind": found.kind,
            }  # fmt: skip
            if found.kind == "intensity":
                reason = "All phases lose intensity alike: beam or detector may have changed."
                proposals.append(Proposal("pause", "intensity", reason, evidence))
            else:
                left = f"{found.dose_left:.3g} s are left until {config.decisions.stop_loss:.0%} is lost"
                reason = (
                    f"{evidence['phase']} is damaged by the beam: {found.lost:.1%} is lost after {found.dose:.3g} s, "
                    f"dose constant {found.dose_constant:.3g} +- {found.dose_constant_error:.2g} s; {left}."
                )
                action = "stop" if found.dose_left < next_dose_s else ""
                proposals.append(Proposal(action, "damage", reason, evidence))
        logs: list[Event] = []
        for proposal in proposals:
            if proposal.occasion + str(proposal.evidence["phase"]) not in self._told:
                self._told.add(proposal.occasion + str(proposal.evidence["phase"]))
                logs.append(_log(proposal))
        return [p for p in proposals if p.action], logs

    def summary(self) -> dict[str, Any]:
        """What the status shows."""
        drift = None
        if self.drift is not None:
            drift = {
                "shift": self.drift.shift, "gain": self.drift.gain, "shift_error": self.drift.shift_error,
                "gain_error": self.drift.gain_error, "kind": self.drift.kind, "corrected": not self._undone.is_nominal,
            }  # fmt: skip
        return {"drift": drift, "damage": [_damage_told(d) for d in self.damage]}


def _damage_told(found: Damage) -> dict[str, Any]:
    return {
        "phase": found.phase, "kind": found.kind, "lost": found.lost, "dose_constant_s": found.dose_constant,
        "dose_constant_error_s": found.dose_constant_error, "dose_left_s": found.dose_left,
    }  # fmt: skip


def _log(proposal: Proposal) -> Event:
    return Log("warning", f"watch-{proposal.occasion.partition('/')[0]}", proposal.reason)
