"""What goes into the pipeline, in one order: messages, and everything that a clock or a person decided.

A recording is the list of these items of one series; feeding it again gives the same results bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamer.wire.codec import Part


@dataclass(frozen=True)
class Arrived:
    """A message from the instrument.

    Parameters
    ----------
    t_ns : int
        When it was received, Unix nanoseconds.
    parts : sequence of bytes-like
    peer : str
        Host it came from, empty if not known.
    replayed : bool
        It was asked for.
    """

    t_ns: int
    parts: Sequence[Part]
    peer: str = ""
    replayed: bool = False


@dataclass(frozen=True)
class Tick:
    """A batch boundary: what has arrived is processed now."""

    t_ns: int


@dataclass(frozen=True)
class Idle:
    """Nothing is waiting: one bounded piece of background work may be done."""

    t_ns: int


@dataclass(frozen=True)
class Denoise:
    """Nothing is waiting: a network may look at so many of the positions that it has not seen."""

    t_ns: int
    rows: int


@dataclass(frozen=True)
class NewNetwork:
    """A network for a series, whole, so that a recording does not depend on files.

    Parameters
    ----------
    t_ns : int
    series : str
    card : str
        Its model card, JSON.
    precision : str
        fp32 or int8, as was measured to be better.
    device : str
        auto, cpu or cuda.
    parts : sequence of bytes-like
        One: the ONNX file.
    learnt : bool
        It learnt from this scan, and has to prove itself first.
    """

    t_ns: int
    series: str
    card: str
    precision: str
    device: str
    parts: Sequence[Part]
    learnt: bool = False


@dataclass(frozen=True)
class Overflow:
    """The inbox was full and a message of `n` spectra was dropped."""

    t_ns: int
    series: str | None
    frame: int
    n: int


@dataclass(frozen=True)
class ReplayDone:
    """A replay request was answered (its messages have been fed), or refused, or nobody answered."""

    t_ns: int
    id: int
    error: str | None = None


@dataclass(frozen=True)
class Resumed:
    """The streamer was started again with this series open."""

    t_ns: int


@dataclass(frozen=True)
class Change:
    """A request that changes state: `val` is settings, accept or dismiss."""

    t_ns: int
    val: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """A controller's answer to a decision."""

    t_ns: int
    decision: str
    ok: bool
    error: str = ""
    controller: str = ""


Item = Arrived | Tick | Idle | Denoise | NewNetwork | Overflow | ReplayDone | Resumed | Change | Answer
