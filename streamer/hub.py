"""What was published last, who wants what, and the running number of each topic. No socket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from streamer.wire import Part, Result, encode_result

SUBSCRIBE = 1
_KEPT = frozenset({"series", "basis", "status", "endmembers"})


class Hub:
    """The XPUB's memory.

    Parameters
    ----------
    boot : str
        Name of this process, in every header.
    """

    def __init__(self, boot: str) -> None:
        self.boot = boot
        self._seq: Counter[str] = Counter()
        self._last: dict[str, list[Part]] = {}
        self._wanted: Counter[bytes] = Counter()
        self.denoised_wanted = False

    def publish(self, result: Result, t_ns: int) -> list[Part]:
        """Number and encode a result; keep it where late subscribers get it.

        A new series' `series` start forgets what was kept of the one before: its maps are of other positions.
        """
        topic = result.topic
        parts = encode_result(result, boot=self.boot, seq=self._seq[topic], t_ns=t_ns)
        self._seq[topic] += 1
        if topic == "series" and result.head.get("event") == "start":
            self._last = {k: v for k, v in self._last.items() if k == "status"}
        if topic in _KEPT or topic.startswith("map/"):
            self._last[topic] = parts
        return parts

    def subscription(self, message: bytes) -> bytes | None:
        """Take one message read from an XPUB in verboser mode; return the prefix that was subscribed to, if any."""
        if not message or message[0] > SUBSCRIBE:
            return None
        prefix, new = message[1:], message[0] == SUBSCRIBE
        self._wanted[prefix] += 1 if new else -1
        if self._wanted[prefix] <= 0:
            del self._wanted[prefix]
        self.denoised_wanted = self.wants("denoised")  # read by the worker, which must not walk the counter
        return prefix if new else None

    def wants(self, topic: str) -> bool:
        """Whether anybody is subscribed to `topic`."""
        encoded = topic.encode()
        return any(encoded.startswith(prefix) for prefix in self._wanted)

    def last(self, prefixes: Iterable[bytes]) -> list[Sequence[Part]]:
        """Return the kept messages that match any of `prefixes`: series, basis, status, end-members, then maps."""
        wanted = tuple(prefixes)
        first = [t for t in ("series", "basis", "status", "endmembers") if t in self._last]
        topics = first + [t for t in self._last if t not in _KEPT]
        return [self._last[t] for t in topics if t.encode().startswith(wanted)]
