"""The engine that fits a series: made from its header and the configuration."""

from __future__ import annotations

from models.axis import Axis
from models.linear import LinearEngine
from models.noise import NoiseModel
from models.prepared import make_engine
from models.steps import StepsConfig
from streamer.config import PipelineConfig
from streamer.wire import AxisMap, HeaderMap, NoiseMap


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
    known = n_positions, config.linear.linear(), _model_noise(header.noise), axis
    try:
        return make_engine(*known, config.steps.of(header.technique)), []
    except ValueError as error:
        return make_engine(*known, StepsConfig()), [f"no preprocessing: {error}"]
