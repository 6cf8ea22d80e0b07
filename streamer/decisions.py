"""Decisions for the controller: reason, evidence, validity, and what became of each (protocol.md, 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamer.config_decisions import DecisionConfig
from streamer.events import Count, Event, Notify, Publish, Slack
from streamer.wire import Control, HeaderMap, Result

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
ASK_AGAIN_NS = 5 * NS_PER_S

Outcome = Literal["accepted", "refused", "late", "expired"]
_NOT_TAKEN = frozenset({"refused", "late", "expired"})


@dataclass(frozen=True)
class Proposal:
    """What is to be decided, before it is written down and sent.

    Parameters
    ----------
    action : str
    occasion : str
        What it is about: there is one decision of an action on one occasion, unless it was not taken.
    reason : str
        A sentence for the operator.
    evidence : map
        The numbers behind it.
    arrays : map of arrays
        `index` u4[m] and `dwell_s` f4[m], where the action has them.
    valid_ns : int, optional
        How long it is of use, where that is shorter than usual.
    """

    action: str
    occasion: str
    reason: str
    evidence: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    valid_ns: int | None = None


def with_arrays(
    action: str, occasion: str, reason: str, evidence: Mapping[str, Any], index: NDArray[Any], dwell_s: NDArray[Any],
    valid_ns: int | None = None,
) -> Proposal:  # fmt: skip
    """Return a proposal about positions (m,) and their dwells (m,)."""
    arrays = {"index": index.astype("<u4"), "dwell_s": dwell_s.astype("<f4")}
    return Proposal(action, occasion, reason, evidence, arrays, valid_ns)


@dataclass(frozen=True)
class Order:
    """What a controller has agreed to do."""

    action: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def by_position(self, n: int) -> NDArray[np.float64]:
        """Dwell of each of n positions."""
        out = np.zeros(n)
        np.add.at(out, self.arrays["index"], self.arrays["dwell_s"])
        return out


@dataclass
class _Open:
    params: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    occasion: tuple[str, str]
    written: dict[str, Any]


@dataclass
class Ledger:
    """Every decision of a series and what the controllers answered."""

    series: str
    header: HeaderMap
    decisions: list[dict[str, Any]] = field(default_factory=list)
    _open: dict[str, _Open] = field(default_factory=dict)
    _expired: dict[str, _Open] = field(default_factory=dict)
    _agreed: set[str] = field(default_factory=set)
    _last: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def may_issue(self, action: str, t_ns: int, occasion: str = "") -> bool:
        """Whether the controller can obey `action` and has not been asked, or did not take it a while ago."""
        if action not in self.header.actions:
            return False
        issued_ns, outcome = self._last.get((action, occasion), (0, "none"))
        return outcome == "none" or (outcome in _NOT_TAKEN and t_ns - issued_ns >= ASK_AGAIN_NS)

    def issue(self, proposal: Proposal, t_ns: int, *, model: int, config: DecisionConfig) -> list[Event]:
        """Write a decision down and send it; nothing where the controller cannot obey it, or was asked already."""
        action, occasion = proposal.action, proposal.occasion
        if not self.may_issue(action, t_ns, occasion):
            return []
        identity = f"{self.series}/{len(self.decisions)}"
        validity_ns = int((self.header.deadline_ms or config.valid_s * 1e3) * NS_PER_MS)
        if proposal.valid_ns is not None:
            validity_ns = min(validity_ns, proposal.valid_ns)
        params: dict[str, Any] = {
            "decision": identity,
            "series": self.series,
            "action": action,
            "mode": config.mode,
            "issued_ns": t_ns,
            "valid_until_ns": t_ns + validity_ns,
            "reason": proposal.reason,
            "evidence": dict(proposal.evidence),
            "model": model,
            "arrays": [],
        }
        written = {**params, "outcome": None}
        self.decisions.append(written)
        self._open[identity] = _Open(params, proposal.arrays, (action, occasion), written)
        self._last[action, occasion] = (t_ns, "open")
        return [
            Notify(Control("notify", identity, "decision", params, proposal.arrays)),
            self._mirror(params, proposal.arrays),
            Count("decisions", f"{action}/issued"),
        ]

    def answered(self, identity: str, t_ns: int, *, ok: bool, error: str, controller: str) -> tuple[Order, list[Event]]:
        """Take a controller's answer; the first one counts, unknown ones are ignored.

        One that comes when the decision has expired is told as well: what came in time but waited here counts, all
        else is late.

        Returns
        -------
        Order
            What the controller does now; empty where it was only advice, or not taken.
        list of Event
        """
        entry = self._open.pop(identity, None) or self._expired.pop(identity, None)
        if entry is None:
            return Order(), []
        slack_ns = entry.params["valid_until_ns"] - t_ns
        outcome: Outcome = "late" if slack_ns < 0 else "accepted" if ok else "refused"
        answer = {"ok": ok, "error": error, "controller": controller, "t_ns": t_ns, "slack_ms": slack_ns / NS_PER_MS}
        slack = Slack(entry.params["action"], slack_ns / NS_PER_S)
        events = [*self._settle(entry, outcome, answer), slack]
        if outcome != "accepted" or entry.params["mode"] != "enforce":
            return Order(), events
        self._agreed.add(entry.params["action"])
        return Order(entry.params["action"], entry.params["evidence"], entry.arrays), events

    def waits_for(self, action: str | None = None) -> bool:
        """Whether a decision (of this action) has no answer yet."""
        return any(action in {None, entry.params["action"]} for entry in self._open.values())

    def agreed(self, action: str) -> bool:
        """Whether the controller has taken an order of this action."""
        return action in self._agreed

    def tick(self, t_ns: int) -> list[Event]:
        """Expire what nobody answered in time."""
        return self._expire([i for i, e in self._open.items() if t_ns > e.params["valid_until_ns"]])

    def ended(self) -> list[Event]:
        """Expire what nobody has answered when the series ends: there is nothing left that could obey."""
        return self._expire(list(self._open))

    def _expire(self, identities: list[str]) -> list[Event]:
        events: list[Event] = []
        for identity in identities:
            entry = self._expired[identity] = self._open.pop(identity)
            events += self._settle(entry, "expired", None)
        return events

    def _settle(self, entry: _Open, outcome: Outcome, answer: Mapping[str, Any] | None) -> list[Event]:
        params = entry.params
        entry.written["outcome"] = outcome
        if self._last[entry.occasion][0] == params["issued_ns"]:  # it was not made again meanwhile
            self._last[entry.occasion] = (params["issued_ns"], outcome)
        return [
            self._mirror(params, {}, outcome=outcome, answer=answer),
            Count("decisions", f"{params['action']}/{outcome}"),
        ]

    def _mirror(self, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], **extra: Any) -> Publish:
        head = {k: v for k, v in params.items() if k != "arrays"} | extra
        return Publish(Result("decision", head, {name: np.asarray(array) for name, array in arrays.items()}))
