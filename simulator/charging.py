"""A specimen that charges up: the image jumps when charge builds up or breaks through, and creeps back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FORGOTTEN = 40.0
"""A jump is nothing any more after so many decay times: exp(-40) is below the precision of a float."""


class Charging:
    """Sudden jumps at random times, each of which decays exponentially; times must not go back.

    Parameters
    ----------
    per_s : float
        Mean rate of jumps (a Poisson process).
    sigmas : f8[k]
        Standard deviation of a jump in each of k quantities; a jump is normally distributed.
    decay_s : float
        Time after which a jump is down to 1/e.
    seed : int
    """

    def __init__(self, per_s: float, sigmas: Floats, decay_s: float, seed: int) -> None:
        self._wait_s, self._sigmas, self._decay_s = 1 / per_s, sigmas, decay_s
        self._rng = np.random.Generator(np.random.Philox([seed, 2]))
        # Jumps that still matter, and the one that comes next: what is drawn does not depend on how time is cut.
        self._times_s = np.array([self._rng.exponential(self._wait_s)])
        self._jumps = self._jump()

    def at(self, t_s: Floats) -> Floats:
        """Return the displacement at times f8[n], rising, as f8[n, k]."""
        while self._times_s[-1] <= t_s[-1]:
            self._times_s = np.append(self._times_s, self._times_s[-1] + self._rng.exponential(self._wait_s))
            self._jumps = np.concatenate([self._jumps, self._jump()])
        matters = self._times_s > t_s[0] - FORGOTTEN * self._decay_s
        self._times_s, self._jumps = self._times_s[matters], self._jumps[matters]
        since_s = t_s[:, None] - self._times_s
        left = np.where(since_s >= 0, np.exp(-np.maximum(since_s, 0) / self._decay_s), 0.0)
        return np.asarray(left @ self._jumps)

    def _jump(self) -> Floats:
        return self._rng.normal(0.0, self._sigmas)[None, :]
