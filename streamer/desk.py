"""What is answered without the worker: who is there, how it goes; everything else is handed on. No socket."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from streamer.inbox import Inbox
from streamer.outbox import Client, Request
from streamer.wire import Control
from streamer.wire.items import Answer
from streamer.wire.results import VERSION

MOST_CONTROLLERS: Final = 64
FOR_THE_WORKER: Final = ("snapshot", "basis", "spectrum", "window", "settings", "accept", "dismiss")
ROLES: Final = ("controller", "viewer")


class Desk:
    """Takes each control message as it comes in.

    Parameters
    ----------
    boot : str
    inbox : Inbox
        Requests and answers to decisions go there.
    """

    def __init__(self, boot: str, inbox: Inbox) -> None:
        self._boot, self._inbox = boot, inbox
        self.status: Mapping[str, Any] = {}
        self.controllers: dict[Client, str] = {}

    def take(self, client: Client, message: Control) -> Control | None:
        """Return the answer, or None where the worker will give it or none is due."""
        if message.msg == "cmd":
            return self._command(client, message)
        if message.msg in {"ack", "nack"} and message.val == "decision":
            self._decision_answered(client, message)
        return None

    def gone(self, client: Client) -> None:
        """Forget a client that cannot be reached."""
        self.controllers.pop(client, None)

    def _command(self, client: Client, message: Control) -> Control | None:
        if message.val == "hello":
            return self._hello(client, message)
        if message.val == "status":
            return self._answer(message, self.status)
        if message.val not in FOR_THE_WORKER:
            known = ", ".join(("hello", "status", *FOR_THE_WORKER))
            return self._refuse(message, f"unknown request {message.val[:40]!r}; known are {known}")
        if not self._inbox.request(Request(client, message)):
            return self._refuse(message, "too many requests are waiting; ask again")
        return None

    def _hello(self, client: Client, message: Control) -> Control:
        role, name = message.params.get("role"), str(message.params.get("name", ""))[:80]
        if role not in ROLES:
            return self._refuse(message, f"role must be one of {', '.join(ROLES)}")
        self.controllers.pop(client, None)
        if role == "controller":
            while len(self.controllers) >= MOST_CONTROLLERS:
                self.controllers.pop(next(iter(self.controllers)))
            self.controllers[client] = name
        return self._answer(message, {"role": role, "v": VERSION, "series": self.status.get("series")})

    def _decision_answered(self, client: Client, message: Control) -> None:
        decision, error = message.params.get("decision"), message.params.get("error", "")
        if isinstance(decision, str):
            name = self.controllers.get(client, "")
            ok = message.msg == "ack"
            self._inbox.push([Answer(time.time_ns(), decision, ok, "" if ok else str(error)[:500], name)])

    def _answer(self, message: Control, params: Mapping[str, Any]) -> Control:
        return Control("ack", message.id, message.val, {**params, "boot": self._boot})

    def _refuse(self, message: Control, error: str) -> Control:
        return Control("nack", message.id, message.val, {"error": error, "boot": self._boot})
