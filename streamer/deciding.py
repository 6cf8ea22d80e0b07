"""What a series decides: the evidence that its model gives, and the decisions that follow from it."""

from __future__ import annotations

import numpy as np

from models.linear import LinearEngine
from streamer.config import DecisionConfig
from streamer.decisions import Evidence, Ledger, StopRule
from streamer.events import Event
from streamer.wire import HeaderMap


class Deciding:
    """Decides for one series whenever its model has moved.

    Parameters
    ----------
    series : str
    header : HeaderMap
        Tells what the controller can do.
    """

    def __init__(self, series: str, header: HeaderMap) -> None:
        self.ledger = Ledger(series, header)
        self._stop_rule = StopRule()
        self._checked_rank = 0

    def decide(self, engine: LinearEngine, t_ns: int, targets: DecisionConfig) -> list[Event]:
        """Check the rules against the model as it is now; return what is decided."""
        evidence = self.evidence(engine)
        self._checked_rank = engine.basis.n_components if engine.basis is not None else 0
        if not self._stop_rule.check(evidence, targets) or not self.ledger.may_issue("stop", t_ns):
            return []
        return self.ledger.issue(
            "stop",
            t_ns,
            reason=StopRule.reason(evidence),
            evidence=StopRule.numbers(evidence, targets),
            model=engine.basis.version if engine.basis is not None else 0,
            config=targets,
        )

    def evidence(self, engine: LinearEngine) -> Evidence:
        """Return the numbers a stop rests on, as they are now."""
        totals, visits = engine.totals, engine.visits
        measured = visits > 0
        # Groups of rare positions come and go without the model being less settled.
        rank = engine.basis.n_components if engine.basis is not None else 0
        relative = np.inf
        if rank and measured.any():
            # In whitened units a spectrum of h counts has energy h, and K components let K units of noise through.
            relative = float(np.median(np.sqrt(rank / np.maximum(totals[measured], 1e-9))))
        # A basis that has just got another component has not settled, whatever the angle of the others.
        angle_deg = float(engine.subspace_angle_deg) if rank == self._checked_rank else 90.0
        return Evidence(float(measured.mean()), angle_deg, relative)
