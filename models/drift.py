"""Drift of the energy axis while a scan runs: found early, estimated with errors, told as shift or gain.

Sums of spectra go through filters that are blind to composition (`models.drift_filters`). Whether an earlier and a
later part of the scan differ in shift or gain is tested jointly (two degrees of freedom) for every split of the
stream into before and after: a generalised likelihood ratio, which unlike a CUSUM needs no size of the change
beforehand, and whose reference has an error of its own. What looks like a change is held against the composition (a
model that errs a little for a phase must not pass for drift where this phase begins) and against the rest of the
spectrum (what the model does not know yet).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.axis import Axis
from models.base import Float64
from models.calibration import Calibration
from models.drift_filters import DriftFilters
from models.drift_history import Contrast, DriftHistory
from models.noise import NoiseModel

Kind = Literal["shift", "gain", "both", "undetermined"]

_FEWEST_BEFORE = 16
_WINDOWS = np.array([1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160])
_NOT_NEEDED, _NEEDED = 4.0, 9.0
_NOT_NEEDED_SHARE, _NEEDED_SHARE = 0.02, 0.05
"""Beside so many units of chi-squared, parts of the statistic: peaks bend, so large changes are not quite linear."""
_REFINE_LONGEST = 4.0


@dataclass(frozen=True)
class DriftConfig:
    """Settings of the drift test.

    Attributes
    ----------
    segment : int
        Spectra that are summed before they are tested, at least.
    threshold : float
        Test statistic (chi-squared of two degrees of freedom, the largest over all splits) from which on there is
        drift. In 2.7 million simulated spectra without drift the largest was 30.4.
    """

    segment: int = 64
    threshold: float = 32.0


@dataclass(frozen=True)
class Drift:
    """Drift since the scan began, and the test that found its last change.

    Attributes
    ----------
    calibration : Calibration
        Shift and gain to be corrected; what is not needed to explain the change is left out.
    shift, gain, shift_error, gain_error : float
        Both estimated together, axis units and parts, with standard errors.
    kind : {'shift', 'gain', 'both', 'undetermined'}
        What the last change is: one alone explains it where the other is not needed.
    statistic : float
        Test statistic of the last change.
    n_spectra : int
        Spectra since the last change.
    """

    calibration: Calibration
    shift: float
    gain: float
    shift_error: float
    gain_error: float
    kind: Kind
    statistic: float
    n_spectra: int


class DriftMonitor:
    """Watches a stream of summed spectra for changes of shift and gain.

    Spectra come in as they are to be modelled: what `calibration` says may have been taken out of them (`restored` in
    `models.calibration`) or not. Deterministic: no clock, no random number.

    Parameters
    ----------
    axis : Axis
    noise : NoiseModel
    config : DriftConfig, optional
    """

    def __init__(self, axis: Axis, noise: NoiseModel, config: DriftConfig | None = None) -> None:
        self.config = config or DriftConfig()
        self._axis, self._noise = axis, noise
        self._history = DriftHistory(axis.size)
        self._ready = False
        self._sum: Float64 = np.zeros(axis.size)
        self._n_waiting = 0
        self._undone = Calibration()
        self._drift: Drift | None = None
        self._before = _Level(np.zeros(2), np.zeros(2), np.zeros((2, 2)))
        self._now = self._before
        self._refine_at = np.inf

    @property
    def calibration(self) -> Calibration:
        """Shift and gain as far as they are known; nominal before any drift was found."""
        return Calibration() if self._drift is None else self._drift.calibration

    def rebase(
        self,
        eigenspectra: NDArray[np.floating],
        total: Float64,
        n_spectra: float,
        learnt: Float64 | None = None,
    ) -> None:
        """Take a new basis.

        Parameters
        ----------
        eigenspectra : ndarray, (K, D)
            In counts.
        total : ndarray, (D,)
            Sum of all `n_spectra` visits so far.
        learnt : ndarray, (K, K), optional
            What the eigenspectra were learnt from: the sum over spectra of the outer product of their scores (without
            noise) over their exposure. Where it is not told, each composition has to be seen before it is tested.
        """
        k = len(eigenspectra)
        self._ready = k > 0 and bool(np.any(total > 0))
        if self._ready:
            filters = DriftFilters.build(eigenspectra, total, n_spectra, self._axis, self._noise)
            self._history.reread(filters, np.zeros((k, k)) if learnt is None else learnt)

    def add(self, summed: Float64, n_spectra: int, undone: Calibration | None = None) -> Drift | None:
        """Take the summed counts (D,) of some visits; return the drift where it was found or is known better now.

        Parameters
        ----------
        undone : Calibration, optional
            What was taken out of these spectra before.
        """
        undone = undone or Calibration()
        if undone != self._undone:
            self._close()
            self._undone = undone
        self._sum += summed
        self._n_waiting += n_spectra
        if self._n_waiting < self.config.segment:
            return None
        self._close()
        return self._check() if self._ready else None

    def _close(self) -> None:
        if self._n_waiting:
            undone = np.array([self._undone.shift, self._undone.gain])
            self._history.add(self._sum, self._n_waiting, undone)
            self._sum, self._n_waiting = np.zeros(self._axis.size), 0

    def _check(self) -> Drift | None:
        history = self._history
        splits = history.size - _WINDOWS
        splits = splits[splits >= history.era + _FEWEST_BEFORE]
        if splits.size:
            split, statistic = history.best_split(splits)
            if statistic >= self.config.threshold:
                contrast = history.contrast(history.era, split)
                if contrast is not None and contrast.statistic >= self.config.threshold:
                    return self._changed(split, contrast)
        return self._refined()

    def _changed(self, split: int, contrast: Contrast) -> Drift:
        self._history.begin_era(split)
        self._before = self._now
        return self._told(contrast)

    def _refined(self) -> Drift | None:
        """Estimate the last change again whenever twice as many spectra have come since."""
        history = self._history
        since = history.n_spectra(history.era, history.size)
        if self._drift is None or since < self._refine_at:
            return None
        if since > _REFINE_LONGEST * history.n_spectra(0, history.era):
            self._refine_at = np.inf
            return None
        contrast = history.contrast(0, history.era)
        return None if contrast is None else self._told(contrast)

    def _told(self, contrast: Contrast) -> Drift:
        history = self._history
        since = history.n_spectra(history.era, history.size)
        self._refine_at = 2 * since
        kind, change = _kind(contrast)
        self._now = self._before.plus(change, *contrast.estimate())
        (shift, gain), errors = self._now.joint, np.sqrt(np.diag(self._now.covariance))
        calibration = Calibration(*self._now.needed.tolist())
        self._drift = Drift(
            calibration, float(shift), float(gain), float(errors[0]), float(errors[1]), kind, contrast.statistic,
            int(since),
        )  # fmt: skip
        return self._drift


@dataclass(frozen=True)
class _Level:
    """Shift and gain since the scan began, (2,): what is needed of them, both estimated together, and covariance."""

    needed: Float64
    joint: Float64
    covariance: Float64

    def plus(self, needed: Float64, joint: Float64, covariance: Float64) -> _Level:
        return _Level(self.needed + needed, self.joint + joint, self.covariance + covariance)


def _kind(contrast: Contrast) -> tuple[Kind, Float64]:
    """Whether shift or gain alone explains a change while the other does not, and what is then needed, (2,)."""
    (shift, left_by_shift), (gain, left_by_gain) = contrast.alone(0), contrast.alone(1)
    not_needed = max(_NOT_NEEDED, _NOT_NEEDED_SHARE * contrast.statistic)
    needed = max(_NEEDED, _NEEDED_SHARE * contrast.statistic)
    if left_by_shift < not_needed and left_by_gain > needed:
        return "shift", np.array([shift, 0.0])
    if left_by_gain < not_needed and left_by_shift > needed:
        return "gain", np.array([0.0, gain])
    both = min(left_by_shift, left_by_gain) > needed
    return "both" if both else "undetermined", contrast.estimate()[0]
