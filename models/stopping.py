"""Whether a scan has what was asked for: every condition with its number, its target and the margin between them.

Pure functions of summary statistics. Probabilities are of the positions' phases, errors those that the model expects,
and half-dose comparisons rest on thinned counts, which are independent of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.stats import norm

from models.base import Float64

_CHECKS = 2
UNMEASURED = "unmeasured_area"


@dataclass(frozen=True)
class Condition:
    """One condition of a stop: met where its value is not above its target.

    Attributes
    ----------
    name : str
    value, target : float
        In the unit that the name tells; a value that is not known is infinite.
    """

    name: str
    value: float
    target: float

    @property
    def is_met(self) -> bool:
        """Whether the value is known and not above the target."""
        return bool(self.value <= self.target)

    @property
    def margin(self) -> float:
        """Part of the target that is left; negative by how much it is missed, minus infinity where nothing is known."""
        if self.value == self.target:
            return 0.0
        return float(1.0 - self.value / self.target) if self.target > 0 else -float("inf")


@dataclass(frozen=True)
class Targets:
    """What is asked for, in terms of a microscopist.

    Attributes
    ----------
    misclassified_area : float
        Part of the area that may be called by a wrong phase.
    error_slope : float
        What another pass lowers the relative error by, from which on it brings nothing.
    angle_deg : float
        Angle to the subspace of half of the dose.
    relative_error : float
        Median relative error of the wanted maps.
    unseen_area : float
        Part of the area that a phase not seen yet may have.
    risk : float
        Probability that the bound on what was not seen is wrong.
    """

    misclassified_area: float = 0.01
    error_slope: float = 0.01
    angle_deg: float = 5.0
    relative_error: float = 0.1
    unseen_area: float = 0.01
    risk: float = 0.05


def misclassified_area(
    error: Float64, n_positions: int, risk: float, factor: float = 1.0, at_once: Float64 | float = 1.0,
    factor_error: float = 0.0,
) -> tuple[float, float]:  # fmt: skip
    """Expected part of the area that is called by a wrong phase, and what it exceeds with probability `risk` only.

    Parameters
    ----------
    error : ndarray, (n,)
        Probability of each position to be called wrongly; positions that are not listed are right.
    factor : float
        Errors over those that the probabilities foresee.
    at_once : ndarray, (n,), optional
        How many positions are called wrongly together: guesses have their phase from the same measured ones.
    factor_error : float
        Standard error of the factor, as a part of it: what all positions of a map have in common, however many.
    """
    if not n_positions:
        return float("inf"), float("inf")
    expected = factor * float(error.sum(dtype=np.float64))
    chance = factor * float((error * (1.0 - error) * at_once).sum(dtype=np.float64))
    spread = np.hypot(np.sqrt(chance), factor_error * expected)
    return expected / n_positions, float(expected + norm.isf(risk) * spread) / n_positions


def error_slope(errors: Float64, passes: Float64) -> float:
    """What another pass is expected to lower the relative error by, from errors (n,) after so many passes (n,).

    By the law of counting noise through all of them: the squared error is what more counts do not change, plus a part
    that falls as one over the dose. A power law with a free exponent follows the noise of the errors instead, to zero
    as well as to twice of what it is. Infinite where they say nothing. Absolute: relative to the error itself it would
    be 1/(2 passes) whatever the specimen is, and never tell that there is enough.
    """
    known = (errors > 0) & (passes > 0)
    if np.count_nonzero(known) < 2 or not np.ptp(passes[known]) > 0:
        return float("inf")
    law = np.stack([np.ones(passes.size), 1.0 / np.where(known, passes, 1.0)], axis=1)[known]
    (lasting, falling), _ = nnls(law, errors[known] ** 2)
    now = float(passes.max())
    return float(np.sqrt(lasting + falling / now) - np.sqrt(lasting + falling / (now + 1.0)))


def unseen_area(n_independent: float, once: int, twice: int, risk: float) -> float:
    """Upper bound on the part of the area of phases that were not seen yet, wrong with probability `risk`.

    Where no phase was seen only once, the exact binomial bound 1 - risk^(1/m) after m independent positions: 3/m at
    5 %. Else the estimate of Good and Turing, once/m, with the error of Esty (Ann. Statist. 11 (1983) 905), widened
    by z^2/m each in variance and place as a score interval is, without which it is too short for few phases.

    Parameters
    ----------
    n_independent : float
        Positions that say something of their own: neighbours within one grain count as one.
    once, twice : int
        Phases seen at exactly one, and at exactly two, of them.
    """
    m = n_independent
    if m <= 0:
        return 1.0
    if once <= 0:
        return float(-np.expm1(np.log(risk) / m))
    z = float(norm.isf(risk))
    seen = min(float(once), m)
    spread = np.sqrt(seen * (1.0 - seen / m) + 2.0 * twice + z**2)
    return float(min(1.0, (seen + z * spread + z**2) / m))


def independent_positions(n: float, grain_positions: float) -> float:
    """How many positions say something of their own where a feature of interest covers `grain_positions` of them."""
    return n / max(grain_positions, 1.0)


def positions_to_see_one(power: float, risk: float) -> float:
    """How many like positions are needed for one of them to be seen, each with this probability, but for a risk."""
    if power <= 0.0:
        return float("inf")
    return 1.0 if power >= 1.0 else max(1.0, float(np.log(risk) / np.log1p(-power)))


def conditions(
    targets: Targets,
    *,
    wrong_area: float,
    slope: float,
    angle_deg: float,
    relative_errors: dict[str, float],
    hidden_area: float,
    open_anomalies: int,
) -> list[Condition]:
    """All conditions of a stop.

    Parameters
    ----------
    relative_errors : dict of str to float
        Median relative error of each wanted map.
    """
    maps = [
        Condition(f"relative_error/{name}", value, targets.relative_error) for name, value in relative_errors.items()
    ]
    return [
        Condition("misclassified_area", wrong_area, targets.misclassified_area),
        Condition("error_slope_per_pass", slope, targets.error_slope),
        Condition("half_dose_angle_deg", angle_deg, targets.angle_deg),
        *maps,
        Condition("unseen_area", hidden_area, targets.unseen_area),
        Condition("open_anomalies", float(open_anomalies), 0.0),
    ]


class InARow:
    """Whether all conditions were met in two checks in a row: a quiet moment is not enough.

    The first may come when the last few positions are still to be measured.
    """

    def __init__(self) -> None:
        self._met = 0

    @property
    def wants_another(self) -> bool:
        """Whether the last check was met, but for what was still to be measured."""
        return self._met > 0

    def check(self, found: list[Condition]) -> bool:
        """Take one check; return whether the scan may stop."""
        unmet = [c.name for c in found if not c.is_met]
        self._met = self._met + 1 if found and set(unmet) <= {UNMEASURED} else 0
        return self._met >= _CHECKS and not unmet
