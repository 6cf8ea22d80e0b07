"""From PyTorch to ONNX, and from ONNX back to PyTorch for fine-tuning. Needs PyTorch and its ONNX exporter."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from models.card import Architecture
from models.graphs import COUNTS, NAMED, weights
from models.networks import Hourglass, Network, NonNegative, Residual, Topographic, make_network

_PUBLISHED = ("denoised", "latent", "sigma")
_PREFIX = "network."


class _Named(nn.Module):
    """Gives the named tensors of a network one by one, so that the exporter names them."""

    def __init__(self, network: Network, names: list[str]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, counts: Tensor) -> tuple[Tensor, ...]:
        named = self.network.stages(counts)
        return tuple(named[name] for name in self.names)


def to_onnx(network: Network, path: Path) -> None:
    """Write a network as ONNX: input counts (n, D), outputs denoised, latent and perhaps sigma; n is dynamic.

    The tensors at which inference cuts the graph keep their names (`models.graphs`), and so do the weights.
    """
    ready = _folded(network)
    d, side = network.architecture.n_channels, network.architecture.side
    example = torch.ones((3, d) if side == 1 else (3, side**2, d))
    names = [name for name in NAMED if name in ready.stages(example)]
    model = _exported(_Named(ready, names), example, names)
    _rename(model)
    _give_biases(model, ready)
    named = {o.name: o for o in model.graph.output}
    del model.graph.output[:]
    model.graph.output.extend(named.pop(name) for name in _PUBLISHED if name in named)
    model.graph.value_info.extend(named.values())
    if network.calibration is not None:
        # In the graph they have become interpolation weights.
        said = {name: repr(p.item()) for name, p in network.named_parameters() if name.startswith("calibration.")}
        onnx.helper.set_model_props(model, said)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _exported(module: nn.Module, example: Tensor, names: list[str]) -> onnx.ModelProto:
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)  # it warns of packages that nobody needs here
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside PyTorch
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[COUNTS],
                output_names=names,
                dynamic_shapes=({0: torch.export.Dim("n")},),
                external_data=False,
            )
    finally:
        log.setLevel(before)
    if program is None:
        raise RuntimeError("PyTorch exported nothing")
    model: onnx.ModelProto = program.model_proto
    return model


def _rename(model: onnx.ModelProto) -> None:
    """Give weights the names they have in the network, and forget where the exporter had all from."""
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.removeprefix(_PREFIX)
    for node in model.graph.node:
        del node.metadata_props[:]  # where in which source file each came from
        for place, name in enumerate(node.input):
            node.input[place] = name.removeprefix(_PREFIX)
    for value in model.graph.value_info:
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]


def _give_biases(model: onnx.ModelProto, network: Network) -> None:
    """Give layers back the biases that the exporter left out because they are exactly 0.

    A network that begins as PCA has one; what is learnt later needs a place for it.
    """
    lacking = _lacking(network, {tensor.name for tensor in model.graph.initializer})
    for node in model.graph.node:
        name = node.input[1].removesuffix("weight") + "bias" if len(node.input) == 2 else ""
        if name in lacking:
            node.input.append(name)
            model.graph.initializer.append(numpy_helper.from_array(lacking[name].numpy(), name))


def _lacking(network: Network, held: Collection[str]) -> dict[str, Tensor]:
    """Biases of a network that a file with its weights lacks: they are 0."""
    return {
        name: torch.zeros_like(value, requires_grad=False)
        for name, value in network.named_parameters()
        if name not in held and name.endswith(".bias") and name.removesuffix("bias") + "weight" in held
    }


def _folded(network: Network) -> Network:
    """Copy a network with everything that is constant after training folded into its weights."""
    ready = copy.deepcopy(network).eval()
    with torch.no_grad():
        if isinstance(ready, Hourglass) and ready.centre is not None:
            ready.first.bias.sub_(ready.first.weight @ ready.centre)
            if isinstance(ready, Residual):
                ready.first.weight.div_(ready.centre)
                ready.fold()
            ready.centre = None
        if isinstance(ready, NonNegative | Topographic):
            ends: Any = ready.last
            weight: Tensor = ends.weight
            plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            plain.weight.copy_(weight)
            ready.last = plain
    return ready


def with_weights(model: onnx.ModelProto, network: Network) -> onnx.ModelProto:
    """Return an exported network with the weights of one of the same architecture: no new export is needed.

    Raises
    ------
    ValueError
        Where a weight has no place, or its place another shape.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    ready = _folded(network)
    _give_biases(made, ready)
    held = {name: value.detach().numpy() for name, value in ready.state_dict().items()}
    for tensor in made.graph.initializer:
        if tensor.name not in held:
            continue
        value = held[tensor.name]
        if list(tensor.dims) != list(value.shape):
            raise ValueError(f"{tensor.name} is {list(tensor.dims)} in the file and {list(value.shape)} in the network")
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
    missing = {name for name, _ in ready.named_parameters()} - {t.name for t in made.graph.initializer}
    if missing:
        raise ValueError(f"the file has no place for {', '.join(sorted(missing))}")
    return made


def from_onnx(path: Path, architecture: Architecture) -> Network:
    """Read a network back from the ONNX file it was exported to.

    Raises
    ------
    ValueError
        Where the file holds another network than the architecture says.
    """
    model = onnx.load(path)
    held = {k: torch.from_numpy(np.array(v)) for k, v in weights(model).items()}
    held |= {p.key: torch.tensor(float(p.value)) for p in model.metadata_props if p.key.startswith("calibration.")}
    if not held.keys() & {"mean", "last.weight"}:
        raise ValueError(f"{path} was not exported from a network of this program")
    # Where end-members have taken the mean in, any spectrum does in its place.
    mean = held["mean"] if "mean" in held else held["last.weight"].mean(dim=1).clamp(min=1e-3)
    if architecture.kind == "residual":
        mean = mean * Residual.sharpness
    network = make_network(architecture, mean.numpy())
    held |= _lacking(network, held)
    with torch.no_grad():
        network.mean.copy_(mean)
        if isinstance(network, Hourglass):
            if isinstance(network, Residual):
                held["first.weight"] = held["first.weight"] * mean.sqrt()
                held |= {name: held[name] / network.sharpness for name in ("last.weight", "last.bias")}
            held["first.bias"] = held["first.bias"] + held["first.weight"] @ mean.sqrt()
        if isinstance(network, NonNegative | Topographic):
            relative = (held.pop("last.weight").T / mean).clamp(min=1e-6)
            held["last.raw"] = relative + torch.log(-torch.expm1(-relative))  # inverse of softplus
    held |= {"mean": mean, "last.mean": mean, "centre": mean.sqrt()}
    own = {name: held[name] for name in network.state_dict() if name in held}
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"{path} holds another network than its card says: {error}") from error
    return network.eval()
