"""What goes wrong between an instrument and the daemon: a bad line, a bad sender; seeded, each on its own switch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from simulator.complaints import complaint, unknown
from simulator.instrument import Outgoing
from streamer.wire import Part, pack_map
from streamer.wire.codec import unpack_map

M = TypeVar("M")
Share = Annotated[float, Field(ge=0, le=1)]


class Faults(BaseModel):
    """Shares of messages, unless said otherwise.

    Parameters
    ----------
    drop, double, reorder, cut, corrupt : float
        The line: lost, sent twice, sent after the next one, without their end, with one bit turned. The replay
        service has them as they were.
    wrong_dtype, not_a_number, negative, huge : float
        The sender: messages that contradict themselves or the header, in the replay service as well.
    no_end : bool
        The end of the series is never sent.
    clock_jump_s : float
        The sender's clock is off by this from the middle of the series on.
    stall_s : float
        The sender is dead silent for so long in the middle of the series.
    restart : bool
        In the middle of the series the sender vanishes and begins again under another name.
    two_series : bool
        From the middle of the series on a second one is sent between its messages.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    drop: Share = 0.0
    double: Share = 0.0
    reorder: Share = 0.0
    cut: Share = 0.0
    corrupt: Share = 0.0
    wrong_dtype: Share = 0.0
    not_a_number: Share = 0.0
    negative: Share = 0.0
    huge: Share = 0.0
    no_end: bool = False
    clock_jump_s: float = 0.0
    stall_s: Annotated[float, Field(ge=0)] = 0.0
    restart: bool = False
    two_series: bool = False


@dataclass(frozen=True)
class Delivery:
    """A message as the replay service keeps it, and what goes over the line, which may be nothing or twice."""

    message: Outgoing
    kept: bool
    sent: list[list[Part]]


class FaultyLine:
    """Spoils messages on their way.

    Parameters
    ----------
    faults : Faults
    seed : int
    expected : int
        Messages of the whole series, for what happens in its middle.
    """

    def __init__(self, faults: Faults, seed: int, expected: int = 0) -> None:
        self.faults = faults
        self._rng = np.random.Generator(np.random.Philox(seed))
        self._expected = expected
        self._late: list[list[Part]] = []
        self.spoiled: dict[str, int] = {}
        """How often each fault has happened."""

    def pause_s(self, message: Outgoing) -> float:
        """Return how long the sender is silent before a message."""
        if message.msg_number != max(self._expected // 2, 1) or not self.faults.stall_s:
            return 0.0
        self._count("stall_s")
        return self.faults.stall_s

    def pass_on(self, message: Outgoing) -> Delivery:
        """Return what becomes of a message."""
        kind = unpack_map(message.parts[0]).get("htype")
        if kind == "series_end" and self.faults.no_end:
            self._count("no_end")
            return Delivery(message, False, self._released([]))
        if kind in ("image", "events"):
            message = self._bad_sender(message)
        return Delivery(message, True, self._bad_line(message.parts, last=kind == "series_end"))

    def _happens(self, fault: str) -> bool:
        # Drawn for every fault and message, so that switching one on leaves the others where they were.
        happens = bool(self._rng.random() < getattr(self.faults, fault))
        if happens:
            self._count(fault)
        return happens

    def _count(self, fault: str) -> None:
        self.spoiled[fault] = self.spoiled.get(fault, 0) + 1

    def _bad_sender(self, message: Outgoing) -> Outgoing:
        head, *arrays = message.parts
        fields = unpack_map(head)
        if self.faults.clock_jump_s and message.msg_number > self._expected // 2:
            fields["t_ns"] = fields["t_ns"] + round(self.faults.clock_jump_s * 1e9)
            self._count("clock_jump_s")
        kinds = ("wrong_dtype", "huge", "not_a_number", "negative")
        # A list of events has no values that could be negative.
        for fault in kinds if fields["htype"] == "image" else kinds[:2]:
            if self._happens(fault):
                getattr(self, f"_{fault}")(fields, arrays)
        return Outgoing(message.series, message.msg_number, [pack_map(fields), *arrays], message.n_spectra)

    def _bad_line(self, parts: list[Part], last: bool) -> list[list[Part]]:
        happens = {f: self._happens(f) for f in ("cut", "corrupt", "drop", "double", "reorder")}
        if happens["cut"]:
            parts = parts[:-1] if len(parts) > 1 else [bytes(parts[0])[: len(bytes(parts[0])) // 2]]
        if happens["corrupt"]:
            parts = [*parts[:-1], self._bit_turned(parts[-1])]
        if happens["drop"]:
            return self._released([])
        sent = [parts, parts] if happens["double"] else [parts]
        if happens["reorder"] and not last:
            self._late += sent
            return []
        return self._released(sent)

    def _released(self, sent: list[list[Part]]) -> list[list[Part]]:
        """Let go what was held back, after what has just been sent."""
        late, self._late = self._late, []
        return [*sent, *late]

    def _bit_turned(self, part: Part) -> bytes:
        spoiled = bytearray(part)
        if spoiled:
            spoiled[int(self._rng.integers(len(spoiled)))] ^= 1 << int(self._rng.integers(8))
        return bytes(spoiled)

    @staticmethod
    def _wrong_dtype(fields: dict[str, Any], _arrays: list[Part]) -> None:
        fields["type"] = "complex64"

    @staticmethod
    def _huge(fields: dict[str, Any], _arrays: list[Part]) -> None:
        fields["shape"] = [1 << 40, fields["shape"][-1]]

    @staticmethod
    def _not_a_number(fields: dict[str, Any], arrays: list[Part]) -> None:
        _retyped(fields, arrays, np.float32, float("nan"))

    @staticmethod
    def _negative(fields: dict[str, Any], arrays: list[Part]) -> None:
        _retyped(fields, arrays, np.int32, -1)


def _retyped(fields: dict[str, Any], arrays: list[Part], dtype: type[np.generic], value: float) -> None:
    """Send counts in another type, with one value that they cannot have."""
    counts = np.frombuffer(arrays[0], dtype=fields["type"]).astype(dtype)
    counts[0] = value
    fields["type"] = counts.dtype.name
    fields.pop("crc32", None)
    arrays[0] = counts.tobytes()


def parse_switches(given: list[str], model: type[M]) -> M:
    """Read switches such as ``drop=0.01`` into a model; a name alone switches on what is on or off.

    Raises
    ------
    ValueError
        Naming the switch that does not exist or has a wrong value.
    """
    known = get_type_hints(model)
    values: dict[str, Any] = {}
    for switch in given:
        written, sign, value = switch.partition("=")
        name = written.strip().replace("-", "_")
        if name not in known or name == "model_config":
            raise ValueError(unknown("switch", name, sorted(set(known) - {"model_config"})))
        if not sign and known[name] is not bool:
            raise ValueError(f"{name} needs a value: {name}=...")
        values[name] = _value(value.strip()) if sign else True
    try:
        return TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        raise ValueError(complaint(error)) from error


def _value(text: str) -> Any:
    return [part.strip() for part in text.split(",")] if "," in text else text
