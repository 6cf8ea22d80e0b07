"""int8 where it is measured to be faster on this machine and costs less than 1 % of error, else float32."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from models import graphs
from models.card import ModelCard
from models.pools import log_uniform
from models.sessions import Session
from models.thinning import squared_error

Precision = Literal["fp32", "int8"]
_ROWS = 64
_REPEATS = 9
_COST = 1.01


@dataclass(frozen=True)
class Choice:
    """What was measured.

    Attributes
    ----------
    precision : str
        The better one.
    speed : float
        Time of float32 over that of int8.
    cost : float
        Error of int8 over that of float32, on spectra that the network itself makes.
    """

    precision: Precision
    speed: float
    cost: float


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a network whose dense layers compute in int8; their inputs are scaled anew for each block."""
    log = logging.getLogger()
    before = log.level
    log.setLevel(logging.ERROR)  # the quantiser recommends what is not needed here
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            quantize_dynamic(model, path, weight_type=QuantType.QInt8, op_types_to_quantize=["Gemm", "MatMul"])
            return onnx.load(path)
    finally:
        log.setLevel(before)


def choose(model: onnx.ModelProto, card: ModelCard, seed: int = 0) -> Choice:
    """Measure both on this machine, now."""
    truth, counts = made_up(model, card, 4 * _ROWS, seed)
    plain, small = Session(model, _ROWS, "cpu"), Session(quantised(model), _ROWS, "cpu")
    errors, times = [], []
    for session in (plain, small):
        found = [
            session.run({graphs.COUNTS: counts[i : i + _ROWS]})["denoised"].copy() for i in range(0, len(counts), _ROWS)
        ]
        errors.append(float(squared_error(np.concatenate(found), truth).mean()))
        times.append(_seconds(session, counts[:_ROWS]))
    speed, cost = times[0] / times[1], errors[1] / max(errors[0], 1e-30)
    return Choice("int8" if speed > 1.0 and cost < _COST else "fp32", speed, cost)


def made_up(model: onnx.ModelProto, card: ModelCard, n: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Spectra (n, D) like those of the training, from the network's own latent space, and counts drawn from them."""
    rng = np.random.default_rng(seed)
    latent = rng.multivariate_normal(card.latent.mean, card.latent.covariance, n).astype(np.float32)
    total = log_uniform(card.counts, n, rng).astype(np.float32).reshape(-1, 1)
    decode = Session(graphs.decoder(model), n, "cpu")
    truth = decode.run({"latent": latent, "total": total})["denoised"].astype(np.float64)
    return truth, rng.poisson(truth).astype(np.float32)


def _seconds(session: Session, counts: NDArray[Any]) -> float:
    times = []
    for _ in range(_REPEATS):
        begun = time.perf_counter()
        session.run({graphs.COUNTS: counts})
        times.append(time.perf_counter() - begun)
    return median(times)
