"""Decisions for the controller: evidence, reason, validity, and what became of each (protocol.md, 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from streamer.config import DecisionConfig
from streamer.events import Count, Event, Notify, Publish
from streamer.wire import Control, HeaderMap, Result

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
CHECKS_IN_A_ROW = 2
ASK_AGAIN_NS = 5 * NS_PER_S

Outcome = Literal["accepted", "refused", "late", "expired"]


@dataclass(frozen=True)
class Evidence:
    """The numbers that a stop rests on.

    Parameters
    ----------
    coverage : float
        Part of the positions measured.
    angle_deg : float
        Largest principal angle between the last two bases, degrees.
    relative_error : float
        Median over positions of the expected relative error of the denoised spectrum.
    """

    coverage: float
    angle_deg: float
    relative_error: float


class StopRule:
    """Stop when the specimen is covered, the subspace has settled and the wanted error is reached.

    All conditions must hold in two checks in a row: one quiet moment of a basis that still moves is not enough.
    """

    def __init__(self) -> None:
        self._held = 0

    def check(self, evidence: Evidence, targets: DecisionConfig) -> bool:
        """Take one check; return whether the scan may stop."""
        holds = (
            evidence.coverage >= targets.stop_coverage
            and evidence.angle_deg <= targets.stop_angle_deg
            and evidence.relative_error <= targets.stop_relative_error
        )
        self._held = self._held + 1 if holds else 0
        return self._held >= CHECKS_IN_A_ROW

    @staticmethod
    def reason(evidence: Evidence) -> str:
        """Say it in a sentence for the operator."""
        return (
            f"{evidence.coverage:.0%} of the positions are measured, the subspace moved by only "
            f"{evidence.angle_deg:.1f} degrees, and the median error of a denoised spectrum is "
            f"{evidence.relative_error:.1%}: the scan has what was asked for."
        )

    @staticmethod
    def numbers(evidence: Evidence, targets: DecisionConfig) -> dict[str, Any]:
        """Give each condition with its number and its target."""
        return {
            "coverage": evidence.coverage,
            "coverage_target": targets.stop_coverage,
            "subspace_angle_deg": evidence.angle_deg,
            "subspace_angle_target_deg": targets.stop_angle_deg,
            "relative_error": evidence.relative_error,
            "relative_error_target": targets.stop_relative_error,
            "checks": CHECKS_IN_A_ROW,
        }


@dataclass
class _Open:
    params: Mapping[str, Any]
    valid_until_ns: int


@dataclass
class Ledger:
    """Every decision of a series and what the controllers answered."""

    series: str
    header: HeaderMap
    decisions: list[dict[str, Any]] = field(default_factory=list)
    _open: dict[str, _Open] = field(default_factory=dict)
    _last: dict[str, tuple[int, str]] = field(default_factory=dict)

    def may_issue(self, action: str, t_ns: int) -> bool:
        """Whether the controller can obey `action` and has not been asked, or did not take it a while ago."""
        if action not in self.header.actions:
            return False
        issued_ns, outcome = self._last.get(action, (0, "none"))
        return outcome == "none" or (outcome in {"refused", "expired"} and t_ns - issued_ns >= ASK_AGAIN_NS)

    def issue(
        self,
        action: str,
        t_ns: int,
        *,
        reason: str,
        evidence: Mapping[str, Any],
        model: int,
        config: DecisionConfig,
    ) -> list[Event]:
        """Write a decision down and send it."""
        identity = f"{self.series}/{len(self.decisions)}"
        validity_ns = int((self.header.deadline_ms or config.valid_s * 1e3) * NS_PER_MS)
        params: dict[str, Any] = {
            "decision": identity,
            "series": self.series,
            "action": action,
            "mode": config.mode,
            "issued_ns": t_ns,
            "valid_until_ns": t_ns + validity_ns,
            "reason": reason,
            "evidence": dict(evidence),
            "model": model,
            "arrays": [],
        }
        self.decisions.append({**params, "outcome": None})
        self._open[identity] = _Open(params, t_ns + validity_ns)
        self._last[action] = (t_ns, "open")
        return [
            Notify(Control("notify", identity, "decision", params)),
            self._mirror(params),
            Count("decisions", f"{action}/issued"),
        ]

    def answered(self, identity: str, t_ns: int, *, ok: bool, error: str, controller: str) -> list[Event]:
        """Take a controller's answer; the first one counts, unknown ones are ignored."""
        entry = self._open.pop(identity, None)
        if entry is None:
            return []
        late = t_ns > entry.valid_until_ns
        outcome: Outcome = "late" if late else "accepted" if ok else "refused"
        answer = {"ok": ok, "error": error, "controller": controller, "t_ns": t_ns}
        return self._settle(entry.params, outcome, answer)

    def tick(self, t_ns: int) -> list[Event]:
        """Expire what nobody answered in time."""
        events: list[Event] = []
        for identity in [i for i, e in self._open.items() if t_ns > e.valid_until_ns]:
            events += self._settle(self._open.pop(identity).params, "expired", None)
        return events

    def _settle(self, params: Mapping[str, Any], outcome: Outcome, answer: Mapping[str, Any] | None) -> list[Event]:
        for entry in self.decisions:
            if entry["decision"] == params["decision"]:
                entry["outcome"] = outcome
        self._last[params["action"]] = (params["issued_ns"], outcome)
        return [
            self._mirror(params, outcome=outcome, answer=answer),
            Count("decisions", f"{params['action']}/{outcome}"),
        ]

    def _mirror(self, params: Mapping[str, Any], **extra: Any) -> Publish:
        head = {k: v for k, v in params.items() if k != "arrays"} | extra
        return Publish(Result("decision", head))
