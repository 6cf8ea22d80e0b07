"""What every technique has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from simulator.axis import Axis

Floats = NDArray[np.float64]


class Described(BaseModel):
    """A part of a specimen file: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Phase(Described):
    """A phase by name; `expected` is false for one that nobody counts on."""

    name: str
    expected: bool = True


@dataclass(frozen=True, eq=False)
class EndMembers:
    """Expected spectra f8[M, D] of full phases, in one common unit, and what they make of the detector.

    Parameters
    ----------
    spectra : f8[M, D]
    input_rates_hz : f8[M], optional
        Photons a second that reach a detector with dead time.
    dead_time_s : float
    bleaching : f8[M, D], optional
        The part of each spectrum that light destroys.
    """

    spectra: Floats
    input_rates_hz: Floats | None = None
    dead_time_s: float = 0.0
    bleaching: Floats | None = None


class Technique(Protocol):
    """Turns a specimen file's phases and conditions into end-members."""

    name: str
    axis_name: str
    units: str

    @property
    def phase(self) -> type[Phase]:
        """Return the model of a phase in a specimen file."""
        ...

    @property
    def conditions(self) -> type[Described]:
        """Return the model of the instrument's conditions in a specimen file."""
        ...

    def endmembers(self, phases: list[Phase], conditions: Described, axis: Axis) -> EndMembers:
        """Return the expected spectrum of each phase."""
        ...

    def metadata(self, conditions: Described) -> dict[str, Any]:
        """Return the conditions in HyperSpy's names: ``signal_type``, perhaps ``Acquisition_instrument``."""
        ...
