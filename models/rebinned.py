"""A trained network on another binning of its axis: what it has of channels is its first and its last layer alone.

Counts of the other axis are shared out to the network's channels by overlap, which is linear and goes into the weights
of the first layer. The spectra that come out are read at the other channels: the mean spectrum by its cumulative sum,
which stays monotonic, what the last layer says in relation to it by splines. So the network costs what it did for each
channel, and everything else (list mode, windows, learning, recordings) knows no difference.

Only networks that see shares can be had so, for the square root of a sum is no sum of roots. Another range is another
matter: where a part of the trained axis is missing, all shares are others.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from scipy.interpolate import CubicSpline, PchipInterpolator

from models.axis import Axis
from models.base import Float64
from models.card import AxisCard, ModelCard
from models.graphs import COUNTS, NAMED, weights

_ENDS: Final = 0.02
"""Part of its range by which an axis may begin or end elsewhere than in training."""
_COARSEST, _FINEST = 2.0, 0.125
"""Width of a channel over that in training: a coarser one does not show what was learnt."""


def misfit(card: ModelCard, technique: str, axis: Axis) -> str | None:
    """Return why a network cannot be had on an axis, None where it can."""
    alike = card.misfit(technique, axis)
    if alike is None or technique != card.technique or axis.units.strip().lower() != card.axis.units.strip().lower():
        return alike
    if card.architecture.kind != "residual" or card.architecture.calibration:
        return alike
    own, other = edges(card.axis.axis()), edges(axis)
    length = own.max() - own.min()
    off = max(abs(own.min() - other.min()), abs(own.max() - other.max()))
    if off > _ENDS * length:
        units = axis.units
        ranges = [f"{e.min():.4g} to {e.max():.4g}" for e in (own, other)]
        return f"it knows {ranges[0]} {units}, the series is from {ranges[1]}"
    relative = (other.max() - other.min()) / axis.size / (length / card.axis.size)
    if not _FINEST <= relative <= _COARSEST:
        return f"channels of the series are {relative:.3g} times as wide as its own"
    return None


def rebinned(model: ModelProto, card: ModelCard, axis: Axis) -> tuple[ModelProto, ModelCard]:
    """Return a network and its card as they are on another axis.

    Raises
    ------
    ValueError
        Where that cannot be.
    """
    why = misfit(card, card.technique, axis)
    if why is not None:
        raise ValueError(f"{card.name!r} cannot be had on another axis: {why}")
    own, d, size = card.axis.axis(), card.axis.size, axis.size
    held = weights(model)
    shared = overlap(edges(own), edges(axis))
    changed = {
        "first.weight": held["first.weight"] @ shared * (d / size),
        "mean": _integrals(own, held["mean"], axis) * (size / d),
        "last.weight": _read_at(own, held["last.weight"], axis),
        "last.bias": _read_at(own, held["last.bias"], axis),
    }
    made = ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        value = held[tensor.name]
        if tensor.name in changed:
            value = changed[tensor.name]
        elif value.shape == () and value == d:
            value = np.asarray(size)  # by which shares become counts
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value, held[tensor.name].dtype), tensor.name))
    _resize(made, size)
    digest = hashlib.sha256(made.SerializeToString()).hexdigest()
    shape = card.architecture.model_copy(update={"n_channels": size})
    told = {"architecture": shape, "axis": AxisCard.of(axis), "sha256": digest}
    return made, card.model_copy(update=told)


def edges(axis: Axis) -> Float64:
    """Borders of channels (D + 1,), in the direction of the axis; the outer ones mirror their neighbours."""
    values = axis.values
    if values.size < 2:
        return np.array([values[0] - 0.5, values[0] + 0.5])
    inner = 0.5 * (values[1:] + values[:-1])
    return np.concatenate([[2 * values[0] - inner[0]], inner, [2 * values[-1] - inner[-1]]])


def overlap(own: Float64, other: Float64) -> Float64:
    """Part (D, D') of each channel with the one borders (D' + 1,) that lies in each with the other (D + 1,).

    What lies beyond the ends belongs to the outermost channel.
    """
    own_low, other_low = (np.minimum(e[1:], e[:-1]) for e in (own, other))
    own_high, other_high = (np.maximum(e[1:], e[:-1]) for e in (own, other))
    own_low[np.argmin(own_low)], own_high[np.argmax(own_high)] = -np.inf, np.inf
    shared = np.minimum(own_high[:, None], other_high) - np.maximum(own_low[:, None], other_low)
    return np.asarray(np.maximum(shared, 0.0) / (other_high - other_low))


def _integrals(own: Axis, mean: NDArray[np.float32], axis: Axis) -> Float64:
    """What a spectrum (D,) holds in each channel of another axis (D',); beyond its ends as at them."""
    borders, order = edges(own), slice(None)
    if borders[-1] < borders[0]:
        borders, order = borders[::-1], slice(None, None, -1)
    density = mean[order] / np.diff(borders)
    summed = PchipInterpolator(borders, np.concatenate([[0.0], np.cumsum(mean[order], dtype=np.float64)]))
    at = edges(axis)
    inside = np.clip(at, borders[0], borders[-1])
    beyond = (at - inside) * np.where(at < borders[0], density[0], density[-1])
    return np.asarray(np.abs(np.diff(summed(inside) + beyond)))


def _read_at(own: Axis, values: NDArray[np.float32], axis: Axis) -> Float64:
    """What is known in each channel (D, ...) at those of another axis (D', ...); beyond its ends as at them."""
    known, order = own.values, slice(None)
    if known[-1] < known[0]:
        known, order = known[::-1], slice(None, None, -1)
    return np.asarray(CubicSpline(known, values[order].astype(np.float64))(np.clip(axis.values, known[0], known[-1])))


def _resize(model: ModelProto, size: int) -> None:
    """Say how long spectra are; what the graph knows of tensors without a name is forgotten."""
    named = [v for v in model.graph.value_info if v.name in NAMED]
    del model.graph.value_info[:]
    model.graph.value_info.extend(named)
    for value in (*model.graph.input, *model.graph.output):
        if value.name in {COUNTS, "denoised"}:
            value.type.tensor_type.shape.dim[-1].dim_value = size
