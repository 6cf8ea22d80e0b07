"""Whole scans through the linear engine, as the default daemon would feed it but without any socket."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.axis import Axis
from models.linear import LinearEngine
from models.noise import NoiseModel
from simulator.sample import Specimen
from streamer.config import PipelineConfig

BLOCK, PROMOTE_EVERY = 256, 4


def engine_for(specimen: Specimen, noise: NoiseModel | None) -> LinearEngine:
    """Return an engine with the daemon's defaults for a specimen."""
    axis = specimen.axis
    step = float(axis.values[1] - axis.values[0])
    known = Axis(axis.name, axis.units, axis.size, float(axis.values[0]), step)
    config = PipelineConfig().engine()
    return LinearEngine(specimen.n_positions, axis.size, config, noise, known)


def scanned(engine: LinearEngine, passes: list[NDArray[np.integer]]) -> LinearEngine:
    """Feed passes over all positions (P, D) block by block, with a promotion after every few and a pause at the end."""
    for counts in passes:
        for number, first in enumerate(range(0, len(counts), BLOCK)):
            index = np.arange(first, min(first + BLOCK, len(counts)), dtype=np.uint32)
            engine.process(index, counts[index])
            if number % PROMOTE_EVERY == PROMOTE_EVERY - 1:
                engine.promote()
        engine.promote()
        while engine.background():
            pass
    return engine
