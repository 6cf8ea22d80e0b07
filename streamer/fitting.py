"""The engine that fits a series: made from its header and the configuration."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from models.axis import Axis
from models.corrected import Correction
from models.known import KnownPhases
from models.linear import LinearEngine
from models.noise import NoiseModel
from models.phases import Phases
from models.prepared import PreparedEngine, make_engine
from models.steps import StepsConfig
from models.thickness import Absorption, PluralScattering, Thickness
from models.unmixing import Unmixing
from streamer.config import PipelineConfig
from streamer.wire import AbsorptionMap, AxisMap, HeaderMap, NoiseMap, ThicknessMap

_AT_ONCE = 512
_POOLED = 64


def model_axis(axis: AxisMap) -> Axis:
    """Return the wire's axis as the models take it."""
    listed = None if axis.values is None else tuple(axis.values)
    return Axis(axis.name, axis.units, axis.n_channels, axis.offset, axis.scale or 1.0, listed)


def _model_noise(noise: NoiseMap | None) -> NoiseModel | None:
    if noise is None:
        return None
    return NoiseModel(noise.model, noise.gain, noise.offset, noise.read_sigma)


def engine_of(
    n_positions: int, header: HeaderMap, axis: Axis, config: PipelineConfig
) -> tuple[LinearEngine, list[str]]:
    """Return an engine, and what the operator should know of it.

    Without preprocessing where the axis has no room for it: that is no reason to lose data.
    """
    known = n_positions, config.engine(), _model_noise(header.noise), axis
    try:
        return make_engine(*known, config.steps.of(header.technique)), []
    except ValueError as error:
        return make_engine(*known, StepsConfig()), [f"no preprocessing: {error}"]


def constituents_of(
    engine: LinearEngine, nav_shape: tuple[int, ...] | None, header: HeaderMap, axis: Axis, config: PipelineConfig
) -> tuple[Phases | None, Unmixing | None, list[str]]:
    """Return what looks for phases among the positions of an engine, and for mixtures of them, if wanted.

    And what the operator should know of it.
    """
    if not config.phases.enabled:
        return None, None, []
    width, limits, untold = axis.peak_width_channels(), config.phases.limits(), []
    phases = Phases(engine, width, nav_shape, limits, is_sparse=header.planned(engine.n_positions) < engine.n_positions)
    if not config.unmixing.enabled:
        return phases, None, []
    correction, given = None, header.thickness or config.unmixing.thickness
    if given is not None:
        try:
            modelled = engine.modelled if isinstance(engine, PreparedEngine) else axis
            correction = Correction(_thickness(given, modelled), width, nav_shape, limits)
        except ValueError as error:
            untold = [f"mixtures are not corrected for thickness: {error}"]
    return phases, Unmixing(engine, phases, correction), untold


def _thickness(given: ThicknessMap, axis: Axis) -> Thickness:
    if isinstance(given, AbsorptionMap):
        return Absorption.on(axis, given.absorber, given.take_off_deg)
    return PluralScattering.on(axis, given.plasmon_ev, given.plasmon_width_ev)


def known_of(header: HeaderMap, axis: Axis, config: PipelineConfig) -> tuple[KnownPhases | None, list[str]]:
    """Return the configured library made ready for a series, and what the operator should know of it."""
    if config.library is None:
        return None, []
    try:
        return KnownPhases(config.library, axis, header.technique), []
    except ValueError as error:
        return None, [f"no phases are named by {config.library.path}: {error}"]


def known_maps(known: KnownPhases, engine: LinearEngine) -> dict[str, NDArray[np.float64]]:
    """Return what a library says of each position's accumulated counts, by the map's name."""
    measured = np.flatnonzero(engine.visits)
    total = np.zeros(engine.n_channels)
    for _, counts in _counts(engine, measured):
        total += counts.sum(axis=0)
    return known.maps(_counts(engine, measured), total, engine.n_positions, engine.noise, engine.visits)


def name_phases(known: KnownPhases, engine: LinearEngine, phases: Phases) -> None:
    """Give each phase the name that a library has for what its surest positions have in common."""
    sure = phases.confidence * (1.0 - np.nan_to_num(phases.mixed))
    for info in phases.infos:
        mine = np.flatnonzero(phases.label == info.id)
        surest = mine[np.argsort(-sure[mine], kind="stable")[:_POOLED]]
        if not surest.size:
            continue
        total = sum(counts.sum(axis=0) for _, counts in _counts(engine, surest))
        named = known.name(np.asarray(total)[None], engine.noise, float(engine.visits[surest].sum()))
        if named and named[0].name is not None:
            phases.call(info.id, named[0].name)


def _counts(engine: LinearEngine, index: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Positions and what was measured there, some at a time."""
    for first in range(0, index.size, _AT_ONCE):
        part = index[first : first + _AT_ONCE]
        yield part, np.stack([engine.spectrum(int(i))[0] for i in part]).astype(np.float64)
