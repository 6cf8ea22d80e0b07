"""One line for each event on stderr, and a bound on how often like ones are written."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass

FIRST = 5
SUMMARY_S = 10.0


class _Utc(logging.Formatter):
    converter = staticmethod(time.gmtime)
    default_msec_format = "%s.%03dZ"
    default_time_format = "%Y-%m-%dT%H:%M:%S"


def start_logging(level: str) -> None:
    """Write log lines to stderr."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_Utc("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[stream], force=True)
    logging.getLogger("zmq.auth").setLevel(logging.WARNING)


@dataclass
class _Kind:
    written: int = 0
    held_back: int = 0
    since_s: float = 0.0
    latest: str = ""
    level: int = logging.DEBUG


class Bounded:
    """Writes the first lines of a kind, then one summary of the rest each 10 s.

    Parameters
    ----------
    log : logging.Logger
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._kinds: dict[str, _Kind] = {}

    def write(self, level: int, kind: str, text: str, now_s: float) -> None:
        """Write a line, or keep it for the summary; `now_s` is monotonic."""
        state = self._kinds.setdefault(kind, _Kind(since_s=now_s))
        if state.written < FIRST:
            state.written += 1
            self._log.log(level, "%s", text)
            return
        state.held_back += 1
        state.latest, state.level = text, max(state.level, level)

    def summarise(self, now_s: float) -> None:
        """Write what is due; a kind that has been quiet for a period starts anew."""
        for kind, state in list(self._kinds.items()):
            if now_s - state.since_s < SUMMARY_S:
                continue
            if state.held_back:
                text = "%d more like this (%s); the latest: %s"
                self._log.log(state.level, text, state.held_back, kind, state.latest)
                state.held_back, state.since_s, state.level = 0, now_s, logging.DEBUG
            else:
                del self._kinds[kind]
