"""A network beside the linear model of one series: which positions it looks at, and what follows from it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from models.axis import Axis
from models.base import Pieces
from models.card import ModelCard
from models.inference import TrainedNetwork
from models.linear import LinearEngine
from models.prepared import PreparedEngine
from models.second_opinion import Opinion, SecondOpinion, misfit
from streamer.discovery import Discovery
from streamer.events import Count, Event, Log, Publish
from streamer.succession import Succession
from streamer.wire import Result, f4
from streamer.wire.items import NewNetwork

_AT_END, _AT_ONCE = 1 << 15, 1 << 10
_BLOCK: Final = 64
"""Spectra in one call: more would not stay in the processor's cache between two layers."""
_WATCHED: Final = 8
_LINEAR, _NETWORK = 0.0, 1.0

Build = Callable[[NewNetwork], TrainedNetwork]


def build(item: NewNetwork) -> TrainedNetwork:
    """Make a network of what a recording holds."""
    card = ModelCard.model_validate_json(item.card)
    model = onnx.load_model_from_string(bytes(item.parts[0]))
    return TrainedNetwork(model, card, rows=_BLOCK, device=item.device, precision=item.precision)  # type: ignore[arg-type]


class Denoising:
    """Queue of positions for a network, and what is known from it.

    Parameters
    ----------
    series : str
    n_positions : int
    technique : str
    discovery : Discovery
        Knows what was told of positions.
    """

    def __init__(self, series: str, n_positions: int, technique: str, discovery: Discovery) -> None:
        self._series, self._technique, self._n_positions = series, technique, n_positions
        self._opinion: SecondOpinion | None = None
        self.version = 0
        """Number of the network, from 1; 0 where there is none."""
        self._queue: deque[NDArray[Any]] = deque()
        self._queued = 0
        self._succession = Succession(series)
        self._due: NDArray[np.bool_] = np.zeros(n_positions, dtype=np.bool_)
        self._discovery, self._outside = discovery, discovery.outside
        # Not visited since the network is in use: what comes judges it, not what it was chosen by.
        self._before: NDArray[np.bool_] = np.zeros(n_positions, dtype=np.bool_)
        self._basis_version = 0
        self._channels: dict[str, tuple[int, int]] = {}
        self._windows: dict[str, NDArray[np.float32]] = {}
        self._shown = self._empty()

    def _empty(self) -> NDArray[np.float32]:
        return np.full(self._n_positions, np.nan, dtype=np.float32)

    @property
    def waiting(self) -> int:
        """Spectra that a network has to look at."""
        return self._queued + self._succession.waiting

    @property
    def promoted(self) -> int:
        """How many networks that learnt during the scan were promoted."""
        return self._succession.promoted

    @property
    def network(self) -> TrainedNetwork | None:
        """The network in use."""
        return None if self._opinion is None else self._opinion.network

    @property
    def is_idle(self) -> bool:
        """Whether there is no network."""
        return self._opinion is None

    def take(self, network: TrainedNetwork, axis: Axis, engine: LinearEngine) -> list[Event]:
        """Begin to use a network; one that does not fit is told and left out."""
        why = self.misfit(network.card, axis, engine)
        name = network.card.name
        if why is not None:
            return [Log("warning", "network", f"network {name!r} is not used for series {self._series!r}: {why}")]
        changed = self._use(network, engine)
        kind = network.card.architecture.kind
        text = f"network {name!r} ({kind}, {network.precision}, {network.device}) looks at series {self._series!r}"
        return [Log("info", "network", text), *changed]

    def _use(self, network: TrainedNetwork, engine: LinearEngine) -> list[Event]:
        self._opinion = SecondOpinion(network)
        self.version += 1
        self._before[:] = engine.visits > 0
        self._enqueue(np.flatnonzero(self._before))
        return [Count("network_version", n=self.version)]

    def challenge(self, network: TrainedNetwork, engine: LinearEngine, label: NDArray[Any] | None) -> list[Event]:
        """Let a network that learnt from the scan prove itself against the one in use."""
        if self.network is not None:
            self._succession.challenge(self.network, network, engine, label)
        return []

    def misfit(self, card: ModelCard, axis: Axis, engine: LinearEngine) -> str | None:
        """Return why a network does not fit the series, None where it does."""
        if isinstance(engine, PreparedEngine):
            return "spectra are prepared first, and it was trained on counts as they come"
        return misfit(card, self._technique, axis, engine.noise)

    def recheck(self, axis: Axis, engine: LinearEngine) -> list[Event]:
        """Take a corrected axis: the network may no longer fit."""
        if self._opinion is None:
            return []
        why = self.misfit(self._opinion.network.card, axis, engine)
        if why is None:
            return []
        name, self._opinion = self._opinion.network.card.name, None
        self._next(self._queued)
        self._succession = Succession(self._series)
        return [Log("warning", "network", f"network {name!r} is no longer used: {why}"), Count("network_version", n=0)]

    def visited(self, index: NDArray[Any]) -> None:
        """Let the network look at positions when there is time."""
        self._before[index] = False
        if self._opinion is not None:
            # One that predicts worse than the linear model is only watched, in case that changes.
            few = self._opinion.is_worse and not self._succession.watching
            self._enqueue(index[index % _WATCHED == 0] if few else index)

    def _enqueue(self, index: NDArray[Any]) -> None:
        fresh = np.unique(index[~self._due[index]])
        if fresh.size:
            self._due[fresh] = True
            self._queue.append(fresh)
            self._queued += fresh.size

    def _next(self, rows: int) -> NDArray[Any]:
        """Take up to so many positions from the queue."""
        taken: list[NDArray[Any]] = []
        while self._queue and rows > 0:
            first = self._queue.popleft()
            if first.size > rows:
                self._queue.appendleft(first[rows:])
            taken.append(first[:rows])
            rows -= taken[-1].size
        index = np.concatenate(taken) if taken else np.zeros(0, dtype=np.int64)
        self._due[index] = False
        self._queued -= index.size
        return index

    def watch(self, windows: Mapping[str, tuple[int, int]]) -> None:
        """Keep maps of these channel ranges."""
        if dict(windows) == self._channels:
            return
        self._channels = dict(windows)
        kept = {label: self._windows[label] for label in windows if label in self._windows}
        self._windows = {label: kept.get(label, self._empty()) for label in windows}

    def work(self, engine: LinearEngine, rows: int) -> list[Event]:
        """Look at up to so many positions; return what others should know of them."""
        opinion = self._opinion
        if opinion is None or engine.basis is None:
            return []
        if engine.basis.version != self._basis_version:
            # A better linear model may agree now.
            self._basis_version = engine.basis.version
            self._enqueue(np.flatnonzero(self._outside))
        rows -= self._succession.work(engine, rows)
        events = self._succeeded(engine, *self._succession.verdict())
        return events + self._look(engine, self._next(max(rows, 0)))

    def _succeeded(self, engine: LinearEngine, network: TrainedNetwork | None, told: list[Event]) -> list[Event]:
        return told if network is None else [*told, *self._use(network, engine)]

    def _look(self, engine: LinearEngine, index: NDArray[Any]) -> list[Event]:
        opinion = self._opinion
        if opinion is None:
            return []
        before = opinion.looked, opinion.outside, opinion.disagreed, opinion.spoke
        found = opinion.look(engine, index)
        if found is None:
            return []
        after = opinion.looked, opinion.outside, opinion.disagreed, opinion.spoke
        words = ("looked", "outside", "disagreed", "spoke")
        counts = [Count("network", word, b - a) for word, a, b in zip(words, before, after, strict=True) if b > a]
        self._note(found)
        events = [*self._flags(engine, found), *self._spoken(found), *counts]
        return events + self._succeeded(
            engine, *self._succession.watch(engine, found.index[~self._before[found.index]])
        )

    def _note(self, found: Opinion) -> None:
        self._shown[found.index] = np.where(found.speaks, _NETWORK, _LINEAR)
        for label, (lo, hi) in self._channels.items():
            sums = found.spectra[:, lo:hi].sum(axis=1, dtype=np.float64)
            self._windows[label][found.index] = np.where(found.speaks, sums, np.nan)

    def _flags(self, engine: LinearEngine, found: Opinion) -> Iterator[Event]:
        """Say again what is known of positions whose flag has changed."""
        changed = found.disagree | self._outside[found.index]
        self._outside[found.index] = found.disagree
        index = found.index[changed].astype(np.uint32)
        if not index.size or engine.basis is None:
            return
        arrays: dict[str, NDArray[Any]] = {
            "index": index,
            "scores": engine.scores_at(index),
            "anomaly": engine.anomaly[index],
            "flag": self._discovery.told(index),
        }
        yield Publish(Result("result", {"series": self._series, "model": engine.basis.version, **self._who()}, arrays))

    def _spoken(self, found: Opinion) -> Iterator[Event]:
        if not found.speaks.any() or self._opinion is None:
            return
        index, spectra = found.index[found.speaks].astype(np.uint32), f4(found.spectra[found.speaks])
        kind = self._opinion.network.card.architecture.kind
        head = {"series": self._series, "model": self.version, "kind": kind, **self._who()}
        yield Publish(Result("denoised", head, {"index": index, "denoised": spectra}))

    def _who(self) -> dict[str, Any]:
        return {"network": self.version}

    def finishing(self, engine: LinearEngine) -> Pieces[list[Event]]:
        """Look at what is left, at the end of the series, up to a bound; at all again where there is something to add.

        The linear model is the final one now, fitted to all counts, and what is shown has a part of it.
        """
        if self._opinion is not None and self._opinion.may_speak:
            self._opinion.judge_anew()
            self._enqueue(np.flatnonzero(engine.visits > 0))
        events, left = list[Event](), min(self.waiting, _AT_END)
        while left > 0 and self.waiting:
            rows = min(left, _AT_ONCE)
            events += self.work(engine, rows)
            left -= rows
            yield
        return events

    def maps(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Maps (P,): where the network is shown (1) and where not (0), and its windows; NaN where it has not looked."""
        if self._opinion is not None:
            yield "network", self._shown
            for label, sums in self._windows.items():
                yield f"network/{label}", sums

    def spectrum(self, engine: LinearEngine, index: int) -> NDArray[np.float32] | None:
        """What the network makes of the counts (D,) of a position; None without one."""
        if self._opinion is None:
            return None
        return self._opinion.spectrum(engine.spectrum(index)[0], int(engine.visits[index]), engine.noise)

    def status(self) -> dict[str, Any] | None:
        """What the status says of the network; None without one."""
        opinion = self._opinion
        if opinion is None:
            return None
        card, looked = opinion.network.card, max(opinion.looked, 1)
        merit, judged = opinion.merit, opinion.merit.n > 1
        return {
            "name": card.name,
            "kind": card.architecture.kind,
            "version": self.version,
            **self._succession.status(),
            "device": opinion.network.device,
            "precision": opinion.network.precision,
            "speaks": opinion.may_speak,
            "looked": opinion.looked,
            "inside": 1.0 - opinion.outside / looked,
            "shown": opinion.spoke / looked,
            "disagreements": opinion.disagreed,
            "merit": merit.median if judged else None,
            "merit_error": merit.error if judged else None,
            "weights": list(opinion.weights),
        }
