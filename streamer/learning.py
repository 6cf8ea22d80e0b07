"""Learning during the scan: a process of its own trains a shadow copy of the network in use; nothing waits for it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.card import ModelCard, write_card
from models.inference import TrainedNetwork
from models.reservoir import draw, quanta
from streamer.series import Series
from streamer.wire.items import NewNetwork

log = logging.getLogger(__name__)
State = Literal["off", "waiting", "gathering", "training", "unavailable"]
_SPECTRA: Final = 2048
_LEAST: Final = 256
_PIECE: Final = 64
_LONGEST: Final = 16
_NICE: Final = 19
_PROGRAM: Final = ("-m", "models.shadow")


@dataclass(frozen=True)
class _Learnt:
    """What the process has made, or why it has not."""

    item: NewNetwork | None = None
    error: str = ""
    lost: bool = False


class Learning:
    """Gathers spectra in idle time, has a copy of the network trained on them, and brings back what became of it.

    Parameters
    ----------
    enabled : bool
    every_s : float
        Least time between two rounds; longer after rounds that brought nothing.
    steps : int
        Batches of a round.
    program : sequence of str
        What the interpreter runs.
    """

    def __init__(
        self,
        *,
        enabled: bool = False,
        every_s: float = 30.0,
        steps: int = 200,
        program: tuple[str, ...] = _PROGRAM,
    ) -> None:
        self.state: State = "waiting" if enabled else "off"
        self.rounds = 0
        self._every_s, self._steps, self._program = every_s, steps, program
        self._thread: ThreadPoolExecutor | None = None
        self._process: subprocess.Popen[str] | None = None
        self._learnt: Future[_Learnt] | None = None
        self._series: str | None = None
        self._index: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._gathered: list[NDArray[np.float32]] = []
        self._due_s = 0.0
        self._waits = 1
        self._promoted = 0

    def turn(self, series: Series | None, *, idle: bool) -> NewNetwork | None:
        """Do what is next: a piece of gathering where nothing else waits; return a network that has learnt.

        Parameters
        ----------
        series : Series, optional
            The open one.
        idle : bool
            Whether there is time.
        """
        if self.state in {"off", "unavailable"}:
            return None
        if self._learnt is not None:
            return self._finished()
        network = None if series is None else series.denoising.network
        if series is None or network is None:
            self._forget()
        elif self.state == "waiting":
            self._begin(series)
        elif idle:
            self._gather(series, network)
        return None

    @property
    def process(self) -> subprocess.Popen[str] | None:
        """The process that learns, where there is one."""
        return self._process

    def status(self) -> dict[str, Any]:
        """What the status says."""
        return {"state": self.state, "rounds": self.rounds}

    def _forget(self) -> None:
        self.state, self._gathered = "waiting", []

    def _begin(self, series: Series) -> None:
        now_s = time.monotonic()
        if series.name != self._series:
            self._series, self._waits, self._promoted = series.name, 1, 0
            self._due_s = now_s + self._every_s
        if now_s < self._due_s:
            return
        index = draw(series.engine, series.phase_labels, _SPECTRA, judged=False, seed=self.rounds)
        if index.size < _LEAST:
            self._due_s = now_s + self._every_s
            return
        self.state, self._index, self._gathered = "gathering", index, []

    def _gather(self, series: Series, network: TrainedNetwork) -> None:
        if series.name != self._series:
            self._forget()
            return
        part, self._index = self._index[:_PIECE], self._index[_PIECE:]
        self._gathered.append(quanta(series.engine, part))
        if self._index.size:
            return
        promoted = series.denoising.promoted
        self._waits = 1 if promoted > self._promoted or not self.rounds else min(2 * self._waits, _LONGEST)
        self._promoted = promoted
        self.rounds += 1
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "learning")
        rows, self._gathered = np.concatenate(self._gathered), []
        self.state = "training"
        self._learnt = self._thread.submit(self._train, rows, network, series.name, self.rounds)

    def _finished(self) -> NewNetwork | None:
        if self._learnt is None or not self._learnt.done():
            return None
        learnt, self._learnt = self._learnt.result(), None
        self.state = "unavailable" if learnt.lost else "waiting"
        self._due_s = time.monotonic() + self._waits * self._every_s
        if learnt.error:
            log.warning("no learning during the scan%s: %s", "" if learnt.lost else " this time", learnt.error)
        return learnt.item

    # In the thread

    def _train(self, rows: NDArray[np.float32], network: TrainedNetwork, series: str, number: int) -> _Learnt:
        try:
            with tempfile.TemporaryDirectory(prefix="scanwise-") as folder:
                return self._round(Path(folder), rows, network, series, number)
        except OSError as error:
            return _Learnt(error=str(error))

    def _round(
        self, folder: Path, rows: NDArray[np.float32], network: TrainedNetwork, series: str, number: int
    ) -> _Learnt:
        process = self._process or self._start()
        if process is None:
            return _Learnt(error="it needs PyTorch: pip install 'scanwise[train]'", lost=True)
        start, out, sample = folder / "start.onnx", folder / "out.onnx", folder / "sample.npy"
        start.write_bytes(network.model.SerializeToString())
        write_card(network.card, start)
        # Counts as whole numbers are thinned one by one.
        np.save(sample, rows, allow_pickle=False)
        asked = {"sample": str(sample), "start": str(start), "out": str(out), "steps": self._steps, "seed": number}
        answer = _exchange(process, asked)
        if answer is None:
            self._end()
            return _Learnt(error="the learning process has ended", lost=True)
        if answer["state"] != "done":
            return _Learnt(error=str(answer.get("error")))
        card = ModelCard.model_validate_json(out.with_suffix(".json").read_bytes())
        item = NewNetwork(
            time.time_ns(), series, card.model_dump_json(), network.precision, network.device, [out.read_bytes()], True
        )
        return _Learnt(item)

    def _start(self) -> subprocess.Popen[str] | None:
        """Start the process at the lowest priority; None where it cannot work here."""
        env = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")}
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, *self._program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
            start_new_session=True,  # a Ctrl-C in the terminal is for the daemon
        )
        os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)
        if hasattr(os, "SCHED_IDLE"):
            with contextlib.suppress(OSError):
                os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
        self._process = process
        if _answer(process) is None:
            self._end()
            return None
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()

    def close(self) -> None:
        """End the process and the thread."""
        process = self._process
        if process is not None:
            process.kill()
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
        self._process = self._process or process
        self._end()


def _exchange(process: subprocess.Popen[str], asked: dict[str, Any]) -> dict[str, Any] | None:
    """Ask, and wait for the answer; None where the process has ended."""
    if process.stdin is None:
        return None
    try:
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    return _answer(process)


def _answer(process: subprocess.Popen[str]) -> dict[str, Any] | None:
    line = process.stdout.readline() if process.stdout is not None else ""
    return dict(json.loads(line)) if line else None
