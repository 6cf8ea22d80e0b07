"""What measuring a position on would bring: how long it takes until its phase may turn out to be another one.

The expected error of a position with error e, after further counts, is the mean over what these may be. Two phases with
Chernoff information C a second differ by d = sqrt(8 C) standard deviations of one second (near phases, Gaussian
counts). With L = log((1 - e)/e) and x = 8 C t the error of a pure position falls to

    (1 - e) Phi(-(L + x/2)/sqrt(x)) + e Phi((L - x/2)/sqrt(x)),

of a mixture of the two, whose share is known to a standard deviation that falls with the root of the dwell, after the
r-fold of its dwell so far to the mean of Phi(-|m|/sqrt(1 - q)) over normal m of mean Phi^-1(1 - e) and variance
q = r/(1 + r). Both fall slowly at first where e is small: a few counts cannot overturn what many have told. So each
position has one step that brings most a second, and a gain to be had by it; dwell is best spent in the order of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import ndtr, ndtri

from models.base import Float64

_ERRORS = np.geomspace(1e-7, 0.5, 141)
_FEWEST, _NODES = 1.0, 40
_STEPS_PURE, _STEPS_MIXED = np.geomspace(_FEWEST, 200.0, 60), np.geomspace(0.25, 8.0, 40)
_SIGMAS2 = 8.0


@dataclass(frozen=True)
class Prospects:
    """The next step of each position, in seconds of dwell, and what it is expected to lower its error by; (P,) each.

    Positions with a gain of 0 have nothing to expect.
    """

    step_s: Float64
    gain: Float64

    @classmethod
    def none(cls, n: int) -> Prospects:
        """Of n positions that have nothing to expect."""
        return cls(np.zeros(n), np.zeros(n))


def prospects(error: Float64, mixed: Float64, information: Float64, spent_s: Float64) -> Prospects:
    """Best next step of positions.

    Parameters
    ----------
    error : ndarray, (P,)
        Probability that each is called by a wrong phase; more than one half counts as that.
    mixed : ndarray, (P,)
        Probability to be a mixture.
    information : ndarray, (P,)
        Chernoff information a second of its two likeliest phases.
    spent_s : ndarray, (P,)
        Dwell so far.
    """
    able = (error > 0) & (information > 0) & (spent_s > 0)
    step_s, gain = np.zeros((2, error.size))
    e = np.log(np.clip(error[able], _ERRORS[0], _ERRORS[-1]))
    # From the one to the other in logarithms: what is mixed by half is between the two.
    share = mixed[able]
    pure, both = (_looked_up(e, table) for table in _tables())
    log_step = (1.0 - share) * (pure[0] - np.log(_SIGMAS2 * information[able]))
    log_step += share * (both[0] + np.log(spent_s[able]))
    step_s[able] = np.exp(log_step)
    gain[able] = np.minimum(np.exp((1.0 - share) * pure[1] + share * both[1]), error[able])
    return Prospects(step_s, gain)


def _looked_up(log_error: Float64, table: Float64) -> tuple[Float64, Float64]:
    at = np.log(_ERRORS)
    return np.interp(log_error, at, table[0]), np.interp(log_error, at, table[1])


@cache
def _tables() -> tuple[Float64, Float64]:
    """Logarithms of the best step and of its gain (2, E), for pure positions and for mixtures."""
    return _best(error_if_pure, _STEPS_PURE), _best(error_if_mixed, _STEPS_MIXED)


def _best(after: Callable[[Float64, Float64], Float64], steps: Float64) -> Float64:
    gain = _ERRORS[:, None] - after(_ERRORS[:, None], steps[None, :])
    best = np.argmax(gain / steps, axis=1)
    found = np.maximum(gain[np.arange(_ERRORS.size), best], 1e-6 * _ERRORS)
    return np.asarray(np.log(np.stack([steps[best], found])))


def error_if_pure(error: Float64, x: Float64) -> Float64:
    """Expected error of pure positions with this error now, after x = 8 C t more."""
    odds, root = np.log((1.0 - error) / error), np.sqrt(x)
    still = (1.0 - error) * ndtr(-(odds + x / 2) / root) + error * ndtr((odds - x / 2) / root)
    return np.asarray(still)


def error_if_mixed(error: Float64, r: Float64) -> Float64:
    """Expected error of mixtures with this error now, after the r-fold of their dwell so far more."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    known = r / (1.0 + r)
    mean = -ndtri(error)[..., None] + np.sqrt(known)[..., None] * nodes
    return np.asarray(ndtr(-np.abs(mean) / np.sqrt(1.0 - known)[..., None]) @ (weights / weights.sum()))
