"""ONNX Runtime sessions: one thread, buffers that are reused, and the truth about the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

from models.base import Float32

Device = Literal["auto", "cpu", "cuda"]
_CPU: Final = "CPUExecutionProvider"
_CUDA: Final = "CUDAExecutionProvider"
_FATAL, _WARNING = 4, 2


class Session:
    """A network, or a part of one, that runs on blocks of up to `rows` spectra.

    Parameters
    ----------
    model : ModelProto
        Inputs and outputs float32, their first dimension that of the spectra.
    rows : int
        Spectra that the buffers hold.
    device : str
        auto: CUDA where it works, else the CPU. What was got is in `device`.
    """

    def __init__(self, model: ModelProto, rows: int, device: Device = "auto") -> None:
        self.rows = rows
        self._session = _open(model.SerializeToString(), device)
        self._binding = self._session.io_binding()
        self._inputs = {i.name: np.zeros((rows, *i.shape[1:]), np.float32) for i in self._session.get_inputs()}
        self._outputs = {o.name: np.zeros((rows, *o.shape[1:]), np.float32) for o in self._session.get_outputs()}

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where it really runs: only the session's own list of providers tells."""
        return "cuda" if _CUDA in self.providers else "cpu"

    @property
    def providers(self) -> list[str]:
        """ONNX Runtime's providers that the session has got."""
        return list(self._session.get_providers())

    def widths(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of one row of each output."""
        return {name: buffer.shape[1:] for name, buffer in self._outputs.items()}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Float32]:
        """Run one block of at most `rows` spectra; what is returned holds until the next call."""
        n = len(next(iter(inputs.values())))
        for name, values in inputs.items():
            np.copyto(self._inputs[name][:n], values, casting="same_kind" if values.dtype.kind == "f" else "unsafe")
        self._bind(n)
        self._session.run_with_iobinding(self._binding)
        return {name: buffer[:n] for name, buffer in self._outputs.items()}

    def _bind(self, n: int) -> None:
        for name, buffer in self._inputs.items():
            self._binding.bind_input(name, "cpu", 0, np.float32, (n, *buffer.shape[1:]), buffer.ctypes.data)
        for name, buffer in self._outputs.items():
            self._binding.bind_output(name, "cpu", 0, np.float32, (n, *buffer.shape[1:]), buffer.ctypes.data)


def _open(model: bytes, device: Device) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # A paced model with spinning threads took 113 % of a core, without 20 %.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _FATAL
    wanted = [_CPU]
    if device != "cpu" and _CUDA in ort.get_available_providers():
        wanted = [_CUDA, _CPU]
    # A wheel that claims CUDA on a machine without it prints errors and falls back to the CPU.
    ort.set_default_logger_severity(_FATAL)
    try:
        return ort.InferenceSession(model, options, providers=wanted)
    finally:
        ort.set_default_logger_severity(_WARNING)
