"""Parts of an ONNX network, cut where its tensors have names; no PyTorch.

The whole maps ``counts`` (n, D) to ``denoised`` (n, D) and ``latent`` (n, K). Dense networks also name what their first
layer gives, ``hidden`` (n, H), and what their last one gets, ``features`` (n, H); ``total`` (n, 1) are the counts.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.utils import Extractor

from models.base import Float32

COUNTS: Final = "counts"
NAMED: Final = ("total", "hidden", "latent", "sigma", "features", "denoised")
WINDOWS: Final = "windows"


def weights(model: ModelProto) -> dict[str, NDArray[Any]]:
    """Return the arrays of a network by name."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def part(model: ModelProto, inputs: list[str], outputs: list[str]) -> ModelProto:
    """Return the part of a network between named tensors.

    Raises
    ------
    ValueError
        Where the network has no such tensor.
    """
    known = {v.name for v in (*model.graph.input, *model.graph.output, *model.graph.value_info)}
    missing = [name for name in (*inputs, *outputs) if name not in known]
    if missing:
        raise ValueError(f"the network has no tensor {', '.join(missing)}")
    return Extractor(model).extract_model(inputs, outputs)


def encoder(model: ModelProto) -> ModelProto:
    """Return counts to latent (and sigma, where it has one): much cheaper than the whole."""
    has = {o.name for o in model.graph.output}
    return part(model, [COUNTS], [name for name in ("latent", "sigma") if name in has])


def decoder(model: ModelProto) -> ModelProto:
    """Return latent and total to denoised."""
    return part(model, ["latent", "total"], ["denoised"])


def after_first_layer(model: ModelProto) -> ModelProto:
    """Return hidden and total to denoised and latent: list mode sums rows of the first layer itself."""
    has = {o.name for o in model.graph.output}
    return part(model, ["hidden", "total"], [name for name in ("denoised", "latent", "sigma") if name in has])


def first_layer(model: ModelProto) -> tuple[Float32, Float32]:
    """Return weights (D, H) and bias (H,) of the first layer of a dense network.

    Raises
    ------
    ValueError
        Where the network does not begin with a dense layer.
    """
    node = _producer(model, "hidden")
    if node.op_type != "Gemm":
        raise ValueError(f"the first layer is a {node.op_type}, not dense")
    held = weights(model)
    return np.ascontiguousarray(held[node.input[1]].T), held[node.input[2]]


def window_sums(model: ModelProto, channels: list[tuple[int, int]], features: str = "features") -> ModelProto:
    """Return counts to windows (n, W): denoised counts in half-open channel ranges, exactly, at less cost.

    Where the decoder is linear (end-members) the windows are folded into the last layer; where a softplus stands
    behind it, only the rows of the channels asked for are kept.

    Parameters
    ----------
    features : str
        What the last layer gets.

    Raises
    ------
    ValueError
        Where the network does not end with a dense layer.
    """
    folded = part(model, [COUNTS], [features, "total"])
    last = _reader(model, features)
    if last.op_type not in {"Gemm", "MatMul"}:
        raise ValueError(f"the last layer is a {last.op_type}, not dense")
    held = weights(model)
    weight = held[last.input[1]] if _transposed(last) else held[last.input[1]].T  # (D, H)
    n_channels = weight.shape[0]
    inside = np.zeros((n_channels, len(channels)), dtype=np.float32)
    for column, (first, stop) in enumerate(channels):
        inside[first:stop, column] = 1.0 / n_channels
    if len(last.input) > 2:
        kept = inside.any(axis=1)
        nodes = _after_softplus(features)
        bias, mean = held[last.input[2]][kept], held["mean"][kept, None]
        arrays = {"w.weight": weight[kept], "w.bias": bias, "w.sum": inside[kept] * mean, "w.one": np.ones(1)}
    else:
        nodes = [helper.make_node("MatMul", [features, "w.sum"], ["w.share"])]
        arrays = {"w.sum": weight.T @ inside}
    nodes.append(helper.make_node("Mul", ["w.share", "total"], [WINDOWS]))
    folded.graph.node.extend(nodes)
    folded.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(a, dtype=np.float32), name) for name, a in arrays.items()
    )
    del folded.graph.output[:]
    shape: list[str | int | None] = ["n", len(channels)]
    folded.graph.output.append(helper.make_tensor_value_info(WINDOWS, TensorProto.FLOAT, shape))
    onnx.checker.check_model(folded)
    return folded


def _after_softplus(features: str) -> list[NodeProto]:
    """Nodes from the last layer's input to window sums of shares: mean * log(1 + exp(x)), as the network has it."""
    node = helper.make_node
    return [
        node("Gemm", [features, "w.weight", "w.bias"], ["w.last"], transB=1),
        node("Abs", ["w.last"], ["w.size"]),
        node("Neg", ["w.size"], ["w.minus"]),
        node("Exp", ["w.minus"], ["w.exp"]),
        node("Add", ["w.exp", "w.one"], ["w.more"]),
        node("Log", ["w.more"], ["w.log"]),
        node("Relu", ["w.last"], ["w.relu"]),
        node("Add", ["w.relu", "w.log"], ["w.relative"]),
        node("MatMul", ["w.relative", "w.sum"], ["w.share"]),
    ]


def _producer(model: ModelProto, name: str) -> NodeProto:
    return _only(name, [node for node in model.graph.node if name in node.output])


def _reader(model: ModelProto, name: str) -> NodeProto:
    return _only(name, [node for node in model.graph.node if name in node.input])


def _only(name: str, nodes: list[NodeProto]) -> NodeProto:
    if not nodes:
        raise ValueError(f"the network has no tensor {name}")
    return nodes[0]


def _transposed(node: NodeProto) -> bool:
    return any(a.name == "transB" and a.i == 1 for a in node.attribute)
