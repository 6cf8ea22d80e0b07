"""What is published because time passes or somebody listens: maps, status, denoised spectra."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamer.books import BooksDelta
from streamer.closing import Portrait
from streamer.events import Publish
from streamer.pipeline import Pipeline
from streamer.wire import Control, Result, f4
from streamer.workbench import Parts

MAPS_S: Final = 0.25
MAPS_SHARE: Final = 0.05
STATUS_S: Final = 1.0
Message = TypeVar("Message", Result, Control)
_BASES: Final = 4
"""Versions remembered for `denoised`: a batch may still speak of the one before."""


@dataclass(frozen=True)
class _Mark:
    """A point from which the rate is counted."""

    series: str | None
    processed: int
    at_s: float


class Live:
    """The worker's clockwork.

    Parameters
    ----------
    parts : Parts
    denoised_wanted : callable
    learning : callable
        How learning during the scan stands.
    """

    def __init__(
        self, parts: Parts, denoised_wanted: Callable[[], bool], learning: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._learning = learning
        self._parts, self._denoised_wanted = parts, denoised_wanted
        self._bases: dict[int, Result] = {}
        self._maps: dict[str, NDArray[Any]] = {}
        self._round: Iterator[Result | None] | None = None
        self._round_s = 0.0
        self._changed = False
        self._next_maps_s = self._next_status_s = 0.0
        self._mark = _Mark(None, 0, time.monotonic())
        self._messages = 0
        self._delta = BooksDelta()

    def begin(self, series: str) -> None:
        """Begin a series."""
        self._bases.clear()
        self._maps.clear()
        self._round = None
        self._messages = 0

    def fed(self, messages: int) -> None:
        """Note how many messages were fed, to know how many spectra one brings."""
        self._messages += messages

    def touch(self) -> None:
        """Let the maps be published again."""
        self._changed = True

    def last_basis(self) -> Publish | None:
        """Return the newest basis of the series."""
        return Publish(self._bases[max(self._bases)]) if self._bases else None

    def published(self, event: Publish) -> list[Publish]:
        """Return the event, and what follows from it for those who listen."""
        self.see(event.result)
        if event.result.topic == "denoised":
            return [event] if self._denoised_wanted() else []
        # What is said again of positions (tested anew, or by a network with its own `denoised`) is no new batch.
        if event.result.topic == "result" and event.n_spectra and self._denoised_wanted():
            return [event, *self._denoised(event.result)]
        return [event]

    def see(self, result: Result) -> None:
        """Remember what later results refer to."""
        if result.topic == "basis":
            self._bases[result.head["model"]] = result
            while len(self._bases) > _BASES:
                del self._bases[min(self._bases)]
        elif result.topic.startswith("map/") or result.topic == "endmembers":
            self._maps[result.topic] = next(iter(result.arrays.values()))
        elif result.topic == "result":
            self._changed = True
        elif result.topic == "series" and result.head["event"] == "end":
            # Its last maps came before.
            self._changed = False

    def work(self, pipeline: Pipeline, portrait: Portrait) -> None:
        """Publish maps and status where they are due."""
        now_s = time.monotonic()
        if pipeline.ending:
            # The map changes piece by piece, and comes as a whole.
            self._round = None
        elif self._round is None and self._changed and now_s >= self._next_maps_s:
            self._changed, self._round, self._round_s = False, pipeline.map_round(), 0.0
            self._next_maps_s = now_s + MAPS_S
        if self._round is not None:
            # A piece at a time: spectra that come meanwhile do not wait for all of them.
            if not self._publish_map(self._round, portrait):
                self._round = None
            self._round_s += time.monotonic() - now_s
            # Large maps come less often, so that making them never takes more than its share of the time.
            self._next_maps_s = max(self._next_maps_s, now_s + self._round_s / MAPS_SHARE)
        if now_s >= self._next_status_s:
            self.publish_status(pipeline.status(), portrait)

    @property
    def busy(self) -> bool:
        """Whether a round of maps has been begun and not finished."""
        return self._round is not None

    def recovering(self, status: Mapping[str, Any], *, at_once: bool = False) -> None:
        """Publish the status of a recovery where it is due."""
        if at_once or time.monotonic() >= self._next_status_s:
            self._next_status_s = time.monotonic() + STATUS_S
            self._parts.outbox.put(Publish(Result("status", {**status, **self._flow(status)})))

    def final(self, pipeline: Pipeline, portrait: Portrait) -> None:
        """Publish maps and status once more."""
        maps = pipeline.map_round()
        while self._publish_map(maps, portrait):
            pass
        self.publish_status({**pipeline.status(), "state": "stopped"}, portrait)

    def publish_status(self, status: Mapping[str, Any], portrait: Portrait) -> None:
        """Publish a status with what only the engine knows."""
        self._next_status_s = time.monotonic() + STATUS_S
        self.count(status, status["series"])
        is_open = status["state"] != "idle" and status["series"] is not None
        missing = sum(status["lost"].values()) if is_open else 0
        self._parts.metrics.series(status["model"], status["rank"], missing, is_open=is_open)
        full = {**status, **self._flow(status)}
        portrait.status = full
        self._parts.outbox.put(Publish(Result("status", full)))

    def count(self, books: Mapping[str, Any], series: str | None, *, before: bool = False) -> None:
        """Bring the metrics up to the books; `before` takes them as counted by an earlier process."""
        received, processed = self._delta.take(series, books)
        if not before:
            self._parts.metrics.spectra(received, processed)

    def _publish_map(self, maps: Iterator[Result | None], portrait: Portrait) -> bool:
        """Go on with a round: publish the next map if it differs from what was published of it; False at the end."""
        with self._parts.timings.stage("maps"):
            try:
                made = next(maps)
            except StopIteration:
                return False
            if made is None:
                return True
            result = own(made)
            array = next(iter(result.arrays.values()))
            before = self._maps.get(result.topic)
            if before is None or not _same(before, array):
                self._maps[result.topic] = array
                portrait.see(result)
                self._parts.outbox.put(Publish(result))
            return True

    def _denoised(self, result: Result) -> list[Publish]:
        basis = self._bases.get(result.head["model"])
        if basis is None:
            return []
        denoised = basis.arrays["mean"] + result.arrays["scores"] @ basis.arrays["eigenspectra"]
        head = {k: result.head[k] for k in ("series", "model")} | {"kind": "pca"}
        return [Publish(Result("denoised", head, {"index": result.arrays["index"], "denoised": f4(denoised)}))]

    def _flow(self, status: Mapping[str, Any]) -> dict[str, Any]:
        """Return in_flight (spectra that came and are not processed), rate_hz, lag_ms and level."""
        now_s, depth = time.monotonic(), self._parts.inbox.depth()
        mark, series, processed = self._mark, status["series"], int(status["processed"])
        self._mark = _Mark(series, processed, now_s)
        done = processed - (mark.processed if series == mark.series else 0)
        per_message = int(status["received"]) / self._messages if self._messages else 1.0
        return {
            "in_flight": max(0, int(status["received"]) - processed) + round(depth.messages * per_message),
            "rate_hz": max(0, done) / max(now_s - mark.at_s, 1e-3),
            "lag_ms": 1e3 * depth.age_s,
            "level": 0,
            "learning": self._learning(),
        }


def own(message: Message) -> Message:
    """Return a result or answer with arrays of its own: it is sent, and read, while the worker goes on."""
    return replace(message, arrays={name: array.copy() for name, array in message.arrays.items()})


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two maps are equal bit for bit (NaN included)."""
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))
