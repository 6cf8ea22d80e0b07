"""Has everything compiled and loaded before the first spectrum comes, by a small scan that nobody sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from models.base import done
from models.candidates import candidates
from models.composition import CompositionSpace
from models.noise import POISSON
from models.phase_likelihood import GaussLikelihood
from models.phase_mixture import Cloud, Mixture, Sample, evaluate
from models.share_fit import ShareFit
from streamer.config import PipelineConfig
from streamer.pipeline import Pipeline
from streamer.wire import Part, encode_events, encode_header, encode_image, encode_series_end
from streamer.wire.items import Arrived, Idle, Tick

_POSITIONS: Final = 16
_D: Final = 512
"""Enough channels that 20 counts are few among them: dense data with few counts go another way."""
_BLOCK: Final = 16
_SECOND_NS: Final = 1_000_000_000
_KINDS: Final = (
    ("uint16", 20.0),
    ("uint16", 2000.0),
    ("events", 20.0),
    ("events", 2000.0),
    ("uint8", 100.0),
    ("uint32", 2000.0),
    ("float32", 20.0),
    ("float32", 2000.0),
)
"""Types of counts, and counts in a spectrum: what is compiled and which model is used depend on both."""

_WARM: Final[set[tuple[str, float]]] = set()
"""Kinds that this process has been warmed up for."""

_TABLES: Final[list[str]] = []
"""What was looked up to have the tables of lines loaded."""

_JOINED: Final = frozenset({3, 5})
"""Messages processed together with the next: joined counts are writeable, which is another type to a compiler."""


def warm_up(in_a_hurry: Callable[[], bool] = lambda: False) -> None:
    """Feed throwaway pipelines with a scan of each kind; not again in the same process.

    Parameters
    ----------
    in_a_hurry : callable
        Asked between two kinds: with data waiting it is better to compile only what they need.
    """
    t_ns = _SECOND_NS
    for kind, mean in _KINDS:
        if (kind, mean) in _WARM:
            continue
        if in_a_hurry():
            return
        _WARM.add((kind, mean))
        pipeline = Pipeline(PipelineConfig())
        for number, parts in enumerate(_scan(kind, mean)):
            t_ns += _SECOND_NS
            pipeline.feed(Arrived(t_ns, parts))
            if number in _JOINED:
                continue
            pipeline.feed(Tick(t_ns))
            pipeline.feed(Idle(t_ns))
        pipeline.maps()
    if not _TABLES and not in_a_hurry():
        # The tables of lines take a second to load: not when the first anomaly is to be told.
        _TABLES.extend(candidates("eds", 1.0, 1.1, "keV"))
        # So small a scan has no mixtures.
        ShareFit(np.eye(2)).fit(np.ones((1, 2)), POISSON, np.ones(1))
        _three_phases()


def _three_phases() -> None:
    """Look at a spectrum that may be a mixture of three phases."""
    pairs = np.broadcast_to(np.eye(3), (4, 3, 3))
    space = CompositionSpace(np.zeros(3), np.eye(3)[:, :2], 0.0, pairs, np.zeros(3), np.eye(3))
    clouds = tuple(Cloud.of(corner, np.zeros((2, 2)), np.eye(2)) for corner in np.array([[0.0, 0], [9, 0], [0, 9]]))
    mixture = Mixture(clouds, np.ones(3), {(0, 1): 1.0}, clouds[0], 1.0)
    spectrum = Sample(np.full((1, 2), 3.0), np.full(1, 100.0), np.ones(1), np.full(1, -1))
    done(evaluate(mixture, spectrum, GaussLikelihood(space)))


def _scan(kind: str, mean: float) -> Iterator[list[Part]]:
    axis = {"name": "", "units": "", "size": _D, "offset": 0.0, "scale": 1.0}
    yield encode_header("warm", [4, 4], axis, noise={"model": "poisson"})
    channels = np.arange(_D)
    peaks = np.stack([0.2 + 5 * np.exp(-0.5 * ((channels - c) / 8) ** 2) for c in (130, 360)])
    peaks *= mean / peaks.sum(axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    counts = rng.poisson(peaks[np.arange(5 * _POSITIONS) % 2])
    for frame in range(0, len(counts), _BLOCK):
        block = counts[frame : frame + _BLOCK]
        number = 1 + frame // _BLOCK
        if kind == "events":
            offsets = np.concatenate([[0], np.cumsum(block.sum(axis=1))]).astype(np.uint32)
            listed = np.concatenate([np.repeat(channels, row) for row in block]).astype(np.uint16)
            yield encode_events("warm", number, frame, offsets, listed, _D)
        else:
            yield encode_image("warm", number, frame, block.astype(kind))
    yield encode_series_end("warm", 1 + len(counts) // _BLOCK, len(counts))
