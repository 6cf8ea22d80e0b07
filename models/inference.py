"""A trained network as the daemon uses it: ONNX Runtime, no PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy import sparse

from models import graphs
from models.base import Counts, Float32
from models.card import ModelCard, read_card
from models.noise import POISSON, NoiseModel
from models.precision import Precision, quantised
from models.sessions import Device, Session
from models.thinning import to_quanta

ROWS = 256
_SPARSE: dict[Precision, float] = {"fp32": 0.1, "int8": 0.03}
"""Share of channels with counts up to which summing rows (in float32) is cheaper than a dense product."""
_LAST_GETS = {
    "hourglass": "features",
    "residual": "features",
    "variational": "features",
    "spatial": "features",
    "nonnegative": "latent",
    "topographic": "features",
}
"""What the last layer gets, where it is a dense one."""


@dataclass(frozen=True)
class Denoised:
    """What a network makes of n spectra.

    Attributes
    ----------
    spectra : ndarray of float32, (n, D)
        Counts, with gain and offset as the detector has them.
    latent : ndarray of float32, (n, K)
    sigma : ndarray of float32, (n, K), optional
        Standard deviation of the latent coordinates, where the network is variational.
    """

    spectra: Float32
    latent: Float32
    sigma: Float32 | None = None


class TrainedNetwork:
    """Denoises spectra, encodes and decodes them, and maps energy windows, each by the cheapest part of the network.

    Deterministic on the CPU: one thread.

    Parameters
    ----------
    model : ModelProto
    card : ModelCard
    noise : NoiseModel
        Of the spectra; the network sees quanta.
    rows : int
        Spectra in one call of ONNX Runtime, at most.
    device : str
        auto, cpu or cuda; what was got is in `device`.
    precision : str
        fp32 or int8 (`models.precision.choose` measures which is better here).
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        card: ModelCard,
        noise: NoiseModel = POISSON,
        rows: int = ROWS,
        device: Device = "auto",
        precision: Precision = "fp32",
    ) -> None:
        self.model, self.card, self.noise, self.precision = model, card, noise, precision
        self._rows, self._asked = rows, device
        self._windows: tuple[tuple[tuple[int, int], ...], Session] | None = None

    @classmethod
    def load(cls, path: Path, **options: Any) -> TrainedNetwork:
        """Read an ONNX file and its card.

        Raises
        ------
        ValueError
            Where the card is missing, wrong, or of another file.
        """
        card = read_card(path)
        return cls(onnx.load(path), card, **options)

    @property
    def device(self) -> str:
        """Where it really runs, cpu or cuda."""
        return self._whole.device

    @property
    def n_channels(self) -> int:
        """Channels of a spectrum, D."""
        return self.card.architecture.n_channels

    @property
    def side(self) -> int:
        """Side of the neighbourhood that it sees; blocks are (n, side^2, D) where it is more than 1."""
        return self.card.architecture.side

    @cached_property
    def _whole(self) -> Session:
        return self._session(self.model)

    @cached_property
    def _encoder(self) -> Session:
        return self._session(graphs.encoder(self.model))

    @cached_property
    def _decoder(self) -> Session:
        return self._session(graphs.decoder(self.model))

    @cached_property
    def _listed(self) -> tuple[Float32, Float32, Session] | None:
        """Weights and bias of the first layer, and what follows it; None where list mode has to be made dense."""
        if self.card.architecture.calibration:
            return None
        try:
            weight, bias = graphs.first_layer(self.model)
            return weight, bias, self._session(graphs.after_first_layer(self.model))
        except ValueError:
            return None

    def _session(self, model: onnx.ModelProto) -> Session:
        return Session(quantised(model) if self.precision == "int8" else model, self._rows, self._asked)

    def sums_rows(self, counts: sparse.csr_array) -> bool:
        """Whether spectra (n, D) hold so little that rows of the first layer are summed, and nothing is made dense."""
        few = counts.nnz <= _SPARSE[self.precision] * counts.shape[0] * counts.shape[1]
        return few and self.noise.is_poisson and self._listed is not None

    def denoise(self, counts: Counts) -> Denoised:
        """Denoise spectra (n, D), dense or CSR; (n, side^2, D) where the network is spatial."""
        run = self._run_listed if isinstance(counts, sparse.csr_array) else self._run_dense
        found = _gathered(run(counts, self._whole), counts.shape[0], self._whole.widths())
        spectra = found["denoised"]
        if not self.noise.is_poisson:
            spectra *= np.float32(self.noise.gain)
            spectra += np.float32(self.noise.offset)
        return Denoised(spectra, found["latent"], found.get("sigma"))

    def transform(self, counts: Counts) -> Float32:
        """Latent coordinates (n, K) of spectra, by the encoder alone."""
        blocks = self._run_dense(counts, self._encoder)
        return _gathered(blocks, counts.shape[0], self._encoder.widths())["latent"]

    def reconstruct(self, latent: NDArray[Any], total: NDArray[Any]) -> Float32:
        """Spectra (n, D) in quanta of latent coordinates (n, K) and total quanta (n,), by the decoder alone."""
        blocks = _sliced({"latent": latent, "total": np.asarray(total).reshape(-1, 1)}, self._decoder)
        return _gathered(blocks, len(latent), self._decoder.widths())["denoised"]

    def windows(self, counts: Counts, channels: list[tuple[int, int]]) -> Float32:
        """Denoised counts (n, W) in half-open channel ranges, without making whole spectra where that can be."""
        features = _LAST_GETS.get(self.card.architecture.kind)
        if features is None or self.card.architecture.calibration:
            return self._summed(counts, channels)
        if self._windows is None or self._windows[0] != tuple(channels):
            self._windows = tuple(channels), self._session(graphs.window_sums(self.model, channels, features))
        session = self._windows[1]
        sums = _gathered(self._run_dense(counts, session), counts.shape[0], session.widths())[graphs.WINDOWS]
        if not self.noise.is_poisson:
            widths = np.array([stop - first for first, stop in channels], dtype=np.float32)
            sums = sums * np.float32(self.noise.gain) + np.float32(self.noise.offset) * widths
        return sums

    def _summed(self, counts: Counts, channels: list[tuple[int, int]]) -> Float32:
        spectra = self.denoise(counts).spectra
        return np.stack([spectra[:, first:stop].sum(axis=1) for first, stop in channels], axis=1)

    def _run_dense(self, counts: Counts, session: Session) -> Iterator[dict[str, Float32]]:
        for first in range(0, counts.shape[0], self._rows):
            block = counts[first : first + self._rows]
            dense = block.toarray() if isinstance(block, sparse.csr_array) else block
            yield session.run({graphs.COUNTS: np.asarray(to_quanta(dense, self.noise))})

    def _run_listed(self, counts: sparse.csr_array, session: Session) -> Iterator[dict[str, Float32]]:
        """Sum rows of the first layer over channels that hold counts: 0 stays 0 in either scaling."""
        n, d = counts.shape
        if not self.sums_rows(counts) or self._listed is None:
            yield from self._run_dense(counts, session)
            return
        weight, bias, rest = self._listed
        roots = self.card.architecture.scaling == "root"
        for first in range(0, n, self._rows):
            block = counts[first : first + self._rows].astype(np.float32)
            block.sum_duplicates()
            total = np.asarray(block.sum(axis=1), dtype=np.float32).reshape(-1, 1)
            scale = d / np.maximum(total, 1.0)
            if roots:
                np.sqrt(block.data, out=block.data)
                scale = np.sqrt(scale)
            hidden = (block @ weight) * scale + bias
            yield rest.run({"hidden": hidden, "total": total})


def _sliced(inputs: dict[str, NDArray[Any]], session: Session) -> Iterator[dict[str, Float32]]:
    n = len(next(iter(inputs.values())))
    for first in range(0, n, session.rows):
        yield session.run({name: values[first : first + session.rows] for name, values in inputs.items()})


def _gathered(blocks: Iterator[dict[str, Float32]], n: int, widths: dict[str, tuple[int, ...]]) -> dict[str, Float32]:
    """Blocks of results as whole arrays of n rows."""
    out = {name: np.empty((n, *width), dtype=np.float32) for name, width in widths.items()}
    done = 0
    for block in blocks:
        stop = done + len(next(iter(block.values())))
        for name, rows in block.items():
            out[name][done:stop] = rows
        done = stop
    return out
