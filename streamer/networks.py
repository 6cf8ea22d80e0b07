"""Networks outside the pure part: which one fits a series, its making in a thread of its own, and its share of time."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from models.axis import Axis
from models.card import ModelCard
from models.inference import TrainedNetwork
from models.noise import NoiseModel
from models.precision import choose, made_up
from models.rebinned import rebinned
from models.second_opinion import misfit
from models.seen import compile_kernels
from models.zoo import find_models
from streamer.denoising import build
from streamer.series import Series
from streamer.wire.items import NewNetwork

log = logging.getLogger(__name__)
_ROWS: Final = 256
_FORGET: Final = 0.1
_MOST_KEPT: Final = 4
_REPEATS: Final = 5
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Wanted:
    """What a network must fit."""

    series: str
    technique: str
    axis: Axis
    noise: NoiseModel

    @classmethod
    def by(cls, series: Series) -> Wanted:
        """What a series wants."""
        return cls(series.name, series.header.technique, series.axis, series.engine.noise)


@dataclass(frozen=True)
class Found:
    """A network that fits, made ready; `misfits` says why others do not."""

    item: NewNetwork | None
    network: TrainedNetwork | None = None
    misfits: list[str] = field(default_factory=list)


class Networks:
    """Looks for networks, and bounds the time they take.

    Parameters
    ----------
    folders : sequence of Path
        Searched before what comes with the program.
    device : str
        auto, cpu or cuda.
    piece_s : float
        Longest time that what comes in waits for a network.
    enabled : bool
    """

    def __init__(
        self, folders: tuple[Path, ...] = (), device: Device = "auto", piece_s: float = 2e-3, *, enabled: bool = True
    ) -> None:
        self._folders, self._device, self._piece_s, self._enabled = folders, device, piece_s, enabled
        self._thread: ThreadPoolExecutor | None = None
        self._sought: tuple[str, Axis] | None = None
        self._found: Future[Found] | None = None
        self._built: dict[tuple[str, str], TrainedNetwork] = {}
        self._row_s = 0.0
        self._told = ""

    def seek(self, series: Series | None) -> None:
        """Begin to look for a network for a series, once for each axis that it has."""
        if not self._enabled or series is None or self._found is not None:
            return
        if self._sought == (series.name, series.axis):
            return
        self._sought = series.name, series.axis
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "networks")
        self._found = self._thread.submit(self._find, Wanted.by(series))

    @property
    def searching(self) -> bool:
        """Whether a search has begun whose end nobody has asked for."""
        return self._found is not None

    def found(self) -> NewNetwork | None:
        """Return a network that was looked for and is ready."""
        if self._found is None or not self._found.done():
            return None
        future, self._found = self._found, None
        try:
            found = future.result()
        except Exception:
            # Without a network everything else works: a scan is not lost over one.
            log.exception("no network is used: it could not be made ready")
            return None
        if found.item is None or found.network is None:
            self._tell(found.misfits)
            return None
        self._keep(found.item, found.network)
        self._row_s = 0.0
        return found.item

    def _tell(self, misfits: list[str]) -> None:
        """Say why no network is used, once for a series: a corrected axis asks for one again."""
        series = self._sought[0] if self._sought is not None else ""
        if not misfits or series == self._told:
            return
        self._told = series
        text = "series %r is denoised by PCA alone; of the networks for its technique none fits: %s"
        log.info(text, series, "; ".join(misfits))

    def _keep(self, item: NewNetwork, network: TrainedNetwork) -> None:
        while len(self._built) >= _MOST_KEPT:
            del self._built[next(iter(self._built))]
        self._built[network.card.sha256, item.precision] = network

    def build(self, item: NewNetwork) -> TrainedNetwork:
        """Return the network of an item, which was made beforehand if this process found it."""
        card = ModelCard.model_validate_json(item.card)
        return self._built.get((card.sha256, item.precision)) or build(item)

    def _find(self, wanted: Wanted) -> Found:
        misfits: list[str] = []
        for path, card in find_models(self._folders):
            if isinstance(card, ValueError):
                log.warning("network %s cannot be used: %s", path, card)
            elif (why := misfit(card, wanted.technique, wanted.axis, wanted.noise, rebin=True)) is None:
                return self._made(path, card, wanted, misfits)
            elif path.parent in self._folders or card.technique == wanted.technique:
                misfits.append(f"{card.name!r}: {why}")
        return Found(None, misfits=misfits)

    def _made(self, path: Path, card: ModelCard, wanted: Wanted, misfits: list[str]) -> Found:
        """Read a network, measure which precision is better here, and have everything compiled."""
        content = path.read_bytes()
        if card.misfit(wanted.technique, wanted.axis) is not None:
            model, card = rebinned(onnx.load_model_from_string(content), card, wanted.axis)
            content = model.SerializeToString()
        precisions = [p for sha, p in self._built if sha == card.sha256]
        precision = precisions[0] if precisions else choose(onnx.load_model_from_string(content), card).precision
        item = NewNetwork(time.time_ns(), wanted.series, card.model_dump_json(), precision, self._device, [content])
        network = self._built.get((card.sha256, precision)) or build(item)
        _, counts = made_up(network.model, card, _ROWS, 0)
        compile_kernels(network.denoise(counts).spectra)
        seconds = _seconds(network, counts[:1])
        if seconds > self._piece_s:
            slow = f"it takes {1e3 * seconds:.3g} ms for one spectrum, and networks.piece_ms is {1e3 * self._piece_s:g}"
            return Found(None, misfits=[*misfits, f"{card.name!r}: too slow for this machine, {slow}"])
        return Found(item, network, misfits)

    # Time

    @property
    def rows(self) -> int:
        """Positions that a network can look at in a piece of time."""
        return int(np.clip(self._piece_s / self._row_s, 1, _ROWS)) if self._row_s else 1

    def took(self, rows: int, seconds: float) -> None:
        """Learn how long a look at so many positions took."""
        each = seconds / rows
        self._row_s = each if self._row_s == 0.0 else (1 - _FORGET) * self._row_s + _FORGET * each

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)


def _seconds(network: TrainedNetwork, counts: NDArray[np.float32]) -> float:
    """Shortest of a few times that a network takes for spectra: others may be using the processor."""
    times = []
    for _ in range(_REPEATS):
        begun_s = time.perf_counter()
        network.denoise(counts)
        times.append(time.perf_counter() - begun_s)
    return min(times)
