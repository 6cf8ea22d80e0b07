"""A network that learnt during the scan: its trial against the one in use, its promotion, and its rollback."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.inference import TrainedNetwork
from models.linear import LinearEngine
from models.reservoir import draw, judges
from models.trial import Trial
from streamer.events import Count, Event, Log

_JUDGED: Final = 256
_RUNS: Final = 4
"""Each spectrum of a trial is denoised by two networks in two halves."""
_WATCHED: Final = 3


class Succession:
    """Who follows whom.

    Parameters
    ----------
    series : str
    """

    def __init__(self, series: str) -> None:
        self._series = series
        self._trial: Trial | None = None
        self._judged: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._watch: Trial | None = None
        self._passed = 0
        self.promoted = self.rejected = self.rolled_back = 0

    @property
    def waiting(self) -> int:
        """What the trial has to do, in spectra that a network denoises."""
        return _RUNS * self._judged.size

    @property
    def watching(self) -> bool:
        """Whether a promoted network may still have to give its place back."""
        return self._watch is not None

    def challenge(
        self, champion: TrainedNetwork, challenger: TrainedNetwork, engine: LinearEngine, label: NDArray[Any] | None
    ) -> None:
        """Begin a trial; one that is not over is forgotten."""
        seed = 1 + self.promoted + self.rejected
        self._trial = Trial(champion, challenger, seed, _JUDGED)
        self._judged = draw(engine, label, _JUDGED, judged=True, seed=seed)

    def work(self, engine: LinearEngine, rows: int) -> int:
        """Go on with the trial, for the time that so many spectra take; return what was used of it."""
        if self._trial is None or not self._judged.size:
            return 0
        now = max(1, rows // _RUNS)
        self._trial.judge(engine, self._judged[:now])
        done, self._judged = min(now, self._judged.size), self._judged[now:]
        return _RUNS * done

    def verdict(self) -> tuple[TrainedNetwork | None, list[Event]]:
        """Return the network that takes over, if one does, and what is to be told; only at the end of a trial."""
        trial = self._trial
        if trial is None or self._judged.size:
            return None, []
        self._trial = None
        told = f"its error on {trial.n} spectra kept aside is lower by {_with_error(trial)} of that of raw counts"
        name = repr(trial.challenger.card.name)
        if not trial.is_better:
            self.rejected += 1
            text = f"network {name} learnt from series {self._series!r} and is not promoted: {told}"
            return None, [Log("info", "learnt", text), Count("learnt", "rejected")]
        self.promoted += 1
        self._watch = Trial(trial.champion, trial.challenger, self.promoted)
        text = f"network {name} learnt from series {self._series!r} and is promoted: {told}"
        return trial.challenger, [Log("info", "learnt", text), Count("learnt", "promoted")]

    def watch(self, engine: LinearEngine, index: NDArray[Any]) -> tuple[TrainedNetwork | None, list[Event]]:
        """Compare a promoted network with its predecessor on further positions; return this one if it was better."""
        if self._watch is None:
            return None, []
        kept = index[judges(index)]
        chosen = kept[(np.arange(kept.size) + self._passed) % _WATCHED == 0]
        self._passed += kept.size
        self._watch.judge(engine, chosen)
        if not self._watch.is_worse:
            return None, []
        watch, self._watch = self._watch, None
        self.rolled_back += 1
        text = (
            f"network {watch.challenger.card.name!r} gives its place back: its error is higher by {_with_error(watch)}"
        )
        return watch.champion, [Log("warning", "learnt", text), Count("learnt", "rolled_back")]

    def status(self) -> dict[str, Any]:
        """What the status says."""
        return {"promoted": self.promoted, "rejected": self.rejected, "rolled_back": self.rolled_back}


def _with_error(trial: Trial) -> str:
    return f"{abs(trial.mean) if trial.is_worse else trial.mean:.3g} +- {trial.standard_error:.2g}"
